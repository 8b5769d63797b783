"""Backbone families as records: what differs between them before the model is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """How a family wants its media.

    Attributes:
        processor: native processor class, for loading without our code.
        video_processor: native video processor class.
        video_rule: how frames are sized, see ``PixelBudget.rule``.
        timestamps: whether every temporal step is wrapped on its own and led by ``<1.5 seconds>``.
        seconds_per_grid: whether the model wants the time between temporal steps (``second_per_grid_ts``).
    """

    processor: str
    video_processor: str
    video_rule: Literal["frame", "volume"]
    timestamps: bool
    seconds_per_grid: bool


_QWEN2 = Family(
    "Qwen2VLProcessor", "Qwen2VLVideoProcessor", "frame", timestamps=False, seconds_per_grid=False
)
_QWEN2_5 = Family(
    "Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor", "frame", timestamps=False, seconds_per_grid=True
)
_QWEN3 = Family(
    "Qwen3VLProcessor", "Qwen3VLVideoProcessor", "volume", timestamps=True, seconds_per_grid=False
)

FAMILIES: dict[str, Family] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2_5,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_5": _QWEN3,
    "qwen3_5_moe": _QWEN3,
}


def family_of(model_type: str) -> Family:
    """The record of a backbone's ``model_type``.

    Raises:
        ValueError: a family that is not known; names those that are.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"no processor for model_type {model_type!r}; known are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]
