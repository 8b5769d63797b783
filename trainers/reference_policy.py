"""The policy that a trained one is held close to: the model without its adapter, or a copy of how it began.

A checkpoint notes which one it was, since a resumed run has only the model that it is given to take it from.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..modeling.weights_hash import feed_values, weights_hash
from .model_with_objective import ModelWithObjective
from .objectives.saving import SavedObjective


class ReferencePolicy:
    """What a model gives before it is trained.

    A model with an adapter that changes nothing yet is its own reference, with the adapter switched off, and costs no
    memory. Of an adapter that was trained before, and of what is trained beside it, a copy is kept, which is put in its
    place; of any other model a frozen copy is made. So make this before the first step, and before a resume, of what
    training began with. given: a model to take instead.

    Attributes:
        begun: says which reference it is; None for a model that is given, and where its weights have no hash.
    """

    def __init__(self, model: Any, given: Any = None) -> None:
        self._copy: ModelWithObjective | None = None
        self._adapter: dict[str, Tensor] = {}
        self.begun: str | None = None
        if given is not None or not getattr(model, "_hf_peft_config_loaded", False):
            frozen = copy.deepcopy(model) if given is None else given
            self._copy = ModelWithObjective(frozen.requires_grad_(False).eval(), SavedObjective())
            self.begun = weights_hash(frozen) if given is None else None
        elif _changes_nothing(adapter := _adapter(model)):
            self.begun = "without its adapter"
        else:
            self._adapter = {name: value.detach().clone() for name, value in adapter.items()}
            self.begun = _hash(self._adapter)

    @contextmanager
    def of(self, trained: nn.Module, native: Any) -> Iterator[nn.Module]:
        """The reference while the block runs, to be called as ``trained`` is, without a gradient.

        trained: the model in all its wrappers. native: the embedding model in it.
        """
        if self._copy is not None:
            yield self._copy.to(native.device)
            return
        if self._adapter:
            trained_now = {
                name: value.detach().clone()
                for name, value in native.named_parameters()
                if name in self._adapter
            }
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


class SameReference(TrainerCallback, ExportableState):
    """Refuses to go on from a checkpoint with another reference than that of the training that wrote it.

    So it is where a model is loaded as it was when it was saved, not as it was when its training began.
    """

    def __init__(self, begun: str | None) -> None:
        self.begun = begun

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {"begun": self.begun}, "attributes": {}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises ValueError where the checkpoint's reference and this one are known, and not the same."""
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())["args"]["begun"]
        if None not in (saved, self.begun) and saved != self.begun:
            raise ValueError(
                "this model is not what the training to be resumed began with, and the KL term would be taken to "
                "another reference: make the trainer of the model that it began with (the checkpoint's weights are "
                "loaded by the resume), or give that one, its adapter merged (umekit merge), as reference_model"
            )


def _adapter(model: nn.Module) -> dict[str, nn.Parameter]:
    """What an adapter has, and what is trained beside it, such as biases."""
    return {
        name: value for name, value in model.named_parameters() if ".lora_" in name or value.requires_grad
    }


def _changes_nothing(adapter: Mapping[str, Tensor]) -> bool:
    """Whether it is all LoRA, with the matrices that begin at zero still there."""
    return all(
        ".lora_" in name
        and not (("lora_B" in name or "lora_embedding_A" in name) and bool(value.count_nonzero()))
        for name, value in adapter.items()
    )


def _hash(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        feed_values(digest, name, value, value.reshape(-1))
    return digest.hexdigest()


@torch.no_grad()
def _put(model: nn.Module, adapter: Mapping[str, Tensor]) -> None:
    own = {name: value for name, value in model.named_parameters() if name in adapter}
    if {name: value.shape for name, value in own.items()} != {
        name: value.shape for name, value in adapter.items()
    }:
        raise RuntimeError(
            "the adapter that training began with is no longer in the model as it was (in shards, perhaps): merge it "
            "first (umekit merge), or give a reference_model"
        )
    for name, value in adapter.items():
        own[name].copy_(value)
