"""The best rows of an index, scored again by a reranker: what they are on disk, and the fusion of both scores.

This is the only place that fuses; searching, scoring for distillation, tuning and benchmarks come here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...processing.limits import MediaLimits
from ..inputs.columns import resolve_within
from ..inputs.files import UnreadableFileError, file_items
from ..inputs.sample import reason_of

DEPTH = 50  # candidates of a query that are scored again
FUSION = 0.5  # share of the index's score
_PAGE = re.compile(r"^(.*)(#page=\d+)$", re.DOTALL)


class CandidateError(ValueError):
    """A row that the index found can't be opened or scored; the message names it."""


class PairScorer(Protocol):
    """What is needed of an ``umekit.Reranker``."""

    @property
    def rerank_many(self) -> Callable[..., Any]: ...


class Rows(Protocol):
    """What is needed of an index to open its rows."""

    def get(self, name: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Fused:
    """A row of an index and its scores: ``score`` is the fusion of the index's ``recall`` and the reranker's."""

    id: str
    score: float
    recall: float
    rerank: float


def fuse(recall: ArrayLike, rerank: ArrayLike, alpha: float = FUSION) -> NDArray[np.float32]:
    """``alpha * recall + (1 - alpha) * rerank``, of arrays of one shape; float32 (U-MARVEL, reranking with fusion).

    Raises:
        ValueError: ``alpha`` is not in 0..1, or the shapes differ.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"fusion is {alpha}; it is the share of the index's score, from 0 to 1")
    first, second = np.asarray(recall, dtype=np.float64), np.asarray(rerank, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"scores of the shapes {first.shape} and {second.shape}; need one of each per row")
    return (alpha * first + (1 - alpha) * second).astype(np.float32)


def rescore(
    reranker: PairScorer,
    queries: Sequence[Any],
    found: Sequence[Sequence[tuple[str, float]]],
    item_of: Callable[[str], Any],
    *,
    alphas: Sequence[float] | None = None,
    instruction: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> tuple[list[list[Fused]], list[tuple[int, str, str]]]:
    """Score the candidates that a search found again, and order them by the fusion of both scores.

    Media that several queries found are read by the vision tower once, as far as the reranker keeps them.

    Args:
        reranker: of :func:`umekit.load`.
        queries: the items that were searched for, n.
        found: of each, id and score of every candidate, best first, as ``Index.search`` gives them.
        item_of: id to item; for the index of a folder, :func:`folder_items` makes it.
        alphas: share of the index's score, 0..1, for each query; :data:`FUSION` for all when None.
        instruction: what to look for; a query's own wins over it.
        on_error: ``"raise"`` stops at the first candidate that can't be opened; ``"skip"`` leaves it out.

    Returns:
        The candidates of each query, best first (equal ones as the search had them), and ``(query, id, reason)`` of
        those left out.

    Raises:
        CandidateError: a candidate can't be opened or scored (``on_error="raise"``).
        ValueError: a share that is not in 0..1, or numbers of queries, lists and shares that differ.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'raise' or 'skip'")
    shares = [FUSION] * len(queries) if alphas is None else list(alphas)
    if not len(queries) == len(found) == len(shares):
        raise ValueError(
            f"{len(queries)} queries, {len(found)} lists and {len(shares)} shares; need one of each"
        )
    for share in shares:
        fuse([], [], share)  # a wrong one must not be found after minutes of scoring
    failed: list[tuple[int, str, str]] = []
    opened: list[list[tuple[str, float]]] = []
    items: list[list[Any]] = []
    for number, candidates in enumerate(found):
        opened.append([])
        items.append([])
        for name, score in candidates:
            try:
                items[-1].append(item_of(name))
            except (OSError, ValueError, ImportError, KeyError) as error:
                failed.append((number, name, reason_of(error)))
                if on_error == "raise":
                    raise CandidateError(f"{name}: {reason_of(error)}") from error
            else:
                opened[-1].append((name, score))
    results = reranker.rerank_many(
        queries, items, instruction=instruction, on_error="skip", show_progress=False, return_details=True
    )
    ranked = []
    for number, (result, candidates, share) in enumerate(zip(results, opened, shares, strict=True)):
        for place, fault in result.errors:
            failed.append((number, candidates[place][0], reason_of(fault)))
            if on_error == "raise":
                raise CandidateError(f"{candidates[place][0]}: {reason_of(fault)}") from fault
        both = fuse([score for _, score in candidates], result.scores, share)
        rows = [
            Fused(name, float(fused), score, float(again))
            for (name, score), again, fused in zip(candidates, result.scores, both, strict=True)
            if not np.isnan(again)
        ]
        ranked.append(sorted(rows, key=lambda row: -row.score))
    return ranked, failed


def folder_items(
    index: Rows, root: str | os.PathLike[str], limits: MediaLimits | None = None
) -> Callable[[str], dict[str, Any]]:
    """Id to item for the index of the folder ``root``; raises what :func:`file_row` does."""
    return lambda name: file_row(name, root, index.get(name), limits)


def file_row(
    name: str,
    root: str | os.PathLike[str],
    metadata: Mapping[str, Any] | None = None,
    limits: MediaLimits | None = None,
) -> dict[str, Any]:
    """The item behind a row of the index of a folder.

    Args:
        name: the row's id: a path relative to ``root``, of a PDF with ``#page=N`` behind it.
        root: the folder that was indexed.
        metadata: the row's, which may name path and page; the id alone is enough.
        limits: what the file may cost, and the password of a PDF.

    Raises:
        FileNotFoundError: the file is gone, or the index is one of another folder.
        UnreadableFileError: it can't become an item, or lacks the page.
        OutsideRootError: the path leads out of ``root`` (an index may come from anywhere).
    """
    facts = metadata or {}
    path, suffix = name, ""
    paged = _PAGE.match(name)
    if "path" in facts:
        path = str(facts["path"])
        suffix = f"#page={facts['page']}" if "page" in facts else ""
    elif paged is not None:
        path, suffix = paged[1], paged[2]
    file = resolve_within(path, Path(root))
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {path} in {os.fspath(root)}")
    for own, item, _ in file_items(file, limits):
        if own == suffix:
            return item
    raise UnreadableFileError(
        f"{path} has no {suffix.removeprefix('#').replace('=', ' ') or 'row of its own'}"
    )
