"""What a checkpoint folder says of itself: settings, sizes, dtypes. No weight is loaded."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..encoding.checkpoint_files import read_config
from ..encoding.index.opening import HUB_ID
from ..modeling.adapters import CONFIG_FILE, WEIGHTS_FILE
from ..modeling.settings import UmeSettings, expressible
from ..modeling.weight_files import read_header, read_json
from ..processing.settings import ProcessorSettings

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "U8": "uint8",
}


@dataclass(frozen=True)
class Facts:
    """A checkpoint in facts.

    Attributes:
        values: dtype -> number of values stored in it; their sum is the number of parameters.
        layers, width: of the text side; `vision_layers` of the vision tower.
        dim: length of a vector.
        base: what the weights are an adapter of; None for complete weights.
    """

    model_type: str
    settings: UmeSettings
    processor: ProcessorSettings
    layers: int
    width: int
    vision_layers: int
    patch: int
    merge: int
    dim: int
    values: dict[str, int]
    megabytes: float
    saved_with: str
    base: str | None = None

    @property
    def parameters(self) -> int:
        return sum(self.values.values())

    def native(self, target: str) -> tuple[bool, str]:
        """Whether `target` gives the same vectors without our code, and within what limits; if not, why."""
        if self.base is not None:
            return False, "its adapter is not merged (`umekit export` merges it into a folder of its own)"
        return expressible(self.settings, target, self.model_type)


def read_facts(checkpoint: Path) -> Facts:
    """Facts of a folder.

    Raises:
        FileNotFoundError: no config, no processor settings or no safetensors weights.
        UmeSettingsError: the settings cannot be used by this version.
    """
    config = read_config(str(checkpoint))
    if not getattr(config, "ume", None):
        raise ValueError(
            f"{checkpoint}/config.json has no ume block: export the checkpoint with umekit first"
        )
    settings = UmeSettings.from_config(config)
    stored = json.loads((checkpoint / "processor_config.json").read_text(encoding="utf-8")).get("ume")
    if stored is None:
        raise ValueError(f"{checkpoint}/processor_config.json has no ume block: export the checkpoint first")
    weights, base = sorted(checkpoint.glob("model*.safetensors")), None
    if not weights and (checkpoint / WEIGHTS_FILE).is_file():
        weights, base = [checkpoint / WEIGHTS_FILE], _base(checkpoint)
    if not weights:
        raise FileNotFoundError(f"{checkpoint} has no model*.safetensors and no {WEIGHTS_FILE}")
    text, vision = config.get_text_config(), config.vision_config
    return Facts(
        model_type=config.model_type,
        settings=settings,
        processor=ProcessorSettings.from_dict(stored),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        vision_layers=vision.depth,
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        dim=settings.dim or text.hidden_size,
        values=_count(weights),
        megabytes=sum(path.stat().st_size for path in weights) / 1e6,
        saved_with=escaped(str(config.transformers_version or "unknown")),
        base=base,
    )


def _base(checkpoint: Path) -> str:
    """The base of an adapter: a Hub id as it is, of a folder its name."""
    named = read_json(checkpoint / CONFIG_FILE).get("base_model_name_or_path") or "unknown"
    return named if HUB_ID.fullmatch(named) else Path(named).name


def _count(weights: list[Path]) -> dict[str, int]:
    """dtype -> values, over all shards, from the files' headers."""
    found: Counter[str] = Counter()
    for path in weights:
        for name, tensor in read_header(path).items():
            if name != "__metadata__":
                found[_dtype(tensor.get("dtype"))] += prod(tensor["shape"])
    return dict(found)


def _dtype(stored: Any) -> str:
    return DTYPES.get(stored) or escaped(stored) if isinstance(stored, str) else "unknown"


def escaped(text: str) -> str:
    """Words from a checkpoint's files as plain Markdown on one line, without markup or HTML."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:1000]
    return re.sub(r"([\\`*_{}\[\]<>#|!&~])", r"\\\1", line)


def code(text: str) -> str:
    """Such words as code where nothing in them could end it."""
    line = " ".join(text.split())
    plain = line.isprintable() and not set(line) & set("`|<>\\") and len(line) <= 1000
    return f"`{line}`" if plain else escaped(text)


def settings_rows(facts: Facts) -> list[tuple[str, str]]:
    """Name and value of every setting that a user of the checkpoint may ask for."""
    token = (facts.patch * facts.merge) ** 2
    budget, sampling, settings = facts.processor.budget, facts.processor.sampling, facts.settings
    dtypes = ", ".join(
        name if len(facts.values) == 1 else f"{count:,} in {name}" for name, count in facts.values.items()
    )
    attention = {"causal": "causal", "bidirectional": "bidirectional (every token sees every other)"}
    pooling = {
        "last": "state of the last token",
        "token": "state of a special token",
        "mean": "mean of all tokens but the instruction's",
    }
    frame = budget.frame if budget.rule == "frame" else budget.video
    unit = "a frame" if budget.rule == "frame" else "a video"
    rows = [
        ("Backbone", f"`{facts.model_type}`: {facts.layers} text layers of width {facts.width}, "
                     f"{facts.vision_layers} vision layers"),
        ("Parameters", f"{facts.parameters:,} ({facts.megabytes:.1f} MB); "
                       f"{'complete weights, no adapter' if facts.base is None else f'a LoRA on {code(facts.base)}'}"),
        ("Dtype on disk", dtypes),
        *_of_kind(facts),
        ("Attention", attention[settings.attention]),
        ("Positions", "the backbone's 3-D positions (M-RoPE)" if settings.positions == "mrope" else "1-D"),
        *([] if settings.kind == "reranker" else [("Pooling", pooling[settings.pooling])]),
        *([] if settings.kind == "reranker" else [("Unit length", "yes" if settings.normalize else "no")]),
        ("Longest item", f"{facts.processor.max_length:,} tokens, media included; only its text is ever cut"),
        ("Pixels of a picture", _pixels(budget.image, token)),
        (f"Pixels of {unit}", _pixels(frame, token)),
        ("Frames of a video", f"{sampling.min_frames} to {sampling.max_frames}, {sampling.fps:g} a second"),
    ]  # fmt: skip
    for role, text in facts.processor.prompt.instructions.items():
        if text:
            of = "neither query nor document" if role == "default" else f"a {role}"
            rows.append((f"Default instruction of {of}", code(text)))
    return [*rows, ("Saved with", f"transformers {facts.saved_with}")]


def _of_kind(facts: Facts) -> list[tuple[str, str]]:
    """What it gives, and how it is asked for it."""
    settings = facts.settings
    if settings.kind == "reranker":
        return [("Scores", "in 0..1: probability of yes against no"), ("Role", settings.kind)]
    rows = [("Dimensions", str(facts.dim)), ("Role", settings.kind)]
    if settings.kind in ("generative", "adaptive"):
        decides = settings.kind == "adaptive"
        rows += [
            (
                "Modes",
                f"{'adaptive (as it decides), ' if decides else ''}discriminative (at once), generative (after a "
                "thought), both",
            ),
            ("Default mode", str(settings.mode)),
            (
                "Longest thought",
                f"{settings.max_new_tokens:,} tokens, unless `max_new_tokens` says otherwise",
            ),
        ]
    if settings.kind == "adaptive":
        deciding = {
            "policy": "its next-token logits of `<reason>` and `<direct>` after the prompt",
            "probe": "a linear probe on the last state of the prompt",
        }
        rows += [
            ("What decides", deciding[settings.strategy]),
            (
                "Kappa",
                f"{settings.kappa:g}: thinks where p(reason) is over it, unless `kappa` or `budget` says otherwise",
            ),
        ]
    return rows


def _pixels(limits: tuple[int, int], token: int) -> str:
    low, high = limits
    return f"{low:,} to {high:,} (up to {high // token:,} tokens)"
