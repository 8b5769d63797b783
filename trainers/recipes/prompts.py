"""Prompts to train with, by the names that recipes call them: presets, and variants of presets."""

from __future__ import annotations

from ...encoding.presets.preset import Preset
from ...encoding.presets.rzenembed import RZENEMBED_TRAINED, RZENEMBED_TRAINED_PLAIN
from ...encoding.presets.u_marvel import (
    LAMRA_IN_U_MARVEL,
    U_MARVEL,
    U_MARVEL_COMPRESSION,
    U_MARVEL_UNMASKED,
)
from ...encoding.presets.u_marvel_reranker import U_MARVEL_RERANKER, U_MARVEL_RERANKER_SHORT
from ...encoding.presets.ume_r1 import UME_R1, UME_R1_WORDINGS

PROMPTS: dict[str, Preset] = {
    prompt.name: prompt
    for prompt in (
        RZENEMBED_TRAINED,
        RZENEMBED_TRAINED_PLAIN,
        U_MARVEL,
        U_MARVEL_COMPRESSION,
        U_MARVEL_UNMASKED,
        LAMRA_IN_U_MARVEL,
        U_MARVEL_RERANKER,
        U_MARVEL_RERANKER_SHORT,
        UME_R1,
        *UME_R1_WORDINGS,
    )
}


def get_prompt(name: str) -> Preset:
    """A prompt by its name. Raises ValueError with the known names."""
    if name not in PROMPTS:
        raise ValueError(f"no training prompt {name!r}; known are {', '.join(PROMPTS)}")
    return PROMPTS[name]
