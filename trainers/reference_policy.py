"""The policy that a trained one is held close to: the model without its adapter, or a copy of how it began."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .model_with_objective import ModelWithObjective
from .objectives.saving import SavedObjective


class ReferencePolicy:
    """What a model gives before it is trained.

    A model with an adapter that changes nothing yet is its own reference, with the adapter switched off, and costs no
    memory. Of an adapter that was trained before a copy is kept, which is put in its place; of any other model a frozen
    copy is made. So make this before the first step, and before a resume, of what training began with. given: a model
    to take instead.
    """

    def __init__(self, model: Any, given: Any = None) -> None:
        self._copy: ModelWithObjective | None = None
        self._adapter: dict[str, Tensor] = {}
        if given is not None or not getattr(model, "_hf_peft_config_loaded", False):
            frozen = copy.deepcopy(model) if given is None else given
            self._copy = ModelWithObjective(frozen.requires_grad_(False).eval(), SavedObjective())
        elif any(bool(value.count_nonzero()) for name, value in _adapter(model).items() if "lora_B" in name):
            self._adapter = {name: value.detach().clone() for name, value in _adapter(model).items()}

    @contextmanager
    def of(self, trained: nn.Module, native: Any) -> Iterator[nn.Module]:
        """The reference while the block runs, to be called as ``trained`` is, without a gradient.

        trained: the model in all its wrappers. native: the embedding model in it.
        """
        if self._copy is not None:
            yield self._copy.to(native.device)
            return
        if self._adapter:
            trained_now = {name: value.detach().clone() for name, value in _adapter(native).items()}
            _put(native, self._adapter)
            try:
                yield trained
            finally:
                _put(native, trained_now)
            return
        native.disable_adapters()
        try:
            yield trained
        finally:
            native.enable_adapters()


def _adapter(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if ".lora_" in name}


@torch.no_grad()
def _put(model: nn.Module, adapter: Mapping[str, Tensor]) -> None:
    own = _adapter(model)
    if {name: value.shape for name, value in own.items()} != {
        name: value.shape for name, value in adapter.items()
    }:
        raise RuntimeError(
            "the adapter that training began with is no longer in the model as it was (in shards, perhaps): merge it "
            "first (umekit merge), or give a reference_model"
        )
    for name, value in adapter.items():
        own[name].copy_(value)
