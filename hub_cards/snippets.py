"""Code that opens a checkpoint, for its card: only what its settings allow. The tests run every block."""

from __future__ import annotations

from .adaptive_snippets import adaptive_snippets
from .direct_snippets import direct_snippets
from .facts import Facts
from .reranker_snippets import reranker_snippets
from .snippet import Snippet
from .thinking_snippets import thinking_snippets

KINDS = {
    "discriminative": direct_snippets,
    "generative": thinking_snippets,
    "adaptive": adaptive_snippets,
    "reranker": reranker_snippets,
}


def snippets(facts: Facts, repo: str, query: str, text: str) -> list[Snippet]:
    """The ways in which this checkpoint opens.

    Args:
        facts: of the checkpoint.
        repo: Hub id or folder.
        query, text: short example texts; no quotes or line breaks.

    Raises:
        ValueError: a text or name that can't stand in a Python string.
    """
    for word in (repo, query, text):
        if not word.isprintable() or set(word) & set("\"'\\`"):
            raise ValueError(
                f"{word!r} can't stand in the card's code: no quotes, backslashes or line breaks"
            )
    return KINDS[facts.settings.kind](facts, {"repo": repo, "query": query, "text": text})
