"""One way to open a checkpoint, as its card shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Snippet:
    """One way to open a checkpoint: `title`, a sentence, and Python code that runs beside a `photo.jpg`."""

    title: str
    about: str
    code: str


REMOTE = "Needs transformers, torch and pillow, not umekit; the repository's code is run."
NO_REMOTE = "Any mix of text, images, video and document pages in an item; no code of the repository is run."


def stock(what: str, reason: str) -> str:
    """That stock modules of sentence-transformers give what the checkpoint gives, and within what limits."""
    return (
        f"Stock modules give {what}: no code of the repository is run. Where torchvision is not installed, the stock "
        "processor can't be had; add `trust_remote_code=True` for the repository's. "
        f"Without it {reason}."
    )
