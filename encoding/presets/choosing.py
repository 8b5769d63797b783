"""Which preset a checkpoint is loaded with: the one that is named, or the one that its files give away.

Rules for files are asked from the surest to the weakest, a folder's name last; one that fits several systems only
narrows the choice. What stays unclear is said, as another system's prompt gives vectors that look like any.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedConfig

from ..checkpoint_files import find_file, read_json, stored_tensors
from . import PRESETS, Preset, PresetError, find_preset, get_preset
from .preset import repo_of

logger = logging.getLogger(__name__)

NO_PRESET = "none"  # what ``preset=`` is told for a plain backbone

ASSUMED = "It is taken for a plain backbone: umekit's default prompt, the state of the last token."
SILENT = "preset='none' says that this is meant (a backbone to train)."

# Files that hold a prompt's words, and those that name special tokens; the first ones are asked for as they stand.
_PROMPTS = (
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/reranker.jinja",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
)
_TOKENS = ("added_tokens.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")
_README_BYTES = 2**16


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
    if found is None or found.name in (preset.name, preset.base):
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


@dataclass(frozen=True)
class Recognised:
    """What the files of a checkpoint say of its system.

    Attributes:
        preset: None where they do not say.
        by: what gave it away.
        sure: whether that is in the files' content, and no more than a name.
        likely: the systems that it may be.
        kind: what its sentence-transformers files say that it is, "" where there are none.
    """

    preset: Preset | None
    by: str = ""
    sure: bool = False
    likely: tuple[Preset, ...] = ()
    kind: Literal["", "embedder", "reranker"] = ""


def recognise(
    presets: Sequence[Preset],
    source: str,
    raw: Mapping[str, Any],
    hub: Mapping[str, Any],
    names: Sequence[str] = (),
) -> Recognised:
    """Look for a checkpoint's system.

    Args:
        presets: all that are known.
        source: folder or Hub repository.
        raw: its ``config.json``.
        hub: ``revision`` and the like.
        names: other folders or repositories that it goes by, such as an adapter's.
    """
    kind = _kind(source, hub)
    family = raw.get("model_type")
    likely = tuple(
        preset
        for preset in presets
        if family in preset.families
        and (not kind or (preset.model.kind == "reranker") == (kind == "reranker"))
    )
    if not likely:
        return Recognised(None, kind=kind)
    tensors = stored_tensors(source, hub) or {}
    prompts = [_text(source, name, hub) for name in _PROMPTS]
    marks = {token for preset in presets for token in preset.traces.tokens}
    tokens = _tokens(source, marks, hub)
    classes = [str(name) for name in raw.get("architectures") or ()]
    called = [_called(name) for name in (*names, source, str(raw.get("_name_or_path") or ""))]
    called += _names_in_card(source, hub)

    def weights(preset: Preset) -> str:
        return next((key for key in preset.spare_keys if key in tensors), "")

    def architecture(preset: Preset) -> str:
        return next((one for one in classes for start in preset.traces.classes if one.startswith(start)), "")

    def own_tokens(preset: Preset) -> str:
        return ", ".join(sorted(tokens)) if tokens and tokens == set(preset.traces.tokens) else ""

    def phrase(preset: Preset) -> str:
        return next((one for one in preset.traces.phrases if any(one in text for text in prompts)), "")

    def name(preset: Preset) -> str:
        own = {_called(repo) for repo in preset.repos}
        return next((one for one in called if one and one in own), "")

    rules = (
        ("the weight", weights),
        ("the class", architecture),
        ("the tokens", own_tokens),
        ("the prompt", phrase),
        ("the name", name),
    )
    for what, rule in rules:
        fitting = tuple(preset for preset in likely if rule(preset))
        if len(fitting) == 1:
            return Recognised(fitting[0], f"{what} {rule(fitting[0])!r}", rule is not name, fitting, kind)
        likely = fitting or likely
    return Recognised(None, likely=likely, kind=kind)


def _kind(source: str, hub: Mapping[str, Any]) -> Literal["", "embedder", "reranker"]:
    """What the files of sentence-transformers say that a checkpoint is."""
    own = _json(source, "config_sentence_transformers.json", hub)
    if isinstance(own, dict) and own.get("model_type") == "CrossEncoder":
        return "reranker"
    modules = _json(source, "modules.json", hub)
    kinds = (
        [str(one.get("type")) for one in modules if isinstance(one, dict)]
        if isinstance(modules, list)
        else []
    )
    if any(kind.endswith(".LogitScore") for kind in kinds):
        return "reranker"
    return "embedder" if any(kind.endswith(".Pooling") for kind in kinds) else ""


def _tokens(source: str, marks: set[str], hub: Mapping[str, Any]) -> set[str]:
    """Which of some special tokens a checkpoint's tokenizer has."""
    found: set[str] = set()
    for name in _TOKENS:
        text = _text(source, name, hub)
        found |= {mark for mark in marks if json.dumps(mark) in text}
    return found


def _names_in_card(source: str, hub: Mapping[str, Any]) -> list[str]:
    """Last parts of the names in a model card: its first heading, and the base model of its metadata."""
    path = find_file(source, "README.md", hub)
    if path is None:
        return []
    with path.open("rb") as handle:
        text = handle.read(_README_BYTES).decode("utf-8", "replace")
    metadata = re.match(r"\s*---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    block = metadata[1] if metadata else ""
    base = re.search(r"^base_model:[ \t]*(\S*)((?:\r?\n[ \t]*-[ \t]*\S+)*)", block, re.MULTILINE)
    named = re.findall(r"[\w.-]+/[\w.-]+", base[0]) if base else []
    heading = re.search(r"^#[ \t]+(\S+)[ \t]*$", text[metadata.end() if metadata else 0 :], re.MULTILINE)
    return [_called(one) for one in (*named, *([heading[1]] if heading else ()))]


def _called(name: str) -> str:
    """Last part of a path or repository, lower case."""
    return re.split(r"[/\\]", repo_of(name))[-1]


def _text(source: str, name: str, hub: Mapping[str, Any]) -> str:
    path = find_file(source, name, hub)
    return "" if path is None else path.read_text(encoding="utf-8", errors="replace")


def _json(source: str, name: str, hub: Mapping[str, Any]) -> Any:
    path: Path | None = find_file(source, name, hub)
    return None if path is None else read_json(path, name=f"{source}/{name}")
