"""Tables whose arms are whole checkpoints that go on from each other: which there are, and what each has left on disk.

One result file per arm and seed, one folder of weights. A stopped table goes on: what is there, and of this table, is
left alone; what was removed is made again only where something that is still missing needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from measuring import machine

from .store import read_json, write_json

Record = dict[str, Any]
Results = Mapping[str, Mapping[int, Record]]  # arm -> seed -> record


class Arm(Protocol):
    """One training: a name, the arms that must be there first, and everything that decides it, as JSON."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> tuple[str, ...]: ...

    def to_dict(self) -> dict[str, Any]: ...


def chain(names: Iterable[str], arms: Mapping[str, Any]) -> list[Any]:
    """These arms, each after those that it needs."""
    found: dict[str, Any] = {}
    for name in names:
        for one in (*chain(arms[name].needs, arms), arms[name]):
            found.setdefault(one.name, one)
    return list(found.values())


@dataclass(frozen=True)
class ArmTable:
    """Where a table is made: ``runs``, the folder of checkpoints, and ``results``, that of what is kept."""

    arms: ClassVar[Mapping[str, Any]]
    runs: Path
    results: Path

    def arm(self, name: str) -> Any:
        """An arm at this table's size."""
        return self.arms[name]

    def fingerprint(self, name: str) -> str:
        """Of what decides an arm's result."""
        raise NotImplementedError

    def facts(self, name: str) -> Record:
        """What a record of an arm holds beside its settings and what was found."""
        raise NotImplementedError

    def file(self, name: str, seed: int) -> Path:
        """The result of an arm and seed."""
        return self.results / f"{name}-{seed}.json"

    def checkpoint(self, name: str, seed: int) -> Path:
        """Its weights."""
        return self.runs / f"{name}-{seed}" / "checkpoint"

    def known(self, name: str, seed: int) -> Record | None:
        """The result, if it is of this table."""
        found = read_json(self.file(name, seed))
        return found if found is not None and found["fingerprint"] == self.fingerprint(name) else None

    def is_ready(self, name: str, seed: int) -> bool:
        """Whether others can go on from the arm."""
        return self.known(name, seed) is not None and self.checkpoint(name, seed).is_dir()

    def found(self) -> dict[str, dict[int, Record]]:
        """All results of this table: arm -> seed -> record."""
        results: dict[str, dict[int, Record]] = {}
        for name in self.arms:
            for file in sorted(self.results.glob(f"{name}-[0-9]*.json")):
                seed = int(file.stem.rpartition("-")[2])
                if (record := self.known(name, seed)) is not None:
                    results.setdefault(name, {})[seed] = record
        return results


def run_seed(
    table: ArmTable, names: Iterable[str], seed: int, run: Callable[[Any, Any, int], Record]
) -> None:
    """Every arm of a seed that has no result yet, and those that it needs, in turn.

    run: trains and scores an arm of the table; leaves its checkpoint and returns what was found.
    """
    arms = chain(names, table.arms)
    for place, arm in enumerate(arms):
        if table.known(arm.name, seed) is not None:
            missing = (other for other in arms[place + 1 :] if table.known(other.name, seed) is None)
            if table.is_ready(arm.name, seed) or not any(arm.name in other.needs for other in missing):
                continue
        began = time.perf_counter()
        found = run(table, table.arm(arm.name), seed)
        minutes = round((time.perf_counter() - began) / 60, 1)
        record = {
            "fingerprint": table.fingerprint(arm.name),
            "settings": table.arm(arm.name).to_dict(),
            "seed": seed,
            "machine": machine(),
            **table.facts(arm.name),
            **found,
            "minutes": minutes,
        }
        write_json(table.file(arm.name, seed), record)
        print(f"{arm.name}, seed {seed}: {minutes} min", flush=True)


def write_report(
    stem: Path,
    result: Record,
    markdown: Callable[[Record], str],
    draw: Callable[[Record, Path], None],
) -> None:
    """A table as JSON, page and picture, ``stem`` with three suffixes; the page is printed."""
    write_json(stem.with_suffix(".json"), result)
    text = markdown(result)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(result, stem.with_suffix(".png"))
    print(text)
