"""Tables whose arms are whole checkpoints that go on from each other: which there are, and what each has left on disk.

One result file per arm and seed, one folder of weights. A stopped table goes on: what is there, and of this table, is
left alone; what was removed is made again only where something that is still missing needs it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from measuring import machine

from .store import digest, read_json, weights_hash, write_json

Record = dict[str, Any]
Results = Mapping[str, Mapping[int, Record]]  # arm -> seed -> record


class Arm(Protocol):
    """One training: a name, the arms that must be there first, and everything that decides it, as JSON."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> tuple[str, ...]: ...

    def quick(self) -> Arm: ...

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
    """Where a table is made, and how large.

    Attributes:
        runs, results: the folder of checkpoints, and that of what is kept.
        quick: of every arm only its ``quick()``.
    """

    arms: ClassVar[Mapping[str, Any]]
    runs: Path
    results: Path
    quick: bool = field(default=False, kw_only=True)

    def arm(self, name: str) -> Any:
        """An arm at this table's size."""
        return self.arms[name].quick() if self.quick else self.arms[name]

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


@dataclass(frozen=True)
class RootedTable(ArmTable):
    """A table that says in its records, and not in its fingerprints, which weights all began at.

    So a report needs none of them, and results stay known when a checkpoint of this repository is replaced.

    Attributes:
        roots: checkpoints by what an arm's ``start`` calls them; none where results are only read.
    """

    roots: Mapping[str, Path] = field(default_factory=dict)

    def start_of(self, arm: Any, seed: int) -> Path:
        """The checkpoint that an arm begins at: a root, or another arm's.

        Raises:
            ValueError: a root that was not named.
        """
        if arm.start in self.arms:
            return self.checkpoint(arm.start, seed)
        if arm.start not in self.roots:
            raise ValueError(f"{arm.name} begins at {arm.start!r}, and no such checkpoint was named")
        return self.roots[arm.start]

    def weights(self, name: str) -> dict[str, str]:
        """Hashes of the roots that an arm goes back to, by the name of each."""
        arm = self.arm(name)
        found = {root: value for other in arm.needs for root, value in self.weights(other).items()}
        if arm.start in self.roots:
            found[arm.start] = weights_hash(self.roots[arm.start])
        return found

    def identity(self, name: str) -> str:
        """Of what decides an arm's result, weights and all: names what is made of it on the way."""
        return digest([self.fingerprint(name), self.weights(name)])

    def known(self, name: str, seed: int) -> Record | None:
        """The result, if it is of this table and of these weights; of any, where none are given."""
        found = super().known(name, seed)
        return found if found is None or self.weights(name).items() <= found["weights"].items() else None

    def facts(self, name: str) -> Record:
        return {"weights": self.weights(name)}


def several_weights(results: Results) -> list[str]:
    """Roots of which the records of a table name more than one checkpoint."""
    seen: dict[str, set[str]] = {}
    for record in (record for seeds in results.values() for record in seeds.values()):
        for root, value in record.get("weights", {}).items():
            seen.setdefault(root, set()).add(value)
    return [root for root, values in seen.items() if len(values) > 1]


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
    table: ArmTable,
    name: str,
    judge: Callable[[Results], Record],
    markdown: Callable[[Record], str],
    draw: Callable[[Record, Path], None],
) -> int:
    """A table's results as JSON, page and picture beside their folder; the page is printed.

    The exit code: 1 where there are none, or where they began at different weights.
    """
    results = table.found()
    if not results:
        print(f"{table.results} has no results of this table", file=sys.stderr)
        return 1
    if mixed := several_weights(results):
        print(
            f"these results began at several {mixed}: give another --results to one of them", file=sys.stderr
        )
        return 1
    result = {"benchmark": name, "command": f"python benchmarks/{name}.py", **judge(results)}
    stem = table.results.parent / name
    write_json(stem.with_suffix(".json"), result)
    text = markdown(result)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(result, stem.with_suffix(".png"))
    print(text)
    return 0
