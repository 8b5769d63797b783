"""Published systems as data, one file each; found by repository or given by name."""

from __future__ import annotations

from .lamra_ret import LAMRA_RET
from .mmemb_r1 import MMEMB_R1
from .preset import AddedToken, Difference, Preset, PresetError, fill_rows, repo_of
from .qwen3_vl_embedding import QWEN3_VL_EMBEDDING
from .qwen3_vl_reranker import QWEN3_VL_RERANKER
from .rzenembed import RZENEMBED
from .u_marvel import U_MARVEL, U_MARVEL_QWEN3VL
from .u_marvel_reranker import U_MARVEL_RERANKER
from .ume_r1 import UME_R1, UME_R1_WORDINGS
from .vlm2vec_v2 import VLM2VEC_V2

# Registered here; each file defines its records as module constants.
_RECORDS: tuple[Preset, ...] = (
    RZENEMBED,
    U_MARVEL,
    U_MARVEL_QWEN3VL,
    QWEN3_VL_EMBEDDING,
    LAMRA_RET,
    VLM2VEC_V2,
    UME_R1,
    U_MARVEL_RERANKER,
    QWEN3_VL_RERANKER,
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _RECORDS}
# Given by name alone.
VARIANTS: dict[str, Preset] = {preset.name: preset for preset in (*UME_R1_WORDINGS, MMEMB_R1)}


def get_preset(name: str) -> Preset:
    """The preset of a name, or a variant.

    Raises:
        PresetError: no such preset; names those that are.
    """
    known = PRESETS | VARIANTS
    if name not in known:
        raise PresetError(f"no preset {name!r}; known are {', '.join(sorted(known))}")
    return known[name]


def find_preset(source: str) -> Preset | None:
    """The preset of a repository, or of a folder of it in the Hub's cache; None where it has none."""
    repo = repo_of(source)
    return next((p for p in PRESETS.values() if repo in (name.lower() for name in p.repos)), None)


def differences_table() -> str:
    """Markdown table of where official code has defects; ``README.md`` here holds it."""
    lines = ['| system | `compat="official"` | default | why |', "|---|---|---|---|"]
    for preset in PRESETS.values():
        for one in preset.differences:
            cells = [
                text.replace("|", "\\|").replace("<", "&lt;") for text in (one.official, one.default, one.why)
            ]
            lines.append(f"| `{preset.name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


__all__ = [
    "PRESETS",
    "VARIANTS",
    "AddedToken",
    "Difference",
    "Preset",
    "PresetError",
    "differences_table",
    "fill_rows",
    "find_preset",
    "get_preset",
]
