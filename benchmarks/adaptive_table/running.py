"""An arm of a seed, from its start to its result; what is there already is left alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from findings_table import arms
from findings_table.arms import ArmTable, Record
from findings_table.store import digest, weights_hash
from reranking_table.training import train_reranker

from . import scoring, training
from .records import ARMS, BATCHES, QUERIES, QUICK, ROOTS, VALIDATION, VERSION, Arm
from .rows import evaluator_rows, pooled_rows, print_of_rows
from .selecting import judges, selected


@dataclass(frozen=True)
class Table(ArmTable):
    """The folders, what it begins at, and how large it is.

    Attributes:
        start, untaught: the checkpoints that ``ROOTS`` name; None where only results are read.
        quick: a quarter of steps, rows and queries.
    """

    arms = ARMS
    start: Path | None = None
    untaught: Path | None = None
    quick: bool = False

    @property
    def divide(self) -> int:
        return QUICK if self.quick else 1

    def arm(self, name: str) -> Arm:
        return ARMS[name].quick() if self.quick else ARMS[name]

    def fingerprint(self, name: str) -> str:
        """Of what decides an arm's result, but for the weights that all begins at: these stand in the record."""
        arm = self.arm(name)
        parts: list[Any] = [VERSION, arm.to_dict(), QUERIES // self.divide, print_of_rows()]
        return digest([*parts, *(self.fingerprint(other) for other in arm.needs)])

    def weights(self, name: str) -> dict[str, str]:
        """Hashes of the checkpoints that an arm goes back to, by the name of each."""
        arm = self.arm(name)
        found = {root: value for other in arm.needs for root, value in self.weights(other).items()}
        if arm.start in ROOTS:
            folder = self.start if arm.start == "start" else self.untaught
            if folder is not None:
                found[arm.start] = weights_hash(folder)
        return found

    def known(self, name: str, seed: int) -> Record | None:
        """The result, if it is of this table and of these weights; of any, where none are given."""
        found = super().known(name, seed)
        return found if found is None or self.weights(name).items() <= found["weights"].items() else None

    def facts(self, name: str) -> Record:
        return {
            "weights": self.weights(name),
            "rows_print": print_of_rows(),
            "queries": QUERIES // self.divide,
        }

    def start_of(self, arm: Arm, seed: int) -> Path:
        """The checkpoint that an arm begins at."""
        folder = {"start": self.start, "untaught": self.untaught}.get(
            arm.start, self.checkpoint(arm.start, seed)
        )
        if folder is None:
            raise ValueError(f"{arm.name} begins at {arm.start!r}, and no such checkpoint was named")
        return folder


def run_seed(table: Table, names: Iterable[str], seed: int) -> None:
    """Every arm of a seed that has no result yet, and those that it needs, in turn."""
    arms.run_seed(table, names, seed, _run)


def _run(table: Table, arm: Arm, seed: int) -> Record:
    start, out = table.start_of(arm, seed), table.checkpoint(arm.name, seed)
    if arm.kind == "evaluator":
        train_reranker(evaluator_rows(arm.steps, seed), seed, start, arm.rate, out, bf16=False)
        return {"judges": judges(out, pooled_rows(seed, 1, "validation"))}
    chosen, found = None, {}
    if arm.evaluator is not None:
        told = [table.fingerprint(arm.evaluator), table.weights(arm.evaluator)]
        folder = table.runs / f"selected-{seed}" / digest(told)
        evaluator = table.checkpoint(arm.evaluator, seed)
        selection = selected(pooled_rows(seed, BATCHES // table.divide), evaluator, arm.choice, folder)
        chosen, found = selection.rows, {"selection": selection.facts}
    trained = training.train(arm, seed, start, out, chosen)
    return {**found, **trained, **scoring.score(out, QUERIES // table.divide, VALIDATION // table.divide)}
