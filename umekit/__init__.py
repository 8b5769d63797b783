"""umekit: universal multimodal embeddings.

One vector space for text, images, video and visual documents; the public names are here and load
lazily, so that ``import umekit`` costs milliseconds. The rooms (``umekit.modeling``, ``umekit.processing``,
``umekit.encoding``, ``umekit.evaluation``, ``umekit.trainers``, ``umekit.hub_cards``) are top-level folders
of the repository; in an installed package they lie under ``umekit``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._version import __version__

_root = Path(__file__).resolve().parent.parent
if (_root / "setup.cfg").is_file() and (_root / "modeling").is_dir():
    __path__.append(str(_root))  # a source checkout: the rooms lie beside this folder

if TYPE_CHECKING:
    from .encoding.cascade import Cascade
    from .encoding.cascade_folder import Fusion
    from .encoding.encoder import Encoder
    from .encoding.export import export
    from .encoding.golden.verify import Verification, verify
    from .encoding.index.exact import Index
    from .encoding.loading import load
    from .encoding.reasoner import Reasoner
    from .encoding.reranker import Reranked, Reranker
    from .modeling.budget import Budget
    from .modeling.discriminative import UmeForDiscriminativeEmbedding
    from .modeling.encode_loop import Encoded
    from .processing.processor import UmeProcessor

_PUBLIC = {
    "Budget": ".modeling.budget",
    "Cascade": ".encoding.cascade",
    "Encoded": ".modeling.encode_loop",
    "Encoder": ".encoding.encoder",
    "Fusion": ".encoding.cascade_folder",
    "Index": ".encoding.index.exact",
    "Reasoner": ".encoding.reasoner",
    "Reranked": ".encoding.reranker",
    "Reranker": ".encoding.reranker",
    "UmeForDiscriminativeEmbedding": ".modeling.discriminative",
    "UmeProcessor": ".processing.processor",
    "export": ".encoding.export",
    "load": ".encoding.loading",
    "verify": ".encoding.golden.verify",
    "Verification": ".encoding.golden.verify",
}

__all__ = [
    "Budget",
    "Cascade",
    "Encoded",
    "Encoder",
    "Fusion",
    "Index",
    "Reasoner",
    "Reranked",
    "Reranker",
    "UmeForDiscriminativeEmbedding",
    "UmeProcessor",
    "Verification",
    "__version__",
    "export",
    "load",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'umekit' has no attribute {name!r}")
    importlib.import_module(".modeling.versions", __name__).need_transformers()
    return getattr(importlib.import_module(_PUBLIC[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
