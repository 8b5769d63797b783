"""ReasoningTrainer against UME-R1's cold start: parts and gradients, from rows, in chunks and on two ranks."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reasoning_reference as reference
import reasoning_run
import torch
from torch import Tensor

import umekit
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.trainers import ReasoningTrainer, ReasoningTrainingArguments
from umekit.trainers.batches import ContrastiveBatch

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4  # of the largest number


def close(found: Any, expected: Any, message: str = "") -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max(), message


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All cases in one process, and on each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "reasoning_run.py"), str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]
    return reasoning_run.run(folder / "one"), ranks


@pytest.fixture(scope="module")
def plain() -> Any:
    return reference.step()


# ---- the published numbers ---------------------------------------------------------------------------


def test_pixels_of_rows_are_the_published_ones(tmp_path: Path) -> None:
    trainer = reasoning_run.reasoning_trainer(tmp_path)
    batch = trainer.data_collator(reference.rows())["batch"]
    for role, side in (("query", "qry"), ("positive", "pos")):
        inputs = trainer.processing_class.collate(batch.items[batch.spans()[role]])
        expected = reference.OFFICIAL[f"images/{side}/image_grid_thw"]
        assert inputs["image_grid_thw"].tolist() == expected.tolist()
        close(inputs["pixel_values"], reference.OFFICIAL[f"images/{side}/pixel_values"])


def test_contrastive_losses_of_the_published_vectors(tmp_path: Path) -> None:
    sides = [
        torch.stack(
            [
                torch.from_numpy(reference.OFFICIAL[f"images/{side}/{slot}_vector"])
                for slot in ("disc", "gen")
            ],
            dim=1,
        )
        for side in ("qry", "pos")
    ]
    rows = ContrastiveBatch(
        *sides,
        negatives=torch.zeros(4, 0, 2, 80),
        negative_mask=torch.zeros(4, 0, dtype=torch.bool),
        tasks=torch.zeros(4, dtype=torch.int64),
        positive_keys=torch.zeros(4, 3, dtype=torch.int64),
        negative_keys=torch.zeros(4, 0, 3, dtype=torch.int64),
    )
    loss, metrics = reasoning_run.reasoning_trainer(tmp_path).contrast(rows)
    expected = {name: reference.OFFICIAL[f"images/loss/{name}_contrastive_loss"] for name in ("disc", "gen")}
    for name, value in expected.items():
        close(metrics[f"{name}_loss"], value, name)
        query, positive = (one[:, int(name == "gen")].double().numpy() for one in sides)
        close(reference.numpy_contrastive(query, positive), value)
    close(loss, sum(expected.values()))


def test_what_is_trained_is_what_was_published(outcomes: Any) -> None:
    patterns = reference.STORED["trained"]
    names = {name.replace("model.language_model.", "model.") for name in outcomes[0]["whole"]["gradients"]}
    names = {name.replace("model.visual.", "visual.") for name in names}
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in names), names
    assert all(any(fnmatch.fnmatch(name, pattern) for name in names) for pattern in patterns)


# ---- the whole step ----------------------------------------------------------------------------------


def test_the_reference_is_its_numpy_twin(plain: Any) -> None:
    losses, _, given = plain
    for name, value in reference.numpy_loss(given).items():
        close(losses[name], value, name)


@pytest.mark.parametrize("case", ["whole", "chunks", "one by one"])
def test_parts_and_gradients(outcomes: Any, plain: Any, case: str) -> None:
    losses, gradients, _ = plain
    for run in (outcomes[0][case], *(rank[case] for rank in outcomes[1])):
        for name, value in run["parts"].items():
            close(value, losses[name], name)
        assert len(run["gradients"]) == 45
        for name, gradient in run["gradients"].items():
            close(gradient, gradients[name], name)


def test_means_of_each_rank(outcomes: Any) -> None:
    losses, gradients, _ = reference.step(ranks=2)
    for rank in outcomes[1]:
        for name, value in rank["per rank"]["parts"].items():
            close(value, losses[name], name)
        for name, gradient in rank["per rank"]["gradients"].items():
            close(gradient, gradients[name], name)
    assert abs(losses["loss"] - outcomes[0]["per rank"]["parts"]["loss"]) > 0.01


@pytest.mark.parametrize("case", ["lora", "lora whole"])
def test_a_lora_gets_the_gradients_of_the_weights_that_it_makes(outcomes: Any, case: str) -> None:
    encoder = umekit.load(reference.CHECKPOINT, preset="ume-r1", device="cpu")
    reasoning_run.give_lora(encoder.model)
    factors = {n: p.detach() for n, p in encoder.model.backbone.named_parameters() if "lora_" in n}
    pairs = {
        name.replace(".lora_A.default.weight", ".weight"): (a, factors[name.replace("lora_A", "lora_B")])
        for name, a in factors.items()
        if "lora_A" in name
    }

    def add(model: Any) -> None:
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, (a, b) in pairs.items():
                weights[name] += 2 * b @ a

    losses, gradients, _ = reference.step(add)
    for run in (outcomes[0][case], *(rank[case] for rank in outcomes[1])):
        for name, value in run["parts"].items():
            close(value, losses[name], name)
        assert run["gradients"].keys() == factors.keys()
        for name, (a, b) in pairs.items():
            key = name.removesuffix("weight") + "lora_{}.default.weight"
            close(run["gradients"][key.format("A")], 2 * b.T @ gradients[name], name)
            close(run["gradients"][key.format("B")], 2 * gradients[name] @ a.T, name)


def test_weights_of_the_parts(tmp_path: Path, plain: Any) -> None:
    weights = {"disc_weight": 0.5, "gen_weight": 2.0, "query_ce_weight": 3.0, "positive_ce_weight": 0.0}
    losses, _, _ = plain
    parts = reasoning_run.stepped(tmp_path, chunk_tokens=400, **weights)["parts"]
    for name in losses.keys() - {"loss"}:
        close(parts[name], losses[name], name)
    names = ("disc_loss", "gen_loss", "query_ce", "positive_ce")
    close(parts["loss"], sum(w * losses[n] for w, n in zip(weights.values(), names, strict=True)))


def test_every_family_in_chunks_as_whole(
    family: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Texts alone, pictures and a video in one batch."""
    checkpoint = tiny_checkpoint(family, role="generative")
    rows = reference.rows()
    rows[0]["positive"] = "a text alone"
    rows[1]["query"] = {"video": rows[2]["query"]["images"] * 2, "text": "what happens"}
    found = []
    for budget in (None, 300):
        torch.manual_seed(0)
        trainer = reasoning_run.reasoning_trainer(
            tmp_path, checkpoint=checkpoint, preset=None, train_dataset=rows, chunk_tokens=budget
        )
        found.append(reasoning_run.taken(trainer))
    whole, chunks = found
    for name, value in whole["parts"].items():
        close(chunks["parts"][name], value, name)
    for name, gradient in whole["gradients"].items():
        assert (chunks["gradients"][name] - gradient).abs().max() <= TOLERANCE * max(
            1.0, gradient.abs().max()
        )


# ---- around it ---------------------------------------------------------------------------------------


def test_evaluation_reads_both_slots(tmp_path: Path, plain: Any) -> None:
    trainer = reasoning_run.reasoning_trainer(tmp_path, per_device_eval_batch_size=4)
    found = trainer.evaluate(reference.rows())
    for name in ("disc", "gen"):
        close(found[f"eval_{name}_loss"], plain[0][f"{name}_loss"])
    assert found["eval_recall@1"] == found["eval_gen_recall@1"]


def test_a_row_without_a_thought(tmp_path: Path) -> None:
    rows = reference.rows()
    rows[2].pop("query_thought")
    with pytest.raises(ValueError, match="no 'query_thought'"):
        reasoning_run.reasoning_trainer(tmp_path).data_collator(rows)
    trainer = reasoning_run.reasoning_trainer(tmp_path, thoughtless_rows=True)
    trainer.train_dataset = rows
    trainer.train()
    logged = trainer.state.log_history[0]
    assert 0 < logged["gen_loss"] < 10
    assert logged["query_ce"] > 0
    found = trainer.evaluate([{name: row[name] for name in ("query", "positive")} for row in rows])
    assert found["eval_recall@1"] == found["eval_disc_recall@1"]
    assert "eval_gen_loss" not in found


def test_what_cannot_be_trained_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prompts that ask"):
        ReasoningTrainingArguments(output_dir=str(tmp_path), mode="discriminative", use_cpu=True)
    with pytest.raises(ValueError, match="gen_weight must not"):
        ReasoningTrainingArguments(output_dir=str(tmp_path), gen_weight=-1.0, use_cpu=True)
    with pytest.raises(ValueError, match="trained_parts: 'head'"):
        ReasoningTrainingArguments(output_dir=str(tmp_path), trained_parts=["head"], use_cpu=True)
    model = UmeForDiscriminativeEmbedding.from_pretrained(reference.CHECKPOINT)
    args = ReasoningTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(TypeError, match="does not think"):
        ReasoningTrainer(model, args)


def test_media_that_are_read_again_for_each_chunk(tmp_path: Path, plain: Any) -> None:
    found = reasoning_run.stepped(tmp_path, media_per_chunk=True, chunk_tokens=400)
    for name, value in found["parts"].items():
        close(value, plain[0][name], name)
    for name, gradient in found["gradients"].items():
        close(gradient, plain[1][name], name)


def test_every_part_of_the_vision_tower_on_demand(tmp_path: Path, plain: Any) -> None:
    gradients: dict[str, Tensor] = reasoning_run.stepped(tmp_path, trained_parts=None, chunk_tokens=400)[
        "gradients"
    ]
    assert len(gradients) == len(plain[1])
    for name, gradient in gradients.items():
        close(gradient, plain[1][name], name)
