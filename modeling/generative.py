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
from .decoding import CachedRows, Decoding, prefill
from .discriminative import UmeForDiscriminativeEmbedding, UmeOutput
from .encode_loop import REDUCTIONS, EncodedBatch, EncodeOptions
from .evaluating import evaluated
from .pooling import DIRECT_SLOT, GENERATED_SLOT, pool, whole_number
from .reasoning import Rollout, ThoughtTokens, ThoughtWishes, think
from .settings import UmeSettings, UmeSettingsError


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


class UmeForGenerativeEmbedding(UmeForDiscriminativeEmbedding):
    """Embeds directly or after a thought.

    Example::

        model = AutoModel.from_pretrained(repo, trust_remote_code=True)
        vectors = model.encode(items, processor=processor, mode="generative", max_new_tokens=512)
    """

    kind: ClassVar[str] = "generative"
    modes: ClassVar[tuple[str, ...]] = ("generative", "discriminative", "both")

    def __init__(self, config: Any, backbone: Any = None, settings: UmeSettings | None = None) -> None:
        super().__init__(config, backbone, settings)
        if self.settings.attention != "causal" or not getattr(config.get_text_config(), "is_causal", True):
            raise UmeSettingsError(
                "a checkpoint that thinks needs causal attention, this one is bidirectional"
            )
        self.thought_tokens = ThoughtTokens.of(self.settings, self.backbone)

    def _pooled(self, states: Tensor, slots: Tensor, dim: int | None) -> UmeOutput:
        # Prompts with their thoughts: slot 2 marks the <gen_emb> of a row, beside slot 1; a row that has none is zero.
        output = super()._pooled(states, slots, dim)
        if bool((slots == GENERATED_SLOT).any()):
            output.generated_embeddings = self._finish(pool(states, slots, GENERATED_SLOT, partial=True), dim)
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
        if streams is None:
            streams = streams_of(fresh_seed(), range(len(rows)), num_samples)
        decoding = decoding or Decoding(self.settings.max_new_tokens)
        wishes = ThoughtWishes(decoding, num_samples, reduce, dim, vocabulary)
        result.generated, result.rollouts = self.think_on(rows, streams, wishes)
        return result

    def think_on(
        self, rows: CachedRows, streams: Sequence[np.random.Generator], wishes: ThoughtWishes
    ) -> tuple[Tensor, list[list[Rollout]]]:
        """Let prompts that have been read go on, each to its thoughts.

        Args:
            rows: ``B`` prompts; used up.
            streams: a source of chance per row and sample, row by row.
            wishes: how, and how many.

        Returns:
            Vectors, float32 ``[B, d]``, or ``[B, k, d]`` without a reduction; and the thoughts of every row.
        """
        count, samples = len(rows), wishes.num_samples
        rows.take([row for row in range(count) for _ in range(samples)])
        rollouts = think(
            rows,
            self._bounded(wishes.vocabulary),
            self.thought_tokens,
            wishes.decoding,
            streams,
            official=self.settings.thought_end == "official",
        )
        vectors = self._finish(torch.stack([rollout.state for rollout in rollouts]).float(), wishes.dim)
        thoughts = [rollouts[start : start + samples] for start in range(0, len(rollouts), samples)]
        return self._reduced(vectors.view(count, samples, -1), wishes.reduce), thoughts

    def embed_batch(
        self, batch: dict[str, Tensor], options: EncodeOptions, indices: Sequence[int], tokenizer: Any
    ) -> EncodedBatch:
        """:meth:`embed` for the encode loop: a batch of these items, in a mode that thinks."""
        found = self.embed(
            batch,
            options.mode,
            decoding=options.decoding,
            num_samples=options.num_samples,
            reduce=options.reduce,
            dim=options.dim,
            streams=streams_of(options.seed, indices, options.num_samples),
            vocabulary=len(tokenizer),
        )
        parts = {"discriminative": found.direct, "generative": found.generated}
        done = EncodedBatch(
            [*indices], {part: vectors for part, vectors in parts.items() if vectors is not None}
        )
        tell_rollouts(done, found.rollouts, options, tokenizer)
        return done

    def embed_given(
        self,
        batch: dict[str, Tensor],
        options: EncodeOptions,
        indices: Sequence[int],
        given: Sequence[Sequence[Sequence[int]]],
        tokenizer: Any,
    ) -> EncodedBatch:
        """Items with thoughts that are not theirs to write: one forward, nothing is generated.

        Args:
            batch: prompts that each of their thoughts and ``<gen_emb>`` follow, ``[n * k, L]``, item by item.
            options: of the call.
            indices: of the items.
            given: ids of ``k`` thoughts per item.
            tokenizer: writes them as texts.
        """
        found = self(**batch, dim=options.dim)
        done = EncodedBatch([*indices])
        if options.mode == "both":
            done.vectors["discriminative"] = found.embeddings.view(len(indices), options.num_samples, -1)[
                :, 0
            ]
        vectors = found.generated_embeddings.view(len(indices), options.num_samples, -1)
        done.vectors["generative"] = self._reduced(vectors, options.reduce)
        forced = [[False] * len(thoughts) for thoughts in given]
        tell_thoughts(done, [[[*ids] for ids in thoughts] for thoughts in given], forced, options, tokenizer)
        return done

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


def tell_rollouts(
    done: EncodedBatch, rollouts: Sequence[list[Rollout]], options: EncodeOptions, tokenizer: Any
) -> None:
    """Write a batch's thoughts down; a row without any has none."""
    thoughts = [[one.thought for one in row] for row in rollouts]
    tell_thoughts(done, thoughts, [[one.forced for one in row] for row in rollouts], options, tokenizer)


def tell_thoughts(
    done: EncodedBatch,
    thoughts: Sequence[list[list[int]]],
    forced: Sequence[list[bool]],
    options: EncodeOptions,
    tokenizer: Any,
) -> None:
    """Write a batch's thoughts down: a list an item for several samples, else the one; None for an item without."""
    for row, flags in zip(thoughts, forced, strict=True):
        if not row:
            done.thoughts.append(None)
            done.thought_ids.append(None)
            done.thought_tokens.append(0)
            done.forced.append(False)
            continue
        texts = [
            tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            for ids in row
        ]
        whole = options.num_samples > 1
        done.thoughts.append(texts if whole else texts[0])
        done.thought_ids.append(row if whole else row[0])
        done.thought_tokens.append([len(ids) for ids in row] if whole else len(row[0]))
        done.forced.append(flags if whole else flags[0])


def streams_of(seed: int, rows: Sequence[int], num_samples: int) -> list[np.random.Generator]:
    """Sources of chance that belong to an item and a sample, whatever batch they come to be in."""
    return [np.random.default_rng([seed, row, sample]) for row in rows for sample in range(num_samples)]


def fresh_seed() -> int:
    """From torch's own generator, so that ``torch.manual_seed`` reaches sampling, too."""
    return int(torch.randint(2**62, ()))
