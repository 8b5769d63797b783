"""Items of training rows that were cut at their limit of tokens: counted, and told of once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)


class CutTexts:
    """count: items of this rank's batches so far; one that several epochs meet counts as often."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, cuts: Sequence[tuple[int, int]]) -> None:
        """Count those of a batch (tokens, and how many were kept); the first is warned of."""
        if cuts and not self.count:
            whole, kept = max(cuts)
            logger.warning(
                "%d items of a batch were cut at the limit of tokens, one from %d to %d: what stands behind is not "
                "trained on. Give shorter texts, or a processor with a higher limit (with_max_length); later ones are "
                "counted in the log as truncated_items",
                len(cuts),
                whole,
                kept,
            )
        self.count += len(cuts)
