"""The adaptive embedder: it reads an item once, and then thinks about it only if that seems to pay.

A re-derivation of MMEmb-R1's adaptive control, of which no code or weights are public. What is ours, and decided here:

* **The action is read off the prefill and never written.** ``p(reason)`` is the softmax over the next-token logits of
  ``<reason>`` and ``<direct>`` after the prompt that asks for a thought. So a decision costs no token on either side,
  and every vector is that of one of the other two modes: decisions change, vectors do not. (A model that was taught to
  begin its thoughts with ``<reason>`` writes it there by itself; ``<direct>`` is never written.)
* **The direct vector is the discriminative one**, the state of the prompt's own embedding token. It is in hand after
  the same prefill, while ``<direct><gen_emb>`` would cost two more tokens and be a third kind of vector to be taught.
* **Rows part after the prefill.** Those that are embedded at once leave the batch; the others go on from their cache.

Which strategy decides, and what reasoning is, is a seam: see ``strategies``. Which score is enough: see ``budget``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from transformers.utils import cached_file

from .budget import Kappa, decider_of
from .decoding import Decoding, prefill
from .encode_loop import EncodedBatch, EncodeOptions
from .evaluating import evaluated
from .generative import UmeForGenerativeEmbedding, fresh_seed, streams_of, tell_rollouts, tell_thoughts
from .pooling import DIRECT_SLOT, pool, whole_number
from .reasoning import Rollout, ThoughtWishes
from .settings import UmeSettings, UmeSettingsError
from .strategies import PROBE_FILE, Policy, Probe, ReadPrompts, Reasoned, Strategy

_HUB_ARGUMENTS = ("cache_dir", "token", "revision", "subfolder", "local_files_only")


@dataclass
class UmeDecisions:
    """What a batch became in the adaptive mode; lists have an entry per row.

    Attributes:
        vectors: float32 ``[B, d]``, or ``[B, k, d]`` without a reduction, where a direct vector stands ``k`` times.
        scores: float32 ``[B]``, how likely reasoning was taken to pay.
        reasoned: whether it was reasoned about.
        tokens: what reasoning cost; 0 without.
        rollouts: its thoughts; none without.
    """

    vectors: Tensor
    scores: Tensor
    reasoned: list[bool]
    tokens: list[int]
    rollouts: list[list[Rollout]] = field(default_factory=list)


class UmeForAdaptiveEmbedding(UmeForGenerativeEmbedding):
    """Embeds at once, or after a thought where that seems to pay.

    Example::

        model = AutoModel.from_pretrained(repo, trust_remote_code=True)
        vectors = model.encode(items, processor=processor, kappa=0.3)  # thinks more often than at 0.5
        found = model.encode(items, processor=processor, budget=40, return_details=True)
        found.modes, found.invocation_ratio, found.tokens_per_item, found.seconds_per_item
    """

    kind: ClassVar[str] = "adaptive"
    modes: ClassVar[tuple[str, ...]] = ("adaptive", "generative", "discriminative", "both")

    def __init__(self, config: Any, backbone: Any = None, settings: UmeSettings | None = None) -> None:
        super().__init__(config, backbone, settings)
        self.probe: Probe | None = None

    # ---- deciding -----------------------------------------------------------------------------------------------

    def action_logits(self, states: Tensor) -> Tensor:
        """Logit of ``<reason>`` minus that of ``<direct>``, with a gradient as torch is set.

        Args:
            states: ``[..., H]``, of the last token of prompts that ask for a thought.

        Returns:
            ``[...]``; its sigmoid is p(reason).

        Raises:
            UmeSettingsError: the checkpoint has no such tokens.
        """
        reason, direct = self._action_tokens()
        logits = self.logits_of(states)
        return logits[..., reason] - logits[..., direct]

    def _action_tokens(self) -> tuple[int, int]:
        """Ids of ``<reason>`` and ``<direct>``."""
        reason, direct = (self.settings.tokens.get(name) for name in ("reason", "direct"))
        if not isinstance(reason, int) or not isinstance(direct, int):
            raise UmeSettingsError(
                "config.ume.tokens names no 'direct' and 'reason': this checkpoint has no policy of its own; give "
                "strategy=, or fit a probe (umekit probe)"
            )
        return reason, direct

    def strategy_of(self, strategy: Any = None) -> Strategy:
        """What a caller's ``strategy`` names; the checkpoint's when None.

        Raises:
            ValueError: no such strategy, or one that this checkpoint lacks.
        """
        name = self.settings.strategy if strategy is None else strategy
        if name == "policy":
            self._action_tokens()
            return Policy()
        if name == "probe":
            if self.probe is None:
                raise ValueError(f"this checkpoint has no {PROBE_FILE}: fit a probe (umekit probe)")
            return self.probe
        if not callable(getattr(name, "scores", None)):
            raise ValueError(
                f"strategy is {name!r}; use 'policy', 'probe' or an object with scores and reason"
            )
        return name  # type: ignore[no-any-return]  # not isinstance: a checkpoint's own code has its own classes

    def decider_of(self, kappa: Any = None, budget: Any = None) -> Kappa:
        """What says which scores are enough; the checkpoint's kappa where nothing is said."""
        return decider_of(kappa, budget, self.settings.kappa)

    def set_probe(self, probe: Probe, kappa: float | None = None) -> None:
        """Let a probe decide where nothing is said, from now on and in what is saved."""
        kappa = self.settings.kappa if kappa is None else kappa
        self.settings = replace(self.settings, strategy="probe", kappa=kappa)
        self.probe = probe

    # ---- embedding ----------------------------------------------------------------------------------------------

    @evaluated
    @torch.inference_mode()
    def embed_adaptively(
        self,
        batch: dict[str, Tensor],
        *,
        strategy: Any = None,
        decider: Kappa | None = None,
        decoding: Decoding | None = None,
        num_samples: int = 1,
        reduce: Literal["mean", "first"] | None = "mean",
        dim: int | None = None,
        indices: Sequence[int] | None = None,
        streams: Sequence[np.random.Generator] | None = None,
        vocabulary: int | None = None,
    ) -> UmeDecisions:
        """Embed one collated batch: one prefill, and thoughts of the rows that are to have one.

        Args:
            batch: from ``processor.collate(rows, padding_side="left")``; rows prepared for a mode that thinks.
            strategy: see :meth:`strategy_of`.
            decider: see :meth:`decider_of`.
            indices: of the items; 0 to B - 1 when None.
            decoding, num_samples, reduce, dim, streams, vocabulary: see :meth:`embed`.
        """
        decoding = decoding or Decoding(self.settings.max_new_tokens)
        wishes = ThoughtWishes(decoding, whole_number("num_samples", num_samples), reduce, dim, vocabulary)
        inputs = {name: value for name, value in batch.items() if name != "pooling_slots"}
        rows, states = prefill(self.backbone, inputs, self.settings)
        direct = self._finish(pool(states, batch["pooling_slots"], DIRECT_SLOT), wishes.dim)
        del states  # the prompts' states are not kept while thoughts are written
        numbers = list(range(len(rows)) if indices is None else indices)
        chance = list(streams) if streams is not None else streams_of(fresh_seed(), numbers, num_samples)
        apart = [chance[start : start + num_samples] for start in range(0, len(chance), num_samples)]
        prompts = ReadPrompts(numbers, rows.state, direct, rows, apart)
        decider = decider or self.decider_of()
        decider.longest = decoding.max_new_tokens * num_samples
        return self._decided(prompts, self.strategy_of(strategy), decider, wishes)

    def embed_batch(
        self, batch: dict[str, Tensor], options: EncodeOptions, indices: Sequence[int], tokenizer: Any
    ) -> EncodedBatch:
        """For the encode loop: a batch of these items, in a mode that thinks."""
        if options.mode != "adaptive":
            return super().embed_batch(batch, options, indices, tokenizer)
        with options.decider.attempt():
            found = self.embed_adaptively(
                batch,
                strategy=options.strategy,
                decider=options.decider,
                decoding=options.decoding,
                num_samples=options.num_samples,
                reduce=options.reduce,  # type: ignore[arg-type]
                dim=options.dim,
                indices=indices,
                streams=streams_of(options.seed, indices, options.num_samples),
                vocabulary=len(tokenizer),
            )
        done = _told(found, indices)
        tell_rollouts(done, found.rollouts, options, tokenizer)
        # Not every strategy writes what it reasons.
        done.thought_tokens = [
            told if rollouts else tokens
            for told, rollouts, tokens in zip(done.thought_tokens, found.rollouts, found.tokens, strict=True)
        ]
        return done

    def embed_given(
        self,
        batch: dict[str, Tensor],
        options: EncodeOptions,
        indices: Sequence[int],
        given: Sequence[Sequence[Sequence[int]]],
        tokenizer: Any,
    ) -> EncodedBatch:
        """Items with thoughts that are not theirs to write: one forward, and decisions as if they had written them."""
        if options.mode != "adaptive":
            return super().embed_given(batch, options, indices, given, tokenizer)
        samples = options.num_samples
        found = self(**batch, dim=options.dim)
        ends = [
            -len(thoughts[0]) - 2 for thoughts in given
        ]  # padding is on the left, <gen_emb> the last token
        state = torch.stack([found.last_hidden_state[row * samples, end] for row, end in enumerate(ends)])
        prompts = ReadPrompts([*indices], state, found.embeddings[::samples])
        vectors = found.generated_embeddings.view(len(indices), samples, -1)
        handed = _Given(options.strategy, self._reduced(vectors, options.reduce), indices, given)
        wishes = ThoughtWishes(options.decoding, samples, options.reduce)
        with options.decider.attempt():
            decided = self._decided(prompts, handed, options.decider, wishes)
        done = _told(decided, indices)
        kept = [
            [[*ids] for ids in thoughts] if yes else []
            for yes, thoughts in zip(decided.reasoned, given, strict=True)
        ]
        tell_thoughts(done, kept, [[False] * len(row) for row in kept], options, tokenizer)
        return done

    def _decided(
        self, prompts: ReadPrompts, strategy: Any, decider: Kappa, wishes: ThoughtWishes
    ) -> UmeDecisions:
        """Decide, and reason where that is wanted; in several rounds where a budget waits for what thoughts cost."""
        scores = strategy.scores(self, prompts).float()
        vectors = prompts.direct.clone()
        if wishes.reduce is None:
            vectors = vectors.unsqueeze(1).repeat(1, wishes.num_samples, 1)
        count = len(prompts)
        done = UmeDecisions(vectors, scores, [False] * count, [0] * count, [[] for _ in range(count)])
        left = list(range(count))
        known = scores.tolist()
        while left:
            chosen = decider.decide([known[place] for place in left])
            waiting = range(len(chosen), len(left))
            later = prompts.branch(waiting) if waiting else None
            thinking = [number for number, yes in enumerate(chosen) if yes]
            if thinking:
                prompts.take(thinking)
                reasoned: Reasoned = strategy.reason(self, prompts, wishes)
                decider.spent(reasoned.tokens)
                places = [left[number] for number in thinking]
                done.vectors[places] = reasoned.vectors
                for number, place in enumerate(places):
                    done.reasoned[place], done.tokens[place] = True, reasoned.tokens[number]
                    done.rollouts[place] = reasoned.rollouts[number] if reasoned.rollouts else []
            left = left[len(chosen) :]
            if later is not None:
                prompts = later
        return done

    # ---- loading and saving -------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As of every kind; with the probe that lies beside the weights, where one decides."""
        source = os.fspath(pretrained_model_name_or_path)
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name)}
        loaded = super().from_pretrained(source, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.settings.strategy != "probe":  # nothing is asked of the Hub
            return loaded
        path = cached_file(source, PROBE_FILE, _raise_exceptions_for_missing_entries=False, **hub)
        if path is None:
            raise UmeSettingsError(f"{source} says that a probe decides, and has no {PROBE_FILE}")
        model.probe = Probe.load(Path(path))
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """As of every kind, and the probe."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.probe is not None:
            self.probe.save(Path(save_directory))


class _Given(Strategy):
    """Thoughts that are there already, in place of such as are written; another strategy scores."""

    def __init__(
        self, scoring: Any, vectors: Tensor, indices: Sequence[int], given: Sequence[Sequence[Sequence[int]]]
    ) -> None:
        self.scoring, self.vectors, self.given = scoring, vectors, given
        self.places = {index: place for place, index in enumerate(indices)}

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        found: Tensor = self.scoring.scores(model, prompts)
        return found

    def reason(self, model: Any, prompts: ReadPrompts, wishes: ThoughtWishes) -> Reasoned:
        places = [self.places[index] for index in prompts.indices]
        tokens = [sum(map(len, self.given[place])) for place in places]
        return Reasoned(self.vectors[places], tokens, [])


def _told(found: UmeDecisions, indices: Sequence[int]) -> EncodedBatch:
    return EncodedBatch(
        [*indices],
        {"adaptive": found.vectors},
        modes=["generative" if yes else "discriminative" for yes in found.reasoned],
        reason_scores=found.scores.tolist(),
    )
