"""How a checkpoint that embeds at once is opened; those of other kinds are opened so for their direct vectors."""

from __future__ import annotations

from collections.abc import Mapping

from .facts import Facts
from .snippet import NO_REMOTE, REMOTE, Snippet, stock

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


def direct_snippets(facts: Facts, names: dict[str, str]) -> list[Snippet]:
    """Of `repo`, `query` and `text`, which can stand in Python strings."""
    unit = facts.settings.normalize
    native, reason = facts.native("sentence-transformers")
    cosine = "queries @ documents.T" if unit else "normalize(queries) @ normalize(documents).T"
    code = _TRANSFORMERS.format(**names, similarity=cosine)
    return [
        Snippet(
            "transformers", REMOTE, code if unit else f"from torch.nn.functional import normalize\n{code}"
        ),
        Snippet(
            "sentence-transformers",
            stock("these vectors", reason)
            if native
            else f"The repository's code is run, since stock modules can't give these vectors: {reason}.",
            _SENTENCE_TRANSFORMERS.format(**names, remote="" if native else ", trust_remote_code=True"),
        ),
        Snippet("umekit", NO_REMOTE, _UMEKIT.format(**names)),
    ]


def snippets_of_modes(facts: Facts, names: dict[str, str], code: Mapping[str, str]) -> list[Snippet]:
    """Of a kind with several modes, with its own ``code`` by library."""
    reason = facts.native("sentence-transformers")[1]
    default = f"Without `mode` it is the {facts.settings.mode} one."
    return [
        Snippet("transformers", f"{REMOTE} {default}", code["transformers"].format(**names)),
        Snippet(
            "sentence-transformers",
            f"The repository's code is run, since stock modules can't give these vectors: {reason}. {default}",
            code["sentence-transformers"].format(**names),
        ),
        Snippet("umekit", f"{NO_REMOTE} {default}", code["umekit"].format(**names)),
    ]
