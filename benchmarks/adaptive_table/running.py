"""An arm of a seed, from its start to its result; what is there already is left alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from findings_table import arms
from findings_table.arms import Record, RootedTable
from findings_table.store import digest

from . import scoring, training
from .records import ARMS, BATCHES, JUDGED, QUERIES, QUICK, VALIDATION, VERSION, Arm
from .rows import pooled_rows, print_of_rows
from .selecting import judges, selected


@dataclass(frozen=True)
class Table(RootedTable):
    """The folders, what it begins at, and how large it is; ``quick``: a quarter of steps, rows and queries."""

    arms = ARMS

    @property
    def divide(self) -> int:
        return QUICK if self.quick else 1

    def fingerprint(self, name: str) -> str:
        """Of what decides an arm's result, but for the weights that all begins at: these stand in the record."""
        arm = self.arm(name)
        parts: list[Any] = [VERSION, arm.to_dict(), QUERIES // self.divide, print_of_rows()]
        return digest([*parts, *(self.fingerprint(other) for other in arm.needs)])

    def facts(self, name: str) -> Record:
        return {
            **super().facts(name),
            "rows_print": print_of_rows(),
            "queries": QUERIES // self.divide,
        }


def run_seed(table: Table, names: Iterable[str], seed: int) -> None:
    """Every arm of a seed that has no result yet, and those that it needs, in turn."""
    arms.run_seed(table, names, seed, _run)


def _run(table: Table, arm: Arm, seed: int) -> Record:
    start, out = table.start_of(arm, seed), table.checkpoint(arm.name, seed)
    if arm.kind == "evaluator":
        found = training.train_evaluator(arm, seed, start, out)
        judged = judges(out, pooled_rows(seed, JUDGED // table.divide, "validation"))
        return {**found, "judges": judged}
    chosen, found = None, {}
    if arm.evaluator is not None:
        folder = table.runs / f"selected-{seed}" / table.identity(arm.evaluator)
        evaluator = table.checkpoint(arm.evaluator, seed)
        selection = selected(pooled_rows(seed, BATCHES // table.divide), evaluator, arm.choice, folder)
        chosen, found = selection.rows, {"selection": selection.facts}
    trained = training.train(arm, seed, start, out, chosen)
    return {**found, **trained, **scoring.score(out, QUERIES // table.divide, VALIDATION // table.divide)}
