# ruff: noqa: E402
"""Run in a process that cannot import umekit: load a checkpoint by its own code, embed, save again."""

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


def main(source: str, target: str) -> None:
    model = AutoModel.from_pretrained(source, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(source, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    arrays = {"model": model.encode(items(), processor=processor).numpy()}
    model.save_pretrained(f"{target}/from-model")
    processor.save_pretrained(f"{target}/from-model")
    from sentence_transformers import SentenceTransformer

    plain = [one for one in items() if not isinstance(one, dict) or "instruction" not in one]
    st = SentenceTransformer(source, trust_remote_code=True, device="cpu")
    arrays["st"] = st.encode(plain)
    st.save_pretrained(f"{target}/from-st")
    for name in ("from-model", "from-st"):
        again = AutoModel.from_pretrained(f"{target}/{name}", trust_remote_code=True)
        reader = AutoProcessor.from_pretrained(f"{target}/{name}", trust_remote_code=True)
        arrays[name] = again.encode(items(), processor=reader).numpy()
    np.savez(Path(target) / "vectors.npz", **arrays)
    assert "umekit" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
