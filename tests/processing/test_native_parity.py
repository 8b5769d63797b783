"""Our processor, without torchvision, against transformers' own: same ids, types and grids, same pixels.

The native answers are in native_reference.json; make_native_reference.py writes it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from umekit.processing.processor import UmeProcessor
from umekit.testing import FAMILIES

HERE = Path(__file__).parent
REFERENCE = json.loads((HERE / "native_reference.json").read_text(encoding="utf-8"))["families"]


def _cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("native_cases", HERE / "native_cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = _cases()


def _official(row: dict[str, Any], processor: UmeProcessor) -> tuple[list[int], list[int]]:
    """Ids and types in the published form.

    Native 5.23 puts Qwen3-VL's per-step pairs *inside* the template's pair around the video; transformers 4.57, with
    which the published checkpoints were made, puts them in its place (see golden vectors of Qwen3-VL-Embedding).
    """
    ids, types = row["input_ids"][0], row["mm_token_type_ids"][0]
    if not processor.family.timestamps or "video_grid_thw" not in row:
        return ids, types
    start, end = (processor.prompt_tokenizer.id_of(f"<|vision_{side}|>") for side in ("start", "end"))
    step = processor.tokenizer.convert_tokens_to_ids("<")
    drop = {i for i in range(len(ids) - 1) if ids[i] == start and ids[i + 1] == step}
    drop |= {i for i in range(1, len(ids)) if ids[i] == end and ids[i - 1] == end}
    assert len(drop) == 2 * len(row["video_grid_thw"])
    keep = [i for i in range(len(ids)) if i not in drop]
    return [ids[i] for i in keep], [types[i] for i in keep]


@pytest.mark.parametrize("name", CASES.items())
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_types_and_grids_equal_the_native_processor(
    family: str, name: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint(family))
    native = REFERENCE[family]["rows"][name]
    item = CASES.items()[name]
    for batch in (
        processor.encode_items([item]),
        processor.apply_chat_template(CASES.messages(item), tokenize=True),
    ):
        ids, types = _official(native, processor)
        assert batch["input_ids"][0].tolist() == ids
        assert batch["mm_token_type_ids"][0].tolist() == types
        for key in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts"):
            assert (key in batch) == (key in native)
            if key in batch:
                assert batch[key].tolist() == native[key]
        for key in ("pixel_values", "pixel_values_videos"):
            if key in batch:
                assert float(batch[key].mean()) == pytest.approx(native[f"{key} mean"], abs=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_gives_the_native_processor_without_our_code(family: str) -> None:
    expected = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}
    assert REFERENCE[family]["processor"] == expected.get(family, "Qwen3VLProcessor")


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_pixels_equal_the_native_image_processor(family: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint(family)
    processor = UmeProcessor.from_pretrained(folder)
    native = AutoImageProcessor.from_pretrained(folder, backend="pil")
    pictures = [
        CASES.picture(*size, seed=5) for size in ((96, 64), (300, 90), (640, 480), (33, 47), (28, 28))
    ]
    expected = native(pictures, return_tensors="pt")
    ours = processor.encode_items([{"images": pictures}])
    assert torch.equal(ours["image_grid_thw"], expected["image_grid_thw"])
    difference = (ours["pixel_values"] - expected["pixel_values"]).abs().max()
    assert float(difference) < 1e-5


def test_golden_ids_of_qwen3_vl_videos_have_one_pair_per_step(tiny_checkpoint: Callable[..., Path]) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen3_vl"))
    row = processor.prepare(CASES.items()["video"])
    tokens = processor.tokenizer.convert_ids_to_tokens(row.input_ids.tolist())
    steps = row.videos[0].grid[0]
    assert tokens.count("<|vision_start|>") == tokens.count("<|vision_end|>") == steps
    assert row.videos[0].seconds == pytest.approx(np.arange(steps) * 1.0 + 0.25)
