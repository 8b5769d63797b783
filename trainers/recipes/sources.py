"""Data of a recipe: readers by name, and batches planned over what they give."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from ..formats import read_mbeir, read_mmeb, read_pairs, read_rows, read_ume_r1
from ..formats.made import made_rows
from ..sampling import PlannedRows, Source, plan_epochs
from ..sampling.planned_rows import ids_of_source
from ..sampling.source import Subset, values_of
from ..sampling.targets import UNKNOWN
from ..thought_filters import filter_thoughts
from .schema import RecipeError
from .step_specs import DataSpec, SourceSpec

logger = logging.getLogger(__name__)

# A reader: (path or None, options) -> rows, a map-style dataset with len() and [index].
Opener = Callable[[str | None, Mapping[str, Any]], Any]


def _with_path(reader: Callable[..., Any]) -> Opener:
    def opened(path: str | None, options: Mapping[str, Any]) -> Any:
        if path is None:
            raise ValueError("this format needs a path")
        return reader(path, **options)

    return opened


FORMATS: dict[str, Opener] = {
    "rows": _with_path(read_rows),
    "columns": _with_path(read_pairs),
    "mmeb-train": _with_path(read_mmeb),
    "m-beir": _with_path(read_mbeir),
    "ume-r1-sft": _with_path(read_ume_r1),
}


def open_sources(
    data: DataSpec,
    formats: Mapping[str, Opener],
    result_of: Callable[[str], Path],
    tokenizer: Any,
    seed: int = 0,
) -> list[Source]:
    """The data sets of a recipe.

    Args:
        data: what to open.
        formats: readers by name.
        result_of: the folder that an earlier step left.
        tokenizer: counts the tokens of thoughts, where a source is filtered by them.
        seed: of the rows that a ``fraction`` takes.

    Raises:
        RecipeError: a format is unknown, a reader cannot read, or no row has a good thought; names the source.
    """
    return [_open(spec, formats, result_of, tokenizer, seed) for spec in data.sources]


def _open(
    spec: SourceSpec,
    formats: Mapping[str, Opener],
    result_of: Callable[[str], Path],
    tokenizer: Any,
    seed: int,
) -> Source:
    try:
        if spec.step is not None:
            rows = open_made(result_of(spec.step))
        elif spec.format in formats:
            rows = formats[spec.format](spec.path, spec.options)
        else:
            raise ValueError(f"no format {spec.format!r}; known are {', '.join(formats)}")
        if spec.fraction < 1:
            tasks = [str(task or "") for task in values_of(rows, "task")]
            rows = Subset(rows, part_of(tasks, spec.fraction, seed))
        if spec.filter_thoughts is not None:
            rows = with_good_thoughts(rows, tokenizer, spec)
        return Source(spec.name, rows, weight=spec.weight, cap=spec.cap, task=spec.task, group=spec.group)
    except (TypeError, ValueError, OSError) as error:
        raise RecipeError(f"source {spec.name!r}: {error}") from error


def with_good_thoughts(rows: Any, tokenizer: Any, spec: SourceSpec) -> Any:
    """The rows whose thoughts pass; the log says how many do not, why, and which was the first."""
    found = filter_thoughts(rows, tokenizer, **(spec.filter_thoughts or {}))
    if not len(found.kept):
        raise ValueError(f"filter_thoughts leaves none of {len(rows)} rows; the first: {found.dropped[0]}")
    if found.dropped:
        logger.warning(
            "source %r: thoughts of rows %s; the first left out: %s",
            spec.name,
            found.counts(),
            found.dropped[0],
        )
    return Subset(rows, found.kept.tolist())


def part_of(tasks: Sequence[str], fraction: float, seed: int) -> list[int]:
    """Numbers of a share of the rows of every task, at least one of each, ascending (U-MARVEL's 10 %, by task).

    A smaller share is a part of a larger one. tasks: of each row.
    """
    rows: dict[str, list[int]] = {}
    for number, task in enumerate(tasks):
        rows.setdefault(task, []).append(number)
    draw = np.random.default_rng(seed)
    found: list[int] = []
    for _, own in sorted(rows.items()):
        order = draw.permutation(len(own))
        found += [own[place] for place in order[: max(1, round(len(own) * fraction))]]
    return sorted(found)


def open_made(folder: Path) -> Any:
    """The rows that ``mine``, ``score`` or ``select`` wrote."""
    file, media = made_rows(folder)
    return read_rows(file, media=media, cache_dir=folder / "cache")


def train_rows(
    data: DataSpec, sources: Sequence[Source], batch: int, steps: int, epochs: float, seed: int
) -> PlannedRows:
    """Rows in the order of training.

    Args:
        data: how batches are made.
        sources: from :func:`open_sources`.
        batch: rows of a global batch.
        steps: batches to plan, drawn by weight; not positive for ``epochs`` passes over everything.
        epochs: passes; whole ones.
        seed: of the plan.
    """
    if steps <= 0 and epochs != int(epochs):
        raise RecipeError(
            f"num_train_epochs is {epochs}; whole passes are planned: use max_steps for a part of one"
        )
    unknown = [np.full(len(source), UNKNOWN, dtype=np.int64) for source in sources]
    plan = plan_epochs(
        sources,
        batch,
        seed=seed,
        epochs=1 if steps > 0 else int(epochs),
        kind=data.batches,
        interleave=data.interleave,
        no_duplicate_targets=data.no_duplicate_targets,
        stop=steps if steps > 0 else "once",
        # Telling targets apart reads every row: only where batches without duplicates are asked for.
        targets=None if data.no_duplicate_targets else unknown,
    )
    return PlannedRows(sources, plan)


class _Tagged(Dataset):  # type: ignore[type-arg]
    """Rows of a source with its name and task, and with ids of their own in it."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = {**ids_of_source(self.source.rows[index], self.source.name), "dataset": self.source.name}
        return row if self.source.task is None else {**row, "task": self.source.task}


def eval_rows(sources: Sequence[Source]) -> Any:
    """All rows of all sources, one source after the other."""
    return ConcatDataset([_Tagged(source) for source in sources])
