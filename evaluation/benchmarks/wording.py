"""How an instruction and a text reach a model.

The official MMEB code hands a model one string, in which instruction and text are joined with blanks and line breaks
of its own; Qwen3-VL-Embedding, U-MARVEL and whatever umekit trains take the instruction apart from the text. Scores
move with it (Qwen3-VL-Embedding#29: MSR-VTT 31.6 against 53.8 without an instruction), so a report says which was used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STYLES = ("joined", "separate", "none")
PLACEHOLDER = "<|image_1|>"


@dataclass(frozen=True)
class Words:
    """What is said of one query or candidate.

    Attributes:
        text, instruction: apart from each other.
        joined: as the official evaluation joins them, without the media's token, which stands before it.
    """

    text: str = ""
    instruction: str = ""
    joined: str | None = None

    def keys(self, style: str) -> dict[str, str]:
        """``text`` and ``instruction`` of an item. Raises ValueError for another style."""
        if style not in STYLES:
            raise ValueError(f"text is {style!r}; use one of {', '.join(STYLES)}")
        if style == "joined" and self.joined is not None:
            return {"text": self.joined} if self.joined else {}
        found = {"text": self.text} if self.text else {}
        if style != "none" and self.instruction:
            found["instruction"] = self.instruction
        return found


def join(instruction: str, text: str, *, after_media: bool = False) -> str:
    """VLM2Vec's ``process_input_text``: instruction and text with a blank between; one before both after a medium."""
    joined = f"{instruction} {text}" if text else instruction
    return f" {joined}" if after_media else joined


def v1(joined: str) -> str:
    """What VLM2Vec does to stay with the strings of MMEB-V1: no blank before a line break, and one at the end."""
    return joined.replace(" \n", "\n") + "\n"


def prompt_hash(used: Iterable[Mapping[str, Any]]) -> str:
    """sha256 of the instructions that items carry, each once: two runs of one prompt have one hash."""
    digest = hashlib.sha256()
    for line in sorted({str(item.get("instruction") or "") for item in used}):
        digest.update(line.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
