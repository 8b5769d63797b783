"""JointReasoningTrainer against its formula written plainly: parts and gradients, whole, in chunks, on two ranks."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import joint_run
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import umekit
from umekit.trainers import JointReasoningTrainer, JointReasoningTrainingArguments
from umekit.trainers.actions import ActionCollator, action_margins, action_of, prompt_ends

HERE = Path(__file__).resolve().parent
TOLERANCE = 2e-4  # of the largest number
TAU = 0.1
VIEWS = {"disc": (0, 0), "gen": (1, 1), "disc_gen": (0, 1), "gen_disc": (1, 0)}


def close(found: Any, expected: Any, message: str = "") -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= TOLERANCE * max(1e-3, np.abs(expected).max()), message


# ---- the formula, item by item -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of every item, forwarded alone: its vectors by slot (None without a thought), logits from the prompt's last token
    on, and ids of its completion."""
    trainer = joint_run.trainer_of(tmp_path_factory.mktemp("plain"))
    encoder: Any = trainer
    model, processor = encoder.native_model, encoder.processing_class
    batch = ActionCollator(processor, mode="generative", thoughtless_rows=True)(joint_run.rows())["batch"]
    model.train()
    found = []
    for item in batch.items:
        inputs = processor.collate([item])
        states = model(**inputs).last_hidden_state[0]
        slots = inputs["pooling_slots"][0]
        vectors = [states[slots == slot].mean(0) if (slots == slot).any() else None for slot in (1, 2)]
        start = item.length - item.completion
        logits = model.backbone.get_output_embeddings()(states[start - 1 : item.length])
        found.append((vectors, logits, inputs["input_ids"][0, start:]))
    spans = batch.spans()
    sides = {role: found[spans[role]] for role in ("query", "positive")}
    return model, sides, found[spans["negatives"]]


def torch_loss(sides: Any, negatives: Any) -> dict[str, Tensor]:
    """Parts of the loss; the first row alone has negatives, which have no thought."""
    parts = {}
    for name, (query, target) in VIEWS.items():
        rows = [
            n
            for n in range(len(sides["query"]))
            if sides["query"][n][0][query] is not None and sides["positive"][n][0][target] is not None
        ]
        q = F.normalize(torch.stack([sides["query"][n][0][query] for n in rows]), dim=-1)
        p = F.normalize(torch.stack([sides["positive"][n][0][target] for n in rows]), dim=-1)
        scores = q @ p.T / TAU
        forth = scores
        if target == 0:  # negatives are embedded at once
            hard = F.normalize(torch.stack([one[0][0] for one in negatives]), dim=-1)
            own = (q @ hard.T / TAU).masked_fill(torch.tensor(rows)[:, None] != 0, -torch.inf)
            forth = torch.cat([scores, own], dim=1)
        labels = torch.arange(len(rows))
        parts[f"{name}_loss"] = (F.cross_entropy(forth, labels) + F.cross_entropy(scores.T, labels)) / 2
    for role, side in sides.items():
        losses = [F.cross_entropy(logits[:-1], ids, reduction="none") for _, logits, ids in side if len(ids)]
        parts[f"{role}_ce"] = torch.cat(losses).mean()
        chosen = [
            F.cross_entropy(logits[0, action_ids()], torch.tensor(int(len(ids) > 0)))
            for _, logits, ids in side
        ]
        parts[f"{role}_action_ce"] = torch.stack(chosen).mean()
    w = joint_run.WEIGHTS
    parts["loss"] = (
        w["disc_weight"] * parts["disc_loss"]
        + w["gen_weight"] * parts["gen_loss"]
        + w["cross_weight"] * (parts["disc_gen_loss"] + parts["gen_disc_loss"])
        + parts["query_ce"]
        + parts["positive_ce"]
        + w["action_weight"] * (parts["query_action_ce"] + parts["positive_action_ce"])
    )
    return parts


def numpy_parts(sides: Any, negatives: Any) -> dict[str, float]:
    """The same in NumPy, sum by sum."""

    def unit(vector: Tensor) -> np.ndarray:
        plain = vector.detach().double().numpy()
        return plain / np.linalg.norm(plain)

    def minus_log(own: float, others: list[float]) -> float:
        return float(np.log(np.exp(np.array([own, *others]) - own).sum()))

    parts = {}
    for name, (query, target) in VIEWS.items():
        pairs = [
            (n, unit(q[0][query]), unit(p[0][target]))
            for n, (q, p) in enumerate(zip(sides["query"], sides["positive"], strict=True))
            if q[0][query] is not None and p[0][target] is not None
        ]
        hard = [unit(one[0][0]) for one in negatives] if target == 0 else []
        total = 0.0
        for n, q, p in pairs:
            columns = [q @ other / TAU for m, _, other in pairs if m != n]
            columns += [q @ one / TAU for one in hard] if n == 0 else []
            total += minus_log(q @ p / TAU, columns)
            total += minus_log(q @ p / TAU, [other @ p / TAU for m, other, _ in pairs if m != n])
        parts[f"{name}_loss"] = total / len(pairs) / 2
    for role, side in sides.items():
        actions, thoughts = [], []
        for _, logits, ids in side:
            values = logits.detach().double().numpy()
            likely = values - np.log(np.exp(values).sum(-1, keepdims=True))
            thoughts += [-likely[place, token] for place, token in enumerate(ids.tolist())]
            direct, reason = values[0, action_ids()]
            actions.append(np.log1p(np.exp(direct - reason if len(ids) else reason - direct)))
        parts[f"{role}_action_ce"], parts[f"{role}_ce"] = np.mean(actions), np.mean(thoughts)
    return parts


def test_the_formula_is_its_numpy_twin(read: Any) -> None:
    _, sides, negatives = read
    parts = torch_loss(sides, negatives)
    twin = numpy_parts(sides, negatives)
    assert len(twin) == 8
    for name, value in twin.items():
        close(parts[name].item(), value, name)
        assert value > 1e-3, name  # none is trivially zero


# ---- the step ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(read: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    model, sides, negatives = read
    parts = torch_loss(sides, negatives)
    parts["loss"].backward()
    gradients = {
        name.removeprefix("backbone."): p.grad for name, p in model.named_parameters() if p.grad is not None
    }
    return {name: value.item() for name, value in parts.items()}, gradients


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All cases in one process, and on each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "joint_run.py"), str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]
    return [joint_run.run(folder / "one"), *ranks]


@pytest.mark.parametrize("case", joint_run.CASES)
def test_parts_and_gradients(outcomes: Any, plain: Any, case: str) -> None:
    parts, gradients = plain
    for run in outcomes:
        for name, value in run[case]["parts"].items():
            close(value, parts[name], name)
        assert run[case]["gradients"].keys() == gradients.keys()
        for name, gradient in run[case]["gradients"].items():
            close(gradient, gradients[name], name)


def test_the_choice_that_is_trained_is_the_one_that_is_made() -> None:
    """The margin of training is the logit that the adaptive kind decides by."""
    encoder = umekit.load(role="adaptive", device="cpu")
    ids = ActionCollator(encoder.processor).action_ids()
    states = torch.randn(3, 5, encoder.model.dim)
    places = torch.tensor([4, 0, 2])
    found = action_margins(encoder.model, states, places, ids)
    torch.testing.assert_close(found, encoder.model.action_logits(states[torch.arange(3), places]))
    assert found.abs().min() > 0


def test_evaluation_takes_each_side_as_it_is_labelled(tmp_path: Path, plain: Any) -> None:
    trainer = joint_run.trainer_of(tmp_path, per_device_eval_batch_size=6)
    found = trainer.evaluate(joint_run.rows())
    for name in VIEWS:
        close(found[f"eval_{name}_loss"], plain[0][f"{name}_loss"], name)
    assert 0 <= found["eval_recall@1"] <= 1
    texts = [{"query": row["query"], "positive": f"text {n}"} for n, row in enumerate(joint_run.rows())]
    found = trainer.evaluate(texts)
    assert "eval_disc_loss" in found
    assert "eval_gen_loss" not in found


# ---- rows --------------------------------------------------------------------------------------------


@functools.cache
def action_ids() -> list[int]:
    return ActionCollator(umekit.load(role="generative").processor).action_ids()


def test_a_direct_side_has_no_thought_whatever_the_row_holds() -> None:
    processor = umekit.load(role="generative").processor
    batch = ActionCollator(processor, mode="generative", thoughtless_rows=True)(joint_run.rows())["batch"]
    spans = batch.spans()
    expected = {
        "query": [True, True, False, False, True, False],
        "positive": [True, False, True, False, True, False],
    }
    for role, thinks in expected.items():
        assert batch.columns[f"{role}_action"].tolist() == thinks
        items = batch.items[spans[role]]
        assert [item.completion > 0 for item in items] == thinks
        assert [2 in item.slots for item in items] == thinks
        first = items[0]
        begin = processor.prompt_tokenizer.id_of("<think>")
        assert first.input_ids[first.length - first.completion] == begin  # the action is not written
    assert all(item.completion == 0 for item in batch.items[spans["negatives"]])


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_end_before_their_thoughts(side: str) -> None:
    processor = umekit.load(role="generative").processor
    items = ActionCollator(processor, mode="generative", thoughtless_rows=True)(joint_run.rows())[
        "batch"
    ].items
    inputs = processor.collate(items, padding_side=side)
    for row, place in enumerate(prompt_ends(items, inputs["attention_mask"]).tolist()):
        item = items[row]
        begin = int(inputs["attention_mask"][row].nonzero()[0])
        assert place == begin + item.length - item.completion - 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"query_action": "think"}, "query_action is 'think'; use one of direct, reason"),
        ({"query_action": "reason"}, "no 'query_thought' to learn"),
    ],
)
def test_bad_labels_are_named(row: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        action_of(row, "query")


def test_what_cannot_be_trained_so(tmp_path: Path) -> None:
    for name in ("cross_weight", "action_weight"):
        with pytest.raises(ValueError, match=f"{name} must not be negative"):
            JointReasoningTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: -0.5})
    processor = umekit.load(HERE.parent / "golden" / "ume_r1" / "checkpoint", preset="ume-r1").processor
    with pytest.raises(ValueError, match="no token <direct> and no <reason>"):
        ActionCollator(processor, mode="generative")


def test_a_probe_that_will_be_of_old_states_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ume-tiny decides by a probe, and so does what is trained from it until another one is fitted."""
    encoder = umekit.load(role="adaptive", device="cpu")
    arguments = JointReasoningTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    JointReasoningTrainer(encoder.model, arguments, processing_class=encoder.processor)
    assert "umekit probe" in caplog.text
    caplog.clear()
    encoder.model.settings = replace(encoder.model.settings, strategy="policy")
    JointReasoningTrainer(encoder.model, arguments, processing_class=encoder.processor)
    assert "umekit probe" not in caplog.text
