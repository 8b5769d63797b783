"""Tasks of mteb that are done, kept on disk so that a stopped run goes on with the next one.

mteb's own cache finds a result by the names of model and task; here what decides a score has a say: the model, how it
encodes, the code of both libraries, and the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..encoding.storage.atomic import write_atomically
from ..encoding.storage.contents import read_object
from .benchmarks.vectors import code_hash
from .costs import Cost
from .mteb_report import MtebScore
from .score import ResultFormatError

FOLDER = "tasks"
SOURCES = ("mteb_model.py", "mteb_run.py")  # what stands between mteb and the model


@dataclass
class DoneTask:
    """What is known of a task that was run.

    Attributes:
        full: queries that it has, run or not.
        cost: of encoding. instructions: that its queries carried.
    """

    score: MtebScore
    full: int
    cost: Cost = field(default_factory=Cost)
    instructions: list[str] = field(default_factory=list)


class KeptTasks:
    """Done tasks in a folder; none are kept where it is None.

    Args:
        facts: whatever decides a score, but for the task.
    """

    def __init__(self, work: Path | None, facts: Mapping[str, Any]) -> None:
        self.folder = None if work is None else work / FOLDER
        own = hashlib.sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in SOURCES))
        self.facts = {**facts, "code": code_hash(), "wrapper": own.hexdigest()}

    def read(self, name: str, revision: str) -> DoneTask | None:
        """The task, if it was run under these conditions. Raises ResultFormatError where its file is damaged."""
        path = self._path(name, revision)
        if path is None or not path.is_file():
            return None
        block = read_object(path, ResultFormatError)
        try:
            score, cost = MtebScore.from_dict(block["score"]), Cost.from_dict(block["cost"])
            return DoneTask(score, int(block["full"]), cost, list(block["instructions"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ResultFormatError(f"{path} is no task of a run: {error}") from None

    def write(self, done: DoneTask) -> None:
        path = self._path(done.score.task, done.score.revision)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        block = {
            "score": done.score.to_dict(),
            "full": done.full,
            "cost": done.cost.to_dict(),
            "instructions": done.instructions,
        }
        write_atomically(path, (json.dumps(block, indent=1) + "\n").encode())

    def _path(self, name: str, revision: str) -> Path | None:
        if self.folder is None:
            return None
        text = json.dumps([self.facts, name, revision], sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.json"
