"""Every kind of text that DigitWorld can show a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from .words import COLOURS, INSTRUCTIONS, LABELS, MOTIONS, PAGE_KINDS, POSITIONS
from .world import CAPTION_KINDS, TASKS, DigitWorld


def all_texts(n: int, seed: int = 0) -> Iterator[str]:
    """`n` texts: instructions and single words first, then captions, questions, labels and thoughts in
    turns."""
    yield from islice(_texts(seed), n)


def _texts(seed: int) -> Iterator[str]:
    yield from INSTRUCTIONS.values()
    for words in (POSITIONS, COLOURS, MOTIONS, PAGE_KINDS, LABELS, [str(number) for number in range(100)]):
        yield from words
    yield " ".join(f"h{hops}" for hops in range(9))
    for task in TASKS.values():
        yield from task.labels
    world = DigitWorld("train", seed)
    index = 0
    while True:
        for kind in CAPTION_KINDS:
            yield world.caption(kind, index)["text"]
        for name in TASKS:
            row = world.row(name, index)
            texts = [side["text"] for side in (row["query"], row["positive"]) if "text" in side]
            yield from (*texts, row["query_thought"], row["answer"])
        index += 1
