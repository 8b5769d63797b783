"""The vocabulary of DigitWorld: every word that a caption, a question or a thought may hold.

Notable: all words are lower-case and few, so that a tokenizer of at most 1,024 entries knows each as one
token, and every word has a kind, so that the losses of digits, colours and positions can be logged apart.
"""

from __future__ import annotations

from typing import Literal

WordKind = Literal["digit", "colour", "position", "other"]

COLOURS: tuple[str, ...] = ("red", "orange", "gold", "green", "cyan", "blue", "purple", "pink")
RGB: tuple[tuple[int, int, int], ...] = (
    (225, 30, 35),
    (255, 125, 0),
    (255, 225, 70),
    (40, 165, 50),
    (60, 225, 235),
    (45, 85, 255),
    (150, 50, 205),
    (255, 150, 210),
)
RED = COLOURS.index("red")
GOLD = COLOURS.index("gold")
POSITIONS: tuple[str, ...] = tuple(f"p{cell}" for cell in range(1, 10))
MOTIONS: tuple[str, ...] = ("left", "right", "up", "down", "still", "appear")
PAGE_KINDS: tuple[str, ...] = ("ledger", "table", "receipt")
LABELS: tuple[str, ...] = (
    "tea", "rice", "milk", "rent", "bread", "coal", "salt", "soap",
    "ink", "oil", "corn", "wool", "fish", "beer", "lamp", "rope",
)  # fmt: skip

INSTRUCTIONS: dict[str, str] = {
    "classify_digit": "name the digit in the centre",
    "classify_colour": "name the most frequent colour",
    "classify_count": "count the red digits",
    "classify_parity": "say if the digit in the centre is odd or even",
    "qa_what": "answer the question",
    "qa_where": "answer the question",
    "retrieve_scene": "find the scene",
    "retrieve_caption": "find the caption of the scene",
    "ground_cell": "find the cell",
    "clip_motion": "name the motion",
    "clip_mover": "answer the question about the clip",
    "clip_end": "answer the question about the clip",
    "retrieve_clip": "find the clip",
    "retrieve_clip_caption": "find the caption of the clip",
    "retrieve_moment": "find the moment of the clip",
    "retrieve_page": "find the page",
    "ask_page": "answer the question about the page",
    "paraphrase": "find the same scene in other words",
    "edit_scene": "change the scene",
    "walk": "follow the digits",
    "until_gold": "follow the digits",
    "sum": "add the digits",
    "same_scene": "find the same scene",
    "same_clip": "find the same clip",
    "same_page": "find the same page",
    "caption_cell": "read the cell",
    "caption_scene": "read the scene",
    "caption_clip": "read the clip",
    "caption_page": "read the page",
}


def word_kind(word: str) -> WordKind:
    """The kind of one word. Every number counts as a digit, also `47` and the running sums.

    >>> [word_kind(word) for word in "p3 gold 4 h5".split()]
    ['position', 'colour', 'digit', 'other']
    """
    if word.isdigit():
        return "digit"
    if word in COLOURS:
        return "colour"
    if word in POSITIONS:
        return "position"
    return "other"
