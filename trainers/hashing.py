"""Stable 64-bit hashes of texts and of prepared items, by content: the same in every process and on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


def text_hash(text: str) -> int:
    """A stable signed 64-bit hash of a string."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def content_hash(value: Any) -> int:
    """A stable signed 64-bit hash of a dataclass, mapping, sequence, array or scalar, by content."""
    digest = hashlib.blake2b(digest_size=8)

    def add(part: Any) -> None:
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            for entry in dataclasses.fields(part):
                digest.update(entry.name.encode())
                add(getattr(part, entry.name))
        elif isinstance(part, Mapping):
            for key in sorted(part, key=str):
                digest.update(str(key).encode())
                add(part[key])
        elif isinstance(part, (np.ndarray, Tensor)):
            array = np.ascontiguousarray(np.asarray(part))
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
        elif isinstance(part, (list, tuple)):
            digest.update(f"[{len(part)}".encode())
            for entry in part:
                add(entry)
        else:
            digest.update(repr(part).encode())

    add(value)
    return int.from_bytes(digest.digest(), "little", signed=True)
