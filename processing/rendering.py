"""Rendered prompts to token ids, with user text kept as data.

The template's own special tokens become ids; the stretches between them are tokenised whole, so that merges run
across instruction and text as in the systems' own code. A special token typed by a user cannot become a real one:
user text is guarded before it is rendered (a private-use character breaks every such string), and stretches are
tokenised by a bare copy of the tokenizer that has no added tokens at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_GUARDS = [chr(code) for code in range(0xE000, 0xF8FF)]


@dataclass(frozen=True)
class Piece:
    """A run of a rendered prompt: one special token (``token`` True), or ordinary text; ``repeat`` copies of it."""

    text: str
    token: bool
    repeat: int = 1


class PromptTokenizer:
    """Tokenises rendered prompts; built once per processor."""

    def __init__(self, tokenizer: Any) -> None:
        self.added: dict[str, int] = dict(tokenizer.get_added_vocab())
        for token in tokenizer.all_special_tokens:
            self.added.setdefault(token, tokenizer.convert_tokens_to_ids(token))
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["added_tokens"] = []
        state["post_processor"] = None
        state["truncation"] = None
        state["padding"] = None
        self._bare = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
        longest_first = sorted(self.added, key=len, reverse=True)
        self._special = (
            re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
        )
        starts = sorted({token[0] for token in self.added})
        self._start = re.compile("([" + "".join(map(re.escape, starts)) + "])") if starts else None

    def id_of(self, token: str) -> int:
        """Id of a special token.

        Raises:
            KeyError: the tokenizer has no such added token.
        """
        return self.added[token]

    def guard_for(self, texts: Iterable[str]) -> str:
        """A private-use character that none of the texts contains."""
        joined = "".join(texts)
        return next(char for char in _GUARDS if char not in joined)

    def guarded(self, text: str, guard: str) -> str:
        """The text with every possible beginning of a special token broken by ``guard``."""
        return self._start.sub(r"\1" + guard, text) if self._start is not None else text

    def pieces(self, rendered: str, guard: str = "") -> list[Piece]:
        """Split a rendered prompt at the template's special tokens and take the guards out again."""
        if self._special is None:
            return [Piece(rendered, False)]
        found = []
        for number, run in enumerate(self._special.split(rendered)):
            if number % 2:
                found.append(Piece(run, True))
            elif run:
                found.append(Piece(run.replace(guard, "") if guard else run, False))
        return found

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of pieces; neighbouring text is joined first, so that it is tokenised whole."""
        ids: list[int] = []
        pending = ""
        for piece in pieces:
            if not piece.token:
                pending += piece.text * piece.repeat
                continue
            if pending:
                ids.extend(self._bare.encode(pending, add_special_tokens=False).ids)
                pending = ""
            ids.extend([self.added[piece.text]] * piece.repeat)
        if pending:
            ids.extend(self._bare.encode(pending, add_special_tokens=False).ids)
        return ids

    def cut(self, text: str, tokens: int) -> str:
        """The longest beginning of a text that has at most ``tokens`` tokens by itself."""
        if tokens <= 0:
            return ""
        text = text[: 64 * tokens]  # bounds the work on megabytes; a token is rarely longer than a word
        offsets = self._bare.encode(text, add_special_tokens=False).offsets
        if len(offsets) <= tokens:
            return text
        # A character can be several tokens: one that is only begun is left out, or cutting would never come to an end.
        return text[: min(offsets[tokens - 1][1], offsets[tokens][0])]

    def count(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self._bare.encode(text, add_special_tokens=False).ids)

    def shorten(self, content: list[dict[str, Any]], excess: int) -> int:
        """Take up to ``excess`` tokens off the last of the texts that has any, in place; the number taken."""
        for part in reversed(content):
            if part["type"] == "text" and part["text"]:
                have = self.count(part["text"])
                part["text"] = self.cut(part["text"], have - excess)
                return min(have, excess)
        return 0
