"""Which of how many processes this is, and on which devices: of torchrun and its like, or of one command."""

from __future__ import annotations

import argparse
import os

from .common import UsageError


def rank_and_world() -> tuple[int, int]:
    """Rank and number of processes, as torchrun and its like say them."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise UsageError("RANK and WORLD_SIZE in the environment are not numbers") from None
    if not 0 <= rank < world:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE {world} in the environment")
    return rank, world


def devices_of(args: argparse.Namespace, rank: int, world: int) -> list[str | None]:
    """A device for each process of this command."""
    named: list[str | None] = list(args.device.split(",")) if args.device else [None]
    if not all(name is None or name.strip() for name in named):
        raise UsageError(f"--device is {args.device!r}: an empty name stands there")
    if args.processes is not None and args.processes < 1:
        raise UsageError(f"--processes is {args.processes}; need at least 1")
    count = args.processes or len(named)
    if count % len(named):
        raise UsageError(f"--processes {count} can't be shared among {len(named)} devices evenly")
    devices = named * (count // len(named))
    if world == 1:
        return devices
    if len(devices) > 1:
        raise UsageError("torchrun starts the processes: leave --processes and several devices out")
    return [named[0] or device_of_rank()]


def device_of_rank() -> str | None:
    """The GPU of a process that torchrun has started; None where it did not, or there is none."""
    if "LOCAL_RANK" in os.environ:
        import torch

        if torch.cuda.is_available():
            return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return None
