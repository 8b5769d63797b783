"""What packed rows, patches as matrix products and ``torch.compile`` give: ``encode`` with each, and without.

    python benchmarks/attention.py --out benchmarks/results/attention.json

The items are those of ``encode.py``, in memory: the mix, its texts alone and its pictures alone. ``times_as_fast`` is
the padded ``sdpa`` forward's time over an arm's, the shortest of turns; ``convolved`` leaves the patches to the
convolution that transformers embeds them by, where every other arm multiplies; ``seconds_of_first_call`` is what
compilation costs before it gives anything. The vectors of all arms must agree. On a CUDA device flash attention is an
arm, too, where it is installed and ``--dtype`` is one that it knows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encode import save_wide
from encode_items import make_items
from measuring import machine, take_turns
from transformers.utils import is_flash_attn_2_available

import umekit
from umekit.encoding.packaged import packaged_model
from umekit.modeling.packing import PACKED_SDPA
from umekit.modeling.patches import PatchProjection

ARMS: dict[str, dict[str, Any]] = {
    "sdpa": {"attn_implementation": "sdpa"},
    "convolved": {"attn_implementation": "sdpa"},
    "packed": {"attn_implementation": PACKED_SDPA},
    "compiled": {"attn_implementation": "sdpa", "compile": True},
}
FLASH: dict[str, dict[str, Any]] = {
    "flash": {"attn_implementation": "flash_attention_2"},
    "flash, compiled": {"attn_implementation": "flash_attention_2", "compile": True},
}
CLOSE = {"float32": 1e-4, "bfloat16": 0.05}  # largest difference of a number of a unit vector


def measure(folder: Path, media: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Every arm on one checkpoint, by kind of items."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flash = device == "cuda" and args.dtype != "float32" and is_flash_attn_2_available()
    arms = ARMS | FLASH if flash else ARMS
    encoders = {
        name: umekit.load(folder, device=device, dtype=args.dtype, **options)
        for name, options in arms.items()
    }
    for module in encoders["convolved"].model.modules():
        if isinstance(module, PatchProjection):
            module.__class__ = torch.nn.Conv3d  # type: ignore[assignment]
    media.mkdir()
    works = make_items(media, args.items, encoders["sdpa"].processor)
    result: dict[str, Any] = {}
    for kind in ("mix", "texts", "images"):
        items = works[kind].in_memory
        first: dict[str, float] = {}
        vectors: dict[str, Any] = {}
        for name, encoder in encoders.items():
            start = time.perf_counter()
            vectors[name] = encoder.encode(items, show_progress=False)
            first[name] = round(time.perf_counter() - start, 2)
        furthest = max(float(np.abs(found - vectors["sdpa"]).max()) for found in vectors.values())
        if furthest > CLOSE[args.dtype]:
            raise RuntimeError(f"{kind}: vectors of two arms differ by {furthest}")
        turns = {
            name: (lambda encoder=encoder, items=items: encoder.encode(items, show_progress=False))
            for name, encoder in encoders.items()
        }
        times = take_turns(turns, args.repeats)
        result[kind] = {
            "items": len(items),
            "times_as_fast": {name: round(times["sdpa"] / taken, 3) for name, taken in times.items()},
            "seconds": {name: round(taken, 3) for name, taken in times.items()},
            "seconds_of_first_call": first,
            "largest_difference": furthest,
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=("ume-tiny", "2b-wide"), default=["ume-tiny"])
    parser.add_argument("--items", type=int, default=128, help="of the mix")
    parser.add_argument("--repeats", type=int, default=3, help="of every arm; the shortest counts")
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "benchmark": "attention",
        "machine": machine(),
        "dtype": args.dtype,
        "models": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in args.models:
            source = packaged_model() if model == "ume-tiny" else save_wide(folder)
            result["models"][model] = measure(source, folder / f"media-{model}", args)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
