"""Which published system a checkpoint is of, by what its files give away: a folder's name is only the last hint.

Rules are asked from the surest to the weakest; one that fits several systems only narrows the choice. What stays
unclear is said, as another system's prompt gives vectors that look like any.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..checkpoint_files import find_file, read_json, stored_tensors
from .preset import Preset, repo_of

logger = logging.getLogger(__name__)

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
