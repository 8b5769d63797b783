"""What decides on a prompt that has been read, and what reasoning is: the seam of adaptive embedding.

A :class:`Strategy` scores prompts after one prefill, and a row whose score is over kappa reasons: from the same cache,
by the strategy's own :meth:`~Strategy.reason`, which is a thought where nothing else is said. Three decide here:

* :class:`Policy`: the model itself, by its next-token logits of ``<reason>`` against ``<direct>`` (MMEmb-R1);
* :class:`Margin`: the lead of the best candidate over the next, under the direct vector; no training;
* :class:`Probe`: logistic regression on the last state of the prompt; trained in seconds, for any generative model.

Whoever reasons otherwise, K latent tokens in one pass for instance, overrides :meth:`~Strategy.reason` alone.
A re-derivation of MMEmb-R1's adaptive control: no code of it is public; margin and probe are ours, to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .decoding import CachedRows
from .reasoning import Rollout, ThoughtWishes

PROBE_FILE = "reasoning_probe.safetensors"  # beside the weights of a checkpoint
CANDIDATES = 65_536  # of a block of scores


@dataclass
class ReadPrompts:
    """A batch of ``B`` prompts after its prefill.

    Attributes:
        indices: of the items.
        state: ``[B, H]``, of each prompt's last token, which the next token is predicted from.
        direct: float32 ``[B, d]``, the vectors of the discriminative mode, finished; they cost nothing further.
        rows: the prompts with their cache; None where a thought is given, and nothing goes on.
        streams: sources of chance of a row, one for each sample.
    """

    indices: list[int]
    state: Tensor
    direct: Tensor
    rows: CachedRows | None = None
    streams: list[list[np.random.Generator]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, places: Sequence[int]) -> None:
        """Keep these prompts; the others leave, and their cache with them."""
        if self.rows is not None:
            self.rows.take(places)
        self._keep(places)

    def branch(self, places: Sequence[int]) -> ReadPrompts:
        """These prompts, to go on apart from the others."""
        rows = None if self.rows is None else self.rows.branch(places)
        apart = ReadPrompts(self.indices, self.state, self.direct, rows, self.streams)
        apart._keep(places)
        return apart

    def _keep(self, places: Sequence[int]) -> None:
        self.state, self.direct = self.state[list(places)], self.direct[list(places)]
        self.indices = [self.indices[place] for place in places]
        self.streams = [self.streams[place] for place in places] if self.streams else []


@dataclass
class Reasoned:
    """What rows became by reasoning.

    Attributes:
        vectors: float32 ``[n, d]``, or ``[n, k, d]`` without a reduction of ``k`` samples.
        tokens: what each row cost, in tokens, all of its samples counted.
        rollouts: ``k`` thoughts of each row; none where reasoning writes no text.
    """

    vectors: Tensor
    tokens: list[int]
    rollouts: list[list[Rollout]]


class Strategy:
    """Decides and reasons; see the module's docstring. One must give :meth:`scores`."""

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        """How likely reasoning is to pay for each prompt: float32 ``[B]`` in 0..1, of each prompt on its own."""
        raise NotImplementedError(f"{type(self).__name__} scores nothing")

    def decide(self, model: Any, prompts: ReadPrompts, kappa: float) -> list[bool]:
        """Whether each prompt reasons, under a fixed threshold."""
        return [score > kappa for score in self.scores(model, prompts).tolist()]

    def reason(self, model: Any, prompts: ReadPrompts, wishes: ThoughtWishes) -> Reasoned:
        """Reason about prompts, from the cache that they have; they are used up."""
        streams = [stream for row in prompts.streams for stream in row]
        vectors, rollouts = model.think_on(prompts.rows, streams, wishes)
        return Reasoned(vectors, [sum(len(one.thought) for one in row) for row in rollouts], rollouts)


class Policy(Strategy):
    """The model's own: softmax over its next-token logits of ``<reason>`` and ``<direct>``, taken for the first."""

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        return torch.sigmoid(model.action_logits(prompts.state).float())


class Margin(Strategy):
    """One minus the lead of the best candidate over the next, at least 0: close calls are thought about.

    A margin under ``m`` reasons at ``kappa = 1 - m``.

    Args:
        candidates: float32 ``[c, d]``, unit rows, of at least two; or a function of direct vectors ``[B, d]`` that
            gives the scores of the best two ``[B, 2]``, of an index for instance.
    """

    def __init__(self, candidates: Any) -> None:
        self._best: Callable[[Tensor], Any]
        if callable(candidates):
            self._best = candidates
            return
        table = torch.as_tensor(candidates, dtype=torch.float32)
        if table.dim() != 2 or len(table) < 2:
            raise ValueError(f"a margin is between two candidates at least; these are {tuple(table.shape)}")
        self._best = lambda vectors: best_two(vectors, table)

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        best = torch.as_tensor(self._best(prompts.direct), dtype=torch.float32)
        return (1 - (best[:, 0] - best[:, 1])).clamp(0, 1)


class Probe(Strategy):
    """Logistic regression on the state of a prompt's last token: ``sigmoid(state . weight + bias)``.

    Args:
        weight: ``[H]``. bias: of one number.

    Raises:
        ValueError: these are no finite numbers of such shapes.
    """

    def __init__(self, weight: Any, bias: Any) -> None:
        self.weight = torch.as_tensor(weight, dtype=torch.float32).detach().cpu()
        self.bias = torch.as_tensor(bias, dtype=torch.float32).detach().cpu().reshape(-1)
        if self.weight.dim() != 1 or len(self.bias) != 1:
            raise ValueError(
                f"a probe has a weight [H] and one bias, not {tuple(self.weight.shape)} and {len(self.bias)}"
            )
        if not bool(torch.isfinite(self.weight).all() and torch.isfinite(self.bias).all()):
            raise ValueError("a probe's numbers must be finite")

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        if prompts.state.shape[1] != len(self.weight):
            raise ValueError(
                f"the probe is for states of {len(self.weight)} numbers, this model has {prompts.state.shape[1]}"
            )
        states = prompts.state.float()
        return torch.sigmoid(states @ self.weight.to(states.device) + self.bias.to(states.device))

    def save(self, folder: Path) -> None:
        """Write ``reasoning_probe.safetensors`` into a folder."""
        save_file({"weight": self.weight, "bias": self.bias}, str(folder / PROBE_FILE))

    @classmethod
    def load(cls, path: Path) -> Probe:
        """From such a file.

        Raises:
            ValueError: it is no such file.
        """
        try:
            found = load_file(str(path))
            return cls(found["weight"], found["bias"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} holds no probe: {error}") from None


def best_two(vectors: Tensor, candidates: Tensor) -> Tensor:
    """Scores of the best two candidates ``[c, d]`` of each vector ``[B, d]``: float32 ``[B, 2]``, best first."""
    best = vectors.new_full((len(vectors), 2), float("-inf"))
    for block in candidates.to(vectors.device).split(CANDIDATES):
        best = torch.cat([best, vectors @ block.T], dim=1).topk(2, dim=1).values
    return best
