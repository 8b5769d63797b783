"""A task or benchmark of mteb as a report of ours."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from .conditions import Conditions
from .costs import Measured
from .mteb_model import MtebEncoder, MtebReranker, mteb
from .report import Report, TaskFacts
from .score import Score


def run_mteb(
    model: Any,
    what: str,
    tasks: Sequence[str] | None = None,
    *,
    mode: str | None = None,
    model_name: str = "umekit/model",
    command: str = "run_mteb(...)",
) -> Report:
    """Run it in mteb's own loop.

    Args:
        model: an ``umekit.Encoder`` or ``Reranker``.
        what: a benchmark's or a task's name.
        tasks: of a benchmark, only these.

    Raises:
        ValueError: mteb knows no such name.
    """
    chosen, known = _tasks(what, tasks)
    return report_of(model, chosen, known, what, mode=mode, model_name=model_name, command=command)


def report_of(
    model: Any,
    chosen: Sequence[Any],
    known: Sequence[Any],
    what: str,
    *,
    mode: str | None = None,
    model_name: str = "umekit/model",
    command: str = "run_mteb(...)",
) -> Report:
    """Run tasks of mteb; ``known`` are those of a complete run."""
    began = perf_counter()
    measured = Measured(model) if hasattr(type(model), "dim") else None
    wrapped: Any = MtebReranker(model) if measured is None else MtebEncoder(_Same(model, measured), mode=mode)
    results = mteb.evaluate(wrapped, list(chosen), cache=None, show_progress_bar=False)
    scores = []
    for task, result in zip(chosen, results.task_results, strict=True):
        meta = task.metadata
        number = _queries(task)
        scores.append(
            Score(
                meta.name,
                str(meta.main_score),
                float(result.get_score()),
                number,
                family=str(meta.type),
                revision=str(meta.revision),
            )
        )
    complete: dict[str, TaskFacts] = {
        task.metadata.name: {"family": str(task.metadata.type), "metric": str(task.metadata.main_score)}
        for task in known
    }
    revisions = ", ".join(sorted({score.revision for score in scores}))
    conditions = Conditions.of_run(
        began,
        model=model_name,
        settings={"encoder": repr(model), "mode": mode, "mteb": mteb.__version__},
        data={"name": f"mteb:{what}", "split": "test", "revision": revisions},
        command=command,
    )
    fingerprint = (
        model.fingerprint() if measured is not None else {"model": repr(model), "processor": "pairs"}
    )
    costs = {} if measured is None else {"all items": measured.cost.to_dict()}
    return Report(f"mteb:{what}", scores, fingerprint, conditions, complete, costs=costs)


class _Same:
    """The encoder, whose calls are measured."""

    def __init__(self, encoder: Any, measured: Measured) -> None:
        self._encoder, self.encode = encoder, measured.encode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def _tasks(what: str, names: Sequence[str] | None) -> tuple[list[Any], list[Any]]:
    try:
        known = list(mteb.get_benchmark(what).tasks)
    except (KeyError, ValueError):
        try:
            known = list(mteb.get_tasks(tasks=[what]))
        except (KeyError, ValueError) as error:
            raise ValueError(f"mteb knows no benchmark and no task {what!r} ({error})") from None
    chosen = [task for task in known if names is None or task.metadata.name in names]
    if names is not None and (unknown := set(names) - {task.metadata.name for task in known}):
        raise ValueError(f"{what} has no task {', '.join(sorted(unknown))}")
    return chosen, known


def _queries(task: Any) -> int:
    """How many queries or items a score is of; 1 where the task does not say."""
    data: Any = getattr(task, "dataset", None)
    split = (task.metadata.eval_splits or ["test"])[0]
    try:
        part: Any = next(iter(data.values())) if data and split not in data else data
        found = part[split]
        return max(1, len(found["queries"] if isinstance(found, dict) else found))
    except (KeyError, TypeError, AttributeError, StopIteration):
        return 1
