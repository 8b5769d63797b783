# ruff: noqa: E402
"""Run in a process that cannot import umekit: load a checkpoint by its own code, use it, save it, load it again."""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class _Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname == "umekit" or fullname.startswith("umekit."):
            raise ImportError("umekit must not be needed here")


if __name__ == "__main__":
    sys.meta_path.insert(0, _Blocked())

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

torch.set_num_threads(1)


def items() -> list[Any]:
    rng = np.random.default_rng(7)
    pictures = [Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)) for _ in range(2)]
    return [
        "a text",
        pictures[0],
        {"text": "see", "image": pictures[1], "instruction": "find it"},
        {"video": pictures * 2},
    ]


def plain_items() -> list[Any]:
    return [one for one in items() if not isinstance(one, dict) or "instruction" not in one]


def used(model: Any, processor: Any) -> Any:
    """What a model gives: vectors of the items, in every mode that it has, or scores."""
    if model.kind == "reranker":
        return model.rerank("a query", plain_items(), processor=processor).numpy()
    found = [model.encode(items(), processor=processor, mode=mode) for mode in model.modes if mode != "both"]
    return torch.cat(found).numpy()


def used_by_library(folder: str, model: Any) -> tuple[Any, Any]:
    """A folder opened by sentence-transformers, and what it gives."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    if model.kind == "reranker":
        scorer = CrossEncoder(folder, trust_remote_code=True, device="cpu")
        return scorer, scorer.predict([("a query", "a text"), ("a query", "another text")])
    st = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    return st, st.encode(plain_items())


def main(source: str, target: str) -> None:
    model = AutoModel.from_pretrained(source, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(source, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    arrays = {"model": used(model, processor)}
    for name, pair in (("model-first", (model, processor)), ("processor-first", (processor, model))):
        for one in pair:
            one.save_pretrained(f"{target}/{name}")
    library, arrays["library"] = used_by_library(source, model)
    library.save_pretrained(f"{target}/from-library")
    for name in ("model-first", "processor-first", "from-library"):
        again = AutoModel.from_pretrained(f"{target}/{name}", trust_remote_code=True)
        reader = AutoProcessor.from_pretrained(f"{target}/{name}", trust_remote_code=True)
        arrays[name] = used(again, reader)
    _, arrays["library again"] = used_by_library(f"{target}/model-first", model)
    np.savez(Path(target) / "vectors.npz", **arrays)
    assert "umekit" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
