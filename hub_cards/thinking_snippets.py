"""How a checkpoint that can think first is opened, in both of its modes."""

from __future__ import annotations

from .direct_snippets import snippets_of_modes
from .facts import Facts
from .snippet import Snippet

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
    code = {"transformers": _TRANSFORMERS, "sentence-transformers": _SENTENCE_TRANSFORMERS, "umekit": _UMEKIT}
    return snippets_of_modes(facts, names, code)
