"""A benchmark from its data to a report: tasks read, items encoded once, tasks scored.

Notable: it can be stopped at any moment and run again: what is encoded stays (``vectors``), what was reranked too, and
scores are computed anew from these, so that none is older than the code that it claims to come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from ..conditions import Conditions
from ..costs import Cost, total
from ..fusing import Fusing
from .data import BenchmarkData
from .definition import Benchmark, Task
from .problem import Problem
from .prompting import processor_facts
from .readers import Choices, read_problem
from .report import BenchmarkReport, BenchmarkScore
from .reranking import reranked
from .scoring import failures_line, score_problem, without_failures
from .vectors import VectorStore, code_hash
from .wording import STYLES, prompt_hash


@dataclass(frozen=True)
class RunSettings:
    """What is run, and how.

    Attributes:
        tasks: names, families or groups; None for all.
        mode: of encoding; None for the checkpoint's.
        num_samples: thoughts of an item, whose vectors are averaged.
        text: how instructions reach the model (``wording.STYLES``); None for the benchmark's own way.
        prompt: of M-BEIR, which paraphrase.
        pools: of M-BEIR: ``local``, ``global`` or both.
        limit: queries of a task; a mean is then refused.
        seed: thoughts of queries are drawn, by it; candidates are the same whatever it is.
        max_new_tokens: most tokens of a thought.
        preset: that the model was loaded with, for the report.
    """

    tasks: Sequence[str] | None = None
    mode: str | None = None
    num_samples: int = 1
    text: str | None = None
    prompt: str = "first"
    pools: Sequence[str] = ("local",)
    limit: int | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    preset: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and self.text not in STYLES:
            raise ValueError(f"text is {self.text!r}; use one of {', '.join(STYLES)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; need at least 1 query")
        if not self.pools or set(self.pools) - {"local", "global"}:
            raise ValueError(f"pools are {list(self.pools)}; there are local and global")

    def options(self) -> dict[str, Any]:
        """Of every call of ``encode``; a seed is given, or a stopped run would draw other thoughts."""
        found: dict[str, Any] = {"num_samples": self.num_samples, "seed": 0} if self.num_samples > 1 else {}
        if self.max_new_tokens is not None:
            found["max_new_tokens"] = self.max_new_tokens
        return found

    def query_options(self) -> dict[str, Any]:
        """Of those of queries, beside them: what a seed draws."""
        if self.seed is None:
            return {}
        return {"seed": self.seed, **({"temperature": 1.0} if self.num_samples == 1 else {})}


@dataclass
class _Encoded:
    """A task whose items have been handed to the store; ``full`` is how many queries it has, run or not."""

    problem: Problem
    kind: str
    revision: str
    queries: list[str]
    candidates: list[str]
    full: int
    instructions: set[str] = field(default_factory=set)


def run_benchmark(
    encoder: Any,
    benchmark: Benchmark,
    data: BenchmarkData,
    work: Path,
    settings: RunSettings | None = None,
    *,
    rerank: Fusing | None = None,
    rank: int = 0,
    world: int = 1,
    model: str = "a model",
    command: str = "run_benchmark(...)",
    batch_tokens: int | None = None,
    threads: int | None = None,
    shard_size: int = 4096,
    progress: bool | None = None,
) -> BenchmarkReport | None:
    """Score an encoder on a benchmark.

    Args:
        encoder: an ``umekit.Encoder``.
        benchmark: ``load_benchmark(...)``.
        data: ``LocalData`` or ``HubData``.
        work: folder of vectors; a run that was stopped goes on with what is there.
        settings: what is run.
        rerank: rank the first candidates again.
        rank, world: which of how many processes this is; they share ``work`` and need not wait for each other.
        model, command: for the report.
        batch_tokens, threads, shard_size, progress: as in ``encode_shards``.

    Returns:
        The report; None while another process still encodes: the last one reports.

    Raises:
        BenchmarkDataError, FormatError, ProblemError: a task's data are not there, or not as published.
    """
    began = perf_counter()
    settings = settings or RunSettings()
    style = settings.text or benchmark.text
    store = VectorStore(
        encoder,
        work / "vectors",
        mode=settings.mode,
        options=settings.options(),
        query_options=settings.query_options(),
        rank=rank,
        world=world,
        shard_size=shard_size,
        batch_tokens=batch_tokens,
        threads=threads,
        show_progress=progress,
    )
    tasks = benchmark.chosen(settings.tasks)
    several = benchmark.name == "m-beir"
    encoded = [
        _encode(store, benchmark, task, data, settings, pool if several else "", style)
        for task in tasks
        for pool in (settings.pools if several else ("local",))
    ]
    if not store.finished():
        return None
    store.open()
    scores: list[BenchmarkScore] = []
    notes: list[str] = []
    costs = dict(store.costs)
    for one in encoded:
        score, lines, cost = _score(store, one, style, rerank, work)
        scores.append(score)
        notes += lines
        if cost is not None:
            costs[f"{score.label}-rerank"] = cost
    facts = {
        "encoder": repr(encoder),
        "mode": settings.mode,
        "num_samples": settings.num_samples,
        "seed": settings.seed,
        "sampled_side": None if settings.seed is None else "query",
        "max_new_tokens": settings.max_new_tokens,
        "preset": settings.preset,
        "text": style,
        "prompt": settings.prompt if several else None,
        "prompt_sha256": prompt_hash({"instruction": line} for one in encoded for line in one.instructions),
        "arithmetic": getattr(encoder, "arithmetic", None),
        "batch_tokens": batch_tokens or getattr(encoder, "batch_tokens", None),
        "processor": processor_facts(encoder),
        "limit": settings.limit,
        "tasks": f"{len(tasks)} of {len(benchmark.tasks)}",
        "rerank": None if rerank is None else rerank.conditions(),
        "code": code_hash(),
    }
    complete = benchmark.complete(settings.pools if several else ())
    for one in encoded:
        complete[one.problem.task.name].setdefault("queries", one.full)
    revisions = sorted({f"{one.problem.task.name} {one.revision}" for one in encoded})
    combined = hashlib.sha256("\n".join(revisions).encode()).hexdigest()
    return BenchmarkReport(
        benchmark.name,
        scores,
        encoder.fingerprint(),
        Conditions.of_run(
            began,
            model=model,
            settings=facts,
            data={
                "name": benchmark.name,
                "split": "test",
                "revision": combined,
                "definition": benchmark.sha256,
            },
            command=command,
        ),
        complete=complete,
        notes=notes,
        costs=_costs(costs),
    )


def _encode(
    store: VectorStore,
    benchmark: Benchmark,
    task: Task,
    data: BenchmarkData,
    settings: RunSettings,
    kind: str,
    style: str,
) -> _Encoded:
    problem = read_problem(benchmark, task, data, Choices(kind or "local", settings.prompt))
    revision = data.revision(task, problem.files, problem.media_files())
    full = len(problem.queries)
    if settings.limit is not None:
        problem = problem.first(settings.limit)
    queries = [entry.item(style) for entry in problem.queries]
    candidates = [entry.item(style) for entry in problem.candidates]
    name = f"{task.name}-{kind}" if kind == "global" else task.name
    return _Encoded(
        problem,
        kind,
        revision,
        store.encode(name, "query", queries),
        store.encode(name, "document", candidates),
        full,
        {
            "" if style == "none" else entry.words.instruction
            for entry in (*problem.queries, *problem.candidates)
        },
    )


def _score(
    store: VectorStore, one: _Encoded, style: str, rerank: Fusing | None, work: Path
) -> tuple[BenchmarkScore, list[str], Cost | None]:
    queries, candidates = store.vectors(one.queries), store.vectors(one.candidates)
    problem, again = one.problem, None
    left = without_failures(problem, queries, candidates)
    if rerank is not None and left is not None:
        kept = work / f"reranked-{problem.task.name.replace('/', '_')}{one.kind}.json"
        how = rerank.of_task(problem.task.name)
        again = reranked(left, how, style, kept, f"{code_hash()} {how.judge()}")
    score, notes = score_problem(
        problem,
        queries,
        candidates,
        kind=one.kind,
        revision=one.revision,
        ranks=None if again is None else again.ranks,
        first=None if again is None else again.first,
    )
    if again is not None and again.tied:
        notes.append(
            f"{score.label}: ties decide what the reranker sees of {again.tied:,} queries; what is relevant comes last"
        )
    failed = [
        (entry.name, store.failures.get(key, "no vector"))
        for entry, key in zip(
            (*problem.queries, *problem.candidates), (*one.queries, *one.candidates), strict=True
        )
        if key in store.failures
    ]
    if failed:
        notes.append(failures_line(score.label, failed))
    return score, notes, None if again is None else again.cost


def _costs(costs: dict[str, Cost]) -> dict[str, dict[str, Any]]:
    found = {name: cost.to_dict() for name, cost in costs.items()}
    sides = {
        "all queries": total(cost for name, cost in costs.items() if name.endswith("-query")),
        "all documents": total(cost for name, cost in costs.items() if name.endswith("-document")),
        "all pairs": total(cost for name, cost in costs.items() if name.endswith("-rerank")),
    }
    return found | {name: cost.to_dict() for name, cost in sides.items() if cost.items}
