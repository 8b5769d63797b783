"""Results on disk: one small file per arm and seed, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umekit.encoding.storage.atomic import write_atomically

# Raise it where what rows, prompts or pools mean is changed: every cached result is then made anew.
VERSION = 2


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def pack(values: NDArray[np.uint8]) -> str:
    """uint8 [n] of 0..15 -> base64, two values a byte."""
    if values.dtype != np.uint8 or (len(values) and values.max() > 15):
        raise ValueError("only whole numbers from 0 to 15 can be packed")
    even = np.append(values, np.zeros(len(values) % 2, dtype=np.uint8))
    return base64.b64encode((even[::2] << 4 | even[1::2]).tobytes()).decode()


def unpack(text: str, count: int) -> NDArray[np.uint8]:
    """The inverse of :func:`pack`."""
    both = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    values = np.stack([both >> 4, both & 15], axis=1).ravel()
    if not count <= len(values) <= count + 1:
        raise ValueError(f"{len(values)} packed values are not {count}")
    return values[:count]


@cache
def weights_hash(folder: Path) -> str:
    """A short hash of a checkpoint's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def digest(value: Any) -> str:
    """A short hash of what JSON would hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
