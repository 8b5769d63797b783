"""A task or benchmark of mteb as a report of ours."""

from __future__ import annotations

import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from .benchmarks.media import BenchmarkDataError
from .benchmarks.prompting import processor_facts
from .benchmarks.wording import prompt_hash
from .conditions import Conditions
from .costs import Measured, total
from .mteb_kept import DoneTask, KeptTasks
from .mteb_model import MtebEncoder, MtebReranker, mteb
from .mteb_report import MtebReport, MtebScore
from .report import TaskFacts


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
    limit: int | None = None,
    work: Path | None = None,
    source: str | None = None,
    model_name: str = "umekit/model",
    command: str = "run_mteb(...)",
) -> MtebReport:
    """Run tasks of mteb in its own loop.

    Args:
        model: an ``umekit.Encoder`` or ``Reranker``.
        chosen: tasks.
        what: what they are called together: a benchmark of mteb, or the name of one task.
        known: those of a complete run, which means are of; the chosen ones when None.
        mode: of encoding; None for the checkpoint's.
        options: of every call of ``encode``: ``num_samples``, ``max_new_tokens``, ``seed``.
        limit: queries of a task, among all its documents; a mean is then refused.
        work: a folder where tasks that are done are kept, and found again; None for none.
        source: hash of the file that defines the tasks, where they are not mteb's.

    Raises:
        BenchmarkDataError: a task's data can't be read here, or not be limited.
        ResultFormatError: a task in ``work`` is damaged.
    """
    began = perf_counter()
    whole, more = list(chosen if known is None else known), dict(options or {})
    if "num_samples" in more:
        more.setdefault("seed", 0)  # or a stopped run would go on with other thoughts than a whole one
    facts = {"model": model.fingerprint(), "mode": mode, "options": more, "limit": limit, "source": source}
    kept = KeptTasks(
        work, {**facts, "arithmetic": getattr(model, "arithmetic", None), "mteb": mteb.__version__}
    )
    done: list[DoneTask] = []
    for task in chosen:
        found = kept.read(task.metadata.name, str(task.metadata.revision))
        if found is None:
            found = _run(model, task, mode, more, limit)
            kept.write(found)
        done.append(found)
    scores = [one.score for one in done]
    complete: dict[str, TaskFacts] = {
        task.metadata.name: {"family": str(task.metadata.type), "metric": str(task.metadata.main_score)}
        for task in whole
    }
    for one in done:
        complete[one.score.task]["queries"] = one.full
    settings = {
        "encoder": repr(model),
        "mode": mode,
        **more,
        "arithmetic": getattr(model, "arithmetic", None),
        "processor": processor_facts(model),
        "limit": limit,
        "prompt_sha256": prompt_hash({"instruction": line} for one in done for line in one.instructions),
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
    cost = total(one.cost for one in done)
    costs = {"all items": cost.to_dict()} if cost.items else {}
    return MtebReport(f"mteb:{what}", scores, model.fingerprint(), conditions, complete, costs=costs)


class _Same:
    """The encoder, whose calls are measured."""

    def __init__(self, encoder: Any, measured: Measured) -> None:
        self._encoder, self.encode = encoder, measured.encode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def _run(model: Any, task: Any, mode: str | None, options: Mapping[str, Any], limit: int | None) -> DoneTask:
    """One task, from its data to its main score."""
    meta = task.metadata
    _load(task)
    full = _queries(task)
    if limit is not None:
        _cut(task, limit)
    number = full if limit is None else _queries(task)
    measured = Measured(model, dict(options)) if hasattr(type(model), "dim") else None
    wrapped: Any = MtebReranker(model) if measured is None else MtebEncoder(_Same(model, measured), mode=mode)
    result = mteb.evaluate(wrapped, [task], cache=None, show_progress_bar=False)
    task.unload_data()
    score = MtebScore(
        meta.name,
        str(meta.main_score),
        float(result.task_results[0].get_score()),
        number,
        family=str(meta.type),
        revision=str(meta.revision),
    )
    if measured is None:
        return DoneTask(score, full)
    return DoneTask(score, full, measured.cost, sorted(wrapped.used))


def _load(task: Any) -> None:
    """Load a task's data before a model is asked; whatever mteb and datasets raise then is about these."""
    if getattr(task.metadata, "tasks", None):
        return  # an aggregate, whose parts are loaded one by one
    try:
        task.load_data()
        if hasattr(task, "convert_v1_dataset_format_to_v2"):
            task.convert_v1_dataset_format_to_v2(num_proc=None)  # does nothing where there is nothing to do
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
    count = 0
    for part, split in _parts(task):
        count += len(part[split]["queries"] if isinstance(part[split], dict) else part[split])
    return max(1, count)


def _cut(task: Any, limit: int) -> None:
    """Leave the first ``limit`` queries or items of every subset and split; documents and training rows stay."""
    parts = _parts(task)
    if not parts:
        raise BenchmarkDataError(
            f"{task.metadata.name} does not say where its queries are: run it without a limit"
        )
    for part, split in parts:
        found = part[split]
        if not isinstance(found, dict):
            part[split] = found.select(range(min(limit, len(found))))
            continue
        queries = found["queries"].select(range(min(limit, len(found["queries"]))))
        left = set(queries["id"])
        rest = {
            name: {query: value for query, value in found[name].items() if query in left}
            for name in ("relevant_docs", "top_ranked")
            if found.get(name) is not None
        }
        part[split] = {**found, "queries": queries, **rest}


def _parts(task: Any) -> list[tuple[Any, str]]:
    """Subsets, and which of their splits are evaluated; a task without subsets is one."""
    data: Any = getattr(task, "dataset", None) or {}
    splits = list(task.metadata.eval_splits or ["test"])
    parts = [data] if any(split in data for split in splits) else list(data.values())
    return [(part, split) for part in parts for split in splits if split in part]
