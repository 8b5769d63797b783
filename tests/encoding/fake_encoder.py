"""An encoder without a model: equal content, equal vector. For tests of what is built on vectors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np


class FakeProcessor:
    def explain(self, item: Any, role: str | None = None, instruction: str | None = None) -> dict[str, Any]:
        return {
            "text": f"<user>{item}</user>",
            "tokens": ["<user>", "x"],
            "input_ids": [1, 2],
            "pooling_slots": [0, 1],
            "media": [
                {"kind": "image", "size": (8, 8), "resized": (56, 56), "grid_thw": (1, 4, 4), "tokens": 4}
            ],
            "length": 2,
        }


class FakeEncoder:
    """Vectors [n, 16] from a hash of the content; a file that starts with ``BROKEN`` can't be encoded."""

    def __init__(self, model: str = "a" * 64, dim: int = 16) -> None:
        self.dim = dim
        self.model = model
        self.seen: list[Any] = []
        self.processor = FakeProcessor()

    def fingerprint(self) -> dict[str, Any]:
        return {"model": self.model, "processor": "b" * 64, "prompts": "c" * 64, "dim": self.dim}

    def encode(self, items: Any, *, on_error: str = "raise", return_details: bool = False, **_: Any) -> Any:
        rows, errors = [], []
        for number, item in enumerate(items):
            self.seen.append(item)
            try:
                rows.append(self._vector(item))
            except ValueError as error:
                if on_error == "raise":
                    raise
                errors.append((number, error))
                rows.append(np.full(self.dim, np.nan, dtype=np.float32))
        vectors = np.array(rows, dtype=np.float32).reshape(len(items), self.dim)
        if not return_details:
            return vectors
        costs = {"invocation_ratio": 0.0, "tokens_per_item": 0.0, "seconds_per_item": 0.001}
        return SimpleNamespace(embeddings=vectors, errors=errors, thoughts=[None] * len(items), **costs)

    def encode_query(self, items: Any, **options: Any) -> Any:
        return self.encode(items, **options)

    def search(self, queries: Any, index: Any, k: int = 10, **options: Any) -> Any:
        return index.search(self.encode(queries), k)

    def _vector(self, item: Any) -> np.ndarray:
        item = {"text": item} if isinstance(item, str) else item
        parts: list[str] = []
        for key in ("image", "video", "document", "page", "text"):
            if key not in item:
                continue
            value = item[key]
            if key in ("image", "video", "document"):
                data = Path(value).read_bytes()
                if data.startswith(b"BROKEN"):
                    raise ValueError("the decoder gave up")
                parts.append(hashlib.sha256(data).hexdigest())
            else:
                parts.append(str(value))
        seed = int(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16], 16)
        vector = np.random.default_rng(seed).normal(size=self.dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)
