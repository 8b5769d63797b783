"""A task or benchmark of mteb as a report of ours."""

from __future__ import annotations

import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from .benchmarks.data import BenchmarkDataError
from .benchmarks.prompting import processor_facts
from .conditions import Conditions
from .costs import Measured
from .mteb_model import MtebEncoder, MtebReranker, mteb
from .report import Report, TaskFacts
from .score import Score


def own_tasks(path: Path) -> dict[str, Any]:
    """Tasks of mteb that a Python file defines, by name: classes with ``metadata``. The file is run.

    Raises:
        ValueError: it defines none, or one whose name mteb has already.
    """
    found: dict[str, Any] = {}
    for value in runpy.run_path(str(path), run_name=path.stem).values():
        own = isinstance(value, type) and value.__module__ == path.stem
        if (
            own
            and issubclass(value, mteb.AbsTask)
            and isinstance(vars(value).get("metadata"), mteb.TaskMetadata)
        ):
            found[value.metadata.name] = value()
    if not found:
        raise ValueError(f"{path} defines no task: a class of mteb's AbsTask with 'metadata'")
    if taken := [task.metadata.name for task in mteb.get_tasks() if task.metadata.name in found]:
        raise ValueError(f"{path}: mteb has {', '.join(taken)} already; give yours another name")
    return found


def named_tasks(
    what: str, names: Sequence[str] | None = None, own: Mapping[str, Any] | None = None
) -> tuple[list[Any], list[Any]]:
    """The tasks to run, and those of a complete run. Raises ValueError, with the names that are like it."""
    known = [own[what]] if own and what in own else _named(what)
    if names is not None and (unknown := set(names) - {task.metadata.name for task in known}):
        raise ValueError(f"{what} has no task {', '.join(sorted(unknown))}")
    return [task for task in known if names is None or task.metadata.name in names], known


def run_mteb(
    model: Any,
    chosen: Sequence[Any],
    what: str,
    *,
    known: Sequence[Any] | None = None,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    model_name: str = "umekit/model",
    command: str = "run_mteb(...)",
) -> Report:
    """Run tasks of mteb in its own loop.

    Args:
        model: an ``umekit.Encoder`` or ``Reranker``.
        chosen: tasks.
        what: what they are called together: a benchmark of mteb, or the name of one task.
        known: those of a complete run, which means are of; the chosen ones when None.
        mode: of encoding; None for the checkpoint's.
        options: of every call of ``encode``: ``num_samples``, ``max_new_tokens``.

    Raises:
        BenchmarkDataError: a task's data can't be read here.
    """
    began = perf_counter()
    whole, more = list(chosen if known is None else known), dict(options or {})
    measured = Measured(model, more) if hasattr(type(model), "dim") else None
    wrapped: Any = MtebReranker(model) if measured is None else MtebEncoder(_Same(model, measured), mode=mode)
    scores = [_score(wrapped, task) for task in chosen]
    complete: dict[str, TaskFacts] = {
        task.metadata.name: {"family": str(task.metadata.type), "metric": str(task.metadata.main_score)}
        for task in whole
    }
    settings = {
        "encoder": repr(model),
        "mode": mode,
        **more,
        "arithmetic": getattr(model, "arithmetic", None),
        "processor": processor_facts(model),
        "tasks": f"{len(chosen)} of {len(whole)}",
        "mteb": mteb.__version__,
    }
    revisions = ", ".join(sorted({score.revision for score in scores}))
    conditions = Conditions.of_run(
        began,
        model=model_name,
        settings=settings,
        data={"name": f"mteb:{what}", "split": "test", "revision": revisions},
        command=command,
    )
    costs = {} if measured is None else {"all items": measured.cost.to_dict()}
    return Report(f"mteb:{what}", scores, model.fingerprint(), conditions, complete, costs=costs)


class _Same:
    """The encoder, whose calls are measured."""

    def __init__(self, encoder: Any, measured: Measured) -> None:
        self._encoder, self.encode = encoder, measured.encode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def _score(model: Any, task: Any) -> Score:
    """One task, from its data to its main score."""
    meta = task.metadata
    _load(task)
    number = _queries(task)
    result = mteb.evaluate(model, [task], cache=None, show_progress_bar=False)
    task.unload_data()
    return Score(
        meta.name,
        str(meta.main_score),
        float(result.task_results[0].get_score()),
        number,
        family=str(meta.type),
        revision=str(meta.revision),
    )


def _load(task: Any) -> None:
    """Load a task's data before a model is asked; whatever mteb and datasets raise then is about these."""
    if getattr(task.metadata, "tasks", None):
        return  # an aggregate, whose parts are loaded one by one
    try:
        task.load_data()
    except Exception as error:
        data = task.metadata.dataset
        where = f"{data.get('path')} of revision {data.get('revision')}"
        raise BenchmarkDataError(
            f"the data of {task.metadata.name} can't be loaded, {where} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}): mteb reads them from the Hub or its cache; a task that loads "
            "its own is given with --task-file"
        ) from error


def _named(what: str) -> list[Any]:
    """Tasks of a benchmark of mteb, or its task. Raises ValueError, with the names that are like it."""
    try:
        return list(mteb.get_benchmark(what).tasks)
    except (KeyError, ValueError) as benchmark:
        try:
            return list(mteb.get_tasks(tasks=[what]))
        except (KeyError, ValueError) as task:
            raise ValueError(
                f"mteb knows no benchmark {what!r} ({benchmark.args[0]}) and no task of that name ({task.args[0]})"
            ) from None


def _queries(task: Any) -> int:
    """How many queries or items a score is of, over subsets and splits; 1 where the task does not say."""
    data: Any = getattr(task, "dataset", None) or {}
    splits = list(task.metadata.eval_splits or ["test"])
    parts = [data] if any(split in data for split in splits) else list(data.values())
    count = 0
    for part in parts:
        for found in (part[split] for split in splits if split in part):
            count += len(found["queries"] if isinstance(found, dict) else found)
    return max(1, count)
