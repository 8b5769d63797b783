"""Rollouts: what a policy writes after prompts, and the engines that let it write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ..modeling.batching import plan_batches
from ..modeling.decoding import Decoding
from ..modeling.encode_loop import ROOM_FOR_THOUGHT
from .lazy_media import loaded


@dataclass(frozen=True)
class Prompt:
    """item: prepared, as it goes through the model. seed: of the chance that its completions are drawn by."""

    item: Any
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Sampling:
    """How completions are written.

    Attributes:
        count: of each prompt.
        max_tokens: most tokens of one.
        temperature: 0 takes the likeliest token.
        top_k: draw from so many likeliest tokens; None from all.
    """

    count: int
    max_tokens: int
    temperature: float = 1.0
    top_k: int | None = None


@dataclass
class Completion:
    """What was written after one prompt.

    Attributes:
        tokens: every token that the policy chose, an early end of the turn included, none that was forced on it.
        vector: float32 ``[d]``, what encoding takes after these tokens; None where the engine has not read it.
    """

    tokens: list[int]
    vector: Tensor | None = None


class RolloutEngine(Protocol):
    """Writes completions with the weights that the policy has now."""

    def update(self, model: Any) -> None:
        """Called before the rollouts of a step, by every rank: the model has new weights."""
        ...

    def rollout(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """``sampling.count`` completions of each prompt. What is written behind the token that ends a rollout is not
        looked at; a completion without a vector is read once more by the trainer."""
        ...


class ModelRollouts:
    """The model's own: every prompt is read once for all its completions, and the vector comes with them.

    model: a :class:`UmeForGenerativeEmbedding`. batch_tokens: of prompts and their thoughts, planned as encoding plans
    them, in one batch; None for all prompts at once. autocast: what the forwards run under.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        batch_tokens: int | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model = model
        self.processor = processor
        self.batch_tokens = batch_tokens
        self.autocast = autocast

    def update(self, model: Any) -> None:
        """The weights are the model's own."""

    def rollout(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """As in :class:`RolloutEngine`; a completion depends on its prompt's seed, and not on its neighbours."""
        room = min(sampling.max_tokens, ROOM_FOR_THOUGHT)
        costs = [(int(prompt.item.length) + room) * sampling.count for prompt in prompts]
        found: list[list[Completion]] = [[] for _ in prompts]
        for batch in plan_batches(costs, self.batch_tokens or sum(costs) * len(costs) + 1):
            written = self._batch([prompts[index] for index in batch], sampling)
            for index, completions in zip(batch, written, strict=True):
                found[index] = completions
        return found

    def _batch(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        device = self.model.device
        items = loaded([prompt.item for prompt in prompts], self.processor)
        inputs = {k: v.to(device) for k, v in self.processor.collate(items, padding_side="left").items()}
        streams = [
            np.random.default_rng([*prompt.seed, sample])
            for prompt in prompts
            for sample in range(sampling.count)
        ]
        with self.autocast():
            return self.written(inputs, prompts, sampling, streams)

    def written(
        self, inputs: dict[str, Tensor], prompts: Sequence[Prompt], sampling: Sampling, streams: list[Any]
    ) -> list[list[Completion]]:
        """Completions of one collated batch. streams: a source of chance per prompt and sample, prompt by prompt."""
        found = self.model.embed(
            inputs,
            "generative",
            decoding=Decoding(sampling.max_tokens, sampling.temperature, top_k=sampling.top_k),
            num_samples=sampling.count,
            reduce=None,
            streams=streams,
            vocabulary=len(self.processor.tokenizer),
        )
        return [
            [Completion(written_tokens(one), vector) for one, vector in zip(row, vectors, strict=True)]
            for row, vectors in zip(found.rollouts, found.generated.clone(), strict=True)
        ]


def written_tokens(rollout: Any) -> list[int]:
    """What the policy chose of a model's :class:`Rollout`, an early end of the turn included."""
    return [*rollout.tokens, *([] if rollout.ending is None else [rollout.ending])]


@dataclass(frozen=True)
class RolloutEnds:
    """What ends a rollout, and where its vector is.

    Attributes:
        gen_emb: the token whose state is the vector.
        ends: tokens that end the turn.
        official: the turn's end ends a rollout, and its last ``<gen_emb>`` counts, the prompt's own where it wrote none
            (UME-R1). Otherwise its first ``<gen_emb>`` ends it, and one without has no vector.
        direct: an engine's completion that begins with this token stands for no completion: its vector is the prompt's
            direct one. None where there are no actions.
    """

    gen_emb: int
    ends: frozenset[int]
    official: bool = False
    direct: int | None = None

    def at_once(self, tokens: Sequence[int]) -> bool:
        """Whether a rollout embeds without a thought."""
        return self.direct is not None and len(tokens) > 0 and tokens[0] == self.direct

    def has_vector(self, tokens: Sequence[int]) -> bool:
        """Whether a rollout has a vector of its own."""
        return self.official or self.at_once(tokens) or self.place(tokens) is not None

    def cut(self, tokens: Sequence[int]) -> list[int]:
        """Tokens up to the one that ends the rollout, that one included."""
        if self.at_once(tokens):
            return [int(tokens[0])]
        stop = self.ends if self.official else self.ends | {self.gen_emb}
        end = next((place + 1 for place, token in enumerate(tokens) if token in stop), len(tokens))
        return [int(token) for token in tokens[:end]]

    def place(self, tokens: Sequence[int]) -> int | None:
        """Where the ``<gen_emb>`` of a rollout is; None where it has none of its own."""
        places = [place for place, token in enumerate(tokens) if token == self.gen_emb]
        return places[-1] if places else None
