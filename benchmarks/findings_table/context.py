"""What a way of making training rows is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .world import World

Row = dict[str, Any]


@dataclass
class Context:
    """What rows are a function of, beside the number of their batch.

    Attributes:
        seed: of the training.
        start: folder of the model that training begins from.
        earlier: records of the runs that the arm needs, by arm.
        notes: what a way of making rows found out; kept with the result.
    """

    seed: int
    start: Path
    earlier: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def world(self) -> World:
        return World("train", self.seed)

    def rng(self, stream: int, number: int) -> np.random.Generator:
        """The random stream of one batch."""
        return np.random.default_rng([self.seed, stream, number])


Data = Callable[[Context, int, int], list[Row]]
