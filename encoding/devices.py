"""The device that a caller named, or a line that says what is there instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceError(ValueError):
    """There is no such device on this machine."""


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of a name; CUDA where there is one, else the CPU, for None.

    Raises:
        DeviceError: no device is called that, or this machine has none.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        raise DeviceError(f"there is no device {str(name)!r}; use cpu, cuda, cuda:1 ...") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise DeviceError(
                f"no device {device}: this machine has no CUDA device, or torch {torch.__version__} can't use it"
            )
        if device.index is not None and device.index >= count:
            raise DeviceError(f"no device {device}: this machine has {count} CUDA devices, counted from 0")
        return device
    try:
        torch.empty(1, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        said = " ".join(str(error).split())[:200]
        raise DeviceError(f"the device {device} can't be used here: {said}") from None
    return device


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """So many threads of torch within; None leaves them. Sums over another number of threads differ."""
    former = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(former)
