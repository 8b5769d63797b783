"""An arm of a seed, from its start to its result; what is there already is left alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from findings_table import arms
from findings_table.arms import ArmTable, Record
from findings_table.store import digest, pack, weights_hash

import umekit
from umekit.encoding.encoder import Encoder
from umekit.evaluation.tuning import Tuning

from . import scoring, training
from .records import ARMS, QUERIES, QUICK, STUDENT_ROWS, TASKS, TINY, VALIDATION, VERSION, Arm
from .rows import reranker_rows, student_pool


@dataclass(frozen=True)
class Table(ArmTable):
    """The folders, what it begins at, and how large it is.

    Attributes:
        start: what stage 2 begins from.
        stage2: a folder in its place, which is then only scored.
        quick: a quarter of the steps and of the student's rows, a fifth of the queries.
        bf16: train in bfloat16 autocast; scores are made in float32.
    """

    arms = ARMS
    start: Path
    stage2: Path | None = None
    bf16: bool = False

    @property
    def queries(self) -> int:
        return QUERIES // 5 if self.quick else QUERIES

    @property
    def validation(self) -> int:
        return VALIDATION // QUICK if self.quick else VALIDATION

    @property
    def student_rows(self) -> int:
        return STUDENT_ROWS // QUICK if self.quick else STUDENT_ROWS

    def checkpoint(self, name: str, seed: int) -> Path:
        if name == "stage2" and self.stage2 is not None:
            return self.stage2
        return super().checkpoint(name, seed)

    def fingerprint(self, name: str) -> str:
        """Of what decides an arm's result: its settings, its start, its teacher, and the size of the table."""
        arm = self.arm(name)
        given = self.stage2 if name == "stage2" and self.stage2 is not None else self.start
        parts: list[Any] = [VERSION, arm.to_dict(), self.queries, self.validation, self.student_rows]
        parts += [self.fingerprint(other) for other in arm.needs]
        parts += [weights_hash(given), self.stage2 is None] if name == "stage2" else []
        return digest(parts)

    def facts(self, name: str) -> Record:
        return {"bf16": self.bf16, "queries": self.queries}


def run_seed(table: Table, names: Iterable[str], seed: int) -> None:
    """Every arm of a seed that has no result yet, and those that it needs, in turn."""
    arms.run_seed(table, names, seed, _run)


def _run(table: Table, arm: Arm, seed: int) -> Record:
    out = table.checkpoint(arm.name, seed)
    if arm.kind == "reranker":
        return _reranker(table, arm, seed, out)
    if arm.kind == "stage2" and table.stage2 is not None:
        encoder = _open(table.stage2)
        return {**_hits(encoder, table.queries), "validation": _validation(table, encoder)}
    scored = None if arm.teacher is None else _scored(table, arm, seed)
    start = table.start if arm.start == TINY else table.checkpoint(arm.start, seed)
    best: training.Trained | None = None
    tried: dict[float, float] = {}
    for rate in arm.rates:
        trained = training.train_embedder(arm, seed, start, rate, bf16=table.bf16, scored=scored)
        tried[rate] = _validation(table, trained.encoder)
        if best is None or tried[rate] > tried[best.rate]:
            best = trained
    assert best is not None
    best.trainer.save_model(str(out))
    return {
        **_hits(best.encoder, table.queries),
        "rate": best.rate,
        "rates": {f"{rate:g}": value for rate, value in tried.items()},
        "validation": tried[best.rate],
        "temperature": best.temperature,
        "losses": best.losses,
        **({} if scored is None else {"rows": len(scored)}),
    }


def _reranker(table: Table, arm: Arm, seed: int, out: Path) -> Record:
    start = table.checkpoint(arm.start, seed)
    encoder = _open(start)
    rows = reranker_rows(encoder, arm.steps, arm.batch, seed)
    training.train_reranker(rows, seed, start, arm.rates[0], out, bf16=table.bf16)
    reranker = umekit.load(out, device="cpu", dtype=torch.float32)
    tuning = scoring.tuned(encoder, reranker, table.validation)
    return {
        **scoring.cascade_hits(encoder, reranker, table.queries, tuning),
        "alphas": tuning.alphas,
        "alpha": tuning.alpha,
        "alpha_of": tuning.tasks,
        "validation": _validation_of(tuning),
    }


def _validation_of(tuning: Tuning) -> dict[str, float]:
    """Hits at 1 of the fusion, by task."""
    return {
        task: round(tuning.value(task, tuning.tasks.get(task, tuning.alpha)), 4) for task in tuning.queries
    }


def _scored(table: Table, arm: Arm, seed: int) -> list[Mapping[str, Any]]:
    """The student's rows, scored once for all arms; what is fused is what was best for all tasks on validation."""
    assert arm.teacher is not None
    teacher = table.known(arm.teacher, seed)
    assert teacher is not None
    encoder = _open(table.checkpoint(arm.start, seed))
    reranker = umekit.load(table.checkpoint(arm.teacher, seed), device="cpu", dtype=torch.float32)
    folder = table.runs / f"scored-{seed}" / table.fingerprint(arm.teacher)
    pools = (student_pool(seed, task, table.student_rows) for task in TASKS)
    return scoring.scored_rows(encoder, reranker, pools, lambda _: float(teacher["alpha"]), folder)


def _open(folder: Path) -> Encoder:
    encoder: Encoder = umekit.load(folder, device="cpu", dtype=torch.float32)
    return encoder


def _validation(table: Table, encoder: Encoder) -> float:
    """Mean of the tasks' recall@1 on the validation handwriting: what learning rates are chosen by."""
    found = scoring.embedder_hits(encoder, "validation", table.validation)["hits"]
    return round(float(np.mean([values.mean() for values in found.values()])), 4)


def _hits(encoder: Encoder, queries: int) -> Mapping[str, Any]:
    found = scoring.embedder_hits(encoder, "test", queries)
    return {name: {task: pack(values) for task, values in of.items()} for name, of in found.items()}
