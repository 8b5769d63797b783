"""What the model will see of an item, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from .collating import Prepared
from .vision import PatchLayout


def explain(row: Prepared, layout: PatchLayout, tokenizer: Any) -> dict[str, Any]:
    """Rendered text, tokens, slots, grids and pixels of a prepared item; plain values, ready for JSON."""
    media = [
        {
            "kind": kind,
            "original_size": list(one.original),
            "resized_size": [one.grid[2] * layout.patch, one.grid[1] * layout.patch],
            "grid_thw": list(one.grid),
            "tokens": int(np.prod(one.grid)) // layout.merge**2,
            "seconds": list(one.seconds),
        }
        for kind, group in (("image", row.images), ("video", row.videos))
        for one in group
    ]
    return {
        "text": row.rendered,
        "tokens": tokenizer.convert_ids_to_tokens(row.input_ids.tolist()),
        "input_ids": row.input_ids.tolist(),
        "pooling_slots": row.slots.tolist(),
        "media": media,
        "length": row.length,
        "cut_tokens": row.cut_tokens,
    }
