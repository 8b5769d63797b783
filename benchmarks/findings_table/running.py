"""One job: make a start, try a learning rate, or train and score an arm."""

from __future__ import annotations

import shutil
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch

import umekit
from umekit.encoding.encoder import Encoder
from umekit.evaluation.digit_world.glyphs import Split
from umekit.trainers.lora.souping import soup

from . import starts
from .context import Context
from .jobs import QUARTER, VALIDATION_QUERIES, Job, Work
from .pools import POOLS, Values, by_part, score
from .records import Arm, Start
from .store import pack, read_json, write_json
from .training import Trained, train_arm


def execute(work: Work, job: Job) -> dict[str, Any]:
    """Do a job whose needs are done, write its result, and give what is worth a line."""
    began = perf_counter()
    if job.kind == "start":
        earlier = starts.before(cast(Start, job.name))
        source = None if earlier is None else work.start_folder(earlier, job.seed)
        folder = work.start_folder(job.name, job.seed)
        record = starts.make_start(cast(Start, job.name), job.seed, folder, source)
    else:
        record = _search(work, job) if job.kind == "search" else _run(work, job)
    seconds = round(perf_counter() - began, 1)
    # The fingerprint is written last, with everything else in place: it is what says that a result is whole.
    write_json(work.file(job), {**record, "total_seconds": seconds, "fingerprint": work.fingerprint(job)})
    shown: dict[str, Any] = {
        name: record[name] for name in ("validation", "mean", "unseen") if name in record
    }
    return {**shown, "seconds": seconds}


def _search(work: Work, job: Job) -> dict[str, Any]:
    arm = work.arms[job.name]
    context = Context(job.seed, work.start_folder(arm.start, job.seed), _earlier(work, arm, job.seed))
    trained = train_arm(arm, context, float(job.rate or 0), work.settings.divide * QUARTER)
    return {
        "arm": arm.name,
        "rate": job.rate,
        "steps": trained.steps,
        "validation": _validation(arm, trained),
    }


def _run(work: Work, job: Job) -> dict[str, Any]:
    arm, began = work.arms[job.name], perf_counter()
    rate = work.rate(arm)
    start = work.start_folder(arm.start, job.seed)
    context = Context(job.seed, start, _earlier(work, arm, job.seed))
    if arm.soup:
        folders = [work.adapter_folder(name, job.seed) for name in arm.needs]
        trained = _soup(folders, work.adapter_folder(arm.name, job.seed), start)
    else:
        trained = train_arm(arm, context, float(rate or 0), work.settings.divide)
        if arm.lora is not None:
            folder = work.adapter_folder(arm.name, job.seed)
            trained.model.save_pretrained(folder)
            trained.processor.save_pretrained(folder)
    half = perf_counter()
    validation = _validation(arm, trained)
    values = _score(arm, trained, "test", work.settings.queries)
    best = POOLS[arm.pool].best
    return {
        "arm": arm.name,
        "seed": job.seed,
        "rate": rate,
        "rows": trained.steps * arm.batch,
        "steps": trained.steps,
        "seconds": {"training": round(half - began, 1), "scoring": round(perf_counter() - half, 1)},
        "validation": validation,
        "mean": round(float(values.mean()) / best, 4),
        "parts": by_part(arm.pool, "test", work.settings.queries, values),
        "queries": len(values),
        "best": best,
        "values": pack(values),
        "temperature": trained.temperature,
        "notes": context.notes,
        "history": trained.history,
    }


def _validation(arm: Arm, trained: Trained) -> float:
    """Mean value on the validation split: what rates and best arms are chosen by."""
    values = _score(arm, trained, "validation", VALIDATION_QUERIES)
    return round(float(values.mean()) / POOLS[arm.pool].best, 4)


def _score(arm: Arm, trained: Trained, split: Split, queries: int) -> Values:
    """Under the arithmetic of the training."""
    with torch.autocast("cpu", torch.bfloat16):
        return score(Encoder(trained.model, trained.processor, workers=0), arm.pool, split, queries)


def _soup(adapters: list[Path], out: Path, base: Path) -> Trained:
    """The mean of adapters, as a model."""
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    soup(adapters, out, base=base)
    encoder = umekit.load(out, device="cpu")
    return Trained(encoder.model, encoder.processor)


def _earlier(work: Work, arm: Arm, seed: int) -> dict[str, Any]:
    found = {}
    for name in arm.needs:
        record = read_json(work.file(Job("run", name, seed)))
        if record is None:
            raise FileNotFoundError(f"{arm.name} needs the run of {name}, seed {seed}")
        found[name] = record
    return found
