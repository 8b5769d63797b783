"""Media prepared per chunk: the same step without the batch's pixels, and a file that changes is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.processing.processor import UmeProcessor
from umekit.trainers import ContrastiveTrainer, ContrastiveTrainingArguments
from umekit.trainers.lazy_media import LazyMedia, lazy_media


@pytest.fixture
def rows(pictures: list[Image.Image], tmp_path: Path) -> list[dict[str, Any]]:
    """A path, a picture in memory, two pictures and a clip; one row of text alone; a negative with a picture."""
    path = tmp_path / "one.png"
    pictures[0].save(path)
    return [
        {
            "query": "a",
            "positive": {"image": str(path)},
            "negatives": [{"image": pictures[3], "text": "not"}],
        },
        {"query": {"text": "b", "image": pictures[1]}, "positive": "the second"},
        {"query": "c", "positive": {"images": [pictures[2], pictures[4]], "text": "both", "video": None}},
        {"query": "d", "positive": {"video": [pictures[5]] * 4}},
        {"query": "e", "positive": "text alone"},
    ]


def make_trainer(checkpoint: Path, folder: Path, rows: Any, **settings: Any) -> ContrastiveTrainer:
    args = ContrastiveTrainingArguments(
        output_dir=str(folder / "run"), max_steps=1, report_to="none", use_cpu=True, **settings
    )
    return ContrastiveTrainer(
        UmeForDiscriminativeEmbedding.from_pretrained(checkpoint, dtype=torch.float32),
        args,
        processing_class=UmeProcessor.from_pretrained(checkpoint),
        train_dataset=rows,
    )


def test_the_step_is_the_same(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    checkpoint, found = tiny_checkpoint("qwen2_vl"), []
    for per_chunk in (False, True):
        trainer = make_trainer(checkpoint, tmp_path, rows, chunk_tokens=80, media_per_chunk=per_chunk)
        inputs = trainer.data_collator(rows)
        batch = inputs["batch"]
        loss = trainer.training_step(trainer.model, inputs)
        gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        found.append((batch, loss, gradients))
    (kept, loss, expected), (batch, other, gradients) = found
    assert torch.equal(loss, other)
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], value) for name, value in expected.items())
    assert all(torch.equal(batch.columns[name], column) for name, column in kept.columns.items())
    lazy = [isinstance(item, LazyMedia) for item in batch.items]
    assert lazy == [False, True, False, False, False, True, False, True, True, False, True]


def test_a_file_that_changes_is_named(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    trainer = make_trainer(tiny_checkpoint("qwen2_vl"), tmp_path, rows, chunk_tokens=80, media_per_chunk=True)
    inputs = trainer.data_collator(rows)
    Image.new("RGB", Image.open(tmp_path / "one.png").size).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"one\.png.*is not what it was"):
        trainer.training_step(trainer.model, inputs)
    (tmp_path / "one.png").unlink()
    with pytest.raises(ValueError, match=r"one\.png.*could be read when its batch was planned.*no such file"):
        trainer.training_step(trainer.model, inputs)


def test_it_needs_chunks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs chunk_tokens"):
        ContrastiveTrainingArguments(output_dir=str(tmp_path), media_per_chunk=True)


def test_a_completion_is_appended_again(
    tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> None:
    processor, item = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl")), {"image": pictures[0]}
    prepared = processor.prepare(item, role="query")
    whole, kept = (
        one.continued([5, 6, 7], 2).continued([8])
        for one in (prepared, lazy_media(prepared, item, "query", {}))
    )
    assert isinstance(kept, LazyMedia)
    assert (kept.length, kept.completion) == (whole.length, whole.completion)
    again = kept.prepared(processor)
    assert np.array_equal(again.input_ids, whole.input_ids)
    assert np.array_equal(again.slots, whole.slots)
