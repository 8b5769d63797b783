"""What the table tries, as data: two readings of two arms, for every task by itself, and how much is asked for."""

from __future__ import annotations

from dataclasses import dataclass

GAIN = 0.05  # of the reranker over recall; with less, what is said of students is void
# A task that recall alone nearly solves leaves nothing to gain, one that it does not reach nothing to rerank.
MOST_RECALL, LEAST_REACH = 0.80, 0.95


@dataclass(frozen=True)
class Reading:
    """Hits of an arm: ``hits`` of an embedder, ``reranked`` or ``fused`` of a reranker behind stage 2."""

    arm: str
    hits: str = "hits"


@dataclass(frozen=True)
class Claim:
    """``better`` less ``worse``.

    at_least: the difference that the claim asks for; negative where it only says that nothing is lost.
    needs_gain: void where the reranker gains less than ``GAIN``.
    """

    name: str
    statement: str
    better: Reading
    worse: Reading
    at_least: float = 0.0
    needs_gain: bool = True


START, RERANKED, FUSED = Reading("stage2"), Reading("reranker", "reranked"), Reading("reranker", "fused")
STUDENT, ANCHORED, CONTROL = Reading("distilled"), Reading("anchored"), Reading("continued")
CLAIMS: tuple[Claim, ...] = (
    Claim("reranked", "reranking beats recall alone by 5 points", RERANKED, START, GAIN, needs_gain=False),
    Claim("fused", "and so does the fusion of both", FUSED, START, GAIN, needs_gain=False),
    Claim("fusion", "fusion loses nothing to the reranker alone", FUSED, RERANKED, -0.01, needs_gain=False),
    Claim("distilled", "the student beats its start", STUDENT, START),
    Claim("distilled-control", "and as many steps of hard negatives on the same rows", STUDENT, CONTROL),
    Claim("anchored", "the student with InfoNCE beside the scores beats its start", ANCHORED, START),
    Claim("anchored-control", "and as many steps of hard negatives on the same rows", ANCHORED, CONTROL),
)
