"""Under which prompt a model is evaluated: what its system was scored with, and what the report says of it.

UME-R1's published numbers have another wording than its README, and a blank picture before every text alone
(``eval_twomode.py``); U-MARVEL and Qwen3-VL-Embedding take an instruction apart from the text. A preset that is loaded
as a model (``ume-r1``) is therefore evaluated as its ``evaluation`` variant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...encoding.presets import PRESETS, VARIANTS, find_preset


@dataclass(frozen=True)
class Prompting:
    """How a system is evaluated.

    Attributes:
        preset: the preset to load the model with; "" for what the checkpoint says.
        text: a style of ``wording.STYLES``; "" for the benchmark's own.
        source: where that is from.
    """

    preset: str
    text: str
    source: str


SYSTEMS: dict[str, Prompting] = {
    "ume-r1": Prompting("ume-r1-evaluation", "joined", "UME-R1 eval_twomode.py: VLM2Vec's strings"),
    "vlm2vec-v2": Prompting("vlm2vec-v2", "joined", "VLM2Vec eval.py"),
    "qwen3-vl-embedding": Prompting("qwen3-vl-embedding", "separate", "Qwen3-VL-Embedding: system turn"),
    "u-marvel": Prompting("u-marvel", "separate", "U-MARVEL datasets_mbeir.py: instruction tokens"),
    "u-marvel-qwen3vl": Prompting(
        "u-marvel-qwen3vl", "separate", "U-MARVEL datasets_mbeir.py: instruction tokens"
    ),
    "rzenembed": Prompting("rzenembed", "separate", "RzenEmbed rzen_embed_inference.py"),
    "lamra-ret": Prompting("lamra-ret", "separate", "LamRA eval"),
}


def prompting(model: str | None, preset: str | None) -> Prompting | None:
    """What a system is evaluated with; None where it is none of the published ones.

    Args:
        model: folder or Hub id.
        preset: that was asked for. A variant (``ume-r1-rl``) stays what it is.
    """
    if preset is not None:
        base = VARIANTS[preset].base if preset in VARIANTS else preset
        known = SYSTEMS.get(base)
        if known is None or preset in VARIANTS:
            return None if known is None else Prompting(preset, known.text, known.source)
        return known
    found = find_preset(model) if model else None
    return SYSTEMS.get(found.name) if found is not None and found.name in PRESETS else None


def processor_facts(encoder: Any) -> dict[str, Any]:
    """What the processor does to an item: prompt, pooling, pixels, frames; for the result file."""
    settings = getattr(getattr(encoder, "processor", None), "settings", None)
    if settings is None or not hasattr(settings, "to_dict"):
        return {}
    found: dict[str, Any] = settings.to_dict()
    return found
