"""Rows that cannot be prepared are named, left out and counted; the run goes on up to the limit and resumes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stub_model import StubProcessor, stub_rows, stub_trainer
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from umekit.trainers import ContrastiveCollator
from umekit.trainers.bad_rows import TooManyBadRows

SETTINGS: dict[str, Any] = {"train_sampling_strategy": "sequential", "dropout": 0.0}


def broken(count: int = 24, bad: tuple[int, ...] = (5, 17)) -> list[dict[str, Any]]:
    rows = stub_rows(count)
    for index in bad:
        rows[index] = {"query": 3, "positive": "b", "dataset": "flowers"}
    return rows


class Twice(list[dict[str, Any]]):
    """Rows of two sources of twelve, in two epochs of other order, as a plan gives them."""

    def place(self, index: int) -> tuple[str, int]:
        row = index if index < 24 else 47 - index
        return ("flowers", row) if row < 12 else ("birds", row - 12)


class Unreadable(list[dict[str, Any]]):
    """Rows of which one fails while it is read, as an image column does that does not decode."""

    def __getitem__(self, index: Any) -> Any:
        if index == 5:
            raise OSError("cannot identify image file")
        return super().__getitem__(index)


@pytest.mark.parametrize("budget", [None, 40])
def test_a_batch_without_its_bad_row_is_the_batch_of_the_others(tmp_path: Path, budget: int | None) -> None:
    rows = broken(8, (5,))
    skipping = stub_trainer(tmp_path, rows=rows, max_bad_rows=1, chunk_tokens=budget, max_steps=1, **SETTINGS)
    skipping.train()
    good = [row for index, row in enumerate(rows) if index != 5]
    without = stub_trainer(tmp_path, rows=good, chunk_tokens=budget, max_steps=1, **SETTINGS)
    without.train()
    assert skipping.state.log_history[0]["loss"] == pytest.approx(without.state.log_history[0]["loss"])
    for key, value in skipping.model.state_dict().items():
        torch.testing.assert_close(value, without.model.state_dict()[key], msg=key)


@pytest.mark.parametrize("workers", [0, 1])
def test_each_row_is_logged_and_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    rows = broken()
    trainer = stub_trainer(
        tmp_path, rows=rows, max_bad_rows=2, dataloader_num_workers=workers, num_train_epochs=3, **SETTINGS
    )
    with caplog.at_level(logging.WARNING):
        trainer.train()
    named = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(named) == 2
    assert "row 5 (dataset 'flowers'): not an item: int" in named[0]
    counts = [entry["bad_rows"] for entry in trainer.state.log_history if "loss" in entry]
    assert counts == [1, 1, 2, 2, 2, 2, 2, 2, 2]


def test_over_the_limit_raises_and_names_them(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path, rows=broken(), max_bad_rows=1, **SETTINGS)
    with pytest.raises(TooManyBadRows, match=r"2 rows .*max_bad_rows=1.*row 5 .*row 17 "):
        trainer.train()
    with pytest.raises(ValueError, match="row 5"):
        stub_trainer(tmp_path, rows=broken(), **SETTINGS).train()


def test_a_row_of_a_plan_is_named_by_its_source_and_counted_once(tmp_path: Path) -> None:
    rows = broken(24, (5, 17))
    planned = Twice([*rows, *rows[::-1]])
    trainer = stub_trainer(tmp_path, rows=planned, max_bad_rows=2, num_train_epochs=1, **SETTINGS)
    trainer.train()
    reason = "not an item: int"
    assert trainer.bad_rows.reasons == {
        "row 5 of source 'flowers'": reason,
        "row 5 of source 'birds'": reason,
    }
    with pytest.raises(ValueError, match="row 5 of source 'flowers': not an item"):
        stub_trainer(tmp_path, rows=planned, num_train_epochs=1, **SETTINGS).train()


def test_a_row_that_cannot_be_read(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path, rows=Unreadable(stub_rows()), max_bad_rows=1, **SETTINGS)
    trainer.train()
    assert trainer.bad_rows.reasons == {"row 5": "it cannot be read: OSError: cannot identify image file"}
    with pytest.raises(OSError, match="cannot identify"):
        stub_trainer(tmp_path, rows=Unreadable(stub_rows()), **SETTINGS).train()


@pytest.mark.parametrize("budget", [None, 40])
def test_a_batch_of_bad_rows_only_teaches_nothing(tmp_path: Path, budget: int | None) -> None:
    rows = broken(8, tuple(range(4)))
    options = {"per_device_train_batch_size": 4, "max_bad_rows": 4, "max_steps": 1, "optim": "sgd"}
    trainer = stub_trainer(tmp_path, rows=rows, chunk_tokens=budget, **options, **SETTINGS)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.args.weight_decay = 0.0
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == 0
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())


class Stop(Exception):
    """Raised in place of a crash."""


class StopAt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise Stop


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    rows = broken(24, (1, 9, 17))
    options: dict[str, Any] = {"rows": rows, "num_train_epochs": 1, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(Stop):
        stub_trainer(tmp_path, max_bad_rows=3, callbacks=[StopAt()], **options, **SETTINGS).train()
    resumed = stub_trainer(tmp_path, max_bad_rows=3, **options, **SETTINGS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert list(resumed.bad_rows.reasons) == [f"row {i} (dataset 'flowers')" for i in (1, 9, 17)]
    stricter = stub_trainer(tmp_path, max_bad_rows=2, **options, **SETTINGS)
    with pytest.raises(TooManyBadRows, match="3 rows"):
        stricter.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


class Stream(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(broken(16, (2, 10)))


def test_rows_of_a_stream_are_told_apart_by_their_step(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path, rows=Stream(), max_bad_rows=2, max_steps=2)
    trainer.train()
    assert list(trainer.bad_rows.reasons) == [
        f"row 2 of the batch (dataset 'flowers') at step {step}" for step in (0, 1)
    ]


def test_an_eval_set_must_be_whole_and_a_collator_must_skip(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 5 .*cannot be prepared"):
        stub_trainer(tmp_path, max_bad_rows=9).evaluate(broken())
    trainer = stub_trainer(tmp_path, max_bad_rows=9)
    with pytest.raises(ValueError, match="skip_bad_rows=True"):
        type(trainer)(
            trainer.native_model,
            trainer.args,
            processing_class=StubProcessor(),
            data_collator=ContrastiveCollator(StubProcessor()),
        )
