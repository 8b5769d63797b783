"""Gradient caching: a batch of any size in the memory of one chunk (Gao et al. 2021, GradCache).

1. First pass: every chunk is encoded without a graph; the state of the random generators before it is kept.
2. The loss of the whole batch gives the gradient of each representation that was read.
3. Replay: every chunk is encoded again with its generator state, and ``sum(representation * gradient)`` is
backpropagated, together with the chunk's local loss.

The parameter gradients are those of one forward over the same chunks, dropout included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .distributed import scale_gradient
from .model_with_objective import (
    LOCAL_ROWS,
    LOCAL_WEIGHT,
    Local,
    Metrics,
    Read,
    Run,
    read_embeddings,
    run_model,
)
from .random_state import RandomState

Loss = Callable[[Tensor], tuple[Tensor, Metrics]]


@dataclass(frozen=True)
class Chunks:
    """A batch by chunk, and what its forwards give.

    Attributes:
        model: a :class:`ModelWithObjective`, wrapped by DDP or FSDP or not.
        indices: of items; each item once.
        collate: indices -> model inputs on the device; called once for each forward. It may add rows of its own after
            those of the indices; they are encoded and have no weight.
        read, local, run: as in :class:`ModelWithObjective`; no ``read`` where nothing crosses the batch.
        count: at least so many forwards are run, the same number on every rank; the surplus has zero weight.
    """

    model: nn.Module
    indices: Sequence[Sequence[int]]
    collate: Callable[[Sequence[int]], Mapping[str, Any]]
    read: Read | None = read_embeddings
    local: Local | None = None
    count: int = 0
    run: Run = run_model

    @property
    def forwards(self) -> list[tuple[Sequence[int], float]]:
        """Indices of each forward and its weight; the surplus comes first."""
        surplus = max(0, self.count - len(self.indices))
        return [(self.indices[-1][-1:], 0.0)] * surplus + [(chunk, 1.0) for chunk in self.indices]

    def inputs(self, indices: Sequence[int], weight: float) -> dict[str, Any]:
        """The model inputs of a forward."""
        return {**self.collate(indices), LOCAL_WEIGHT: weight, LOCAL_ROWS: len(indices)}

    def encode(self, before: Callable[[], Any] = lambda: None) -> Tensor:
        """What is read, [items, ...] in the order of the items, without a graph. before: called before each forward."""
        parts = []
        for indices, weight in self.forwards:
            before()
            with torch.no_grad():
                values = self.model(self.inputs(indices, weight), self.read, run=self.run)
            if weight:
                parts.append(values)
        values = torch.cat(parts)
        order = torch.tensor([index for chunk in self.indices for index in chunk], device=values.device)
        return torch.empty_like(values).index_copy(0, order, values)


def one_forward(
    chunks: Chunks, loss_of: Loss | None, *, representation_scale: float = 1.0
) -> tuple[Tensor, Metrics, Tensor | None]:
    """The loss of a whole batch with its graph, its metrics, and the local loss in it; nothing is cached.

    All chunks go through one call of the model, so that DDP sees one forward. The rest as in :func:`cached_backward`.
    """
    forwards = chunks.forwards
    batches = [chunks.inputs(indices, weight) for indices, weight in forwards]
    places = [0] * sum(len(indices) for indices in chunks.indices)
    start = 0
    for indices, weight in forwards:
        for offset, index in enumerate(indices if weight else ()):
            places[index] = start + offset
        start += len(indices)

    def then(
        values: Tensor | None, local: Tensor | None, _module: Any
    ) -> tuple[Tensor, Metrics, Tensor | None]:
        loss: Tensor | float = 0.0
        metrics: Metrics = {}
        if values is not None and loss_of is not None:
            ordered = values[torch.tensor(places, device=values.device)]
            loss, metrics = loss_of(scale_gradient(ordered, representation_scale))
        if local is not None:
            loss = loss + scale_gradient(local, representation_scale)
        return loss, metrics, None if local is None else local.detach()  # type: ignore[return-value]

    read = None if loss_of is None else chunks.read
    return chunks.model(batches, read, chunks.local, then, chunks.run)  # type: ignore[no-any-return]


def cached_backward(
    chunks: Chunks,
    loss_of: Loss | None,
    *,
    backward: Callable[[Tensor], None],
    objective_parameters: Callable[[], Mapping[str, nn.Parameter]] = dict,
    no_sync: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    representation_scale: float = 1.0,
    scale: float = 1.0,
) -> tuple[Tensor, Metrics, Tensor | None]:
    """Accumulate the gradient of ``scale * loss`` into the parameters, one chunk in memory at a time.

    Args:
        chunks: the batch.
        loss_of: what was read, [items, ...], -> (loss, metrics); it gathers over ranks if there are several. None
            where there is a local loss only: then there is no first pass.
        backward: for example ``accelerator.backward``; called once per chunk.
        objective_parameters: gives what the objective learns, by name. Asked for when the loss is taken and again in
            the last forward, because sharded training swaps a module's parameters from one forward to the next.
        no_sync: entered for all forwards but the last.
        representation_scale: factor on what flows into the backbone only (the number of ranks under DDP's averaging).
        scale: of the whole gradient.

    Returns:
        The loss with the local one in it, the metrics, and the local loss alone (None without): detached, not scaled.
        The generators are left as one forward leaves them.

    Raises:
        RuntimeError: the loss does not depend on a parameter that the objective should learn.
    """
    if loss_of is None:
        local = replay(chunks, backward=backward, no_sync=no_sync, local_scale=scale * representation_scale)
        assert local is not None
        return local, {}, local
    states: list[RandomState] = []
    representations = chunks.encode(lambda: states.append(RandomState())).requires_grad_()
    end = RandomState()
    loss, metrics = loss_of(representations)
    gradient, learned = _gradients(loss, representations, objective_parameters())
    del representations

    def rest() -> Tensor | float:
        own = objective_parameters()
        return sum(((own[name] * (value * scale)).sum() for name, value in learned.items()), start=0.0)

    local = replay(
        chunks,
        backward=backward,
        gradient=gradient * (representation_scale * scale),
        states=states,
        rest=rest,
        no_sync=no_sync,
        local_scale=scale * representation_scale,
    )
    end.restore()
    loss = loss.detach()
    return (loss if local is None else loss + local), metrics, local


def replay(
    chunks: Chunks,
    *,
    backward: Callable[[Tensor], None],
    gradient: Tensor | None = None,
    states: Sequence[RandomState] | None = None,
    rest: Callable[[], Tensor | float] = float,
    no_sync: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    local_scale: float = 1.0,
) -> Tensor | None:
    """Every chunk forward and backward; returns the sum of the local losses, detached and not scaled.

    Args:
        chunks: the batch.
        backward: called once per chunk.
        gradient: of what is read, [items, ...]; None for a local loss only.
        states: of the generators, for each forward.
        rest: what else is backpropagated, computed inside every forward and of weight in the last, since DDP may
            synchronise every one of them.
        no_sync: entered for all forwards but the last.
        local_scale: factor on the gradient of the local loss.
    """
    forwards = chunks.forwards
    sums: list[Tensor] = []
    for number, (indices, weight) in enumerate(forwards):
        last = number == len(forwards) - 1

        def then(
            values: Tensor | None,
            local: Tensor | None,
            _module: Any,
            indices: Sequence[int] = indices,
            weight: float = weight,
            last: bool = last,
        ) -> Tensor:
            total = rest() * float(last)
            if values is not None and gradient is not None:
                weights = gradient[torch.tensor(indices, device=gradient.device)] * weight
                total = total + (values * weights).sum()
            if local is not None:
                sums.append(local.detach())
                total = total + local * local_scale
            return total  # type: ignore[return-value]

        with contextlib.nullcontext() if last else no_sync():
            if states is not None:
                states[number].restore()
            read = None if gradient is None else chunks.read
            backward(chunks.model(chunks.inputs(indices, weight), read, chunks.local, then, chunks.run))
    return torch.stack(sums).sum() if sums else None


def _gradients(
    loss: Tensor, representations: Tensor, parameters: Mapping[str, nn.Parameter]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of the loss in the representations, and in the parameters that are trained, by name."""
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    gradient, *own = torch.autograd.grad(loss, [representations, *trained.values()], allow_unused=True)
    found = dict(zip(trained, own, strict=True))
    without = sorted(name for name, value in found.items() if value is None)
    if without:
        raise RuntimeError(
            f"the loss does not depend on {without}, which the objective should learn: do not train them "
            "(learnable_temperature=False), or give a loss that uses them in every batch"
        )
    return torch.zeros_like(representations) if gradient is None else gradient, found
