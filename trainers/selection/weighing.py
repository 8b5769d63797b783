"""Margins of an evaluator for a row: each pair without a thought, and with each of its pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...encoding.inputs.sample import reason_of
from ...encoding.rationales import with_rationale
from ..collating import items_of
from .pools import Candidate
from .settings import SelectionSettings

UNREADABLE = (OSError, ValueError, TypeError, ImportError)  # what reading an item may raise
Item = Any
Pair = tuple[Item, Item]


class PairEvaluator(Protocol):
    """What is needed of an ``umekit.Reranker``, or of any other model that answers yes or no."""

    def fingerprint(self) -> Any: ...

    def rerank_many(self, queries: Any, candidate_lists: Any, **options: Any) -> Any:
        """For every query an object with ``margins`` float32 ``[n]``, logit of yes less that of no of each candidate,
        NaN where it has none, and ``errors``: index and exception of those."""
        ...


@dataclass
class Evaluation:
    """A side of a row: margins ``[1 + negatives, 1 + thoughts]``, and why some are missing."""

    margins: NDArray[np.float32]
    reasons: list[str] = field(default_factory=list)


def evaluate(
    evaluator: PairEvaluator,
    pairs: Sequence[Pair],
    pool: Sequence[Candidate],
    template: str,
    instruction: str | None,
) -> Evaluation:
    """Score pairs, the row's own first, without a thought and with each.

    The thought stands last, so that a pair's prompts begin alike up to it: what can be read once is (``PrefixReader``).

    Raises:
        ValueError, TypeError, OSError, ImportError: the row's own query cannot be read.
    """
    prompts = [
        (query, [target, *(with_rationale(target, one.thought, one.answer, template) for one in pool)])
        for query, target in pairs
    ]
    try:
        return _scored(evaluator, prompts, instruction)
    except UNREADABLE:
        if len(pairs) == 1:
            raise
    own = _scored(evaluator, prompts[:1], instruction)  # then one by one, since one bad query ends a call
    margins, reasons = [own.margins], own.reasons
    for number, prompt in enumerate(prompts[1:], start=1):
        try:
            other = _scored(evaluator, [prompt], instruction)
        except UNREADABLE as error:
            other = Evaluation(np.full((1, 1 + len(pool)), np.nan, np.float32), [reason_of(error)])
        margins.append(other.margins)
        reasons += [f"pair {number}: {reason}" for reason in other.reasons]
    return Evaluation(np.concatenate(margins), reasons)


def _scored(
    evaluator: PairEvaluator, prompts: Sequence[tuple[Item, list[Item]]], instruction: str | None
) -> Evaluation:
    found = evaluator.rerank_many(
        [query for query, _ in prompts],
        [targets for _, targets in prompts],
        instruction=instruction,
        on_error="skip",
        show_progress=False,
        return_details=True,
    )
    margins = np.stack([np.asarray(one.margins, np.float32) for one in found])
    reasons = [f"pair {n}: {reason_of(error)}" for n, one in enumerate(found) for _, error in one.errors]
    return Evaluation(margins, reasons)


def pairs_of(
    row: Mapping[str, Any],
    number: int,
    side: str,
    settings: SelectionSettings,
    find: Callable[[Any], Any],
    other_queries: Callable[[int, int], list[Any]],
) -> list[Pair]:
    """The row's own pair and its counterfactual ones, media found.

    A query's thought is weighed against the row's hard negatives; a positive's against other queries: the row's
    ``negative_queries`` where it has them, else those of other rows of its task, which are drawn.
    """
    query, positive = find(row["query"]), find(row["positive"])
    wanted = settings.negatives
    if side == "query":
        return [
            (query, positive),
            *((query, find(item)) for item in items_of(row, "negatives")[:wanted]),
        ]
    named = items_of(row, "negative_queries")[:wanted]
    others = named if named or not wanted else other_queries(number, wanted)
    return [(query, positive), *((find(other), positive) for other in others)]
