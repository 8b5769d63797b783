"""Which rows go through a model together: planned by tokens, fewer where memory runs out, and collated."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")

TOKENS_ON_CPU = 2048  # padded tokens of one forward; more run out of the cores' caches, and are no faster
TOKENS_ON_GPU = 32768
TOKENS_OF_A_BATCH = 64  # what a forward costs beside its tokens, in tokens
_MEMORY_WORDS = (  # of allocators without an error of their own
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "alloc_failed",
)


def plan_batches(
    lengths: Sequence[int], budget: int, *, rows: int | None = None, extra: Sequence[int] | None = None
) -> list[list[int]]:
    """Indices in batches of similar length whose padded size is at most ``budget`` tokens.

    Of all ways to cut the sorted lengths, the one with the fewest padded tokens, where each batch counts
    ``TOKENS_OF_A_BATCH`` more: without them every length would be a batch of its own, and with the largest batches
    that the budget allows a fifth of a mix of texts would be padding. An item longer than the budget is a batch of
    its own. The longest batch comes first, so that a lack of memory shows at once.

    Args:
        lengths: tokens of every item.
        budget: most padded tokens of a batch.
        rows: most items of a batch.
        extra: what each item takes beside its padded tokens, in tokens, such as the vision tower's share.

    >>> plan_batches([300, 900, 310, 2], budget=900)
    [[1], [2, 0], [3]]
    >>> plan_batches([3, 9, 4, 20], budget=10, extra=[0, 0, 4, 0])
    [[3], [1], [2], [0]]
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} tokens holds nothing")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    beside = np.cumsum([0, *(0 if extra is None else extra[i] for i in order)])
    # least[i]: cost of the items from place i on; end[i]: where the batch that begins there ends.
    least = np.zeros(len(order) + 1, dtype=np.int64)
    end = [0] * len(order)
    for first in reversed(range(len(order))):
        longest = lengths[order[first]]  # sorted downwards
        most = min(max(budget // max(longest, 1), 1), len(order) - first, rows or len(order))
        padded = np.arange(1, most + 1) * longest
        taken = padded + beside[first + 1 : first + 1 + most] - beside[first]
        padded = padded[: max(int(np.searchsorted(taken, budget, side="right")), 1)]
        costs = padded + least[first + 1 : first + 1 + len(padded)]
        best = int(costs.argmin())
        least[first] = costs[best] + TOKENS_OF_A_BATCH
        end[first] = first + best + 1
    batches: list[list[int]] = []
    place = 0
    while place < len(order):
        batches.append(order[place : end[place]])
        place = end[place]
    return batches


def default_tokens(device: torch.device) -> int:
    """Padded tokens of one forward where nobody has said how many."""
    return TOKENS_ON_CPU if device.type == "cpu" else TOKENS_ON_GPU


@dataclass
class TokenBudget:
    """Padded tokens of one forward on a device; half as many each time that memory did not hold them.

    Attributes:
        rows: most rows of one forward; None for any number.
        halved: whether memory did not hold what was asked for.
    """

    tokens: int
    device: torch.device
    rows: int | None = None
    halved: bool = False

    def halve(self, too_many: int) -> None:
        """At most half of what was too much; the first time, it is said."""
        former = self.tokens
        self.tokens = max(1, min(former, too_many) // 2)
        if not self.halved:
            warnings.warn(
                f"out of memory on {self.device}: batch_tokens is now {self.tokens} instead of {former}, and becomes "
                "less if need be; give batch_tokens to begin with less",
                stacklevel=5,
            )
        self.halved = True

    def attempt(self, run: Callable[[], T]) -> T | None:
        """What ``run`` gives; None where memory did not hold it."""
        try:
            return run()
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Only here: the error is gone, and with it the frames that hold tensors.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None


class Collator:
    """Collates batches when they are asked for.

    Args:
        processor: the checkpoint's.
        device: where batches go.
    """

    def __init__(self, processor: Any, device: torch.device) -> None:
        self.processor, self.device = processor, device

    def prefetch(self, rows: Sequence[Any], padding_side: str) -> None:
        """A batch that will be asked for soon."""

    def collate(self, rows: Sequence[Any], padding_side: str) -> Any:
        """A padded batch on the model's device."""
        return self.processor.collate(rows, padding_side).to(self.device)

    def release(self) -> bool:
        """Let go of what is held for later batches; whether that was anything."""
        return False


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of a forward says that its batch was too large for the device (or for the host)."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _MEMORY_WORDS)
