"""What the trainer does to a user's rows, parameters, logs and folders."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stub_model import StubModel, StubProcessor, stub_rows, stub_trainer
from torch import Tensor

from umekit.trainers import ContrastiveCollator, ContrastiveTrainer, ContrastiveTrainingArguments
from umekit.trainers.batches import ContrastiveBatch
from umekit.trainers.formats.mmeb_tasks import group_names
from umekit.trainers.objectives import ContrastiveObjective
from umekit.trainers.objectives.cross_entropies import NO_KEY, number_targets
from umekit.trainers.validation import validate


def test_it_learns_and_logs(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path, rows=stub_rows(36, images=True), num_train_epochs=15, chunk_tokens=50)
    before = trainer.evaluate(stub_rows(36, images=True))
    trainer.train()
    after = trainer.evaluate(stub_rows(36, images=True))
    assert after["eval_loss"] < before["eval_loss"] / 2
    assert after["eval_recall@1"] > before["eval_recall@1"]
    logged = trainer.state.log_history[0]
    for name in (
        "temperature",
        "positive_similarity",
        "negative_similarity",
        "false_negatives_dropped",
        "accuracy",
    ):
        assert name in logged
    assert trainer.objective_module.temperature().item() != pytest.approx(0.05)


def test_the_folder_holds_model_processor_and_objective(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    names = {path.name for path in (tmp_path / "final").iterdir()}
    assert {"model.safetensors", "processor_config.json", "objective.safetensors", "objective.json"} <= names
    objective = ContrastiveObjective.from_pretrained(tmp_path / "final")
    assert torch.equal(
        objective.temperature.log_temperature, trainer.objective_module.temperature.log_temperature
    )


def test_parameter_groups_and_frozen_head(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path)
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    assert decayed == {f"model.backbone.{n}.weight" for n in ("embed", "vision", "hidden", "lm_head")}
    groups = trainer.create_optimizer().param_groups
    assert [g["weight_decay"] for g in groups] == [0.01, 0.0]
    assert any(p is trainer.objective_module.temperature.log_temperature for p in groups[1]["params"])
    assert not trainer.native_model.backbone.lm_head.weight.requires_grad
    assert stub_trainer(tmp_path, train_lm_head=True).native_model.backbone.lm_head.weight.requires_grad


def test_the_temperature_stays_in_its_bounds(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path, temperature_bounds=[0.049, 0.051], learning_rate=0.5)
    trainer.train()
    assert 0.049 - 1e-6 <= trainer.objective_module.temperature().item() <= 0.051 + 1e-6


def test_tasks_have_temperatures_of_their_own(tmp_path: Path) -> None:
    rows = [{**row, "task": "ab"[i % 2]} for i, row in enumerate(stub_rows(16))]
    trainer = stub_trainer(tmp_path, rows=rows, tasks=["a", "b"])
    trainer.train()
    assert {"temperature_a", "temperature_b"} <= trainer.state.log_history[0].keys()
    with pytest.raises(ValueError, match="default"):
        stub_trainer(tmp_path, tasks=["a", "b"]).train()


def test_the_task_stands_in_any_column_and_may_be_a_group(tmp_path: Path) -> None:
    rows = [{**row, "dataset": ("MSR-VTT", "CIRR")[i % 2]} for i, row in enumerate(stub_rows(16))]
    named = stub_trainer(tmp_path, rows=rows, tasks=["CIRR", "MSR-VTT"], task_column="dataset", max_steps=1)
    named.train()
    assert {"temperature_CIRR", "temperature_MSR-VTT"} <= named.state.log_history[0].keys()
    grouped = stub_trainer(tmp_path, rows=rows, task_column="dataset", task_groups="rzenembed", max_steps=2)
    assert grouped.objective_module.temperature.tasks == group_names("rzenembed")
    before = grouped.objective_module.temperature.log_temperature.detach().clone()
    grouped.train()
    moved = grouped.objective_module.temperature.log_temperature.detach() != before
    names = [n for n, m in zip(group_names("rzenembed"), moved.tolist(), strict=True) if m]
    assert names == ["image_retrieval", "video_retrieval"]
    with pytest.raises(ValueError, match=r"row \d+ .*: no 'kind'"):
        stub_trainer(tmp_path, rows=rows, task_column="kind").train()
    rows[3]["dataset"] = "unheard of"
    with pytest.raises(ValueError, match=r"row 3 .*'unheard of' belongs to no group"):
        stub_trainer(tmp_path, rows=rows, task_column="dataset", task_groups="rzenembed").train()


def test_warm_up_cosine_clipping_and_decay(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"learning_rate": 1e-2, "lr_scheduler_type": "cosine", "warmup_steps": 2}
    settings |= {"max_steps": 8, "optim": "sgd", "weight_decay": 0.0, "dropout": 0.0}
    trainer = stub_trainer(tmp_path, max_grad_norm=0.05, **dict(settings))
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    rates = [entry["learning_rate"] for entry in logs]
    expected = [0, 0.5, *(0.5 * (1 + np.cos(np.pi * i / 6)) for i in range(6))]
    np.testing.assert_allclose(rates, np.array(expected) * 1e-2, rtol=1e-5, atol=1e-9)
    assert min(entry["grad_norm"] for entry in logs) > 0.05
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert 0 < (after - before).norm().item() <= 0.05 * sum(rates) * 1.001
    decayed = stub_trainer(tmp_path, max_steps=1, learning_rate=0.1, weight_decay=0.5, optim="adamw_torch")
    unused = (
        decayed.native_model.backbone.vision.weight
    )  # no gradient, but weight decay only follows gradients
    row = decayed.native_model.backbone.embed.weight[0].detach().clone()  # padding: its gradient is zero
    kept = unused.detach().clone()
    decayed.train()
    torch.testing.assert_close(decayed.native_model.backbone.embed.weight[0].detach(), row * (1 - 0.1 * 0.5))
    assert torch.equal(unused.detach(), kept)


class WithLocal(ContrastiveTrainer):
    def local_loss(self, model: Any, output: Any, batch: Any) -> Tensor:
        vision = model.backbone.vision.weight
        return 0.5 * vision.square().sum() * batch["local_rows"] / 20  # of the items of a batch of 8 rows


@pytest.mark.parametrize("budget", [None, 40])
def test_a_local_loss_is_added_and_logged(tmp_path: Path, budget: int | None) -> None:
    rows = stub_rows(8, negatives=1)
    args = stub_trainer(tmp_path, chunk_tokens=budget, max_steps=1).args
    model = StubModel()
    trainer = WithLocal(model, args, processing_class=StubProcessor(), train_dataset=rows)
    trainer.training_step(trainer.model, trainer.data_collator(rows))
    torch.testing.assert_close(model.backbone.vision.weight.grad, model.backbone.vision.weight.detach())
    trainer.model.zero_grad()
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(logged["representation_loss"] + logged["local_loss"], rel=1e-5)


def test_evaluation_leaves_the_generators_alone(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path)
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(2), np.random.rand(2)
    torch.manual_seed(0)
    np.random.seed(0)
    trainer.evaluate(stub_rows(5))
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.rand(2), expected[1])


def test_duplicates_are_found_by_id_or_by_content(tmp_path: Path) -> None:
    rows = [
        {"query": "a", "positive": "same words"},
        {"query": "b", "positive": "same words"},
        {"query": "c", "positive": {"text": "same words", "image": None}},
        {"query": "d", "positive": "other words", "positive_id": "x"},
        {"query": "e", "positive": {"text": "other", "image": np.ones((2, 4))}, "positive_id": "x"},
        {"query": "f", "positive": {"text": "other", "image": np.ones((2, 4))}},
    ]
    keys = ContrastiveCollator(StubProcessor())(rows)["batch"].columns["positive_keys"]
    # "e" has the id of "d" and the content of "f": all three are one target
    assert number_targets(keys).tolist() == [0, 0, 0, 3, 3, 3]
    found = masks(rows, mask_duplicate_positives=False)
    assert found["positive_ids"].tolist() == [0, 1, 2, 3, 4, 5]


def masks(rows: list[dict[str, Any]], **options: Any) -> dict[str, torch.Tensor]:
    """What the loss gets of a batch."""
    batch = ContrastiveCollator(StubProcessor(), **options)(rows)["batch"]
    tasks = torch.zeros(len(rows), dtype=torch.int64)
    return batch.split(torch.zeros(len(batch.items), 1), ContrastiveBatch, tasks=tasks).masks()


def test_negatives_are_known_by_id_or_by_content() -> None:
    rows = [
        {"query": "a", "positive": "one", "positive_id": 1, "negatives": ["the second", "five"]},
        {"query": "b", "positive": "two", "positive_id": 2, "negatives": ["one"]},
        {"query": "c", "positive": "three", "negatives": ["two", "four", "three"]},
        {"query": "d", "positive": "four", "positive_id": "4", "negatives": []},
    ]
    rows[0]["negative_ids"] = ["2", None]
    rows[2]["negative_ids"] = ["4", "1", "1"]  # without a positive_id nobody knows whose ids they are
    found = masks(rows)
    positive, negative = found["positive_ids"], found["negative_ids"]
    assert len(set(positive.tolist())) == 4
    assert negative[0, 0] == positive[1]
    assert negative[0, 1] not in positive
    assert negative[1, 0] == positive[0]
    assert negative[2].tolist() == [positive[1], positive[3], positive[2]]
    assert not torch.isin(negative[3], positive).any(), "places without a negative are nothing's target"
    cut = masks(rows, max_negatives=1)["negative_ids"]
    assert torch.equal(torch.isin(cut[:3, 0], positive), torch.tensor([True, True, True]))


@given(st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), max_size=12))
def test_numbers_of_targets_are_connected_components(keys: list[list[int]]) -> None:
    expected = list(range(len(keys)))
    for _ in keys:  # a twin that joins pairs until nothing changes
        for a, first in enumerate(keys):
            for b, second in enumerate(keys):
                if (set(first) & set(second)) - {NO_KEY}:
                    expected[a] = expected[b] = min(expected[a], expected[b])
    tensor = torch.tensor(keys, dtype=torch.int64).reshape(-1, 3)
    assert number_targets(tensor).tolist() == expected


def test_ids_of_negatives_that_do_not_fit_name_the_row() -> None:
    row = {"query": "a", "positive": "b", "positive_id": 1, "negatives": ["c"], "negative_ids": [2, 3]}
    with pytest.raises(ValueError, match=r"row 0 of the batch.*2 negative_ids for 1 negatives"):
        ContrastiveCollator(StubProcessor())([row])


def test_a_shared_negative_that_is_a_rows_positive_costs_nothing(tmp_path: Path) -> None:
    words = ["red", "green", "blue", "black"]
    rows = [
        {"query": w, "positive": w, "negatives": [words[i - 1], words[i - 2]]} for i, w in enumerate(words)
    ]
    trainer = stub_trainer(tmp_path, rows=rows, negatives_shared=True)
    batch = trainer.data_collator(rows)["batch"]
    vectors = torch.eye(4)
    order = [0, 1, 2, 3, 0, 1, 2, 3, *(number for i in range(4) for number in (i - 1, i - 2))]
    loss, metrics = trainer.representation_loss(vectors[order], batch)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert metrics["false_negatives_dropped"].item() == 8
    sides = batch.split(vectors[order], ContrastiveBatch, tasks=torch.zeros(4, dtype=torch.int64))
    scores, _ = validate([(batch.names, sides)], trainer.objective_module)
    assert scores == {"loss": pytest.approx(0, abs=1e-6), "recall@1": 1.0}


def test_in_validation_too_a_negative_that_is_the_target_is_none() -> None:
    row = {"query": "a", "positive": "red", "negatives": ["red"]}
    batch = ContrastiveCollator(StubProcessor())([row])["batch"]
    sides = batch.split(torch.ones(3, 2), ContrastiveBatch, tasks=torch.zeros(1, dtype=torch.int64))
    scores, _ = validate([(batch.names, sides)], ContrastiveObjective())
    assert scores["recall@1"] == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"query": "a"}, "no 'positive'"),
        ({"query": 3, "positive": "b"}, "not an item"),
        ({"query": "a", "positive": "b", "negatives": "c"}, "list of items"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: dict[str, Any], message: str) -> None:
    rows = stub_rows(8)
    rows[5] = {**bad, "dataset": "flowers"}
    with pytest.raises(ValueError, match=rf"row 5 \(dataset 'flowers'\).*{message}"):
        stub_trainer(tmp_path, rows=rows).train()


def test_split_puts_each_embedding_in_its_place() -> None:
    rows = stub_rows(5, negatives=3)
    inputs = ContrastiveCollator(StubProcessor(), max_negatives=2)(rows)
    pickle.loads(pickle.dumps(inputs))
    batch = inputs["batch"]
    embeddings = torch.arange(float(len(batch.items)))[:, None].requires_grad_()
    sides = batch.split(embeddings, ContrastiveBatch, tasks=torch.zeros(5, dtype=torch.int64))
    assert sides.query[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert sides.positive[:, 0].tolist() == [5, 6, 7, 8, 9]
    assert sides.negative_mask.sum(1).tolist() == [0, 1, 2, 2, 0]
    assert sides.negatives[sides.negative_mask][:, 0].tolist() == [10, 11, 12, 13, 14]
    sides.negatives.sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad[:, 0].tolist() == [0.0] * 10 + [1.0] * 5


def test_arguments_that_make_no_sense_raise(tmp_path: Path) -> None:
    for bad in ({"remove_unused_columns": True}, {"chunk_tokens": 0}, {"max_negatives": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ContrastiveTrainingArguments(output_dir=str(tmp_path), **bad)  # type: ignore[arg-type]
    for bad in (
        {"max_bad_rows": -1},
        {"task_groups": "other"},
        {"activation_checkpointing_kwargs": {"use_reentrant": True}},
    ):
        with pytest.raises(ValueError, match=r"max_bad_rows|task grouping|use_reentrant"):
            ContrastiveTrainingArguments(output_dir=str(tmp_path), **bad)  # type: ignore[arg-type]
    args = ContrastiveTrainingArguments(output_dir=str(tmp_path), chunk_tokens=100)
    assert json.loads(args.to_json_string())["chunk_tokens"] == 100


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_checkpointing_has_both_names(tmp_path: Path, name: str) -> None:
    given: dict[str, Any] = {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    args = ContrastiveTrainingArguments(output_dir=str(tmp_path), **given)
    assert args.activation_checkpointing
    assert args.activation_checkpointing_kwargs == {"use_reentrant": False}


def test_the_published_config_is_not_changed(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path)
    assert not hasattr(trainer.native_model.config, "use_cache")
