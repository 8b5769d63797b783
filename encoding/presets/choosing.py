"""Which preset a checkpoint is loaded with: the one that is named, or the one that its files give away."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from . import PRESETS, Preset, PresetError, find_preset, get_preset, recognise

logger = logging.getLogger(__name__)

NO_PRESET = "none"  # what ``preset=`` is told for a plain backbone

ASSUMED = "It is taken for a plain backbone: umekit's default prompt, the state of the last token."
SILENT = "preset='none' says that this is meant (a backbone to train)."


class UnknownSystemWarning(UserWarning):
    """A checkpoint without settings whose files do not say which system it is of."""


@dataclass(frozen=True)
class Choice:
    """A preset, or none; and in ``assumption`` what was taken for granted where the files do not say."""

    preset: Preset | None = None
    assumption: str = ""


def choose_preset(
    source: str,
    config: Any,
    *,
    name: str | None = None,
    role: str | None = None,
    compat: str | None = None,
    hub: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
    stacklevel: int = 2,
) -> Choice:
    """The preset that a checkpoint is loaded with.

    Args:
        source: folder or Hub repository.
        config: of it.
        name: ``preset`` of :func:`umekit.load`; ``"none"`` for a plain backbone.
        role: ``role`` of :func:`umekit.load`: who gives it knows what the checkpoint is, and is not warned.
        compat: ``compat`` of :func:`umekit.load`.
        hub: ``revision`` and the like.
        names: other folders or repositories that it goes by, such as an adapter's.
        stacklevel: of the warning, counted from the caller.

    Raises:
        PresetError: the name is unknown, or of another kind than the checkpoint (embedder and reranker); a reranker
            without a prompt; or ``compat`` has no preset to act on.
    """
    own = getattr(config, "ume", None)
    if own is not None:
        return Choice(_over_own_settings(source, own, name, compat, stacklevel + 1))
    raw, _ = PreTrainedConfig.get_config_dict(source, **(hub or {}))
    found = recognise(tuple(PRESETS.values()), source, raw, hub or {}, names)
    if name == NO_PRESET:
        return Choice(_for_compat(None, source, compat))
    if name is not None:
        named = get_preset(name)
        _check_kind(source, named, found.preset if found.sure else None, found.by, stacklevel + 1)
        return Choice(named)
    known = next((one for one in map(find_preset, (*names, source)) if one is not None), None)
    preset = _for_compat(known or found.preset, source, compat)
    if preset is not None:
        logger.info("%s: loaded with preset=%r (%s)", source, preset.name, found.by or "its repository")
        return Choice(preset)
    text = _unclear(source, str(raw.get("model_type")), found.likely)
    if found.kind == "reranker" or role == "reranker":
        raise PresetError(
            f"{source} is to be a reranker, and which prompt it was trained with is not known. {text}"
        )
    if role is None:
        text += f" {ASSUMED}"
        warnings.warn(f"{text} {SILENT}", UnknownSystemWarning, stacklevel=stacklevel + 1)
        return Choice(None, text)
    return Choice()


def _over_own_settings(
    source: str, own: Any, name: str | None, compat: str | None, stacklevel: int
) -> Preset | None:
    """The preset that is named for a checkpoint with settings of its own."""
    if name is None or name == NO_PRESET:
        return _for_compat(None, source, compat)
    preset = get_preset(name)
    kind = own.get("role", "discriminative") if isinstance(own, Mapping) else "discriminative"
    if (kind == "reranker") != (preset.model.kind == "reranker"):
        raise PresetError(
            f"{source} is a {kind} checkpoint, preset={name!r} is for a {preset.model.kind} one"
        )
    warnings.warn(
        f"{source} has settings of its own; preset={name!r} replaces them all, its pixels and prompt too",
        stacklevel=stacklevel + 1,
    )
    return preset


def _check_kind(source: str, preset: Preset, found: Preset | None, by: str, stacklevel: int) -> None:
    """Compare a preset that was named with what the files say."""
    if found is None or found is preset:
        return
    text = f"{source} looks like {found.name} ({by}), and preset={preset.name!r} was named"
    if (found.model.kind == "reranker") != (preset.model.kind == "reranker"):
        raise PresetError(f"{text}: one is a reranker, the other an embedder")
    warnings.warn(f"{text}: its vectors may be wrong", stacklevel=stacklevel + 1)


def _for_compat(found: Preset | None, source: str, compat: str | None) -> Preset | None:
    if compat is not None and found is None:
        raise PresetError(f"compat={compat!r} needs a preset, and {source} is of no known system: name one")
    return found


def _unclear(source: str, family: str, likely: Sequence[Preset]) -> str:
    """What is not known of a checkpoint, and which presets there are for it."""
    embedders = [preset.name for preset in likely if preset.model.kind != "reranker"]
    rerankers = [preset.name for preset in likely if preset.model.kind == "reranker"]
    choices = [f"preset={' or '.join(map(repr, sorted(embedders)))}"] if embedders else []
    if rerankers:
        choices.append(f"for a reranker preset={' or '.join(map(repr, sorted(rerankers)))}")
    text = f"{source} has no settings of umekit, and its files do not say which published system it is of."
    if not choices:
        return f"{text} No preset is for {family}."
    return f"{text} If it is one, its results are wrong without its preset: {', '.join(choices)}."
