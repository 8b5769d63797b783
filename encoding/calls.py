"""What every call begins with: its arguments are checked, its items listed, and a forked process computes alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from ..modeling.pooling import whole_number
from ..processing.arrays import is_array
from ..processing.items import Item
from ..processing.prompts import ROLES
from ..processing.video import is_decoder

_forked = False


def check_call(*, role: Any, instruction: Any, on_error: Any = "raise", batch_tokens: Any = None) -> None:
    """Raise ValueError or TypeError for arguments of a call that would otherwise be every item's error, or unseen."""
    if role is not None and role not in ROLES:
        raise ValueError(f"role is {role!r}; use None, 'query' or 'document'")
    if instruction is not None and not isinstance(instruction, str):
        raise TypeError(
            f"instruction is a {type(instruction).__name__}; give a text, '' for none, None for the default"
        )
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'raise' or 'skip'")
    if batch_tokens is not None:
        whole_number("batch_tokens", batch_tokens)


def as_items(items: Any) -> Sequence[Any]:
    """A sequence of items: one item alone becomes a sequence of one.

    Raises:
        TypeError: no items; a set, whose order nobody knows; or a table, read as its columns' names.
    """
    if isinstance(items, (str, Mapping, Image.Image, Item)) or is_array(items) or is_decoder(items):
        return [items]
    name = type(items).__name__
    if isinstance(items, (set, frozenset)):
        raise TypeError(f"a {name} has no order, and vectors come in that of the items: give a list")
    if hasattr(items, "columns") and hasattr(items, "to_dict"):
        raise TypeError(f"a {name} is no list of items: give one column, or its rows as dicts")
    if isinstance(items, Iterable) and not isinstance(items, (bytes, bytearray, memoryview)):
        return items if isinstance(items, Sequence) else list(items)
    raise TypeError(f"cannot encode a {name}: give items in a list")


def compute_alone_after_fork() -> None:
    """In a forked process, let torch compute with one thread; call it before anything is computed.

    ``datasets.map(num_proc=2)`` makes such processes. Of the parent's pool of threads a child has only the memory: its
    first product of matrices would wait for them for ever. One thread asks for no pool, and the processes of a ``map``
    share the cores anyway.
    """
    global _forked
    if _forked:
        torch.set_num_threads(1)
        _forked = False


def _note() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)
