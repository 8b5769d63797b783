"""Encoding in a process that was forked from one in which torch had computed, as ``datasets.map(num_proc=2)`` makes."""

from __future__ import annotations

import os

import torch

_forked = False


def _note() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)


def compute_alone_after_fork() -> None:
    """In a forked process, let torch compute with one thread; call it before anything is computed.

    Of the parent's pool of threads a child has only the memory: its first product of matrices would wait for them for
    ever. One thread asks for no pool, and the processes of a ``map`` share the cores anyway.
    """
    global _forked
    if _forked:
        torch.set_num_threads(1)
        _forked = False
