"""The state of the random generators: kept, put back, left alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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


@contextmanager
def same_random_state() -> Iterator[None]:
    """Put all random generators back afterwards, so that evaluating does not change the training that
    follows."""
    python, numpy, state = random.getstate(), np.random.get_state(), RandomState()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        state.restore()
