"""What a GPU gives: items per second by pixels, frames, attention and dtype.

    python benchmarks/gpu.py --model PATH_OR_REPO --out benchmarks/results/gpu.json

One table, a line per setting: items per second of ``encode`` on videos of that many frames and pixels a frame (one
frame is a picture), given as PIL images; the most memory that was allocated; and the share of the bound, which is the
same items prepared before, in batches that are on the device: 1 means that nothing but the model costs time. The
cosine is the smallest with the vectors of float32 and sdpa.
Without ``--model`` it is ume-tiny, which shows that it runs and little else. Without a CUDA device there is nothing
to measure, and it says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine
from PIL import Image
from transformers.utils import is_flash_attn_2_available

import umekit
from umekit.modeling.batching import plan_batches
from umekit.modeling.packing import PACKED_SDPA

SIDES = (224, 448, 896)  # of a square picture or frame
FRAMES = (1, 8)
DTYPES = ("bfloat16", "float32")
COLUMNS = (
    "side",
    "frames",
    "attention",
    "dtype",
    "items_per_second",
    "memory_gb",
    "share_of_bound",
    "cosine",
)


def kernels(dtype: str) -> list[str]:
    """Attention kernels that can be had with a dtype."""
    flash = is_flash_attn_2_available() and dtype != "float32"
    return ["sdpa", PACKED_SDPA, "flash_attention_2"] if flash else ["sdpa", PACKED_SDPA]


def items_of(side: int, frames: int, count: int) -> list[Any]:
    """Pictures, or videos as lists of them, no two equal."""
    rng = np.random.default_rng(side * frames)

    def picture() -> Image.Image:
        cells = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)

    if frames == 1:
        return [{"image": picture()} for _ in range(count)]
    return [{"video": [picture() for _ in range(frames)]} for _ in range(count)]


def fastest(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Shortest time, the device waited for, and the last result; once before to warm up."""
    run()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times), result


@torch.inference_mode()
def bound_of(encoder: umekit.Encoder, items: list[Any], repeats: int) -> float:
    """Seconds of the forwards alone, of batches that are on the device already."""
    rows = encoder.processor.prepare_all(items)
    planned = plan_batches([row.length for row in rows], encoder.batch_tokens)
    batches = [
        encoder.processor.collate([rows[place] for place in batch]).to(encoder.model.device)
        for batch in planned
    ]
    seconds, _ = fastest(lambda: [encoder.model(**batch).embeddings for batch in batches], repeats)
    return seconds


def measure(encoder: umekit.Encoder, items: list[Any], repeats: int) -> tuple[dict[str, Any], Any]:
    """One line's numbers, and the vectors."""
    bound = bound_of(encoder, items, repeats)
    torch.cuda.reset_peak_memory_stats()
    taken, vectors = fastest(lambda: encoder.encode(items, show_progress=False), repeats)
    line = {
        "items_per_second": round(len(items) / taken, 2),
        "memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "share_of_bound": round(bound / taken, 3),
    }
    return line, vectors


def table(lines: list[dict[str, Any]]) -> str:
    """Lines as text, a column under each name."""
    cells = [list(COLUMNS), *[[str(line[name]) for name in COLUMNS] for line in lines]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a checkpoint of umekit's (default: ume-tiny)")
    parser.add_argument("--preset", help="of a published system, for checkpoints without settings of ours")
    parser.add_argument("--items", type=int, default=64, help="per line")
    parser.add_argument("--repeats", type=int, default=3, help="the shortest time counts")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device here, nothing was measured")
        return 0
    lines: list[dict[str, Any]] = []
    reference: dict[tuple[int, int], Any] = {}
    for dtype in reversed(DTYPES):  # float32 first: the others are compared with it
        for kernel in kernels(dtype):
            encoder = umekit.load(
                args.model, preset=args.preset, device="cuda", dtype=dtype, attn_implementation=kernel
            )
            for side, frames in itertools.product(SIDES, FRAMES):
                line, vectors = measure(encoder, items_of(side, frames, args.items), args.repeats)
                expected = reference.setdefault((side, frames), vectors)
                near = round(float((expected * vectors).sum(axis=1).min()), 5)
                setting = {"side": side, "frames": frames, "attention": kernel, "dtype": dtype}
                lines.append({**setting, **line, "cosine": near})
            del encoder
            torch.cuda.empty_cache()
    print(table(lines))
    if args.out is not None:
        result = {"benchmark": "gpu", "machine": machine(), "model": args.model or "ume-tiny", "lines": lines}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
