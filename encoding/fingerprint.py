"""Who made a vector: a hash of the weights and settings, and one of the processor."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from torch import Tensor

from ..modeling.settings import ADAPTIVE_ONLY
from ..modeling.weights_hash import feed_values, feed_weights

T = TypeVar("T")

VERSION = "2:"  # how a model's hash of this kind begins; those of version 1 are bare
FORMER_SAMPLES = 512
COMPARED = (
    "model",
    "processor",
    "prompts",
    "dim",
    "reasoner",
)  # the parts of a fingerprint that change vectors


class IndexMismatchError(ValueError):
    """The index was made by another model, processor, set of prompts or encoding setting."""


def model_hash(model: Any) -> str:
    """sha256 of the settings and of values of every weight, spread evenly from its first to its last."""
    digest = _settings(model)
    feed_weights(digest, model.backbone)
    return VERSION + digest.hexdigest()


def former_model_hash(model: Any) -> str:
    """The hash of version 1, by which indexes of earlier versions name their model; it may miss half of a weight."""
    digest = _settings(model)
    for name, weight in sorted(model.backbone.state_dict().items()):
        flat = weight.detach().reshape(-1)
        step = max(1, flat.numel() // FORMER_SAMPLES)
        feed_values(digest, name, weight, flat[::step][:FORMER_SAMPLES])
    return digest.hexdigest()


class HashOfWeights(Generic[T]):
    """What is made of a module's weights, made anew when one was written to since."""

    def __init__(self, module: Any, make: Callable[[], T]) -> None:
        self.module, self.make = module, make
        self._state: Any = None

    def __call__(self) -> T:
        weights = self.module.state_dict()
        state = [(name, weight.data_ptr(), _writes(weight)) for name, weight in weights.items()]
        if state != self._state:
            self._made = self.make()
            self._state = state
        return self._made


def model_hashes(model: Any) -> HashOfWeights[tuple[str, str]]:
    """Gives the hash of a model, and that of version 1."""
    return HashOfWeights(model.backbone, lambda: (model_hash(model), former_model_hash(model)))


def _writes(weight: Tensor) -> int:
    """How often a tensor was written to; weights that were made in inference mode are not counted, nor trained."""
    return -1 if weight.is_inference() else weight._version


def _settings(model: Any) -> Any:
    """Of the settings but for those that choose between vectors of one space."""
    settings = {name: value for name, value in model.settings.to_dict().items() if name not in ADAPTIVE_ONLY}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode())


def processor_hash(processor: Any) -> str:
    """sha256 of settings, template, tokenizer and pixel normalisation."""
    digest = hashlib.sha256(json.dumps(processor.settings.to_dict(), sort_keys=True).encode())
    digest.update(processor.chat_template.encode())
    digest.update(processor.tokenizer.backend_tokenizer.to_str().encode())
    digest.update(repr((processor.layout, processor.scale)).encode())
    return digest.hexdigest()


def check_fingerprint(where: str, has: Mapping[str, Any], wants: Mapping[str, Any]) -> None:
    """Compare the fingerprint of an index with that of an encoder.

    Raises:
        IndexMismatchError: naming what differs, on both sides.
    """
    different = [
        name
        for name in differences(has, wants)
        if name not in ("prompts", "dim") or (name in has and name in wants)
    ]
    if not different:
        if is_former(has, wants):
            warnings.warn(
                f"{where} was made by an earlier umekit, which looked at some weights of its model in part only: index "
                "anew (--rebuild) where that model may have been trained further",
                stacklevel=3,
            )
        return
    if different == ["reasoner"]:
        raise IndexMismatchError(_other_reasoner(where, has.get("reasoner"), wants.get("reasoner")))
    sides = [", ".join(f"{name} {_short(side.get(name))}" for name in different) for side in (has, wants)]
    raise IndexMismatchError(
        f"{where} was made with {sides[0]}, but the encoder has {sides[1]}; "
        "vectors of different encoders can't be compared: load that encoder, or index anew (--rebuild)"
    )


def _other_reasoner(where: str, has: Any, wants: Any) -> str:
    if has is None:
        told = "was made without a reasoner, and the encoder has one: leave the reasoner out"
    elif wants is None:
        told = (
            f"was made with the reasoner {_short(has)}, and the encoder has none: give that one (--reasoner)"
        )
    else:
        told = (
            f"was made with the reasoner {_short(has)}, and this one is {_short(wants)}: give that one (--reasoner), "
            "with its side, prompt and tokens (--reasoner-...)"
        )
    return f"{where} {told}, or index anew (--rebuild)"


def differences(has: Mapping[str, Any], wants: Mapping[str, Any]) -> list[str]:
    """Parts of two fingerprints that differ; ``has`` may be one of an earlier version."""
    former = is_former(has, wants)
    asked = {name: wants[name] for name in COMPARED if name in wants} | (
        {"model": wants["model_1"]} if former else {}
    )
    return [name for name in COMPARED if (name in has or name in asked) and has.get(name) != asked.get(name)]


def is_former(has: Mapping[str, Any], wants: Mapping[str, Any]) -> bool:
    """Whether ``has`` names its model as earlier versions did, and ``wants`` as this one does."""
    return "model_1" in wants and "model_1" not in has


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 16 else text[:12] + "…"
