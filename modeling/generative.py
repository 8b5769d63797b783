"""The generative embedder: it can embed at once, or think first and embed what it has thought.

*Discriminative* is the state at the prompt's own embedding token, from one prefill. *Generative* goes on from the
same prefill: the model writes a thought and then ``<gen_emb>``, whose state is the vector. The prompt of a thought
only adds text after the embedding token, so that *both* cost no second prefill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from .backbone import back_home
from .decoding import Decoding, prefill
from .discriminative import UmeForDiscriminativeEmbedding, UmeOutput
from .evaluating import evaluated
from .pooling import DIRECT_SLOT, GENERATED_SLOT, check_dim, check_vectors, pool
from .reasoning import Rollout, ThoughtTokens, think
from .settings import UmeSettings, UmeSettingsError, whole_number

REDUCTIONS = ("mean", "first", None)


@dataclass
class UmeThoughts:
    """What a batch became.

    Attributes:
        direct: float32 ``[B, d]``, or None where it was not asked for.
        generated: float32 ``[B, d]``, or ``[B, k, d]`` without a reduction; None where it was not asked for.
        rollouts: ``k`` thoughts per row; empty where nothing was thought.
    """

    direct: Tensor | None = None
    generated: Tensor | None = None
    rollouts: list[list[Rollout]] = field(default_factory=list)


@dataclass
class UmeEncoded:
    """Result of ``encode(..., return_details=True)``; lists have an entry per item.

    Attributes:
        embeddings: what ``encode`` returns otherwise.
        thoughts: what was written before ``<gen_emb>``, tags included; None in discriminative mode, a list of
            ``num_samples`` where there are several.
        thought_tokens, forced: tokens of the thoughts, and whether ``<gen_emb>`` had to be forced; likewise.
        truncated: tokens of text that an item lost to its limit, 0 where it was not cut.
    """

    embeddings: Any
    thoughts: list[Any]
    thought_tokens: list[Any]
    forced: list[Any]
    truncated: list[int] = field(default_factory=list)


class UmeForGenerativeEmbedding(UmeForDiscriminativeEmbedding):
    """Embeds directly or after a thought.

    Example::

        model = AutoModel.from_pretrained(repo, trust_remote_code=True)
        vectors = model.encode(items, processor=processor, mode="generative", max_new_tokens=512)
    """

    role: ClassVar[str] = "generative"
    modes: ClassVar[tuple[str, ...]] = ("generative", "discriminative", "both")

    def __init__(self, config: Any, backbone: Any = None, settings: UmeSettings | None = None) -> None:
        super().__init__(config, backbone, settings)
        if self.settings.attention != "causal" or not getattr(config.get_text_config(), "is_causal", True):
            raise UmeSettingsError(
                "a checkpoint that thinks needs causal attention, this one is bidirectional"
            )
        self.thought_tokens = ThoughtTokens.of(self.settings, self.backbone)

    def _pooled(self, states: Tensor, slots: Tensor, dim: int | None) -> UmeOutput:
        # Prompts with their thoughts: slot 2 marks the <gen_emb> of every row, beside slot 1.
        output = super()._pooled(states, slots, dim)
        if bool((slots == GENERATED_SLOT).any()):
            output.generated_embeddings = self._finish(pool(states, slots, GENERATED_SLOT), dim)
        return output

    def decoding(
        self,
        num_samples: int = 1,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> Decoding:
        """A caller's wishes, filled up from the checkpoint's settings."""
        if temperature is None and num_samples > 1:
            temperature = 1.0
        limit = self.settings.max_new_tokens if max_new_tokens is None else max_new_tokens
        return Decoding(limit, temperature, 1.0 if top_p is None else top_p)

    def logits_of(self, states: Tensor) -> Tensor:
        """States ``[..., H]`` to logits ``[..., V]``."""
        return back_home(self.backbone.get_output_embeddings()(states), states)

    @evaluated
    @torch.inference_mode()
    def embed(
        self,
        batch: dict[str, Tensor],
        mode: str = "generative",
        *,
        decoding: Decoding | None = None,
        num_samples: int = 1,
        reduce: Literal["mean", "first"] | None = "mean",
        dim: int | None = None,
        streams: Sequence[np.random.Generator] | None = None,
        vocabulary: int | None = None,
    ) -> UmeThoughts:
        """Embed one collated batch; the prompts are read once, whatever the mode and the number of samples.

        Args:
            batch: from ``processor.collate(rows, padding_side="left")``; rows prepared for a mode that thinks.
            mode: one of ``modes``.
            decoding: greedy up to the checkpoint's limit when None.
            num_samples: thoughts per row; they share the prompt's cache.
            reduce: ``"mean"`` of the thoughts' unit vectors, normalised again; the ``"first"``; None keeps all.
            dim: keep the first ``dim`` numbers.
            streams: a source of chance per row and sample, row by row; fresh ones from torch's seed when None.
            vocabulary: ids from here on are rows without a token and are never written.
        """
        if mode not in self.modes or reduce not in REDUCTIONS or whole_number("num_samples", num_samples) < 1:
            raise ValueError(
                f"mode={mode!r} is not one of {self.modes}, reduce={reduce!r} not one of {REDUCTIONS}, "
                f"or num_samples={num_samples} is under 1"
            )
        inputs = {name: value for name, value in batch.items() if name != "pooling_slots"}
        if mode == "discriminative":
            return UmeThoughts(
                direct=self(**inputs, pooling_slots=batch["pooling_slots"], dim=dim).embeddings
            )
        rows, states = prefill(self.backbone, inputs, self.settings)
        result = UmeThoughts()
        if mode == "both":
            result.direct = self._finish(pool(states, batch["pooling_slots"], DIRECT_SLOT), dim)
        del states  # the prompts' states are not kept while thoughts are written
        count = len(rows)
        rows.take([row for row in range(count) for _ in range(num_samples)])
        rollouts = think(
            rows,
            self._bounded(vocabulary),
            self.thought_tokens,
            decoding or Decoding(self.settings.max_new_tokens),
            streams if streams is not None else streams_of(_fresh_seed(), range(count), num_samples),
            official=self.settings.thought_end == "official",
        )
        vectors = self._finish(torch.stack([rollout.state for rollout in rollouts]).float(), dim)
        result.generated = self._reduced(vectors.view(count, num_samples, -1), reduce)
        result.rollouts = [
            rollouts[start : start + num_samples] for start in range(0, len(rollouts), num_samples)
        ]
        return result

    def encode(  # type: ignore[override]
        self,
        items: Any,
        *,
        processor: Any,
        role: str | None = None,
        instruction: str | None = None,
        mode: str | None = None,
        dim: int | None = None,
        batch_size: int = 16,
        max_new_tokens: int | None = None,
        num_samples: int = 1,
        reduce: Literal["mean", "first"] | None = "mean",
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        return_details: bool = False,
    ) -> Any:
        """Embed items.

        Args:
            items, processor, role, instruction, dim: see the discriminative class.
            mode: None and ``"generative"`` think first; ``"discriminative"`` does not; ``"both"`` gives both.
            batch_size: rows per prefill.
            max_new_tokens: most tokens of a thought; the checkpoint's when None.
            num_samples: thoughts per item, drawn with temperature 1 unless told otherwise.
            reduce: see :meth:`embed`.
            temperature: None is greedy for one sample and 1 for several; 0 is always greedy.
            top_p: draw from the fewest tokens that hold this much probability.
            seed: makes drawing reproducible: an item's thoughts then depend on the seed and its index alone.
            return_details: a :class:`UmeEncoded` with the thoughts instead of the vectors alone.

        Returns:
            float32 ``[n, d]`` on the model's device, ``[n, k, d]`` for ``reduce=None``; with ``mode="both"`` a dict
            of ``"discriminative"`` and ``"generative"``.

        Raises:
            DegenerateVectorError: a vector is zero, constant or not finite.
        """
        mode = "generative" if mode is None else mode
        if mode not in self.modes or reduce not in REDUCTIONS:
            raise ValueError(
                f"mode={mode!r} is not one of {self.modes}, or reduce={reduce!r} not one of {REDUCTIONS}"
            )
        whole_number("batch_size", batch_size)
        whole_number("num_samples", num_samples)
        kept = self.dim if dim is None else check_dim(dim, self.dim)
        listed: Sequence[Any] = items if isinstance(items, (list, tuple)) else [items]
        decoding = self.decoding(num_samples, max_new_tokens, temperature, top_p)
        seed = _fresh_seed() if seed is None else seed
        prepared = processor.prepare_all(listed, role=role, instruction=instruction, mode=mode)
        order = sorted(range(len(prepared)), key=lambda i: prepared[i].length)
        parts: dict[str, list[Any]] = {name: [None] * len(prepared) for name in _parts(mode)}
        rollouts: list[list[Rollout]] = [[] for _ in prepared]
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = processor.collate([prepared[i] for i in places], padding_side="left").to(self.device)
            found = self.embed(
                batch,
                mode,
                decoding=decoding,
                num_samples=num_samples,
                reduce=reduce,
                dim=dim,
                streams=streams_of(seed, places, num_samples),
                vocabulary=len(processor.tokenizer),
            )
            for name, vectors in (("discriminative", found.direct), ("generative", found.generated)):
                if vectors is not None:
                    check_vectors(vectors.reshape(-1, vectors.shape[-1]))
                    for place, vector in zip(places, vectors, strict=True):
                        parts[name][place] = vector
            for place, thoughts in zip(places, found.rollouts, strict=False):
                rollouts[place] = thoughts
        shape = (0, kept) if reduce is not None else (0, num_samples, kept)
        arrays = {
            name: torch.stack(rows) if rows else torch.empty(shape, dtype=torch.float32, device=self.device)
            for name, rows in parts.items()
        }
        embeddings: Any = arrays if mode == "both" else arrays[mode]
        if not return_details:
            return embeddings
        details = details_of(rollouts, processor.tokenizer, several=num_samples > 1)
        return UmeEncoded(embeddings, *details, [row.cut_tokens for row in prepared])

    # ---- inside -------------------------------------------------------------------------------------------------

    def _bounded(self, vocabulary: int | None) -> Any:
        if vocabulary is None:
            return self.logits_of
        return lambda states: self.logits_of(states)[:, :vocabulary]

    def _reduced(self, vectors: Tensor, reduce: str | None) -> Tensor:
        if reduce is None:
            return vectors
        if reduce == "first" or vectors.shape[1] == 1:
            return vectors[:, 0]
        mean = torch.nn.functional.normalize(vectors, dim=-1).mean(dim=1)
        return torch.nn.functional.normalize(mean, dim=-1) if self.settings.normalize else mean


def streams_of(seed: int, rows: Sequence[int], num_samples: int) -> list[np.random.Generator]:
    """Sources of chance that belong to an item and a sample, whatever batch they come to be in."""
    return [np.random.default_rng([seed, row, sample]) for row in rows for sample in range(num_samples)]


def details_of(
    rollouts: Sequence[Sequence[Rollout]], tokenizer: Any, *, several: bool
) -> tuple[list[Any], list[Any], list[Any]]:
    """Thoughts as text, their lengths, and whether they were forced, per item; lists where there are several."""
    thoughts: list[Any] = []
    lengths: list[Any] = []
    forced: list[Any] = []
    for row in rollouts:
        texts = [
            tokenizer.decode(one.thought, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            for one in row
        ]
        thoughts.append(texts if several else (texts[0] if row else None))
        lengths.append([len(one.thought) for one in row] if several else sum(len(one.thought) for one in row))
        forced.append([one.forced for one in row] if several else any(one.forced for one in row))
    return thoughts, lengths, forced


def _parts(mode: str) -> tuple[str, ...]:
    return ("discriminative", "generative") if mode == "both" else (mode,)


def _fresh_seed() -> int:
    """From torch's own generator, so that ``torch.manual_seed`` reaches sampling, too."""
    return int(torch.randint(2**62, ()))
