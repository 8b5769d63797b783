"""The policy that a trained one is held close to: the model without its adapter, or a copy of how it began."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .model_with_objective import ModelWithObjective
from .objectives.saving import SavedObjective


class ReferencePolicy:
    """What a model gives before it is trained.

    A model with an adapter is its own reference, with the adapter switched off, and costs no memory; of any other one a
    frozen copy is made, so make this before the first step. given: a model to take instead.
    """

    def __init__(self, model: Any, given: Any = None) -> None:
        self._copy: ModelWithObjective | None = None
        if given is not None or not getattr(model, "_hf_peft_config_loaded", False):
            frozen = copy.deepcopy(model) if given is None else given
            self._copy = ModelWithObjective(frozen.requires_grad_(False).eval(), SavedObjective())

    @contextmanager
    def of(self, trained: nn.Module, native: Any) -> Iterator[nn.Module]:
        """The reference while the block runs, to be called as ``trained`` is, without a gradient.

        trained: the model in all its wrappers. native: the embedding model in it.
        """
        if self._copy is not None:
            yield self._copy.to(native.device)
            return
        native.disable_adapters()
        try:
            yield trained
        finally:
            native.enable_adapters()
