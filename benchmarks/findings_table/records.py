"""What a claim is, and what an arm of it is: plain data, so that a table of them can be checked and hashed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Start = Literal["read", "causal", "bidirectional", "paired"]
RATES = (3e-4, 1e-3)  # what a search chooses from; DigitWorld's notes name the first for a trained start
ROWS = 5120


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own warm-up and cosine.

    ``data``: a name in ``rows.DATA``; ``share``: of the arm's rows.
    """

    data: str
    share: float = 1.0


@dataclass(frozen=True)
class Lora:
    """Train an adapter on language model and vision tower, and nothing else."""

    rank: int = 16
    alpha: int = 32


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: unique.
        what: it in words, for the table.
        pool: what it is scored on, a name in ``pools.POOLS``.
        start: what it begins from, a name in ``starts``.
        phases: data, in turn; empty where nothing is trained.
        prompt: a name in ``prompts.PROMPTS``.
        batch, rows: of a step, and of the whole training.
        arguments: of ``ContrastiveTrainingArguments``.
        lora: an adapter in place of all weights.
        rates: learning rates of its search.
        rate_from: name of the arm whose search it uses, times ``rate_factor``; None for a search of its own.
        needs: arms whose runs it reads, of the same seed.
        soup: it is the average of the adapters of ``needs``.
    """

    name: str
    what: str
    pool: str
    start: Start = "read"
    phases: tuple[Phase, ...] = ()
    prompt: str = "direct"
    batch: int = 64
    rows: int = ROWS
    arguments: dict[str, Any] = field(default_factory=dict)
    lora: Lora | None = None
    rates: tuple[float, ...] = RATES
    rate_from: str | None = None
    rate_factor: float = 1.0
    needs: tuple[str, ...] = ()
    soup: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides its result, as JSON would hold it."""
        return asdict(self)

    def steps(self, phase: Phase, divide: int = 1) -> int:
        """Optimiser steps of a phase, with the arm's rows divided by ``divide``."""
        return max(1, round(self.rows * phase.share / divide / self.batch))


@dataclass(frozen=True)
class Claim:
    """One published statement, and the two arms that test it.

    Attributes:
        name: of the row, for ``--only``.
        statement: what was published.
        source: where.
        condition: under which it is tried here.
        better: the arm that is said to win.
        worse: the arm that is said to lose; of several, the best on validation rows.
        arms: every arm of the claim.
        metric: what a query's value is.
        margin: added to the difference: 0.01 asks for "at most a point worse".
    """

    name: str
    statement: str
    source: str
    condition: str
    better: str
    worse: tuple[str, ...]
    arms: tuple[Arm, ...]
    metric: str = "recall@1"
    margin: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Of its arms."""
        return tuple(arm.name for arm in self.arms)
