"""A batch in which no row has a negative trains nothing, and is told of; so are texts that are cut."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from stub_model import stub_rows, stub_trainer


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"query": f"red {i}", "positive": f"a red {i}", **more} for i in range(count)]


@pytest.mark.parametrize("tokens", [None, 60])
def test_batches_of_one_row_are_refused(tmp_path: Path, tokens: int | None) -> None:
    for data, size in ((rows(4), 1), (rows(1), 8)):
        trainer = stub_trainer(
            tmp_path,
            rows=data,
            per_device_train_batch_size=size,
            chunk_tokens=tokens,
            gradient_accumulation_steps=2,
        )
        with pytest.raises(ValueError, match="a batch of one row without negatives"):
            trainer.train()


def test_with_negatives_of_their_own_they_train(tmp_path: Path) -> None:
    data = rows(4, negatives=["a blue one"])
    stub_trainer(tmp_path, rows=data, per_device_train_batch_size=1, max_steps=2).train()
    same = [{**row, "negatives": [row["positive"]]} for row in rows(4)]
    trainer = stub_trainer(tmp_path, rows=same, per_device_train_batch_size=1, max_steps=2)
    with pytest.raises(ValueError, match="one row"):  # where the negative is the positive, it is none
        trainer.train()


def test_a_last_batch_of_one_row_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        stub_trainer(tmp_path, rows=rows(9), per_device_train_batch_size=8, num_train_epochs=3).train()
    assert caplog.text.count("a batch has one row and no negatives") == 1
    caplog.clear()
    stub_trainer(tmp_path, rows=rows(16), per_device_train_batch_size=8).train()
    assert "no negatives" not in caplog.text


def test_one_positive_in_all_rows_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    same = [{**row, "positive": "the one"} for row in rows(8)]
    with caplog.at_level(logging.WARNING):
        stub_trainer(tmp_path, rows=same, max_steps=1).train()
    assert "the same positive in all of its 8 rows" in caplog.text


def test_cut_items_are_told_of_once_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = stub_trainer(tmp_path, rows=stub_rows(16), per_device_train_batch_size=8, num_train_epochs=1)
    processor = trainer.data_collator.processor
    prepare = processor.prepare

    def cutting(item: Any, **options: Any) -> Any:
        prepared = prepare(item, **options)
        prepared.cut_tokens = 5 if item == "red car 0" else 0
        return prepared

    processor.prepare = cutting
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert caplog.text.count("1 items of a batch were cut at the limit of tokens") == 1
    assert [entry for entry in trainer.state.log_history if "loss" in entry][-1]["truncated_items"] == 1
