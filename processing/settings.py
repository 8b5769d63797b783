"""The processor's half of a checkpoint's settings: the ``ume`` block of ``processor_config.json``."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .prompts import PromptSettings
from .tokenizing import PoolingRule
from .video import Sampling
from .vision import PixelBudget

SCHEMA = 1
MOST_TOKENS = 2**31 - 1
MOST_BLANK = 4096
MOST = 2**53  # beyond it JSON's numbers are not whole
NAME = "processor_config.json: ume"
# Arguments of stock processors' ``from_pretrained`` that change settings of ours.
ARGUMENTS = ("min_pixels", "max_pixels", "size", "fps", "min_frames", "max_frames", "model_max_length")


class ProcessorSettingsError(ValueError):
    """The ``ume`` block of ``processor_config.json`` cannot be used; the message names the entry."""


@dataclass(frozen=True)
class ProcessorSettings:
    """What the processor does to an item.

    Attributes:
        family: the backbone's ``model_type``.
        prompt: form of the prompt.
        pooling: which tokens carry the embedding.
        budget: pixels of pictures and videos.
        sampling: frames of videos.
        max_length: most tokens of an item, media included.
        limits: lower limits of some items: of the ``query`` or ``document`` role, that are ``text`` alone, or that
            are ``plain``: no query, and without an instruction (what some systems encode candidates as).
        truncation: what is cut of an item over its limit: ``"text"``, so that media and the prompt's end stay; or
            ``"right"``, the end of the whole prompt, as some systems' vectors were made.
        video_as_images: whether frames of a video are pictures of their own (RzenEmbed).
        empty_items: whether an item without any content is rendered (the template says as what).
        pairs: whether prompts are of pairs, a query and a document (rerankers).
        strip_marks: whether placeholders at the beginning of a text are taken for its media's (VLM2Vec's data).
        blank_image: side in pixels of a white picture that an item without media begins with; 0 for none (UME-R1).
    """

    family: str = "qwen2_vl"
    prompt: PromptSettings = field(default_factory=PromptSettings)
    pooling: PoolingRule = field(default_factory=PoolingRule)
    budget: PixelBudget = field(
        default_factory=lambda: PixelBudget(
            image=(4 * 28**2, 1280 * 28**2), frame=(4 * 28**2, 256 * 28**2), video=(4 * 28**2, 16384 * 28**2)
        )
    )
    sampling: Sampling = field(default_factory=Sampling)
    max_length: int = 32768
    limits: dict[str, int] = field(default_factory=dict)
    truncation: Literal["text", "right"] = "text"
    video_as_images: bool = False
    empty_items: bool = False
    strip_marks: bool = False
    pairs: bool = False
    blank_image: int = 0

    def __post_init__(self) -> None:
        if self.truncation not in ("text", "right"):
            raise ValueError(f"truncation is {self.truncation!r}; use 'text' or 'right'")
        for name, limit in {
            "max_length": self.max_length,
            **{f"limits.{k}": v for k, v in self.limits.items()},
        }.items():
            if not 1 <= limit <= MOST_TOKENS:
                raise ValueError(f"{name} is {limit}; use 1 to {MOST_TOKENS:,} tokens")
        if not 0 <= self.blank_image <= MOST_BLANK:
            raise ValueError(f"blank_image is {self.blank_image}; use 0 to {MOST_BLANK} pixels")
        unknown = set(self.limits) - {"query", "document", "text", "plain"}
        if unknown:
            raise ValueError(
                f"limits for unknown items {sorted(unknown)}; use 'query', 'document', 'text' and 'plain'"
            )

    def limit_of(self, role: str | None, has_media: bool, has_instruction: bool) -> int:
        """Most tokens of an item."""
        kinds = [
            role or "",
            "" if has_media else "text",
            "" if has_instruction or role == "query" else "plain",
        ]
        return min(self.max_length, *(self.limits.get(kind, self.max_length) for kind in kinds))

    def to_dict(self) -> dict[str, Any]:
        """The block as it is written."""
        block = {"schema": SCHEMA, **asdict(self)}
        if self.budget.frame_filter == "pillow":
            del block["budget"]["frame_filter"]  # earlier versions and fingerprints do not know it
        if not self.blank_image:
            del block["blank_image"]  # likewise
        return block

    @classmethod
    def from_dict(cls, block: dict[str, Any]) -> ProcessorSettings:
        """Read a block.

        Raises:
            ProcessorSettingsError: a newer schema, an unknown entry, or a value of another type or range.
        """
        if not isinstance(block, dict):
            raise ProcessorSettingsError(f"{NAME} is {type(block).__name__}; an object is needed")
        block = dict(block)
        schema = block.pop("schema", SCHEMA)
        if type(schema) is not int or not 1 <= schema <= SCHEMA:
            raise ProcessorSettingsError(
                f"{NAME}.schema is {str(schema)[:60]}, this code reads up to {SCHEMA}: update umekit"
            )
        settings: ProcessorSettings = read_record(cls, block, NAME)
        return settings


def with_arguments(settings: ProcessorSettings, arguments: Mapping[str, Any]) -> ProcessorSettings:
    """Settings under the arguments that a stock processor takes; see ``ARGUMENTS``.

    As there, ``min_pixels`` and ``max_pixels`` (or ``size``) are the limits of pictures and of videos alike.
    ``model_max_length`` only lowers ``max_length``. What is None counts as not given.

    Raises:
        ValueError: a size without such edges, or a least number of pixels over the most.
    """
    given = {name: arguments[name] for name in ARGUMENTS if arguments.get(name) is not None}
    if not given:
        return settings
    size = dict(given.get("size") or {})
    if "size" in given and not {"shortest_edge", "longest_edge"} >= set(size) > set():
        raise ValueError(
            f"size is {given['size']!r}; give 'shortest_edge' and 'longest_edge', both in pixels"
        )
    least = given.get("min_pixels", size.get("shortest_edge"))
    most = given.get("max_pixels", size.get("longest_edge"))

    budget = settings.budget
    low, high = budget.image
    image = (low if least is None else int(least), high if most is None else int(most))
    name = "video" if budget.rule == "volume" else "frame"
    low, high = getattr(budget, name)
    high = high if most is None else int(most)
    video = (min(low if least is None else int(least), high), high)
    pixels: dict[str, Any] = {"image": image, name: video}
    frames = {one: given[one] for one in ("fps", "min_frames", "max_frames") if one in given}
    return replace(
        settings,
        budget=replace(budget, **pixels),
        sampling=replace(settings.sampling, **frames),
        max_length=min(settings.max_length, int(given.get("model_max_length", settings.max_length))),
    )


# ---- from JSON that somebody else may have written ---------------------------------------------------------


def read_record(kind: type, value: Any, name: str) -> Any:
    """A dataclass from its JSON form.

    Args:
        kind: the dataclass; its fields are numbers, texts, literals, pairs, dicts, or dataclasses again.
        value: what was read.
        name: of the value, for messages.

    Raises:
        ProcessorSettingsError: an entry that is not known, is missing, or is not of its field's type or range.
    """
    if not isinstance(value, dict):
        raise ProcessorSettingsError(f"{name} is {_short(value)}; an object is needed")
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ProcessorSettingsError(f"{name} has entries that this version does not know: {unknown}")
    entries = {key: _read(hints[key], one, f"{name}.{key}") for key, one in value.items()}
    try:
        return kind(**entries)
    except (TypeError, ValueError) as error:
        raise ProcessorSettingsError(f"{name}: {error}") from None


def _read(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return read_record(hint, value, name)  # type: ignore[arg-type]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        rest = [one for one in arguments if one is not type(None)]
        return None if value is None else _read(rest[0], value, name)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ProcessorSettingsError(f"{name} is {_short(value)}; use one of {arguments}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(arguments):
            raise ProcessorSettingsError(f"{name} is {_short(value)}; a list of {len(arguments)} is needed")
        return tuple(_read(one, entry, name) for one, entry in zip(arguments, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise ProcessorSettingsError(f"{name} is {_short(value)}; an object is needed")
        return {str(key): _read(arguments[1], one, f"{name}.{key}") for key, one in value.items()}
    if not _is(hint, value):
        raise ProcessorSettingsError(f"{name} is {_short(value)}; {_WORDS[hint]} is needed")
    return float(value) if hint is float else value


_WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}


def _is(kind: type, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and abs(value) <= MOST
    if kind is int:
        return type(value) is int and abs(value) <= MOST
    return type(value) is kind


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
