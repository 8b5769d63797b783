"""The best candidates of a query ranked again by a reranker.

U-MARVEL fuses the cosine with P(Yes) half and half (paper) over the first 50. What is not among them keeps its place
behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoding.index.two_stage import DEPTH, FUSION, fuse


@dataclass(frozen=True)
class Fusing:
    """How to rank again.

    Attributes:
        reranker: an ``umekit.Reranker``.
        name: of it, for people.
        depth: candidates of a query that are ranked again.
        alpha: weight of the cosine; the reranker's score has the rest.
        alphas: task -> its own weight of the cosine, as a cascade has them.
    """

    reranker: Any
    name: str
    depth: int = DEPTH
    alpha: float = FUSION
    alphas: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}: give 1 or more")
        for share in (self.alpha, *self.alphas.values()):
            fuse([], [], share)

    def of_task(self, task: str) -> Fusing:
        """The same with the task's own weight, if it has one, for all."""
        return replace(self, alpha=self.alphas.get(task, self.alpha), alphas={})

    def settings(self) -> dict[str, Any]:
        own = {"alphas": dict(self.alphas)} if self.alphas else {}
        return {"reranker": self.name, "depth": self.depth, "alpha": self.alpha, **own}

    def judge(self) -> dict[str, Any]:
        """What a pair's score depends on: the reranker's name, and the weights and dtype behind it, where it can
        say."""
        said: dict[str, Any] = {"reranker": self.name}
        if hasattr(self.reranker, "fingerprint"):
            said["fingerprint"] = self.reranker.fingerprint()
        if hasattr(self.reranker, "model"):
            said["dtype"] = str(self.reranker.model.dtype)
        return said

    def conditions(self) -> dict[str, Any]:
        """Settings, and whose scores are fused."""
        return self.settings() | self.judge()

    def scores(self, query: Any, candidates: Sequence[Any]) -> list[float]:
        """The reranker's, in 0..1. Raises what it raises for an item that it cannot score."""
        return [float(one) for one in self.reranker.rerank(query, list(candidates), show_progress=False)]

    def levels(
        self, cosines: NDArray[np.float32], reach: NDArray[np.int64], scores: Sequence[float]
    ) -> NDArray[np.float32]:
        """:func:`levels_of` a pool by its cosines [c], of which ``reach`` [k] were scored again, ``scores`` [k]."""
        fused = fuse(cosines[reach], scores, self.alpha)
        if not np.isfinite(fused).all():
            raise ValueError(f"the reranker {self.name} gave a score that is not finite")
        return levels_of(cosines, reach, fused)

    def rerank(
        self, query: Any, candidate: Callable[[int], Any], cosines: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Levels of one query whose pool is at hand."""
        reach = np.argsort(-cosines, kind="stable")[: self.depth].astype(np.int64)
        return self.levels(cosines, reach, self.scores(query, [candidate(int(one)) for one in reach]))


def levels_of(
    recall: NDArray[np.float32], reach: NDArray[np.int64], fused: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A number for each candidate of a pool, by which it is sorted: those in reach above all others.

    Whole numbers, so that nothing that differs becomes equal; float32 holds those of 16 million candidates.

    Args:
        recall: [c] of the pool.
        reach: [k] places of those that were scored again. fused: [k].
    """
    levels = _dense(recall)
    levels[reach] = len(recall) + _dense(fused)
    return levels.astype(np.float32)


def _dense(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """0 for the lowest, the same for equal ones."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
