"""Keep items within their limits of tokens: by shortening texts, or as plain code does, from the right."""

from __future__ import annotations

from dataclasses import replace

from .collating import Prepared
from .rendering import PromptTokenizer
from .slots import PoolingRule, pooling_slots


def cut_right(row: Prepared, limit: int, rule: PoolingRule, tokenizer: PromptTokenizer) -> Prepared:
    """The first ``limit`` tokens of a row, whatever the rest was; what the rule pools is looked for anew.

    For systems whose vectors of long texts were made so; the prompt's end is lost with the text's.

    Raises:
        ValueError: tokens of a picture or video would be cut, or nothing is left to pool.
    """
    if row.length <= limit:
        return replace(row, limit=limit)
    if row.token_types[limit:].any():
        raise ValueError(
            f"{row.length} tokens are over the limit of {limit}, and the cut would go through a picture: "
            "give fewer or smaller media"
        )
    ids = row.input_ids[:limit]
    return replace(
        row,
        input_ids=ids,
        token_types=row.token_types[:limit],
        slots=pooling_slots(ids, rule, tokenizer),
        cut_tokens=row.length - limit,
        limit=limit,
    )
