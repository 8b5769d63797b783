"""Given thoughts, not written by the model: ``<think>...</think><answer>...``, what stands before <gen_emb>.

Training and encoding read them here, so that a thought has the same tokens in both. What a thought's text holds stays
text: only the tags that make its form become tokens of the tokenizer, where it has them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .tokenizing import IMAGE_TOKEN, VIDEO_TOKEN, VISION_END, VISION_START, PromptTokenizer

GEN_EMB = "<gen_emb>"
_WHOLE = re.compile(
    r"\s*<think>(?P<thought>.*?)</think>\s*"
    r"(?:<answer>(?P<answer>.*?)(?:</answer>)?\s*)?(?:<gen_emb>\s*(?:</answer>)?\s*)?",
    re.DOTALL,
)
_END = re.compile(r"\s*(?:</answer>\s*<gen_emb>|<gen_emb>\s*</answer>|<gen_emb>|</answer>)\s*\Z")
_FORMS = "a text <think>...</think><answer>..., a pair (thought, answer), or the ids of its tokens"


def thought_and_answer(thought: str, answer: str | None = None) -> tuple[str, str]:
    """A thought and its summary, of what a row has: both apart, or one text with the tags, whose answer then counts.

    Raises:
        ValueError: there is no answer, or a text with tags is in another form.
    """
    if not isinstance(thought, str) or not isinstance(answer, str | None):
        raise TypeError(
            f"a thought and its answer are texts, not {type(thought).__name__}, {type(answer).__name__}"
        )
    if "<think>" in thought:
        found = _WHOLE.fullmatch(thought)
        if found is None:
            raise ValueError(f"the thought is not <think>...</think><answer>...: {thought[:80]!r}")
        thought, answer = found["thought"], answer if found["answer"] is None else found["answer"]
    if answer is None:
        raise ValueError(
            f"a thought without its answer, the summary that stands before {GEN_EMB}: {thought[:80]!r}"
        )
    return thought, answer


def pair_ids(tokenizer: PromptTokenizer, thought: str, answer: str) -> list[int]:
    """Ids of a thought and its answer, up to ``<gen_emb>`` and without it."""
    return _ids(tokenizer, ("<think>", thought, "</think><answer>", answer))


def thought_ids(tokenizer: PromptTokenizer, thought: Any, vocabulary: int) -> tuple[int, ...]:
    """Ids of a thought that is given to be embedded, up to ``<gen_emb>`` and without it.

    Args:
        thought: a text with the tags, as a model has written it: it may be cut anywhere behind ``<think>``; a pair of
            texts ``(thought, answer)``; or ids, which are taken as they are.
        vocabulary: ids from here on are no tokens.

    Raises:
        ValueError: a text of another form; no ids, or such as are no token or stand for media.
        TypeError: none of these.
    """
    if isinstance(thought, str):
        return tuple(_ids(tokenizer, _parts(thought)))
    if isinstance(thought, (list, tuple)) and len(thought) == 2 and all(isinstance(t, str) for t in thought):
        return tuple(pair_ids(tokenizer, *thought_and_answer(*thought)))
    ids = np.asarray(thought) if _numbers(thought) else None
    if ids is None or ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or not len(ids)):
        raise TypeError(f"a thought is {_FORMS}; this one is a {type(thought).__name__}")
    media = [tokenizer.added.get(token) for token in (IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END)]
    for token in ids.tolist():
        if not 0 <= token < vocabulary or token in media:
            kind = "stands for media" if token in media else f"is no token: there are {vocabulary}"
            raise ValueError(f"id {token} of a thought {kind}")
    return tuple(ids.tolist())


def thoughts_of_item(
    tokenizer: PromptTokenizer, given: Any, samples: int, most: int | None, vocabulary: int
) -> tuple[tuple[int, ...], ...]:
    """Ids of an item's thoughts; none where None is given, for an item that is to think itself.

    Args:
        given: a thought, see :func:`thought_ids`; a list of them for more than one sample.
        samples: thoughts of an item.
        most: tokens of a thought; None for any number.
        vocabulary: see :func:`thought_ids`.

    Raises:
        ValueError, TypeError: see :func:`thought_ids`; or it is another number of thoughts, or one is too long.
    """
    if given is None:
        return ()
    several = given if samples > 1 else [given]
    if isinstance(several, str) or not isinstance(several, Sequence) or len(several) != samples:
        have = f"{len(several)} of them" if isinstance(several, (list, tuple)) else type(several).__name__
        raise ValueError(
            f"num_samples is {samples}, so an item's thoughts are a list of {samples}, not {have}"
        )
    found = tuple(thought_ids(tokenizer, one, vocabulary) for one in several)
    longest = max(map(len, found))
    if most is not None and longest > most:
        raise ValueError(
            f"its thought has {longest} tokens, and at most {most} are let pass: give a shorter one, or a larger "
            "max_new_tokens"
        )
    return found


def listed_thoughts(thoughts: Any, items: int) -> Sequence[Any]:
    """Thoughts of a call, one for each of its items.

    Raises:
        TypeError: no list.
        ValueError: another number than there are items.
    """
    if isinstance(thoughts, (str, bytes, dict, set)) or not hasattr(thoughts, "__iter__"):
        raise TypeError(
            f"thoughts are a list with one for every item (None for an item that is to think itself), not a "
            f"{type(thoughts).__name__}"
        )
    listed = thoughts if isinstance(thoughts, Sequence) else list(thoughts)
    if len(listed) != items:
        raise ValueError(
            f"{len(listed)} thoughts for {items} items: give one for each, None where there is none"
        )
    return listed


def _parts(text: str) -> tuple[str, ...]:
    """Tags and texts of a thought in turns, the first a tag; white space around tags stays as it is written."""
    end = _END.search(text)
    before, think, rest = (text[: end.start()] if end else text).partition("<think>")
    thought, closed, rest = rest.partition("</think>")
    between, begun, answer = rest.partition("<answer>")
    if not think or before.strip() or between.strip():
        raise ValueError(f"this thought is in another form than {_FORMS}: {text[:80]!r}")
    return before + think, thought, closed + between + begun, answer


def _ids(tokenizer: PromptTokenizer, parts: Sequence[str]) -> list[int]:
    """Ids of tags and texts in turns, the first a tag."""
    guard = tokenizer.guard_for(parts)
    guarded = [tokenizer.guarded(part, guard) if place % 2 else part for place, part in enumerate(parts)]
    return tokenizer.encode(tokenizer.pieces("".join(guarded), guard))


def _numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) or hasattr(value, "__array__")
