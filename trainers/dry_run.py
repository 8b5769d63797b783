"""A dry run: the longest batch first, so that what does not fit into memory fails now and not after hours."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_to_fp32

from .indexed_rows import IndexedRows
from .random_state import same_random_state

MOMENTS = 2  # of AdamW, float32, for each trained number
# What a step sets in a module: its mode, and how transformers marks what is checkpointed.
MARKS = ("training", "gradient_checkpointing", "_gradient_checkpointing_func")


@dataclass(frozen=True)
class DryRun:
    """What :func:`dry_run` found.

    rows: indices of the batch. longest: tokens of its longest item. tokens: of all its items, visual ones
    included. peak_bytes: most memory in use during the step, weights and the process itself included on a CPU.
    resting_bytes: in use before it. optimizer_bytes: what AdamW's moments will add where the optimiser has not
    been made yet. seconds: of the step.
    """

    rows: list[int]
    longest: int
    tokens: int
    device: str
    peak_bytes: int
    resting_bytes: int
    optimizer_bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"longest batch: {len(self.rows)} rows, {self.tokens:,} tokens (longest item {self.longest:,}); on "
            f"{self.device} {_mib(self.peak_bytes)} at most, {_mib(self.resting_bytes)} before it; AdamW will add "
            f"{_mib(self.optimizer_bytes)}; {self.seconds:.2f} s forward and backward"
        )


def dry_run(trainer: Any, sample: int = 512) -> DryRun:
    """One forward and backward of the longest batch that a sample of the training rows can make.

    trainer: an :class:`ItemTrainer` with a map-style ``train_dataset``; call it before ``train()``.
    sample: rows to look at, evenly spaced over the dataset; the longest of them make the batch of one device.

    The step is the training's: with its activation checkpointing and its autocast. Weights, gradients, optimiser, logs,
    checkpointing and random generators are afterwards as they were. Raises ValueError for a dataset without length or
    rows and for FSDP or DeepSpeed, and whatever the step raises (``torch.OutOfMemoryError`` above all).
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "a dry run cannot measure FSDP or DeepSpeed: the model is split over the devices only when training "
            "begins. Train for a few steps instead (max_steps)"
        )
    dataset = trainer.train_dataset
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError("a dry run needs a train_dataset with len() and [index], to find its longest rows")
    if len(dataset) == 0 or sample < 1:
        raise ValueError(f"nothing to look at: the dataset has {len(dataset)} rows, sample is {sample}")
    with same_random_state(), _untouched(trainer):
        chosen = longest_rows(trainer, sample)
        rows = IndexedRows(dataset)
        inputs = trainer.data_collator([rows[index] for index in chosen])
        lengths = inputs["batch"].lengths
        device = torch.device(trainer.args.device)
        resting = _start_measuring(device)
        start = time.perf_counter()
        with _as_trained(trainer):
            trainer.training_step(trainer.model, inputs).item()  # waits for the device
        seconds = time.perf_counter() - start
        # Linux counts a process's pages in batches, and the two at other times.
        peak = max(resting, _peak(device))
    numbers = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    to_come = 0 if trainer.optimizer is not None and trainer.optimizer.state else 4 * MOMENTS * numbers
    return DryRun(chosen, max(lengths), sum(lengths), str(device), peak, resting, to_come, seconds)


def longest_rows(trainer: Any, sample: int) -> list[int]:
    """Indices of the rows with the most tokens among ``sample`` evenly spaced ones, as many as a batch of one
    device. A row that cannot be prepared is passed over where the trainer leaves such rows out."""
    dataset = trainer.train_dataset
    count = min(sample, len(dataset))
    places = sorted({round(i * (len(dataset) - 1) / max(1, count - 1)) for i in range(count)})
    rows = IndexedRows(dataset, getattr(trainer.data_collator, "skip_bad_rows", False))
    lengths: dict[int, int] = {}
    for index in places:
        batch = trainer.data_collator([rows[index]])["batch"]
        if len(batch):
            lengths[index] = sum(batch.lengths)
    if not lengths:
        raise ValueError(f"none of the {len(places)} rows looked at can be prepared")
    return sorted(lengths, key=lambda index: (-lengths[index], index))[: trainer.args.train_batch_size]


@contextlib.contextmanager
def _as_trained(trainer: Any) -> Iterator[None]:
    """What ``train()`` does to the model before the first step: checkpointing is enabled, and forwards run under
    autocast, as accelerate makes them when it prepares the model."""
    model = trainer.model
    if trainer.args.activation_checkpointing:
        _checkpoint_activations(model, dict(trainer.args.activation_checkpointing_kwargs or {}))
    own, forward = vars(model).get("forward"), model.forward

    def autocast(*args: Any, **kwargs: Any) -> Any:
        with trainer.accelerator.autocast():
            found = forward(*args, **kwargs)
        return convert_to_fp32(found) if trainer.accelerator.native_amp else found

    model.forward = autocast
    try:
        yield
    finally:
        del model.forward  # that of the class again
        if own is not None:
            model.forward = own


def _checkpoint_activations(model: Any, options: dict[str, Any]) -> None:
    """As ``transformers.Trainer.train`` does it, which has no method of its own for it."""
    layers, offload = options.pop("every_n_layers", 1), options.pop("offload", False)
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs=options or None, every_n_layers=layers, offload=offload
    )


@contextlib.contextmanager
def _untouched(trainer: Any) -> Iterator[None]:
    """Gradients, buffers, modes, checkpointing and metrics of the trainer are put back."""
    model = trainer.model
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modules = {
        module: {key: vars(module)[key] for key in MARKS if key in vars(module)} for module in model.modules()
    }
    sums = dict(trainer._sums)
    model.zero_grad(set_to_none=True)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name]
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for module, marks in modules.items():
            for key in MARKS:
                vars(module).pop(key, None)
            vars(module).update(marks)
        trainer._sums = sums


def _start_measuring(device: torch.device) -> int:
    """Forget earlier peaks; bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(
        OSError
    ):  # Linux forgets the peak when told so; elsewhere it is that of the process
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS") or _lifetime_peak()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") or _lifetime_peak()


def _status(field: str) -> int:
    """A field of ``/proc/self/status`` in bytes, 0 where there is none."""
    try:
        lines: Sequence[str] = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    values = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")]
    return values[0] if values else 0


def _lifetime_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
