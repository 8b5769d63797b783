"""Gradient caching: a contrastive batch of any size in the memory of one chunk (Gao et al. 2021, GradCache).

1. Every chunk is encoded without a graph; the state of the random generators before it is kept.
2. The loss of the whole batch gives the gradient of each representation.
3. Every chunk is encoded again with its generator state, and ``sum(representation * gradient)`` is
backpropagated.

The parameter gradients are those of one forward over the same chunks, dropout included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .distributed import scale_gradient

Metrics = dict[str, Tensor]


def plan_chunks(lengths: Sequence[int], budget: int, extra: Sequence[int] | None = None) -> list[list[int]]:
    """Indices of items by chunk, so that ``items * longest`` of a chunk and their ``extra`` are within the budget.

    Longest first (what runs out of memory does so at once); an item larger than the budget is a chunk of
    its own. extra: what each item takes beside its padded tokens, in tokens: the vision tower's share.

    >>> plan_chunks([3, 9, 4, 20], 10)
    [[3], [1], [2, 0]]
    >>> plan_chunks([3, 9, 4, 20], 10, extra=[0, 0, 4, 0])
    [[3], [1], [2], [0]]
    """
    beside = [0] * len(lengths) if extra is None else extra
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    chunks: list[list[int]] = []
    longest = taken = 0
    for index in order:
        if chunks and (len(chunks[-1]) + 1) * longest + taken + beside[index] <= budget:
            chunks[-1].append(index)
            taken += beside[index]
        else:
            chunks.append([index])
            longest, taken = lengths[index], beside[index]
    return chunks


def plan_groups(lengths: Sequence[int], waste: float = 0.1) -> list[list[int]]:
    """Indices of items in groups of similar length, so that at most ``waste`` of a group is padding.

    >>> plan_groups([10, 50, 11, 49])
    [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups: list[list[int]] = []
    real = 0
    for index in order:
        padded = (len(groups[-1]) + 1) * lengths[groups[-1][0]] if groups else 0
        if groups and real + lengths[index] >= (1 - waste) * padded:
            groups[-1].append(index)
            real += lengths[index]
        else:
            groups.append([index])
            real = lengths[index]
    return groups


class RandomState:
    """The torch generators (CPU, and the current CUDA device if in use) at the time of construction."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        """Put the generators back."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)


def encode_chunks(
    model: nn.Module,
    chunks: Sequence[Sequence[int]],
    collate: Callable[[Sequence[int]], Mapping[str, Any]],
    chunk_count: int | None = None,
) -> Tensor:
    """Embeddings [items, d] in the order of the items, without a graph. Chunks must cover each item once.

    collate, chunk_count: as in :func:`cached_backward`.
    """
    with torch.no_grad():
        parts = torch.cat([model(collate(chunk))[: len(chunk)] for chunk in chunks])
        for _ in range((chunk_count or 0) - len(chunks)):
            model(collate(chunks[-1][-1:]))
    return _restore_order(parts, chunks)


def _restore_order(parts: Tensor, chunks: Sequence[Sequence[int]]) -> Tensor:
    order = torch.tensor([index for chunk in chunks for index in chunk], device=parts.device)
    return torch.empty_like(parts).index_copy(0, order, parts)


def one_forward(
    model: nn.Module,
    groups: Sequence[Sequence[int]],
    collate: Callable[[Sequence[int]], Mapping[str, Any]],
    objective_fn: Callable[[Tensor], tuple[Tensor, Metrics]],
    *,
    representation_scale: float = 1.0,
    group_count: int | None = None,
    idle: Sequence[nn.Parameter] = (),
) -> tuple[Tensor, Metrics]:
    """The loss of a whole batch with its graph, and the metrics; nothing is cached.

    groups: item indices, each item once; one padded batch per group, because queries and positives are rarely of
        one length. All go through one call of ``model``, so that DDP sees one forward. group_count: encode at
        least this many, the same number on every rank. The rest as in :func:`cached_backward`.
    """
    surplus = [groups[-1][-1:]] * max(0, (group_count or 0) - len(groups))
    batches = [collate(group) for group in (*groups, *surplus)]
    places = [0] * sum(len(group) for group in groups)
    start = 0
    for group, batch in zip(groups, batches, strict=False):  # the surplus is encoded and not looked at
        for offset, index in enumerate(group):
            places[index] = start + offset
        start += len(batch["input_ids"])

    def then(embeddings: Tensor, _module: Any) -> tuple[Tensor, Metrics]:
        ordered = embeddings[torch.tensor(places, device=embeddings.device)]
        loss, metrics = objective_fn(scale_gradient(ordered, representation_scale))
        return loss + _nothing_of(idle), metrics

    loss, metrics = model(batches, then)
    return loss, metrics


def cached_backward(
    model: nn.Module,
    chunks: Sequence[Sequence[int]],
    collate: Callable[[Sequence[int]], Mapping[str, Any]],
    objective_fn: Callable[[Tensor], tuple[Tensor, Metrics]],
    *,
    backward: Callable[[Tensor], None],
    objective_parameters: Callable[[], Mapping[str, nn.Parameter]] = dict,
    idle: Sequence[nn.Parameter] = (),
    no_sync: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    representation_scale: float = 1.0,
    scale: float = 1.0,
    chunk_count: int | None = None,
) -> tuple[Tensor, Metrics]:
    """Accumulate the gradient of ``scale * loss`` into the parameters, one chunk in memory at a time.

    model: a :class:`ModelWithObjective`, wrapped by DDP or FSDP or not. chunks: item indices, each item once.
    collate: indices -> model inputs on the device; called twice per chunk. It may add rows of its own after those
        of the indices; they are encoded and have no weight. objective_fn: embeddings [items,
    d] -> (loss, metrics); it gathers over ranks if there are several.
    objective_parameters: gives what it learns, by name. Asked for when the loss is taken and again in the last
        forward, because sharded training swaps a module's parameters from one forward to the next. idle: trained
        parameters that no embedding depends on; the last forward touches them with zero weight, so that DDP
        synchronises what another backward of the same step has left in them.
    backward: for example ``accelerator.backward``; called once per chunk. no_sync: entered for all but the
        last.
    representation_scale: factor on what flows into the backbone only (the number of ranks under DDP's
        averaging).
    chunk_count: run at least this many chunks, the same on every rank; the surplus is encoded with zero
        weight.

    Returns the loss, detached and not scaled, and the metrics. The generators are left as one forward
    leaves them. Raises RuntimeError where the loss does not depend on a parameter that it should learn.
    """
    surplus = max(0, (chunk_count or 0) - len(chunks))
    shortest = chunks[-1][-1:]
    states: list[RandomState] = []

    def first_pass(indices: Sequence[int]) -> Tensor:
        states.append(RandomState())
        with torch.no_grad():
            embeddings: Tensor = model(collate(indices))
        return embeddings[: len(indices)]

    for _ in range(surplus):
        first_pass(shortest)
    parts = [first_pass(chunk) for chunk in chunks]
    end = RandomState()

    representations = _restore_order(torch.cat(parts), chunks).requires_grad_()
    loss, metrics = objective_fn(representations)
    gradient, learned = _gradients(loss, representations, objective_parameters())
    weight = gradient * (representation_scale * scale)

    def surrogate(weights: Tensor | None, last: bool) -> Callable[[Tensor, Any], Tensor]:
        def then(embeddings: Tensor, _module: Any) -> Tensor:
            total = (
                embeddings.sum() * 0.0 if weights is None else (embeddings[: len(weights)] * weights).sum()
            )
            own, share = objective_parameters(), scale if last else 0.0  # DDP may synchronise every forward
            for name, value in learned.items():
                total = total + (own[name] * (value * share)).sum()
            return total + _nothing_of(idle if last else ())

        return then

    work: list[tuple[Sequence[int], Tensor | None]] = [(shortest, None)] * surplus
    work += [(chunk, weight[torch.tensor(chunk, device=weight.device)]) for chunk in chunks]
    for number, (indices, weights) in enumerate(work):
        last = number == len(work) - 1
        with contextlib.nullcontext() if last else no_sync():
            states[number].restore()
            backward(model(collate(indices), surrogate(weights, last)))
    end.restore()
    return loss.detach(), metrics


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


def _nothing_of(parameters: Sequence[nn.Parameter]) -> Tensor | float:
    """Zero with a graph to each of the parameters."""
    return sum((parameter.sum() * 0.0 for parameter in parameters), start=0.0)
