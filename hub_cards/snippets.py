"""Code that opens a checkpoint, for its card: only what its settings allow. The tests run every block."""

from __future__ import annotations

from dataclasses import dataclass

from .facts import Facts

_TRANSFORMERS = """\
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo}", trust_remote_code=True)
queries = model.encode(["{query}"], processor=processor, role="query")
documents = model.encode([{{"image": "photo.jpg"}}, "{text}"], processor=processor, role="document")
print({similarity})  # [1, 2]
"""

_SENTENCE_TRANSFORMERS = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repo}"{remote})
queries = model.encode_query(["{query}"])
documents = model.encode_document([{{"image": "photo.jpg"}}, "{text}"])
print(model.similarity(queries, documents))  # [1, 2]
"""

_UMEKIT = """\
import umekit

encoder = umekit.load("{repo}")
queries = encoder.encode_query(["{query}", {{"image": "photo.jpg", "text": "{text}"}}])
documents = encoder.encode_document(
    ["{text}", {{"image": "photo.jpg"}}, {{"images": ["photo.jpg", "photo.jpg"]}}]
)
print(encoder.similarity(queries, documents))  # [2, 3]
"""


@dataclass(frozen=True)
class Snippet:
    """One way to open a checkpoint: `title`, a sentence, and Python code that runs beside a `photo.jpg`."""

    title: str
    about: str
    code: str


def snippets(facts: Facts, repo: str, query: str, text: str) -> list[Snippet]:
    """The ways in which this checkpoint opens.

    Args:
        facts: of the checkpoint.
        repo: Hub id or folder.
        query, text: short example texts; no quotes or line breaks.

    Raises:
        ValueError: a role that has no snippets, or a text or name that can't stand in a Python string.
    """
    if facts.settings.kind != "discriminative":
        raise ValueError(f"there is no card for the role {facts.settings.kind!r} yet")
    for word in (repo, query, text):
        if not word.isprintable() or set(word) & set("\"'\\`"):
            raise ValueError(
                f"{word!r} can't stand in the card's code: no quotes, backslashes or line breaks"
            )
    unit = facts.settings.normalize
    names = {"repo": repo, "query": query, "text": text}
    native, reason = facts.native("sentence-transformers")
    remote = "" if native else ", trust_remote_code=True"
    cosine = "queries @ documents.T" if unit else "normalize(queries) @ normalize(documents).T"
    code = _TRANSFORMERS.format(**names, similarity=cosine)
    return [
        Snippet(
            "transformers",
            "Needs transformers, torch and pillow, not umekit; the repository's code is run.",
            code if unit else f"from torch.nn.functional import normalize\n{code}",
        ),
        Snippet(
            "sentence-transformers",
            "Stock modules give these vectors: no code of the repository is run. Where torchvision is not "
            "installed, the stock processor can't be had; add `trust_remote_code=True` for the repository's. "
            f"Without it {reason}."
            if native
            else f"The repository's code is run, since stock modules can't give these vectors: {reason}.",
            _SENTENCE_TRANSFORMERS.format(**names, remote=remote),
        ),
        Snippet(
            "umekit",
            "Any mix of text, images, video and document pages in an item; no code of the repository is run.",
            _UMEKIT.format(**names),
        ),
    ]
