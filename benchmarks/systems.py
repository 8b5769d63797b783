"""The published systems that umekit knows, each verified against what its official code computed.

    python benchmarks/systems.py --out benchmarks/results/systems.json

For every preset: its repositories and backbones, the modes it encodes in, the kinds of item in its fixture
(``tests/golden``: a small random checkpoint in the published layout, with the official code's vectors or scores), and
the largest difference of any number. The README's table is made from the result (``benchmarks/readme.py``).
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from measuring import machine

import umekit
from umekit.encoding.golden.folder import read_golden
from umekit.encoding.golden.items import Golden
from umekit.encoding.presets import PRESETS, Preset

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "golden"
MODES = {
    "discriminative": ["discriminative"],
    "generative": ["discriminative", "generative"],
    "reranker": ["score of a pair"],
}
# Of fixtures with vectors of two modes; else the preset's own.
ARRAYS = {"ume_r1": ("disc_alone", "gen_alone")}


def modalities(golden: Golden) -> list[str]:
    """What the items and candidates of a fixture are made of."""
    items = [item for case in golden.cases for item in (case.item, case.candidate) if item is not None]
    parts = [item if isinstance(item, dict) else {"text": item} for item in items]
    pictures = max(len(part.get("images", ())) or int("image" in part) for part in parts)
    found = {
        "text": any("text" in part for part in parts),
        "image": pictures > 0,
        "several images": pictures > 1,
        "video": any("video" in part for part in parts),
    }
    return [name for name, there in found.items() if there]


def checked(preset: Preset) -> dict[str, Any]:
    """One system, verified.

    Raises:
        RuntimeError: ids, grids or vectors are not the official ones.
    """
    name, array = preset.fixture
    folder = FIXTURES / name
    results = {
        one: umekit.verify(folder / "checkpoint", folder, preset=preset.name, array=one)
        for one in ARRAYS.get(name, (array,))
    }
    if problems := [str(problem) for result in results.values() for problem in result.problems]:
        raise RuntimeError(f"{preset.name} is not as its official code: {'; '.join(problems)}")
    return {
        "repositories": list(preset.repos),
        "backbones": list(preset.families),
        "modes": MODES[preset.model.kind],
        "modalities": modalities(read_golden(folder)),
        "items": sum(result.items for result in results.values()),
        "set_aside": sorted({note for result in results.values() for note in result.notes}),
        "largest_difference": max(result.largest for result in results.values()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # texts that are cut, as the fixtures want them to be
    result = {
        "benchmark": "systems",
        "machine": machine(),
        "systems": {preset.name: checked(preset) for preset in PRESETS.values()},
    }
    text = json.dumps(result, indent=2) + "\n"
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
