"""Pairs to scores: candidates prepared ahead in threads, the query read once, order kept, faults named."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..modeling.batching import TokenBudget, default_tokens
from ..modeling.pooling import whole_number
from ..modeling.reranker import scores_of
from ..modeling.vision_features import VisionFeatureCache
from ..processing.collating import Prepared
from ..processing.cut_texts import Cuts
from ..processing.items import ItemError
from .calls import as_items, check_call, compute_alone_after_fork
from .encoder import PROGRESS_FROM, WINDOW
from .fingerprint import model_hash, processor_hash
from .prefetching import prepare_ahead

if TYPE_CHECKING:
    from ..modeling.reranker import UmeForReranking
    from ..processing.processor import UmeProcessor

KEEP_BYTES = 2**28  # features of media kept for later pairs of the same call


@dataclass
class Reranked:
    """Result of ``rerank(..., return_details=True)``.

    Attributes:
        scores: float32 ``[n]`` in 0..1; NaN where a candidate could not be scored.
        margins: float32 ``[n]``: logit of yes less that of no, of which a score is the sigmoid; near 0 and 1 it still
            tells pairs apart that have one score.
        errors: ``(index, exception)`` of every candidate that was skipped.
        truncated: tokens of text that the pair of every candidate lost to its limit, 0 where it was not cut.
        batch_tokens: padded tokens of one forward; fewer than asked for where memory did not hold them.
    """

    scores: NDArray[np.float32]
    errors: list[tuple[int, Exception]] = field(default_factory=list)
    batch_tokens: int = 0
    truncated: list[int] = field(default_factory=list)
    margins: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


class Reranker:
    """A reranking model and its processor, ready to score; see :func:`umekit.load`.

    Args:
        model: a reranking model of ours.
        processor: the checkpoint's processor.
        batch_tokens: padded tokens of one forward, the shared ones not counted; chosen by device when None.
        workers: threads that read, resize and tokenise ahead of the model; chosen by cores when None.
    """

    def __init__(
        self,
        model: UmeForReranking,
        processor: UmeProcessor,
        *,
        batch_tokens: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.assumption = ""  # see Encoder
        self.batch_tokens = None if batch_tokens is None else whole_number("batch_tokens", batch_tokens)
        self.workers = min(8, os.cpu_count() or 1) if workers is None else whole_number("workers", workers, 0)

    def __repr__(self) -> str:
        return f"Reranker({self.model.config.model_type}, {self.model.dtype}, {self.model.device})"

    def fingerprint(self) -> dict[str, Any]:
        """Hashes of model and processor: what scores must share to be compared."""
        return {"model": model_hash(self.model), "processor": processor_hash(self.processor)}

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there: asked for vectors, a reranker says what it is."""
        if name in ("encode", "encode_query", "encode_document"):
            raise AttributeError("this checkpoint is a reranker: it scores pairs and has no vectors (rerank)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def rerank(
        self,
        query: Any,
        candidates: Any,
        *,
        instruction: str | None = None,
        batch_tokens: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        show_progress: bool | None = None,
        return_details: bool = False,
    ) -> Any:
        """Score candidates for a query.

        Args:
            query: an item: ``str`` (always text), a PIL image, or a dict with any of ``text, image, images, video,
                document, page, instruction``.
            candidates: an iterable of items.
            instruction: what to look for; the query's own wins over it, the checkpoint's default is used for None.
            batch_tokens: padded tokens of one forward. Halved, with a warning, when memory runs out.
            on_error: ``"raise"`` stops at the first bad candidate; ``"skip"`` scores it NaN. A bad query raises.
            show_progress: None shows a bar on a terminal from 200 candidates on.
            return_details: a :class:`Reranked` instead of the array. With or without it, one warning tells of pairs
                that were cut at the checkpoint's limit of tokens.

        Returns:
            float32 ``[n]`` in 0..1, in the candidates' order.

        Raises:
            ItemError: which item is wrong, and how.
            DegenerateVectorError: a score is not finite.
        """
        budget = self._budget(batch_tokens)
        cuts = Cuts()
        found = self._rerank(
            query, as_items(candidates), self._features(), instruction, budget, on_error, show_progress, cuts
        )
        cuts.warn(len(found.scores))
        if return_details:
            return found
        _warn(found.errors, len(found.scores), stacklevel=2)
        return found.scores

    def rerank_many(
        self,
        queries: Any,
        candidate_lists: Sequence[Any],
        *,
        instruction: str | None = None,
        batch_tokens: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        show_progress: bool | None = None,
        return_details: bool = False,
    ) -> list[Any]:
        """:meth:`rerank` for several queries, each with its own candidates; media of all are encoded once.

        Returns:
            Of each query, float32 ``[n]``, or a :class:`Reranked` with ``return_details``.

        Raises:
            ValueError: there are not as many lists as queries.
        """
        listed = as_items(queries)
        if len(listed) != len(candidate_lists):
            raise ValueError(f"{len(listed)} queries, but {len(candidate_lists)} lists of candidates")
        features, budget = self._features(), self._budget(batch_tokens)
        found: list[Reranked] = []
        cuts = Cuts()
        show = len(listed) > 1 and sys.stderr.isatty() if show_progress is None else show_progress
        for query, candidates in zip(
            tqdm(listed, unit="query", disable=not show, desc="rerank"), candidate_lists, strict=True
        ):
            found.append(
                self._rerank(
                    query, as_items(candidates), features, instruction, budget, on_error, False, cuts
                )
            )
        count = sum(len(one.scores) for one in found)
        cuts.warn(count)
        if return_details:
            return found
        _warn([error for one in found for error in one.errors], count, stacklevel=2)
        return [one.scores for one in found]

    def _features(self) -> VisionFeatureCache:
        return self.model.vision_cache(self.processor, KEEP_BYTES)

    def _budget(self, batch_tokens: int | None) -> TokenBudget:
        """For all of a call: what one query did not fit into, the next one will not."""
        compute_alone_after_fork()
        if batch_tokens is not None:
            whole_number("batch_tokens", batch_tokens)
        tokens = batch_tokens or self.batch_tokens or default_tokens(self.model.device)
        return TokenBudget(tokens, self.model.device)

    def _rerank(
        self,
        query: Any,
        candidates: Sequence[Any],
        features: VisionFeatureCache,
        instruction: str | None,
        budget: TokenBudget,
        on_error: str,
        show_progress: bool | None,
        cuts: Cuts,
    ) -> Reranked:
        check_call(role=None, instruction=instruction, on_error=on_error, batch_tokens=None)
        pairs = self.processor.pairs_with(query, instruction)
        scores, margins = (np.full(len(candidates), np.nan, dtype=np.float32) for _ in range(2))
        errors: list[tuple[int, Exception]] = []
        truncated = [0] * len(candidates)

        def prepare(index: int) -> Prepared:
            return pairs.prepare(candidates[index], index)

        if show_progress is None:
            show_progress = len(candidates) >= PROGRESS_FROM and sys.stderr.isatty()
        with tqdm(total=len(candidates), unit="pair", disable=not show_progress, desc="rerank") as bar:
            for window in prepare_ahead(range(len(candidates)), prepare, WINDOW, self.workers):
                good: list[tuple[int, Prepared]] = []
                for index, outcome in window:
                    if isinstance(outcome, Prepared):
                        good.append((index, outcome))
                        truncated[index] = outcome.cut_tokens
                    elif on_error == "raise":
                        raise outcome
                    else:
                        errors.append((index, outcome))
                cuts.see(row for _, row in good)
                for index, row in self._score(good, scores, margins, features, budget):
                    error = self._too_large(index, row)
                    if on_error == "raise":
                        raise error
                    errors.append((index, error))
                bar.update(len(window))
        errors.sort(key=lambda error: error[0])
        return Reranked(scores, errors, budget.tokens, truncated, margins)

    def _score(
        self,
        pairs: list[tuple[int, Prepared]],
        scores: NDArray[np.float32],
        margins: NDArray[np.float32],
        features: VisionFeatureCache,
        budget: TokenBudget,
    ) -> Iterator[tuple[int, Prepared]]:
        """Fill in the scores and margins of prepared pairs, in smaller batches where memory runs out.

        Yields:
            Pairs that memory does not hold even alone.
        """

        def run(tried: list[tuple[int, Prepared]]) -> bool:
            logits = self.model.pair_logits(
                [row for _, row in tried],
                processor=self.processor,
                batch_tokens=budget.tokens,
                features=features,
            )
            places = [index for index, _ in tried]
            scores[places] = scores_of(logits).cpu().numpy()
            margins[places] = (logits[:, 0] - logits[:, 1]).cpu().numpy()
            return True

        while pairs and not budget.attempt(partial(run, pairs)):
            longest = max(pairs, key=lambda pair: pair[1].length)
            if budget.tokens > 1 and budget.attempt(partial(run, [longest])):
                budget.halve(budget.tokens)
            else:
                yield longest
                pairs = [pair for pair in pairs if pair is not longest]

    def _too_large(self, index: int, row: Prepared) -> ItemError:
        return ItemError(
            f"with the query it has {row.length} tokens, which do not fit into the memory of {self.model.device} even "
            "alone: give smaller or fewer media, or a smaller max_length or pixel budget",
            index,
        )


def _warn(errors: Sequence[tuple[int, Exception]], count: int, stacklevel: int) -> None:
    if errors:
        warnings.warn(
            f"{len(errors)} of {count} candidates could not be scored and are NaN; the first: {errors[0][1]}",
            stacklevel=stacklevel + 1,
        )
