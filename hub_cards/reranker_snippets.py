"""How a checkpoint that scores pairs is opened."""

from __future__ import annotations

from .facts import Facts
from .snippet import NO_REMOTE, REMOTE, Snippet, stock

_TRANSFORMERS = """\
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo}", trust_remote_code=True)
print(model.rerank("{query}", [{{"image": "photo.jpg"}}, "{text}"], processor=processor))  # [2], in 0..1
"""

_SENTENCE_TRANSFORMERS = """\
from sentence_transformers import CrossEncoder

model = CrossEncoder("{repo}")
print(model.predict([("{query}", {{"image": "photo.jpg"}}), ("{query}", "{text}")]))  # [2], in 0..1
"""

_MERGED = """\
import umekit
from sentence_transformers import CrossEncoder

umekit.export("{repo}", "merged")
model = CrossEncoder("merged", trust_remote_code=True)
print(model.predict([("{query}", {{"image": "photo.jpg"}}), ("{query}", "{text}")]))  # [2], in 0..1
"""

_UMEKIT = """\
import umekit

reranker = umekit.load("{repo}")
print(reranker.rerank("{query}", [{{"image": "photo.jpg"}}, "{text}"]))  # [2], in 0..1
"""


def reranker_snippets(facts: Facts, names: dict[str, str]) -> list[Snippet]:
    """Of `repo`, `query` and `text`, which can stand in Python strings; a CrossEncoder where stock modules give it."""
    native, reason = facts.native("sentence-transformers")
    needs = REMOTE if facts.base is None else REMOTE.replace("pillow", "pillow and peft")
    found = [Snippet("transformers", needs, _TRANSFORMERS.format(**names))]
    if native:
        code = _SENTENCE_TRANSFORMERS.format(**names)
        found.append(Snippet("sentence-transformers", stock("these scores", reason), code))
    elif facts.base is not None:
        about = "A `CrossEncoder` takes no adapter: `umekit export` merges it into its base."
        found.append(Snippet("sentence-transformers", about, _MERGED.format(**names)))
    return [*found, Snippet("umekit", NO_REMOTE, _UMEKIT.format(**names))]
