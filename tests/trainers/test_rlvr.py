"""RLVRTrainer: a step in chunks as whole and on two ranks as on one, an exact resume, and a bandit that it solves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rlvr_reference as reference
import rlvr_run
import torch
from torch import Tensor

from umekit.trainers.objectives import format_reward
from umekit.trainers.rollout_batches import METRICS, policy_losses
from umekit.trainers.rollout_rewards import RolloutGroups, embedding_reward
from umekit.trainers.rollouts import Completion, Prompt, Sampling

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4  # of the largest number


def close(found: Any, expected: Any, message: str = "", tolerance: float = TOLERANCE) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-6), message


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All cases in one process, and on each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "rlvr_run.py"), str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]
    return rlvr_run.run(folder / "one"), ranks


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert len(one["logged"]) == len(other["logged"])
    for here, there in zip(one["logged"], other["logged"], strict=True):
        assert here.keys() == there.keys()
        for name, value in here.items():
            assert value == pytest.approx(there[name], rel=1e-3, abs=1e-4), name
    largest = max(gradient.abs().max() for gradient in other["gradients"].values())
    for name, gradient in one["gradients"].items():
        assert (gradient - other["gradients"][name]).abs().max() <= TOLERANCE * largest, name


@pytest.mark.parametrize("case", rlvr_run.CASES)
def test_two_ranks_are_one(outcomes: Any, case: str) -> None:
    for rank in outcomes[1]:
        same(rank[case], outcomes[0][case])


def test_chunks_are_the_whole(outcomes: Any) -> None:
    same(outcomes[0]["chunks"], outcomes[0]["whole"])


def test_the_first_update_is_on_policy_and_the_second_is_not(outcomes: Any) -> None:
    first, second, third, fourth = outcomes[0]["updates"]["logged"]
    for one in (first, third):
        assert one["query_ratio"] == pytest.approx(1, abs=1e-5)
        assert one["query_clip_fraction"] == 0
    assert abs(second["query_ratio"] - 1) > 1e-4
    assert first["query_reward"] == second["query_reward"]
    assert (
        third["query_reward"] != second["query_reward"] or third["query_entropy"] != second["query_entropy"]
    )
    assert first["query_kl"] == pytest.approx(0, abs=1e-6)
    assert fourth["query_kl"] > 1e-6


# ---- a bandit --------------------------------------------------------------------------------------


def test_a_bandit_is_solved(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """One token, one of four at first: the best policy always writes that of the largest reward."""
    wanted: list[int] = []

    def reward(groups: RolloutGroups) -> Tensor:
        value = {token: place / 3 for place, token in enumerate(wanted)}
        return torch.tensor([[value.get(one[0], 0.0) for one in row] for row in groups.tokens])

    trainer = rlvr_run.rlvr_trainer(
        tmp_path,
        checkpoint=tiny_checkpoint("qwen2_vl", role="generative"),
        preset=None,
        train_dataset=[{"query": "choose", "positive": "nothing", "positive_vectors": [1.0] * 64}] * 2,
        trainer={"rewards": {"arm": (reward, 1.0)}},
        targets="frozen",
        per_device_train_batch_size=2,
        num_generations=16,
        max_completion_length=1,
        top_k=4,
        max_steps=40,
        optim="adamw_torch",
        learning_rate=0.01,
        beta=0.0,
    )

    def written() -> Counter[int]:
        item = trainer.processing_class.prepare("choose", role="query", mode="generative")
        rows = trainer.own_engine.rollout([Prompt(item, (7,))], Sampling(64, 1, 1.0, 4))
        return Counter(one.tokens[0] for one in rows[0])

    before = written()
    wanted += [token for token, _ in before.most_common()]
    assert len(before) == 4
    trainer.train()
    assert before[wanted[-1]] < 32
    assert written()[wanted[-1]] >= 62
    rewards = [one["query_reward"] for one in trainer.state.log_history if "loss" in one]
    assert rewards[0] < 0.6 < 0.95 < rewards[-1]


# ---- the published numbers -------------------------------------------------------------------------


def golden(name: str) -> dict[str, Any]:
    return dict(np.load(HERE / "golden" / f"ume_r1_{name}.npz"))


def groups_of(role: str, queries: np.ndarray, targets: np.ndarray) -> RolloutGroups:
    vectors, others = (torch.from_numpy(one) for one in (queries, targets))
    n, g = vectors.shape[:2]
    return RolloutGroups(
        role,
        [[""] * g] * n,
        [[[1]] * g] * n,
        [{}] * n,
        vectors,
        torch.ones(n, g, dtype=torch.bool),
        others,
        torch.ones(*others.shape[:2], dtype=torch.bool),
        torch.arange(n),
        0,
        (0,),
    )


def test_format_rewards() -> None:
    stored = json.loads((HERE / "golden" / "ume_r1_reward.json").read_text(encoding="utf-8"))
    for case in stored["format"]:
        assert format_reward(case["text"]) == case["reward"], case["text"]


def test_rewards_and_advantages(tmp_path: Path) -> None:
    stored = golden("reward")
    trainer = rlvr_run.rlvr_trainer(tmp_path, min_deviation=0.0)
    for case in {name.split("/")[0] for name in stored}:
        for role, other in (("query", "target"), ("target", "query")):
            groups = groups_of(role, stored[f"{case}/{role}"], stored[f"{case}/{other}"])
            form = torch.from_numpy(stored[f"{case}/{role}_reward"] - stored[f"{case}/{role}_reward_embed"])
            trainer.rewards = {"format": (lambda _, form=form: form, 1.0), "embed": (embedding_reward, 1.0)}
            found = trainer.rewarded(groups, [""] * len(form))
            close(groups.rank_and_gap[1], stored[f"{case}/{role}_gap"])
            close(found.parts["embed"], stored[f"{case}/{role}_reward_embed"])
            close(found.reward, stored[f"{case}/{role}_reward"])
            close(found.advantages, stored[f"{case}/{role}_advantage"])


def inputs_of(sides: list[dict[str, np.ndarray]]) -> tuple[Tensor, dict[str, Tensor], list[tuple[int, int]]]:
    """Sides as one chunk of the replay, padded to one length."""
    longest = max(side["logp"].shape[1] for side in sides)

    def joined(name: str) -> Tensor:
        parts = [torch.from_numpy(side[name]) for side in sides]
        return torch.cat([torch.nn.functional.pad(one, (0, longest - one.shape[1])) for one in parts])

    inputs = {
        "local_labels": joined("mask").long() - 1 - 99 * (joined("mask") == 0).long(),
        "local_old": joined("old_logp"),
        "local_reference": joined("ref_logp"),
        "local_advantages": torch.cat([torch.from_numpy(side["advantages"]).flatten() for side in sides]),
        "local_roles": torch.cat([torch.full((len(side["logp"]),), n) for n, side in enumerate(sides)]),
    }
    return joined("logp").requires_grad_(), inputs, [(len(s["logp"]), int(s["mask"].sum())) for s in sides]


@pytest.mark.parametrize("name", ["policy_loss", "rl_step"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_policy_losses(name: str, rows: int) -> None:
    """Both sides of a step, and one alone; so many rows in a chunk."""
    stored = golden(name)
    for case in {key.split("/")[0] for key in stored}:
        one = {key.split("/")[1]: value for key, value in stored.items() if key.split("/")[0] == case}
        sides = [one]
        if name == "rl_step":
            columns = ("logp", "old_logp", "ref_logp", "mask", "advantages", "grad_logp")
            sides = [{key: one[f"{role}_{key}"] for key in columns} for role in ("query", "target")]
        likely, inputs, totals = inputs_of(sides)
        settings = {key: float(one[key]) for key in ("beta", "clip_low", "clip_high")}
        loss = torch.zeros(())
        for chunk in torch.arange(len(likely)).split(rows):
            part, _sums = policy_losses(
                likely[chunk],
                {key: value[chunk] for key, value in inputs.items()},
                totals,
                norm="constant",
                max_length=int(one["max_length"]),
                **settings,
            )
            loss = loss + part
        close(loss.detach(), one["loss"])
        loss.backward()
        start = 0
        for side in sides:
            b, t = side["logp"].shape
            close(likely.grad[start : start + b, :t] * len(sides), side["grad_logp"] * len(sides))
            start += b


def test_the_whole_published_step(tmp_path: Path) -> None:
    """Of the vectors, log-probabilities and format rewards that the official code had, model and all."""
    stored = golden("rl_model")
    trainer = rlvr_run.rlvr_trainer(tmp_path, min_deviation=0.0)
    sides = []
    for role, other in (("query", "target"), ("target", "query")):
        one = {key.split("/")[1]: value for key, value in stored.items() if key.startswith(f"{role}/")}
        groups = groups_of(role, one["embedding"], stored[f"{other}/embedding"])
        form = torch.from_numpy(one["reward_format"])
        trainer.rewards = {"format": (lambda _, form=form: form, 1.0), "embed": (embedding_reward, 1.0)}
        found = trainer.rewarded(groups, [""] * len(form))
        close(found.parts["embed"], one["reward_embed"])
        close(found.advantages, one["advantage"], tolerance=2e-3)  # a deviation of a hundredth is divided by
        sides.append(
            {
                "logp": one["logp"],
                "old_logp": one["logp"],
                "ref_logp": one["ref_logp"],
                "mask": one["completion_mask"],
                "advantages": one["advantage"],
            }
        )
    likely, inputs, totals = inputs_of(sides)
    loss, sums = policy_losses(
        likely,
        inputs,
        totals,
        norm="constant",
        max_length=int(stored["max_length"]),
        beta=float(stored["beta"]),
        clip_low=0.2,
        clip_high=0.28,
    )
    close(loss.detach(), stored["loss"])
    assert (sums[:, METRICS.index("clip_fraction")] == 0).all()


# ---- from rows: the stock model --------------------------------------------------------------------


class Given:
    """Stands in for an engine without states, as vLLM is one: the same completions whatever is asked for."""

    def __init__(self, official: bool) -> None:
        self.written = reference.completions(official)
        self.seen: list[float] = []

    def update(self, model: Any) -> None:
        self.seen.append(float(next(model.backbone.parameters()).double().sum()))

    def rollout(self, prompts: Any, sampling: Sampling) -> list[list[Completion]]:
        assert sampling.count == 3
        rows = [row for name in self.written for row in self.written[name]]
        assert len(prompts) == len(rows)
        return [
            [Completion([*one, 5, 6]) if one[-1] == 656 else Completion(one) for one in row] for row in rows
        ]


def scale(model: Any) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model" in name and name.endswith("down_proj.weight"):
                weight *= 1.25


@pytest.mark.parametrize("official", [False, True])
def test_a_step_on_the_stock_model(tmp_path: Path, official: bool) -> None:
    loss, gradients, sides = reference.step(official, scale)
    for budget in (None, 400):
        engine = Given(official)
        trainer = rlvr_run.rlvr_trainer(
            tmp_path,
            trainer={"rollout_engine": engine},
            num_generations=3,
            max_completion_length=reference.MAX_LENGTH,
            min_deviation=0.0,
            chunk_tokens=budget,
            trained_parts=None,
            thought_end="official" if official else "forced",
        )
        scale(trainer.native_model)
        found = rlvr_run.taken(trainer)
        [logged] = found["logged"]
        close(logged["loss"], loss)
        for role, name in (("query", "query"), ("positive", "target")):
            close(logged[f"{role}_reward"], sides[name]["reward"].mean())
            entropy = -torch.cat(sides[name]["logp"]).mean().item()
            close(logged[f"{role}_entropy"], entropy)
            assert logged[f"{role}_forced_share"] == pytest.approx(0 if official else 1 / 12)
            assert logged[f"{role}_kl"] > 0
        assert found["gradients"].keys() == gradients.keys()
        largest = max(float(one.abs().max()) for one in gradients.values())
        for name, gradient in found["gradients"].items():
            assert (gradient - gradients[name]).abs().max() <= TOLERANCE * largest, name
        assert len(engine.seen) == 1
