"""Every batch several times in a row, for several updates on one rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sized

from torch.utils.data import Sampler


class RepeatedBatches(Sampler[int]):
    """The indices of a sampler, ``size`` of them ``repeats`` times, then the next; the rest of fewer is left out.

    >>> list(RepeatedBatches([0, 1, 2, 3, 4], 2, 2))
    [0, 1, 0, 1, 2, 3, 2, 3]
    """

    def __init__(self, sampler: Sampler[int] | list[int], size: int, repeats: int) -> None:
        self.sampler = sampler
        self.size = size
        self.repeats = repeats

    def __iter__(self) -> Iterator[int]:
        batch: list[int] = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.size:
                yield from batch * self.repeats
                batch = []

    def set_epoch(self, epoch: int) -> None:
        """For a sampler that shuffles by epoch: accelerate tells it through this one, after a resume above all."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        assert isinstance(self.sampler, Sized)
        return len(self.sampler) // self.size * self.size * self.repeats
