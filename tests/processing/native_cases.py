"""The items that our processor and the native ones are compared on; pictures are drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

INSTRUCTION = "Retrieve images that match the caption."
FPS = 2.0


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture of smooth colours, as photos have, so that resizing is not all noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def items() -> dict[str, dict[str, Any]]:
    """Name -> item of ours."""
    small, wide, large = picture(96, 64, 1), picture(300, 90, 2), picture(640, 480, 3)
    frames = [picture(128, 96, seed) for seed in range(10, 14)]
    return {
        "text": {"text": "A small red kitten rests on the wooden bench."},
        "instruction": {"text": "Two striped rockets", "instruction": INSTRUCTION},
        "unicode": {"text": "Größe 3.5 µm, naïve café, 東京の夜, 🙂  two  spaces\nand a line"},
        "image": {"image": small},
        "image text": {"image": wide, "text": "what is this?"},
        "text image": {"text": "what is this?", "image": large, "instruction": INSTRUCTION},
        "images": {"images": [small, wide, large], "text": "compare"},
        "video": {"video": frames},
        "video text": {"video": frames[:2], "text": "what happens?"},
        "odd video": {"video": frames[:3]},
        "mixed": {"text": "first", "image": small, "video": frames, "instruction": INSTRUCTION},
    }


def messages(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The chat that says the same."""
    content: list[dict[str, Any]] = []
    for key, value in item.items():
        if key == "images":
            content += [{"type": "image", "image": one} for one in value]
        elif key != "instruction":
            content.append({"type": key, key: value})
    chat = [{"role": "user", "content": content}]
    if "instruction" in item:
        chat.insert(0, {"role": "system", "content": [{"type": "text", "text": item["instruction"]}]})
    return chat


def videos_of(item: dict[str, Any]) -> list[list[Image.Image]]:
    return [item["video"]] if "video" in item else []
