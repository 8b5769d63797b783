"""Prompts without the header of an assistant's turn at their end: U-MARVEL is trained without and used with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..encoding.presets.templates import ASSISTANT

HEADER = ASSISTANT.replace("\\n", "\n")  # as text; there it is Jinja


def header_ids(tokenizer: Any) -> list[int]:
    """Token ids of the header."""
    found: list[int] = tokenizer.encode(HEADER, add_special_tokens=False)
    return found


def generation_prompt(prepared: Any, tokenizer: Any) -> int:
    """How many tokens at a prompt's end are the header; 0 where none are, or where nothing before them is pooled."""
    header = header_ids(tokenizer)
    found = prepared.input_ids[-len(header) :].tolist() == header and prepared.slots[: -len(header)].any()
    return len(header) if found else 0


def without_end(prepared: Any, count: int) -> Any:
    """A prepared item without the header, its last ``count`` tokens."""
    return replace(
        prepared,
        input_ids=prepared.input_ids[:-count],
        token_types=prepared.token_types[:-count],
        slots=prepared.slots[:-count],
        rendered=prepared.rendered.removesuffix(HEADER),
    )
