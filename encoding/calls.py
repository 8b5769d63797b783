"""Arguments that every call of an encoder or reranker has, checked before anything is read."""

from __future__ import annotations

from typing import Any

from ..modeling.settings import whole_number


def check_call(*, role: Any, instruction: Any, on_error: Any = "raise", batch_tokens: Any = None) -> None:
    """Raise ValueError or TypeError for arguments of a call that would otherwise be every item's error, or unseen."""
    if role not in (None, "query", "document"):
        raise ValueError(f"role is {role!r}; use None, 'query' or 'document'")
    if instruction is not None and not isinstance(instruction, str):
        raise TypeError(
            f"instruction is a {type(instruction).__name__}; give a text, '' for none, None for the default"
        )
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'raise' or 'skip'")
    if batch_tokens is not None:
        whole_number("batch_tokens", batch_tokens)
