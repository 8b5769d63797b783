"""Encoding never drops out, whatever mode the model is in, and leaves it as it was."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

# How many callers hold each module that was in training mode. Two encoders may share a backbone, and threads a model:
# the last one to leave puts a module back.
_HELD: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_LOCK = threading.Lock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for every part of a model that is in training mode; each is put back afterwards.

    The flags are set and no ``train()`` is called, which a part may have its own idea of. Parts in training mode are
    held by all threads that encode; training in one thread while another encodes is not possible.
    """
    with _LOCK:
        held = [part for part in model.modules() if part.training or part in _HELD]
        for part in held:
            _HELD[part] = _HELD.get(part, 0) + 1
            part.training = False
    try:
        yield
    finally:
        with _LOCK:
            for part in held:
                _HELD[part] -= 1
                if _HELD[part] == 0:
                    del _HELD[part]
                    part.training = True


def evaluated(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a model that runs in evaluation mode."""

    @functools.wraps(method)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with evaluating(self):
            return method(self, *args, **kwargs)

    return call
