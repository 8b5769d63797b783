"""Gathering representations over ranks so that the loss, and every gradient, is that of one process.

Each rank computes the loss of the *whole* batch from all representations, of which only its own carry a
gradient. The gradient of its own representations is then exact without any further communication; DDP
averages parameter gradients over ranks, so what flows into the backbone is multiplied by the number of
ranks, and what flows into the objective (which is complete on every rank) is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

_VISION_NAMES = {"visual", "vision", "vision_tower", "vision_model"}


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def max_over_ranks(value: int, device: torch.device) -> int:
    """The largest of the ranks' values; the value itself without a process group."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of the ranks' values, without a gradient; the value itself without a process group."""
    total = value.detach()
    if world_size() > 1:
        total = total.clone()
        dist.all_reduce(total)
    return total


def gather_lists(values: list[Any], device: torch.device) -> list[Any]:
    """The ranks' lists one after the other, on every rank; costs one number where all are empty."""
    if world_size() == 1:
        return values
    if max_over_ranks(len(values), device) == 0:
        return []
    parts: list[list[Any]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]


def needs_vision_in_every_forward(model: nn.Module, sharded: bool) -> bool:
    """Whether a forward without media has to run the vision tower all the same.

    model: the whole model. sharded: its parameters or gradients are split over ranks (FSDP, ZeRO): ranks then wait
    for each other in every module, trained or not. DDP waits for the gradient of every trained parameter.
    """
    vision = [p for name, p in model.named_parameters() if _VISION_NAMES.intersection(name.split("."))]
    return world_size() > 1 and bool(vision) and (sharded or any(p.requires_grad for p in vision))


def gather_rows(rows: Tensor) -> Tensor:
    """[n, ...] on each rank -> [sum of n, ...] in rank order; ranks may differ in every size.

    A rank whose other sizes are smaller is filled up with zeros. The gradient reaches this rank's own rows and is that
    of the loss computed here, which is exact where every rank computes the loss of the whole batch.
    """
    if world_size() == 1:
        return rows
    own = torch.tensor(rows.shape, dtype=torch.int64, device=rows.device)
    shapes = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(shapes, own)
    counts = [int(shape[0]) for shape in shapes]
    most, *sizes = torch.stack(shapes).amax(0).tolist()
    if list(rows.shape[1:]) != sizes:
        rows = F.pad(rows, _padding(rows.shape[1:], sizes))
    plain = rows.detach().to(torch.uint8) if rows.dtype == torch.bool else rows.detach()
    padded = F.pad(plain, [*[0, 0] * len(sizes), 0, most - len(rows)]).contiguous()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    pieces = [part[:count].to(rows.dtype) for part, count in zip(parts, counts, strict=True)]
    pieces[dist.get_rank()] = rows
    return torch.cat(pieces)


def _padding(sizes: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Argument of ``F.pad`` that fills up the last dimensions, the first of them last."""
    return [n for size, goal in zip(reversed(sizes), reversed(wanted), strict=True) for n in (0, goal - size)]


@contextlib.contextmanager
def no_sync(accelerator: Any, model: nn.Module, deepspeed: bool) -> Iterator[None]:
    """No gradient synchronisation (DDP, FSDP), no optimiser step inside backward (DeepSpeed).

    FSDP keeps whole gradients on every rank until it synchronises, as much memory as all trained parameters. With
    accelerate's switch ``sync_each_batch`` (in ``gradient_accumulation_kwargs`` of the Trainer's
    ``accelerator_config``) it synchronises every time instead: more traffic, the same sum.
    """
    state = accelerator.gradient_state
    before = state.sync_gradients
    synchronises = deepspeed or state.plugin_kwargs.get("sync_each_batch", False)
    with contextlib.nullcontext() if synchronises else accelerator.no_sync(model):
        state._set_sync_gradients(False)
        try:
            yield
        finally:
            state._set_sync_gradients(before)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The same values; the gradient is multiplied by ``factor``."""
    if factor == 1:
        return tensor
    scaled: Tensor = _ScaleGradient.apply(tensor, factor)
    return scaled
