"""Run a stock vision-language backbone and give back its states after the final norm.

One function per thing that our settings change: positions, attention, DeepStack. Nothing here copies a modeling
file; the native classes of transformers do the work, reached through public accessors only.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from .config_checks import check_before_building
from .packing import packed_states, packs
from .settings import UmeSettings

# What bitsandbytes should leave alone (``llm_int8_skip_modules``): the vision tower, whose sizes are no multiples of
# its blocks, and the output matrix. Names as in memory; "visual", as on disk, would match nothing.
UNQUANTISED_MODULES = ("model.visual", "lm_head")


# transformers lays a call's is_causal into the shared config for as long as the forward takes: where batches differ in
# it, one thread's would be seen by another's.
_CONFIGURED = threading.Lock()


class LoadAuditError(RuntimeError):
    """A checkpoint does not fill the model: keys are missing or have another shape."""


def load_backbone(name_or_path: str, **kwargs: Any) -> nn.Module:
    """``AutoModelForImageTextToText.from_pretrained`` that refuses a checkpoint which leaves a weight random.

    Raises:
        LoadAuditError: a key is missing or mismatched (transformers only warns and draws random weights).
        CheckpointFilesError: the weights are no safetensors of the folder, or the config is not theirs.
    """
    kwargs.pop("output_loading_info", None)
    model, info = load_stock(name_or_path, **kwargs)
    audit_loading(info, name_or_path)
    return model


def load_stock(source: str, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """``AutoModelForImageTextToText.from_pretrained`` by a stock class, from safetensors that were looked at before.

    Returns:
        The backbone and transformers' loading info.

    Raises:
        CheckpointFilesError: the weights are no safetensors of the folder, or the config is not theirs.
        LoadAuditError: weights have another shape than the config asks for.
    """
    check_before_building(source, kwargs.get("config"), kwargs)
    # The backbone is always a stock class, whatever the door that was opened trusts; a .bin is a pickle.
    safe = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    auto: Any = AutoModelForImageTextToText
    try:
        model, info = auto.from_pretrained(source, *args, **{**kwargs, **safe})
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise LoadAuditError(
            f"{source}: weights have another shape than config.json asks for: they are of another model, or one of "
            "its sizes is wrong (transformers has listed them)"
        ) from error
    return model, info


def audit_loading(info: dict[str, Any], source: str) -> None:
    """Raise ``LoadAuditError`` unless every weight came from the checkpoint."""
    missing = sorted(info.get("missing_keys") or ())
    mismatched = sorted(str(key) for key in (info.get("mismatched_keys") or ()))
    if missing or mismatched:
        some = ", ".join((missing + mismatched)[:5])
        raise LoadAuditError(
            f"{source}: {len(missing)} weights are missing and {len(mismatched)} have another shape ({some}, ...); "
            "they would be random. The checkpoint is incomplete or belongs to another architecture."
        )


def flag_attention(config: Any, settings: UmeSettings) -> None:
    """Say in a backbone's config what the settings say of its attention.

    Stock classes go by it. Ours say it with every call, but transformers lays a call's flag into the config for as
    long as the forward takes and then takes it out again, which the forward of another thread would see.
    """
    text = config.get_text_config()
    if settings.attention == "bidirectional":
        text.is_causal = False
    elif getattr(text, "is_causal", True) is False:
        text.is_causal = True


def base_of(backbone: Any) -> Any:
    """The backbone without its output matrix: calling it never computes logits."""
    return backbone.base_model


def sequence_positions(attention_mask: Tensor) -> Tensor:
    """Positions 0..n-1 of the real tokens of each row, 0 under padding; int64 ``[B, L]``."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def positions_of(base: Any, inputs: dict[str, Tensor], kind: str) -> Tensor:
    """Explicit positions ``[3, B, L]``, so that neither padding nor module state (``rope_deltas``) can move them."""
    mask = inputs["attention_mask"]
    grids = {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw")}
    if kind == "1d" or all(grid is None for grid in grids.values()):
        return sequence_positions(mask).unsqueeze(0).expand(3, -1, -1)
    given = {
        "input_ids": inputs["input_ids"],
        "mm_token_type_ids": inputs["mm_token_type_ids"],
        "attention_mask": mask,
        **grids,
    }
    if inputs.get("second_per_grid_ts") is not None:
        given["second_per_grid_ts"] = inputs["second_per_grid_ts"]
    known = inspect.signature(base.get_rope_index).parameters
    positions, _ = base.get_rope_index(**{name: value for name, value in given.items() if name in known})
    return positions


def vision_features(base: Any, inputs: dict[str, Tensor], *, deepstack: bool) -> dict[str, Any]:
    """Run the vision tower on the batch's images and videos, unless their features are given.

    Returns:
        ``mm_encoder_outputs`` as the native forward takes it; with ``deepstack=False`` their DeepStack features
        are dropped.
    """
    features: dict[str, Any] = dict(inputs.get("mm_encoder_outputs") or {})
    if inputs.get("pixel_values") is not None:
        features["image"] = base.get_image_features(
            inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
        )
    if inputs.get("pixel_values_videos") is not None:
        features["video"] = base.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
        )
    if not deepstack:
        for output in features.values():
            if getattr(output, "deepstack_features", None) is not None:
                output.deepstack_features = []
    return features


def sees_all(attention: str, attention_mask: Tensor) -> bool:
    """Whether a batch's tokens see the ones after them."""
    padded = attention == "bidirectional_if_padded" and not bool(attention_mask.all())
    return attention == "bidirectional" or padded


def states_of(backbone: Any, inputs: dict[str, Tensor], settings: UmeSettings) -> Tensor:
    """States after the final norm, ``[B, L, d]`` in the backbone's dtype.

    Args:
        backbone: a native ``...ForConditionalGeneration``.
        inputs: ``input_ids``, ``attention_mask``, ``mm_token_type_ids`` ``[B, L]`` and, where there are media,
            ``pixel_values``/``image_grid_thw`` and ``pixel_values_videos``/``video_grid_thw``, or
            ``mm_encoder_outputs`` in place of pixels.
        settings: attention, positions and DeepStack of the checkpoint.
    """
    base = base_of(backbone)
    attention_mask = inputs.get("attention_mask")
    if attention_mask is None:
        attention_mask = torch.ones_like(inputs["input_ids"])
    inputs = {**inputs, "attention_mask": attention_mask}
    # Always told per call: a flag left in the config would also change generate().
    attention = {"is_causal": False} if sees_all(settings.attention, attention_mask) else {}
    positions = positions_of(base, inputs, settings.positions)
    features = vision_features(base, inputs, deepstack=settings.deepstack)
    alone = _CONFIGURED if settings.attention == "bidirectional_if_padded" else contextlib.nullcontext()
    with alone:
        if packs(base.config, attention_mask.device):
            return packed_states(base, inputs["input_ids"], attention_mask, positions, features, **attention)
        output = base(
            input_ids=inputs["input_ids"],
            attention_mask=attention_mask,
            position_ids=positions,
            mm_encoder_outputs=features,
            use_cache=False,
            return_dict=True,
            **attention,
        )
    return back_home(output.last_hidden_state, attention_mask)


def back_home(states: Tensor, inputs: Tensor) -> Tensor:
    """States where their inputs are: a model that is spread over devices leaves them on its last one."""
    return states.to(inputs.device)


@functools.cache
def _takes_cache(kind: Hashable) -> bool:
    forward: Any = getattr(kind, "forward")  # noqa: B009 - a class of modules; mypy takes those for unhashable
    return "cache" in inspect.signature(forward).parameters


def cache_argument(base: Any, cache: Any) -> dict[str, Any]:
    """The argument that hands a cache to ``base``: ``cache`` from transformers 5.24 on, ``past_key_values`` before
    (a name that warns from 5.24 and is gone in 5.40)."""
    return {"cache" if _takes_cache(base.__class__) else "past_key_values": cache}


def cache_of(output: Any) -> Any:
    """The cache that a forward of a base model gave back, under either name."""
    return output.cache if hasattr(output, "cache") else output.past_key_values
