"""Which tokens carry the embedding: rules that fill ``pooling_slots``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .rendering import PromptTokenizer


@dataclass(frozen=True)
class PoolingRule:
    """Where slot 1 is.

    Attributes:
        kind: ``"last"``: the last token; ``"token"``: the last occurrence of ``token``; ``"mean"``: every token,
            but for the spans from ``span_start`` to ``span_end``, both included.
        token: special token of ``kind="token"``.
        offset: places from that token to the pooled one; -1 is the one before it, which predicts it (LamRA).
        span_start, span_end: special tokens around what the mean leaves out (U-MARVEL's instruction); "" for none.
    """

    kind: Literal["last", "token", "mean"] = "last"
    token: str = ""
    offset: int = 0
    span_start: str = ""
    span_end: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("last", "token", "mean"):
            raise ValueError(f"pooling kind is {self.kind!r}; use 'last', 'token' or 'mean'")
        if (self.kind == "token") != bool(self.token):
            raise ValueError("pooling kind 'token' needs a token, the other kinds take none")
        if bool(self.span_start) != bool(self.span_end):
            raise ValueError("a span needs both span_start and span_end")


def pooling_slots(ids: np.ndarray, rule: PoolingRule, tokenizer: PromptTokenizer) -> np.ndarray:
    """int8 ``[L]`` slots of one row of ids.

    Raises:
        ValueError: the pooled token is missing, a span is not closed, or nothing is left to pool.
    """
    slots = np.zeros(len(ids), dtype=np.int8)
    if rule.kind == "last":
        slots[-1] = 1
    elif rule.kind == "token":
        places = np.flatnonzero(ids == tokenizer.id_of(rule.token))
        if len(places) == 0:
            raise ValueError(f"the prompt has no {rule.token} to pool")
        place = int(places[-1]) + rule.offset
        if not 0 <= place < len(ids):
            raise ValueError(f"the prompt has no token at {rule.offset:+d} from {rule.token}")
        slots[place] = 1
    else:
        slots[:] = 1
        if rule.span_start:
            starts = np.flatnonzero(ids == tokenizer.id_of(rule.span_start))
            ends = np.flatnonzero(ids == tokenizer.id_of(rule.span_end))
            if len(starts) != len(ends) or (ends < starts).any():
                raise ValueError(f"{rule.span_start} and {rule.span_end} do not pair up in the prompt")
            for start, end in zip(starts, ends, strict=True):
                slots[start : end + 1] = 0
        if not slots.any():
            raise ValueError("no token is left to pool")
    return slots
