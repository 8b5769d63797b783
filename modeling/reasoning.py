"""Rollouts: think, write ``<gen_emb>``, and keep the state *of* that token.

The state that carries the embedding is that of the step which reads ``<gen_emb>``, not of the one which predicted
it; so a ``<gen_emb>`` that comes as the very last token allowed is still read. Only what a row writes itself counts:
prompts quote the token, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .decoding import CachedRows, Decoding, choose
from .settings import UmeSettings, UmeSettingsError

# Ids in a backbone's config that stand for media: written into a thought, they would have no pixels behind them.
_MEDIA_IDS = (
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_token_id",
)


@dataclass(frozen=True)
class ThoughtTokens:
    """Ids that a rollout has to know.

    Attributes:
        gen_emb: ends a thought; its state is the embedding.
        ends: end the turn (``<|im_end|>`` ...); before ``<gen_emb>`` they mean that the thought went astray.
        never: may never be chosen.
    """

    gen_emb: int
    ends: frozenset[int] = frozenset()
    never: frozenset[int] = frozenset()

    @classmethod
    def of(cls, settings: UmeSettings, backbone: Any) -> ThoughtTokens:
        """From ``config.ume.tokens`` (``gen_emb``, ``im_end``, ``disc_emb``, ``direct``, ``never``) and the backbone's
        configs.

        Raises:
            UmeSettingsError: the checkpoint names no ``gen_emb``.
        """
        named = settings.tokens
        gen_emb = named.get("gen_emb")
        if not isinstance(gen_emb, int):
            raise UmeSettingsError(
                "config.ume.tokens names no 'gen_emb': this checkpoint has no token for thoughts"
            )
        config = backbone.config
        written = getattr(backbone, "generation_config", None)
        ends = _ids(named.get("im_end"), getattr(written, "eos_token_id", None))
        ends |= _ids(getattr(config.get_text_config(), "eos_token_id", None))
        never = _ids(
            named.get("never"),
            named.get("disc_emb"),
            named.get("direct"),
            *(getattr(config, key, None) for key in _MEDIA_IDS),
        )
        return cls(gen_emb, frozenset(ends - {gen_emb}), frozenset(never - {gen_emb}))


@dataclass(frozen=True)
class ThoughtWishes:
    """What is asked of the thoughts of a batch.

    Attributes:
        decoding: how they are written.
        num_samples: of a row; they share its cache.
        reduce: ``"mean"`` of their unit vectors, normalised again; the ``"first"``; None keeps all.
        dim: keep the first numbers of a vector; None for the checkpoint's own.
        vocabulary: ids from here on are rows without a token and are never written.
    """

    decoding: Decoding
    num_samples: int = 1
    reduce: str | None = "mean"
    dim: int | None = None
    vocabulary: int | None = None


@dataclass
class Rollout:
    """One thought.

    Attributes:
        tokens: what was written, without a forced ``<gen_emb>``.
        thought: its tokens before ``<gen_emb>``.
        forced: whether the row never got to ``<gen_emb>`` by itself within the limit.
        state: ``[H]``, the state of ``<gen_emb>``.
        ending: the token by which the row ended its turn too early, in whose place ``<gen_emb>`` was put.
    """

    tokens: list[int]
    thought: list[int]
    forced: bool
    state: Tensor
    ending: int | None = None


def think(
    rows: CachedRows,
    output: Callable[[Tensor], Tensor],
    names: ThoughtTokens,
    decoding: Decoding,
    streams: Sequence[np.random.Generator],
    *,
    official: bool = False,
) -> list[Rollout]:
    """Let every row write its thought; rows leave the batch as they finish.

    Args:
        rows: prefilled prompts; used up.
        output: states ``[B, H]`` to logits ``[B, V]``.
        names: ids to end at and to avoid.
        decoding: choice of tokens and limit.
        streams: one source of chance per row.
        official: read on to the end of the turn and take the *last* ``<gen_emb>``; where there is none, or no step
            has read it, the state of the last step (UME-R1's published loop) and not a forced ``<gen_emb>``.

    Returns:
        A rollout per row, in the rows' order.
    """
    never = torch.tensor(sorted(names.never), dtype=torch.long, device=rows.state.device)

    def following(active: Sequence[int]) -> list[int]:
        logits = output(rows.state)
        logits = logits.index_fill(1, never[never < logits.shape[1]], float("-inf"))
        return choose(logits, decoding, [streams[row] for row in active])

    loop = _to_the_last if official else _to_the_first
    done = loop(rows, following, names, decoding.max_new_tokens)
    return [done[row] for row in range(len(done))]


_Following = Callable[[Sequence[int]], list[int]]


def _to_the_first(
    rows: CachedRows, following: _Following, names: ThoughtTokens, limit: int
) -> dict[int, Rollout]:
    done: dict[int, Rollout] = {}
    written: list[list[int]] = [[] for _ in range(len(rows))]
    active = list(range(len(rows)))
    for length in range(limit + 1):
        # At the limit no choice is left; the last pass only reads the <gen_emb> of those that have none.
        chosen = following(active) if length < limit else [names.gen_emb] * len(active)
        forced = [length == limit or token in names.ends for token in chosen]
        tokens = [names.gen_emb if astray else token for token, astray in zip(chosen, forced, strict=True)]
        rows.step(torch.tensor(tokens, dtype=torch.long, device=rows.state.device))
        keep = []
        for place, row in enumerate(active):
            if not forced[place]:
                written[row].append(tokens[place])
            if tokens[place] == names.gen_emb:
                thought = [token for token in written[row] if token != names.gen_emb]
                ending = chosen[place] if forced[place] and length < limit else None
                done[row] = Rollout(written[row], thought, forced[place], rows.state[place].clone(), ending)
            else:
                keep.append(place)
        active = [active[place] for place in keep]
        if not active:
            break
        rows.take(keep)
    return done


def _to_the_last(
    rows: CachedRows, following: _Following, names: ThoughtTokens, limit: int
) -> dict[int, Rollout]:
    done: dict[int, Rollout] = {}
    written: list[list[int]] = [[] for _ in range(len(rows))]
    found: dict[int, Tensor] = {}
    active = list(range(len(rows)))
    for length in range(1, limit + 1):
        tokens = following(active)
        keep = []
        for place, row in enumerate(active):
            written[row].append(tokens[place])
            if tokens[place] not in names.ends and length < limit:
                keep.append(place)
                continue
            unread = row not in found or tokens[place] == names.gen_emb
            state = rows.state[place].clone() if unread else found[row]
            places = [i for i, token in enumerate(written[row]) if token == names.gen_emb]
            end = places[-1] if places else len(written[row]) - (tokens[place] in names.ends)
            done[row] = Rollout(written[row], written[row][:end], unread, state)
        active, tokens = [active[place] for place in keep], [tokens[place] for place in keep]
        if not active:
            break
        rows.take(keep)
        rows.step(torch.tensor(tokens, dtype=torch.long, device=rows.state.device))
        for place, token in enumerate(tokens):
            if token == names.gen_emb:
                found[active[place]] = rows.state[place].clone()
    return done


def _ids(*groups: int | Sequence[int] | None) -> set[int]:
    found: set[int] = set()
    for group in groups:
        if group is not None:
            found |= {group} if isinstance(group, int) else set(group)
    return found
