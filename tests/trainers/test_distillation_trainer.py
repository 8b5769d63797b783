"""DistillationTrainer on a model: U-MARVEL's prompts, chunks, LoRA, the temperature of the stage before, bad rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import umekit
from umekit.trainers import DistillationTrainer, DistillationTrainingArguments, add_lora
from umekit.trainers.distillation import CandidateScores, DistillationCollator, agreement
from umekit.trainers.objectives import ContrastiveObjective

GOLDEN = Path(__file__).parent / "golden"
CHECKPOINT = Path(__file__).parent.parent / "golden" / "umarvel_qwen2vl" / "checkpoint"


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "umarvel_train_model.json").read_text())
    return found


@pytest.fixture(scope="module")
def rows(published: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pictures")
    with np.load(GOLDEN / "pictures.npz") as arrays:
        for name in arrays:
            Image.fromarray(arrays[name]).save(folder / f"{name}.png")

    def item(entry: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in entry.items() if value}
        return {**given, "image": str(folder / f"{given['image']}.png")} if "image" in given else given

    return [
        {
            "query": item(row["query"]),
            "positive": item(row["gold"]),
            "candidates": [item(one) for one in row["candidates"]],
            "teacher_scores": row["fused"],
        }
        for row in published["rows"]
    ]


def trainer_of(folder: Path, rows: Any, encoder: Any, **settings: Any) -> DistillationTrainer:
    objective = settings.pop("objective", None)
    given: dict[str, Any] = {"temperature": 0.05, "teacher_scale": 0.5, "report_to": "none", "use_cpu": True}
    args = DistillationTrainingArguments(output_dir=str(folder), disable_tqdm=True, **{**given, **settings})
    return DistillationTrainer(
        encoder.model,
        args,
        processing_class=encoder.processor,
        objective=objective,
        train_dataset=rows,
        eval_dataset=rows,
    )


def test_prompts_are_rendered_and_pooled_as_theirs(
    published: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    processor = umekit.load(CHECKPOINT, preset="u-marvel").processor
    items = DistillationCollator(processor, generation_prompt=False)(rows)["batch"].items
    theirs = published["rendered"]["distill"]
    places = [0, 1, *(2 + row + 2 * place for row in range(2) for place in range(4))]  # theirs, in our order
    start, stop = (
        processor.tokenizer.convert_tokens_to_ids(f"<instruction_{end}>") for end in ("start", "end")
    )
    for item, place in zip(items, places, strict=True):
        assert item.rendered == theirs[place]
        ids = item.input_ids.tolist()
        span = range(ids.index(start), ids.index(stop) + 1) if start in ids else range(0)
        assert [n for n, slot in enumerate(item.slots) if not slot] == list(span)  # all but the instruction
    whole = DistillationCollator(processor)(rows)["batch"].items
    for item, place in zip(whole, places, strict=True):
        assert item.rendered == theirs[place] + "<|im_start|>assistant\n"


def test_a_step_is_that_of_the_plain_formula_in_chunks_as_whole(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    encoder = umekit.load(CHECKPOINT, preset="u-marvel")
    batch = DistillationCollator(encoder.processor, generation_prompt=False)(rows)["batch"]
    model = encoder.model
    found: list[torch.Tensor] = [
        model(**encoder.processor.collate([item])).embeddings[0] for item in batch.items
    ]
    loss = torch.zeros(())
    for row in range(2):
        cosines = torch.stack([found[row] @ found[2 + 4 * row + place] for place in range(4)])
        q = (cosines / 0.05).softmax(0)
        p = (torch.tensor(rows[row]["teacher_scores"]) / 2 / 0.05).softmax(0)
        loss = loss + (p * (p.log() - q.log())).sum() / 2
    loss.backward()
    wanted = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    for settings in ({}, {"chunk_tokens": 100}, {"chunk_tokens": 100, "media_per_chunk": True}):
        model.zero_grad()
        trainer = trainer_of(tmp_path, rows, encoder, **settings)
        step = trainer.training_step(trainer.model, trainer.data_collator(rows)).item()
        assert step == pytest.approx(loss.item(), rel=1e-5)
        named = dict(model.named_parameters())
        for name, value in wanted.items():
            assert (named[name].grad - value).abs().max() <= 1e-4 * value.abs().max() + 1e-7, name


def test_a_fresh_lora_learns_the_teachers_order_from_the_stage_befores_temperature(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    ContrastiveObjective(temperature=0.05, learnable_temperature=True).save_pretrained(tmp_path / "stage2")
    objective = ContrastiveObjective(temperature=0.02, learnable_temperature=True)
    objective.load_weights(tmp_path / "stage2")
    encoder = umekit.load(CHECKPOINT, preset="u-marvel")
    torch.manual_seed(0)
    add_lora(encoder.model, rank=8, alpha=16, dropout=0.0)
    trainer = trainer_of(
        tmp_path / "run",
        rows,
        encoder,
        objective=objective,
        per_device_train_batch_size=2,
        max_steps=12,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        chunk_tokens=300,
        infonce_weight=0.1,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    logged = [one["temperature"] for one in trainer.state.log_history if "temperature" in one]
    assert logged[0] == pytest.approx(0.05)
    assert after["eval_loss"] < before["eval_loss"] / 2
    assert after["eval_agreement"] == 1.0
    trainer.save_model(str(tmp_path / "adapter"))
    assert {"adapter_config.json", "objective.json"} <= {
        path.name for path in (tmp_path / "adapter").iterdir()
    }


def test_rows_that_are_wrong_are_named_or_left_out(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    encoder = umekit.load(CHECKPOINT, preset="u-marvel")
    wrong = {
        "4 candidates and 3 teacher_scores": {**rows[0], "teacher_scores": [1.0, 0.5, 0.2]},
        "candidate 1: the teacher's score is not finite": {
            **rows[0],
            "teacher_scores": [1.0, float("nan"), 0.2, 0.1],
        },
        "candidate 2: the teacher's score is not finite": {
            **rows[0],
            "teacher_scores": [1.0, 0.5, None, 0.1],
        },
        "teacher_scores must be a list of numbers, got 0.5": {**rows[0], "teacher_scores": 0.5},
        "got \\['a'": {**rows[0], "teacher_scores": ["a", 0.5, 0.2, 0.1]},
        "candidate 3: no such file": {
            **rows[0],
            "candidates": [*rows[0]["candidates"][:3], {"image": "nowhere.png"}],
        },
        "no 'teacher_scores'": {key: value for key, value in rows[0].items() if key != "teacher_scores"},
        "0 candidates": {**rows[0], "candidates": [], "teacher_scores": []},
    }
    trainer = trainer_of(tmp_path, rows, encoder)
    expected = trainer.training_step(trainer.model, trainer.data_collator(rows)).item()
    for message, row in wrong.items():
        with pytest.raises(ValueError, match=message):
            trainer.data_collator([rows[0], row])
    lenient = trainer_of(tmp_path, rows, encoder, max_bad_rows=100)
    batch = lenient.data_collator([*rows, *wrong.values()])
    assert lenient.training_step(lenient.model, batch).item() == pytest.approx(expected, rel=1e-5)
    nothing = lenient.data_collator(list(wrong.values()))
    assert lenient.training_step(lenient.model, nothing).item() == 0


def test_ties_agree_only_where_all_of_the_students_best_are_the_teachers() -> None:
    cases = [
        ([0.9, 0.1, 0.0], [1.0, 0.5, 0.2], True),
        ([0.1, 0.9, 0.0], [1.0, 1.0, 0.2], True),  # one of the teacher's two
        ([0.3, 0.3, 0.3], [1.0, 0.5, 0.2], False),  # a student that tells nothing apart
        ([0.9, 0.9, 0.0], [1.0, 1.0, 0.2], True),
        ([-0.5, -0.9, 0.0], [-1.0, -2.0, 0.0], True),  # the last one is padding
    ]
    own, teacher = (torch.tensor([case[side] for case in cases]) for side in (0, 1))
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[4, 2] = False
    rows = CandidateScores(own, teacher, mask, torch.zeros(5, dtype=torch.int64))
    assert agreement(rows).tolist() == [case[2] for case in cases]


def test_arguments_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for wrong in (
        {"divergence": "both"},
        {"teacher_scale": 0.0},
        {"max_candidates": 0},
        {"infonce_weight": -1.0},
        {"matryoshka_dims": [16]},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DistillationTrainingArguments(output_dir=str(tmp_path), **wrong)  # type: ignore[arg-type]
