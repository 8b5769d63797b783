"""What a mining run is asked for, and what it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

SCOPES = ("global", "local")


@dataclass(frozen=True)
class MiningSettings:
    """Which candidates become negatives. All similarities are cosines.

    Attributes:
        k: negatives of a row.
        max_similarity: a candidate nearer to the query than this is taken for a false negative (U-MARVEL: 0.7);
            None for no limit.
        relative_margin: so is one with ``s(q, c) > relative_margin * s(q, positive)`` (NV-Retriever's
            "positive-aware" threshold, typically 0.95).
        max_positive_similarity: so is one nearer to the positive than this (RzenEmbed's delta, used while mining).
        depth: the nearest so many candidates are looked at, known positives among them.
        scope: ``"global"``: all candidates are one pool; ``"local"``: those with the row's value of ``local_by``.
        local_by: a column of rows and pool, or ``"modality"`` of the positive and the candidate.
        seed: of the random negatives that fill up a row with fewer than ``k``.

    Raises:
        ValueError: a value that cannot be meant.
    """

    k: int = 5
    max_similarity: float | None = 0.7
    relative_margin: float | None = None
    max_positive_similarity: float | None = None
    depth: int = 100
    scope: Literal["global", "local"] = "global"
    local_by: str = "task"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 1 or self.depth < self.k:
            raise ValueError(f"k is {self.k} and depth {self.depth}; need 1 <= k <= depth")
        if self.scope not in SCOPES:
            raise ValueError(f"scope is {self.scope!r}; use one of {', '.join(SCOPES)}")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; need at least 0")
        for name in ("max_similarity", "max_positive_similarity"):
            value = getattr(self, name)
            if value is not None and not -1 <= value <= 1:
                raise ValueError(f"{name} is {value}; a cosine is from -1 to 1")
        if self.relative_margin is not None and not (
            self.relative_margin > 0 and math.isfinite(self.relative_margin)
        ):
            raise ValueError(f"relative_margin is {self.relative_margin}; it is a factor, such as 0.95")


@dataclass(frozen=True)
class MiningReport:
    """What a mining run did.

    Attributes:
        file: the mined rows, ``mined.jsonl`` or ``mined.parquet``.
        media_root: folder that the media paths of ``file`` are relative to; None where it names no files.
        rows: rows written.
        candidates: size of the pool, equal items counted once.
        negatives: negatives in all rows.
        filled: those of them that are random, because too few candidates within ``depth`` passed the filters.
        short: rows with fewer than ``k`` all the same: the pool has no more that pass.
        dropped: candidates turned away among the nearest ``depth``, by the first filter that did.
        failed: rows left out and candidates not in the pool because they could not be encoded, with reasons.
    """

    file: str
    media_root: str | None
    rows: int
    candidates: int
    negatives: int
    filled: int
    short: int
    dropped: dict[str, int]
    failed: list[str] = field(default_factory=list)

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any], file: str) -> MiningReport:
        return cls(file=file, **{name: manifest[name] for name in REPORTED})


REPORTED = ("media_root", "rows", "candidates", "negatives", "filled", "short", "dropped", "failed")
