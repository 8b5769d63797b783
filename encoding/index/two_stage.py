"""The best rows of an index, scored again by a reranker: what they are on disk, and the fusion of both scores."""

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

    def rerank(self, query: Any, candidates: Any, **options: Any) -> Any: ...


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
    query: Any,
    found: Sequence[tuple[str, float]],
    item_of: Callable[[str], Any],
    *,
    fusion: float = FUSION,
    instruction: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> tuple[list[Fused], list[tuple[str, str]]]:
    """Score the candidates that a search found again, and order them by the fusion of both scores.

    Args:
        reranker: of :func:`umekit.load`.
        query: the item that was searched for.
        found: id and score of every candidate, best first, as ``Index.search`` gives them for one query.
        item_of: id to item; for the index of a folder, :func:`file_row` does it.
        fusion: share of the index's score, 0..1.
        instruction: what to look for; the query's own wins over it.
        on_error: ``"raise"`` stops at the first candidate that can't be opened; ``"skip"`` leaves it out.

    Returns:
        The candidates, best first (equal ones as the search had them), and ``(id, reason)`` of those left out.

    Raises:
        CandidateError: a candidate can't be opened or scored (``on_error="raise"``).
        ValueError: ``fusion`` is not in 0..1.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'raise' or 'skip'")
    fuse([], [], fusion)  # a wrong share must not be found after minutes of scoring
    failed: list[tuple[str, str]] = []
    opened: list[tuple[str, float]] = []
    items: list[Any] = []
    for name, score in found:
        try:
            items.append(item_of(name))
        except (OSError, ValueError, ImportError, KeyError) as error:
            failed.append((name, reason_of(error)))
        else:
            opened.append((name, score))
    if failed and on_error == "raise":
        raise CandidateError("{}: {}".format(*failed[0]))
    result = reranker.rerank(query, items, instruction=instruction, on_error="skip", return_details=True)
    reasons = [(opened[number][0], reason_of(error)) for number, error in result.errors]
    if reasons and on_error == "raise":
        raise CandidateError("{}: {}".format(*reasons[0])) from result.errors[0][1]
    recall = [score for _, score in opened]
    rows = zip(opened, result.scores, fuse(recall, result.scores, fusion), strict=True)
    fused = [
        Fused(name, float(both), score, float(again))
        for (name, score), again, both in rows
        if not np.isnan(again)
    ]
    return sorted(fused, key=lambda row: -row.score), failed + reasons


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
