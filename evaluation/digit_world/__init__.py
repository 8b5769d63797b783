"""DigitWorld: a small world of coloured handwritten digits in which every claim about embeddings can be
measured.

Notable: rows and pools are pure functions of (split, seed, task, index); the test split shows handwriting
that no training row shows; hard pools and balanced answers make sure that a good number means that
something was read.
"""

from .pools import Pool
from .rows import Item, Row, Task
from .texts import all_texts
from .words import COLOURS, INSTRUCTIONS, POSITIONS, word_kind
from .world import CAPTION_KINDS, TASKS, DigitWorld

__all__ = [
    "CAPTION_KINDS",
    "COLOURS",
    "INSTRUCTIONS",
    "POSITIONS",
    "TASKS",
    "DigitWorld",
    "Item",
    "Pool",
    "Row",
    "Task",
    "all_texts",
    "word_kind",
]
