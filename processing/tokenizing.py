"""Rendered prompts to token ids and slots, with user text kept as data and placeholders as long as their media.

The template's own special tokens become ids; the stretches between them are tokenised whole, so that merges run
across instruction and text as in the systems' own code. A special token typed by a user cannot become a real one:
user text is guarded before it is rendered (a private-use character breaks every such string), and stretches are
tokenised by a bare copy of the tokenizer that has no added tokens at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from .vision import Patches

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
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


# ---- placeholders ------------------------------------------------------------------------------------------


def expand(
    pieces: Sequence[Piece],
    images: Sequence[Patches],
    videos: Sequence[Patches],
    *,
    patches_per_token: int,
    timestamps: bool,
) -> list[Piece]:
    """Pieces with every placeholder repeated.

    Args:
        pieces: a rendered prompt, one placeholder per medium, each between ``VISION_START`` and ``VISION_END``.
        images, videos: in the order of their placeholders.
        patches_per_token: patches that the tower merges into one token.
        timestamps: whether every temporal step of a video is led by its time and wrapped on its own, in place of
            the template's one pair around the whole video (the form that Qwen3-VL was published with).
    """
    pictures, clips = iter(images), iter(videos)
    expanded: list[Piece] = []
    rest = iter(pieces)
    for piece in rest:
        if piece == Piece(IMAGE_TOKEN, True):
            expanded.append(replace(piece, repeat=len(next(pictures).values) // patches_per_token))
        elif piece == Piece(VIDEO_TOKEN, True) and not timestamps:
            expanded.append(replace(piece, repeat=len(next(clips).values) // patches_per_token))
        elif piece == Piece(VIDEO_TOKEN, True):
            if expanded and expanded[-1] == Piece(VISION_START, True):
                expanded.pop()
                next(rest)  # the pair's end
            expanded.extend(_steps(next(clips), patches_per_token))
        else:
            expanded.append(piece)
    return expanded


def without_marks(content: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Content without the placeholders that a text begins with, at most as many as there are media.

    Data sets of some systems have their media's places written into the texts.
    """
    media = sum(part["type"] != "text" for part in content)
    stripped = []
    for part in content:
        if part["type"] == "text":
            text = part["text"]
            while media and (mark := next((m for m in (IMAGE_TOKEN, VIDEO_TOKEN) if text.startswith(m)), "")):
                text, media = text[len(mark) :], media - 1
            part = {**part, "text": text}
        stripped.append(part)
    return stripped


def _steps(clip: Patches, patches_per_token: int) -> Iterator[Piece]:
    per_step = len(clip.values) // patches_per_token // clip.grid[0]
    for second in clip.seconds:
        yield Piece(f"<{second:.1f} seconds>", False)
        yield Piece(VISION_START, True)
        yield Piece(VIDEO_TOKEN, True, per_step)
        yield Piece(VISION_END, True)


# ---- slots -------------------------------------------------------------------------------------------------


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
