# ruff: noqa: E402
"""Write native_reference.json: what transformers' own processors make of our checkpoints' folders.

Needs torchvision, which the tests do not: run it in an environment of its own from the repository's root, with

    pip install torchvision --no-deps
    PYTHONPATH=. python tests/processing/make_native_reference.py

A torchvision wheel for another build of torch will do: the operators that it cannot load are declared here (only
its resize, which is plain torch, is ever called).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

_declared = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision
import transformers
from transformers import AutoProcessor

sys.path.insert(0, str(Path(__file__).parent))
from native_cases import FPS, items, messages, videos_of

from umekit.testing import FAMILIES, save_tiny_backbone, save_tiny_checkpoint

TARGET = Path(__file__).parent / "native_reference.json"


def reference_of(folder: Path) -> dict[str, Any]:
    """Ids, types and grids of every item, from the processor that the folder gives without our code."""
    processor = AutoProcessor.from_pretrained(folder)
    rows: dict[str, Any] = {}
    for name, item in items().items():
        videos: dict[str, Any] = {"do_sample_frames": False}
        if videos_of(item):
            videos["video_metadata"] = [
                {"fps": FPS, "total_num_frames": len(frames), "frames_indices": list(range(len(frames)))}
                for frames in videos_of(item)
            ]
        batch = processor.apply_chat_template(
            messages(item),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"videos_kwargs": videos},
        )
        rows[name] = {
            key: torch.as_tensor(batch[key]).tolist()
            for key in (
                "input_ids",
                "mm_token_type_ids",
                "image_grid_thw",
                "video_grid_thw",
                "second_per_grid_ts",
            )
            if key in batch
        }
        for key in ("pixel_values", "pixel_values_videos"):
            if key in batch:
                rows[name][f"{key} mean"] = float(batch[key].mean())
    return {"processor": type(processor).__name__, "rows": rows}


def main() -> None:
    families = {}
    with tempfile.TemporaryDirectory() as temporary:
        for family in FAMILIES:
            backbone = save_tiny_backbone(Path(temporary) / family / "backbone", family)
            checkpoint = save_tiny_checkpoint(Path(temporary) / family / "checkpoint", backbone)
            families[family] = reference_of(checkpoint)
    versions = {"transformers": transformers.__version__, "torchvision": torchvision.__version__}
    TARGET.write_text(json.dumps({"versions": versions, "families": families}) + "\n", encoding="utf-8")
    print(f"wrote {TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
