"""A rationale in a reranker's prompt: text behind a candidate's content, so that pairs begin alike up to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..processing.items import Item, TextPart, parse_item

RATIONALE = "\nRationale: {thought} {answer}"
_FIELD = re.compile(r"\{(thought|answer)\}")


def check_template(template: str) -> str:
    """The template. Raises ValueError for one without ``{thought}``, which would show no rationale."""
    if "{thought}" not in template:
        raise ValueError(f"template is {template!r}: it has no {{thought}}, so that none would be read")
    return template


def with_rationale(item: Any, thought: str, answer: str, template: str = RATIONALE) -> Item:
    """An item, parsed, with a rationale after all that it holds.

    Args:
        item: as for :meth:`Encoder.encode`.
        thought, answer: texts; braces in them stay as they are.
        template: has ``{thought}``, and perhaps ``{answer}``.
    """
    parsed = parse_item(item)
    texts: Mapping[str, str] = {"thought": thought, "answer": answer}
    text = _FIELD.sub(lambda found: texts[found[1]], template)
    return replace(parsed, parts=(*parsed.parts, TextPart(text.rstrip())))
