"""How a checkpoint that can think first is opened, in both of its modes."""

from __future__ import annotations

from .direct_snippets import direct_sentence_transformers
from .facts import Facts
from .snippet import NO_REMOTE, REMOTE, Snippet, stock

_TRANSFORMERS = """\
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo}", trust_remote_code=True)
for mode in ("discriminative", "generative"):  # at once, or after a thought
    queries = model.encode(["{query}"], processor=processor, role="query", mode=mode)
    documents = model.encode(
        [{{"image": "photo.jpg"}}, "{text}"], processor=processor, role="document", mode=mode
    )
    print(mode, normalize(queries) @ normalize(documents).T)  # [1, 2]
"""

_SENTENCE_TRANSFORMERS = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repo}", trust_remote_code=True)
for mode in ("discriminative", "generative"):  # at once, or after a thought
    queries = model.encode_query(["{query}"], mode=mode)
    documents = model.encode_document([{{"image": "photo.jpg"}}, "{text}"], mode=mode)
    print(mode, model.similarity(queries, documents))  # [1, 2]
"""

_UMEKIT = """\
import umekit

encoder = umekit.load("{repo}")
queries, documents = ["{query}"], [{{"image": "photo.jpg"}}, "{text}"]
for mode in ("discriminative", "generative"):  # at once, or after a thought
    asked = encoder.encode_query(queries, mode=mode, return_details=True)
    found = encoder.encode_document(documents, mode=mode)
    print(mode, encoder.similarity(asked.embeddings, found))  # [1, 2]
print(asked.thoughts)  # what was written before the vectors, and of how many tokens:
print(asked.thought_tokens)
"""


def thinking_snippets(facts: Facts, names: dict[str, str]) -> list[Snippet]:
    """Of `repo`, `query` and `text`, which can stand in Python strings."""
    native, reason = facts.native("sentence-transformers")
    default = f"Without `mode` it is the {facts.settings.mode} one."
    return [
        Snippet("transformers", f"{REMOTE} {default}", _TRANSFORMERS.format(**names)),
        Snippet(
            "sentence-transformers",
            f"{stock('the direct vectors', reason)} Vectors after a thought are not to be had here."
            if native
            else f"The repository's code is run, since stock modules can't give these vectors: {reason}. {default}",
            direct_sentence_transformers(names, native) if native else _SENTENCE_TRANSFORMERS.format(**names),
        ),
        Snippet("umekit", f"{NO_REMOTE} {default}", _UMEKIT.format(**names)),
    ]
