"""What a benchmark is made of: its tasks, where their data are, how each is scored and how many queries it must have.

The facts are data files in ``definitions/``, from the official evaluation's settings (VLM2Vec
``experiments/public/eval``, ``src/constant/dataset_hf_path.py``; UniIR; U-MARVEL ``eval/eval_zeroshot``) and from its
published result files, which say how many queries there were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..ranked import parse_metric
from ..report import TaskFacts

BENCHMARKS = ("mmeb-v1", "mmeb-v2", "m-beir", "zero-shot")
DEFINITIONS = Path(__file__).parent / "definitions"
POOLS = ("local", "global")


class TaskNameError(ValueError):
    """There is no such benchmark, or no such task in it."""


@dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    Attributes:
        name, family, group: as the benchmark calls it, what it is averaged with, and the part of the benchmark.
        reader: which of ``readers.READERS`` makes queries and candidates of its rows; ``form`` is that reader's.
        metric: the official one: ``hit@1``, ``ndcg_linear@5``, ``map@5``.
        pool: ``local``: a query has candidates of its own; ``global``: all candidates are everybody's.
        queries, candidates: how many there must be; None where nobody has published it. Candidates are those of a
            pool.
        hub: repository, configuration and split.
        rows, media: where they lie in a local folder.
        split: what is known of the data's history, where results of two versions differ.
        options: whatever else the reader needs: instructions, columns, frames.
    """

    name: str
    family: str
    group: str
    reader: str
    metric: str
    pool: Literal["local", "global"]
    hub: tuple[str, str | None, str] | None
    rows: str
    media: str
    form: str = ""
    queries: int | None = None
    candidates: int | None = None
    split: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parse_metric(self.metric)
        if self.pool not in POOLS:
            raise ValueError(f"{self.name}: pool is {self.pool!r}; use one of {POOLS}")

    @classmethod
    def from_dict(cls, block: dict[str, Any]) -> Task:
        known = {one.name for one in fields(cls)}
        own = {name: value for name, value in block.items() if name in known}
        own["hub"] = None if block.get("hub") is None else tuple(block["hub"])
        own["options"] = {name: value for name, value in block.items() if name not in known}
        return cls(**own)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its tasks in the order of its tables.

    Attributes:
        text: how an instruction reaches the model by default: see ``wording.STYLES``.
        media_repo: Hub repository of the media, where they are apart from the rows.
        options: paths that all tasks share.
    """

    name: str
    title: str
    tasks: tuple[Task, ...]
    text: str
    media_repo: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def chosen(self, names: Sequence[str] | None) -> list[Task]:
        """Tasks of these names, families or groups in the benchmark's order; all of them for None.

        Raises:
            TaskNameError: a name that is none of them.
        """
        if names is None:
            return list(self.tasks)
        known = {name for task in self.tasks for name in (task.name, task.family, task.group)}
        if unknown := [name for name in names if name not in known]:
            raise TaskNameError(
                f"{self.title} has no task, family or group {', '.join(unknown)}; there are "
                f"{', '.join(task.name for task in self.tasks)}"
            )
        wanted = set(names)
        return [task for task in self.tasks if wanted & {task.name, task.family, task.group}]

    def complete(self, pools: Sequence[str] = ()) -> dict[str, TaskFacts]:
        """What a complete run holds, for the report's means; ``pools`` are kinds of pools where there are several."""
        found: dict[str, TaskFacts] = {}
        for task in self.tasks:
            facts: TaskFacts = {"family": task.family, "metric": task.metric}
            if pools:
                facts["kinds"] = list(pools)
            if task.queries is not None:
                facts["queries"] = task.queries
            found[task.name] = facts
        return found

    @property
    def groups(self) -> dict[str, list[str]]:
        """Part of the benchmark -> its tasks."""
        found: dict[str, list[str]] = {}
        for task in self.tasks:
            found.setdefault(task.group, []).append(task.name)
        return found

    @cached_property
    def sha256(self) -> str:
        """Of the definition file."""
        return hashlib.sha256((DEFINITIONS / f"{self.name}.json").read_bytes()).hexdigest()


def load_benchmark(name: str) -> Benchmark:
    """A benchmark by its name. Raises TaskNameError."""
    if name not in BENCHMARKS:
        raise TaskNameError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    block = json.loads((DEFINITIONS / f"{name}.json").read_text(encoding="utf-8"))
    tasks = tuple(Task.from_dict(one) for one in block["tasks"])
    options = {
        key: value
        for key, value in block.items()
        if key not in ("kind", "schema", "name", "title", "media_repo", "text", "tasks")
    }
    return Benchmark(block["name"], block["title"], tasks, block["text"], block["media_repo"], options)
