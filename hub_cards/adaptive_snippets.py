"""How a checkpoint that decides what it thinks about is opened, and how it is told to think more or less."""

from __future__ import annotations

from .direct_snippets import snippets_of_modes
from .facts import Facts
from .snippet import Snippet

_TRANSFORMERS = """\
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo}", trust_remote_code=True)
for kappa in (None, 0, 1):  # as it decides, always after a thought, always at once
    how = {{"processor": processor, "mode": "adaptive", "kappa": kappa}}
    queries = model.encode(["{query}"], role="query", **how)
    documents = model.encode([{{"image": "photo.jpg"}}, "{text}"], role="document", **how)
    print(kappa, normalize(queries) @ normalize(documents).T)  # [1, 2]
"""

_SENTENCE_TRANSFORMERS = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repo}", trust_remote_code=True)
for kappa in (None, 0, 1):  # as it decides, always after a thought, always at once
    queries = model.encode_query(["{query}"], mode="adaptive", kappa=kappa)
    documents = model.encode_document([{{"image": "photo.jpg"}}, "{text}"], mode="adaptive", kappa=kappa)
    print(kappa, model.similarity(queries, documents))  # [1, 2]
"""

_UMEKIT = """\
import umekit

encoder = umekit.load("{repo}")
queries, documents = ["{query}"], [{{"image": "photo.jpg"}}, "{text}"]
for kappa in (None, 0, 1):  # as it decides, always after a thought, always at once
    asked = encoder.encode_query(queries, mode="adaptive", kappa=kappa, return_details=True)
    found = encoder.encode_document(documents, mode="adaptive", kappa=kappa)
    print(kappa, encoder.similarity(asked.embeddings, found))  # [1, 2]
within = encoder.encode(documents, mode="adaptive", budget=20, return_details=True)  # thought tokens an item
print(within.modes, within.invocation_ratio, within.tokens_per_item, within.seconds_per_item)
"""


def adaptive_snippets(facts: Facts, names: dict[str, str]) -> list[Snippet]:
    """Of `repo`, `query` and `text`, which can stand in Python strings."""
    code = {"transformers": _TRANSFORMERS, "sentence-transformers": _SENTENCE_TRANSFORMERS, "umekit": _UMEKIT}
    return snippets_of_modes(facts, names, code)
