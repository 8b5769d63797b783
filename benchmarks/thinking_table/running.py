"""An arm of a seed, from its start to its result; what is there already is left alone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from findings_table import arms
from findings_table.arms import Record, RootedTable
from findings_table.store import digest

from . import scoring, training
from .records import ARMS, VERSION, Arm
from .rows import MIXTURE, print_of_rows
from .scoring import CONTROLLED, EASY_QUERIES, WALKS


@dataclass(frozen=True)
class Table(RootedTable):
    """The folders, what it begins at, and how large it is; ``quick``: a quarter of steps, a fifth of queries."""

    arms = ARMS

    @property
    def divide(self) -> int:
        """What queries are divided by."""
        return 5 if self.quick else 1

    @property
    def walks(self) -> int:
        return WALKS // self.divide

    def easy(self, arm: Arm) -> int:
        """Queries of each easy task; none for an arm that goes on from another."""
        return 0 if arm.needs else EASY_QUERIES // self.divide

    def fingerprint(self, name: str) -> str:
        """Of what decides an arm's result, but for the weights that all begins at: these stand in the record."""
        arm = self.arm(name)
        parts = [VERSION, arm.to_dict(), self.walks, self.easy(arm), MIXTURE, print_of_rows()]
        return digest([*parts, *(self.fingerprint(other) for other in arm.needs)])

    def facts(self, name: str) -> Record:
        return {
            **super().facts(name),
            "controlled": min(CONTROLLED, self.walks),
            "easy_queries": self.easy(self.arm(name)),
        }


def run_seed(table: Table, names: Iterable[str], seed: int) -> None:
    """Every arm of a seed that has no result yet, and those that it needs, in turn."""
    arms.run_seed(table, names, seed, _run)


def _run(table: Table, arm: Arm, seed: int) -> Record:
    start, out = table.start_of(arm, seed), table.checkpoint(arm.name, seed)
    began = time.perf_counter()
    log = training.train(arm, seed, start, out, out.parent / table.identity(arm.name))
    minutes = round((time.perf_counter() - began) / 60, 1)
    found = scoring.score(out, arm.kind != "glance", table.walks, table.easy(arm))
    return {**found, "training_minutes": minutes, "log": log}
