"""The work of a table as jobs: which there are, what each needs first, and where its result lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from . import starts
from .records import Arm, Claim, Start
from .store import VERSION, digest, read_json

QUARTER = 4
SEARCH_SEED = 0
VALIDATION_QUERIES = 400


@dataclass(frozen=True)
class Settings:
    """How a table is made.

    Attributes:
        cache: folder of starts and results.
        quick: no search of learning rates.
        queries: of the test pools.
        warm_up: folders to use in place of a warm-up, by seed.
        divide: what the rows of every arm are divided by; four for a quick table. Starts are always whole: arms that
            begin where nothing was learned show nothing.
    """

    cache: Path
    quick: bool = False
    queries: int = 2000
    warm_up: dict[int, Path] = field(default_factory=dict)
    divide: int = 1

    @property
    def scale(self) -> Path:
        """Folder of all results of this size; starts are the same for all sizes."""
        return self.cache / f"rows-over-{self.divide}"


@dataclass(frozen=True)
class Job:
    """One thing to do. ``kind``: a start, a short training of a learning-rate search, or an arm's run."""

    kind: Literal["start", "search", "run"]
    name: str
    seed: int
    rate: float | None = None

    def __str__(self) -> str:
        rate = "" if self.rate is None else f" at {self.rate:g}"
        return f"{self.kind} {self.name}{rate}, seed {self.seed}"


class Work:
    """Jobs of some claims over some seeds.

    Raises:
        ValueError: two different arms of one name, or an arm that needs one which no claim has.
    """

    def __init__(self, claims: Iterable[Claim], seeds: Iterable[int], settings: Settings) -> None:
        self.settings, self.seeds = settings, tuple(seeds)
        self.arms: dict[str, Arm] = {}
        for claim in claims:
            for arm in claim.arms:
                if self.arms.setdefault(arm.name, arm) != arm:
                    raise ValueError(f"two different arms are called {arm.name!r}")
        for arm in self.arms.values():
            wanted = [*arm.needs, *([arm.rate_from] if arm.rate_from else [])]
            if lost := [name for name in wanted if name not in self.arms]:
                raise ValueError(f"arm {arm.name!r} needs {lost}, which no chosen claim has")

    # ---- which jobs ------------------------------------------------------------------------------------------------

    def runs(self) -> list[Job]:
        """What the table is made of."""
        return [Job("run", name, seed) for seed in self.seeds for name in self.arms]

    def all_jobs(self) -> list[Job]:
        """Runs and everything that they need, each after what it needs."""
        found: dict[Job, None] = {}

        def add(job: Job) -> None:
            for earlier in self.before(job):
                add(earlier)
            found.setdefault(job)

        for job in self.runs():
            add(job)
        return list(found)

    def before(self, job: Job) -> list[Job]:
        """Jobs that must be done first."""
        if job.kind == "start":
            earlier = starts.before(cast(Start, job.name))
            given = earlier == "read" and job.seed in self.settings.warm_up
            return [] if earlier is None or given else [Job("start", earlier, job.seed)]
        arm = self.arms[job.name]
        needed = [Job("run", name, job.seed) for name in arm.needs]
        if not (arm.start == "read" and job.seed in self.settings.warm_up):
            needed.insert(0, Job("start", arm.start, job.seed))
        if job.kind == "search":
            return needed
        return [*needed, *self.searches(arm)]

    def searches(self, arm: Arm) -> list[Job]:
        """The short trainings that an arm's learning rate is chosen from."""
        if self.settings.quick or arm.soup:
            return []
        own = self.arms[arm.rate_from] if arm.rate_from else arm
        return [Job("search", own.name, SEARCH_SEED, rate) for rate in own.rates]

    # ---- where results lie, and whether they do ---------------------------------------------------------------------

    def start_folder(self, start: str, seed: int) -> Path:
        """Where a start of a seed lies."""
        own = self.settings.cache / "starts" / f"{start}-{seed}"
        return self.settings.warm_up.get(seed, own) if start == "read" else own

    def adapter_folder(self, arm: str, seed: int) -> Path:
        """Where an arm leaves its adapter."""
        return self.settings.scale / "adapters" / arm / f"seed-{seed}"

    def file(self, job: Job) -> Path:
        """Where a job's result lies; a start's is its mark."""
        if job.kind == "start":
            return self.start_folder(job.name, job.seed) / starts.DONE
        last = f"seed-{job.seed}.json" if job.kind == "run" else f"rate-{job.rate:g}.json"
        return self.settings.scale / ("runs" if job.kind == "run" else "searches") / job.name / last

    def fingerprint(self, job: Job) -> str:
        """Of everything that decides a job's result: a cached result with another one is made anew."""
        settings = self.settings
        if job.kind == "start":
            given = settings.warm_up.get(job.seed)
            return starts.fingerprint(cast(Start, job.name), job.seed, given)
        arm = self.arms[job.name]
        parts: list[Any] = [
            VERSION,
            job.kind,
            job.seed,
            job.rate,
            settings.divide,
            settings.quick,
            settings.queries,
            arm.to_dict(),
        ]
        parts += [self.fingerprint(Job("start", arm.start, job.seed))]
        parts += [self.arms[arm.rate_from].rates] if arm.rate_from else []
        parts += [self.fingerprint(earlier) for earlier in self.before(job) if earlier.kind != "start"]
        return digest(parts)

    def is_done(self, job: Job) -> bool:
        """Whether a result with the right fingerprint lies there."""
        found = read_json(self.file(job))
        return found is not None and found.get("fingerprint") == self.fingerprint(job)

    def rate(self, arm: Arm) -> float | None:
        """The learning rate that an arm's search chose, best recall on validation rows first, then the lower rate."""
        if arm.soup:
            return None
        own = self.arms[arm.rate_from] if arm.rate_from else arm
        if self.settings.quick:
            return own.rates[-1] * arm.rate_factor
        found = {}
        for job in self.searches(arm):
            record = read_json(self.file(job))
            if record is None:
                raise FileNotFoundError(f"{job} has no result")
            found[float(job.rate or 0)] = float(record["validation"])
        return max(sorted(found), key=lambda rate: found[rate]) * arm.rate_factor
