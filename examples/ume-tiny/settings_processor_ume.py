"""The processor's half of a checkpoint's settings: the ``ume`` block of ``processor_config.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from .first_resize_ume import FirstResize
from .pooled_ume import PoolingRule
from .prompts_ume import PromptSettings
from .video_ume import Sampling
from .vision_ume import PixelBudget

SCHEMA = 1


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

    def __post_init__(self) -> None:
        if self.truncation not in ("text", "right"):
            raise ValueError(f"truncation is {self.truncation!r}; use 'text' or 'right'")
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
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, block: dict[str, Any]) -> ProcessorSettings:
        """Read a block.

        Raises:
            ValueError: a newer schema, an unknown entry, or an impossible value.
        """
        block = dict(block)
        schema = block.pop("schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise ValueError(
                f"this processor has ume schema {schema}, this code reads up to {SCHEMA}: update umekit"
            )
        unknown = set(block) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(
                f"processor_config.ume has entries that this version does not know: {sorted(unknown)}"
            )
        nested: dict[str, Any] = {"prompt": PromptSettings, "pooling": PoolingRule, "sampling": Sampling}
        for name, kind in nested.items():
            if name in block:
                block[name] = kind(**block[name])
        if "budget" in block:
            budget = dict(block["budget"])
            for name in ("image", "frame", "video", "list_frame", "listed"):
                if budget.get(name) is not None:
                    budget[name] = tuple(budget[name])
            for name in ("first_image", "first_frame"):
                if budget.get(name) is not None:
                    budget[name] = FirstResize(**budget[name])
            block["budget"] = PixelBudget(**budget)
        return cls(**block)
