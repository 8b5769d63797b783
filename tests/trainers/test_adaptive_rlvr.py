"""AdaptiveRLVRTrainer: a bandit whose optimum is known, what is written and what it costs, and an exact resume."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reasoning_reference
import rlvr_run
import torch
from test_rollouts import KillAt, Killed
from torch import Tensor

from umekit.modeling import adaptive
from umekit.modeling.decoding import CachedRows
from umekit.trainers import AdaptiveRLVRTrainer, AdaptiveRLVRTrainingArguments
from umekit.trainers.adaptive_rollouts import ActionSampling, AdaptiveRollouts
from umekit.trainers.rollout_batches import rollout_batch
from umekit.trainers.rollout_rewards import RolloutGroups
from umekit.trainers.rollouts import Completion, Prompt, Sampling

GAINS = {"walk": 0.5, "count": 0.2, "glance": 0.02, "name": -0.3}  # of a thought, by query


def gain(trainer: AdaptiveRLVRTrainer, groups: RolloutGroups) -> Tensor:
    """0.3 at once; what a thought adds stands in the row."""
    gains = torch.tensor([[float(row["gain"])] for row in groups.rows])
    return 0.3 + gains * trainer.reasoned(groups)[0]


def reason_probabilities(trainer: AdaptiveRLVRTrainer) -> dict[str, float]:
    items = [
        trainer.processing_class.prepare(text, role="query", mode="adaptive")  # type: ignore[union-attr]
        for text in GAINS
    ]
    sampling = ActionSampling(2, 2, least=1)
    rows = trainer.own_engine.rollout([Prompt(item, (5,)) for item in items], sampling)
    return {text: row[0].reason for text, row in zip(GAINS, rows, strict=True)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("cost", "thinks"), [(0.3, {"walk", "count"}), (0.9, {"walk"})])
def test_a_bandit_thinks_exactly_where_it_pays(tmp_path: Path, cost: float, thinks: set[str]) -> None:
    """Thoughts have two of two tokens, so one pays from a gain of cost / 3 on: 0.1, or 0.3."""
    rows = [
        {"query": text, "positive": "nothing", "positive_vectors": [1.0] * 80, "gain": gained}
        for text, gained in GAINS.items()
    ]
    trainer = rlvr_run.rlvr_trainer(
        tmp_path,
        adaptive=True,
        train_dataset=rows,
        trainer={"utility": lambda groups: gain(trainer, groups)},
        targets="frozen",
        per_device_train_batch_size=4,
        num_generations=8,
        max_completion_length=2,
        reasoning_cost=cost,
        action_warmup_steps=10,
        max_steps=40,
        optim="adamw_torch",
        learning_rate=0.003,
        beta=0.0,
        logging_steps=5,
        collapse_window=5,
    )
    trainer.train()
    found = reason_probabilities(trainer)
    assert {text for text, reason in found.items() if reason > 0.9} == thinks, found
    assert {text for text, reason in found.items() if reason < 0.1} == GAINS.keys() - thinks, found
    logged = [one for one in trainer.state.log_history if "loss" in one]
    assert logged[0]["query_break_even"] == pytest.approx(cost / 3)
    assert logged[0]["query_delta"] == pytest.approx(np.mean(list(GAINS.values())), abs=1e-6)
    assert logged[0]["query_thought_tokens"] == pytest.approx(2)
    assert logged[-1]["query_invocation_ratio"] == pytest.approx(len(thinks) / 4)
    assert logged[-1]["query_forced_actions"] > 0
    assert logged[-1]["query_collapse"] == 0


# ---- rollouts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> AdaptiveRLVRTrainer:
    found: AdaptiveRLVRTrainer = rlvr_run.rlvr_trainer(tmp_path_factory.mktemp("run"), adaptive=True)
    return found


def prompts_of(trainer: AdaptiveRLVRTrainer) -> tuple[Any, list[Prompt]]:
    batch = trainer.data_collator(reasoning_reference.rows())["batch"]  # type: ignore[index]
    return batch, [Prompt(item, (1, place)) for place, item in enumerate(batch.items)]


def test_one_prefill_and_nothing_written_at_once(
    trainer: AdaptiveRLVRTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = trainer.processing_class.prepare("which", role="query", mode="adaptive")  # type: ignore[union-attr]
    prompts = [Prompt(item, (1, place)) for place in range(5)]  # of one length, so of one batch
    reads: list[int] = []
    steps: list[int] = []
    prefill, step = adaptive.prefill, CachedRows.step
    monkeypatch.setattr(
        adaptive, "prefill", lambda *given: (reads.append(len(given[1]["input_ids"])), prefill(*given))[1]
    )
    monkeypatch.setattr(
        CachedRows, "step", lambda rows, tokens: (steps.append(len(tokens)), step(rows, tokens))[1]
    )
    found = trainer.own_engine.rollout(prompts, ActionSampling(6, 12, least=2))
    direct = trainer.ends.direct
    thinking = [one for row in found for one in row if one.tokens != [direct]]
    assert reads == [len(prompts)]
    assert max(steps) == steps[0] == len(thinking) < 6 * len(prompts)
    assert all(2 <= sum(one.tokens != [direct] for one in row) <= 4 for row in found)
    steps.clear()
    trainer.native_model.settings = replace(trainer.native_model.settings, kappa=1.0)
    try:
        none = trainer.greedy([prompt.item for prompt in prompts])
    finally:
        trainer.native_model.settings = replace(trainer.native_model.settings, kappa=0.5)
    assert [one.tokens for one in none] == [[direct]] * len(prompts)
    assert steps == []


def test_alone_as_together(trainer: AdaptiveRLVRTrainer) -> None:
    _, prompts = prompts_of(trainer)
    sampling = ActionSampling(4, 12, least=1)
    together = trainer.own_engine.rollout(prompts, sampling)
    for prompt, row in zip(prompts, together, strict=True):
        [alone] = trainer.own_engine.rollout([prompt], sampling)
        assert [one.tokens for one in alone] == [one.tokens for one in row]
        for one, other in zip(alone, row, strict=True):
            torch.testing.assert_close(one.vector, other.vector, rtol=1e-4, atol=1e-5)


def test_the_replay_reads_what_was_written(trainer: AdaptiveRLVRTrainer) -> None:
    """Vectors, and log-probabilities on the backbone itself: of the vocabulary for tokens, of two for the action."""
    batch, prompts = prompts_of(trainer)
    found = trainer.own_engine.rollout(prompts, ActionSampling(4, 12, least=2))
    tokens = [[trainer.ends.cut(one.tokens) for one in row] for row in found]
    rollouts = rollout_batch(batch, {"query": tokens[:4], "positive": tokens[4:]}, trainer.ends)
    vectors, likely = trainer.passed(trainer.model, rollouts, True)
    assert vectors is not None
    model, seen = trainer.native_model, set()
    direct, reason = (model.settings.tokens[name] for name in ("direct", "reason"))
    flat = [one for row in found for one in row]
    encoded = model.encode(
        [row["query"] for row in reasoning_reference.rows()],
        processor=trainer.processing_class,
        role="query",
        mode="discriminative",
    )
    for place, (one, item) in enumerate(zip(flat, rollouts.items, strict=True)):
        if trainer.ends.has_vector(trainer.ends.cut(one.tokens)):
            torch.testing.assert_close(vectors[place], one.vector, rtol=1e-3, atol=1e-4)
        at_once = one.tokens == [direct]
        if at_once and place < 16:
            torch.testing.assert_close(one.vector, encoded[place // 4], rtol=1e-3, atol=1e-4)
        if at_once in seen:
            continue
        seen.add(at_once)
        inputs = trainer.processing_class.collate([item])  # type: ignore[union-attr]
        with torch.no_grad():
            logits = model.backbone(
                **{name: value for name, value in inputs.items() if name != "pooling_slots"}
            ).logits[0]
        start = len(logits) - item.completion - 1
        odds = (logits[start, reason] - logits[start, direct]) * (
            -1 if at_once else 1
        )  # start: the prompt's end
        assert likely[place][-1].item() == pytest.approx(torch.sigmoid(odds).log().item(), abs=1e-4)
        written = torch.tensor([] if at_once else trainer.ends.cut(one.tokens), dtype=torch.long)[:, None]
        assert item.completion == len(written) == len(likely[place]) - 1
        expected = logits[start:-1].log_softmax(-1).gather(1, written)[:, 0]
        torch.testing.assert_close(likely[place][:-1], expected, rtol=1e-3, atol=1e-4)
    assert seen == {True, False}


def replace_arguments(args: Any, **changes: Any) -> Any:
    found = copy.copy(args)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


class Thinker:
    """Another engine: writes the same thought, and notes what it was asked for."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.asked, self.updates = tokens, [], 0  # type: ignore[var-annotated]

    def update(self, model: Any) -> None:
        self.updates += 1

    def rollout(self, prompts: Any, sampling: Sampling) -> list[list[Completion]]:
        self.asked.append((len(prompts), sampling.count))
        return [[Completion([*self.tokens]) for _ in range(sampling.count)] for _ in prompts]


def test_another_engine_writes_thoughts_alone(tmp_path: Path) -> None:
    gen = rlvr_run.rlvr_trainer(tmp_path, adaptive=True).ends.gen_emb
    thinker = Thinker([98, 40, gen])
    trainer = rlvr_run.rlvr_trainer(
        tmp_path, adaptive=True, trainer={"rollout_engine": thinker}, action_warmup_steps=9
    )
    [logged] = rlvr_run.taken(trainer)["logged"]
    assert sum(prompts for prompts, _ in thinker.asked) == 8
    assert {count for _, count in thinker.asked} == {2}
    assert thinker.updates == 1
    assert logged["query_thought_tokens"] == 3
    engine = trainer.own_rollouts(Thinker([trainer.ends.direct, gen]))
    with pytest.raises(
        ValueError, match=f"Thinker wrote token {trainer.ends.direct}, which may not be written"
    ):
        engine.rollout(prompts_of(trainer)[1], ActionSampling(2, 4, least=1))


@pytest.mark.parametrize("baseline", ["thoughts", "group"])
def test_what_a_group_is_rewarded_with(trainer: AdaptiveRLVRTrainer, baseline: str) -> None:
    """Worked by hand: two at once, a thought with form and one without."""
    gen, direct = trainer.ends.gen_emb, trainer.ends.direct
    form = "<think>a</think><answer>b<gen_emb>"
    groups = RolloutGroups(
        "query",
        [["<direct>", "<direct>", form, "a"]],
        [[[direct], [direct], [40, 41, gen], [40]]],
        [{}],
        torch.zeros(1, 4, 80),
        torch.tensor([[True, True, True, False]]),
        torch.zeros(1, 4, 80),
        torch.ones(1, 4, dtype=torch.bool),
        torch.zeros(1, dtype=torch.int64),
        0,
        (0,),
    )
    kept = trainer.args, trainer.utility.reward
    trainer.args = replace_arguments(trainer.args, thought_baseline=baseline, action_weight=5.0)
    trainer.utility.reward = lambda groups: torch.tensor([[0.3, 0.3, 0.8, 0.0]])
    try:
        found = trainer.rewarded(groups, ["row 0"])
    finally:
        trainer.args, trainer.utility.reward = kept
    np.testing.assert_allclose(
        found.parts["format"], [[0.5, 0.5, 1, 0]]
    )  # at once: as the thoughts on average
    # delta is 0.1: what was missed. Costs are 0.1 x 3 of 12 and 1 of 12 tokens.
    expected = np.array([[-0.1, -0.1, 0.5 - 0.025, -0.3 - 0.1 / 12]])
    np.testing.assert_allclose(found.parts["adaptive"], expected, atol=1e-6)
    reward = np.array([[0.8, 0.8, 1.8, 0.0]]) + expected
    np.testing.assert_allclose(found.reward, reward, atol=1e-6)
    advantages = (reward - reward.mean()) / (reward.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(found.action_advantages, 5 * advantages, rtol=1e-5)
    if baseline == "thoughts":
        thoughts = reward[:, 2:]
        advantages = np.zeros((1, 4))
        advantages[:, 2:] = (thoughts - thoughts.mean()) / (thoughts.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(found.advantages, advantages, rtol=1e-5)


# ---- a run -----------------------------------------------------------------------------------------


def test_resumed_is_unbroken(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "adaptive": True,
        "train_dataset": reasoning_reference.rows() * 2,
        "train_sampling_strategy": "random",
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "lora": True,
        "action_warmup_steps": 3,
        "action_weight": 10.0,
        "collapse_window": 3,
        "collapse_share": 0.4,
        "targets": "greedy",
    }
    whole = rlvr_run.rlvr_trainer(tmp_path / "whole", **settings)
    weights = rlvr_run.taken(whole)["weights"]
    broken = rlvr_run.rlvr_trainer(tmp_path / "broken", **settings)
    broken.add_callback(KillAt(3))
    with pytest.raises(Killed):
        broken.train()
    again = rlvr_run.rlvr_trainer(tmp_path / "broken", **settings)
    again.train(resume_from_checkpoint=True)
    model = again.accelerator.unwrap_model(again.model)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert torch.equal(weight, weights[name]), name
    assert len(again.collapse.seen["query"]) == 3
    assert again.collapse.seen == whole.collapse.seen
    assert again.collapse.said == whole.collapse.said


def test_evaluation_decides_as_encoding_does(tmp_path: Path) -> None:
    trainer = rlvr_run.rlvr_trainer(tmp_path, adaptive=True, per_device_eval_batch_size=4)
    model, rows = trainer.native_model, reasoning_reference.rows()
    encoded = [
        model.encode(
            [row[name] for row in rows],
            processor=trainer.processing_class,
            role=role,
            mode="adaptive",
            kappa=0.0,
            return_details=True,
            max_new_tokens=12,
        )
        for name, role in (("query", "query"), ("positive", "document"))
    ]
    scores = sorted(score for one in encoded for score in one.reason_scores)
    model.settings = replace(model.settings, kappa=(scores[3] + scores[4]) / 2)
    found = trainer.evaluate(rows)
    assert found["eval_invocation_ratio"] == 0.5
    vectors = [
        model.encode(
            [row[name] for row in rows],
            processor=trainer.processing_class,
            role=role,
            mode="adaptive",
            max_new_tokens=12,
        )
        for name, role in (("query", "query"), ("positive", "document"))
    ]
    best = (vectors[0] @ vectors[1].T).argmax(dim=1)
    assert found["eval_recall@1"] == (best == torch.arange(4)).float().mean()


# ---- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "generative"}, "groups of both actions"),
        ({"thought_baseline": "none"}, "thought_baseline is one of"),
        ({"reasoning_cost": -0.1}, "must not be negative"),
        ({"least_actions": 0}, "neither has anything to be compared with"),
        ({"least_actions": 3, "num_generations": 4}, "half of num_generations, 4"),
        ({"collapse_share": 0.5}, "under 0.5"),
    ],
)
def test_arguments_that_cannot_be(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveRLVRTrainingArguments(output_dir=str(tmp_path), **{"use_cpu": True, **settings})


def test_models_that_cannot_decide(trainer: AdaptiveRLVRTrainer, tmp_path: Path) -> None:
    thinker = rlvr_run.rlvr_trainer(tmp_path).native_model
    with pytest.raises(TypeError, match="does not decide"):
        AdaptiveRLVRTrainer(thinker, trainer.args, processing_class=trainer.processing_class)
    model = rlvr_run.deciding(thinker)
    model.settings = thinker.settings
    with pytest.raises(ValueError, match="names no 'direct' and 'reason'"):
        AdaptiveRLVRTrainer(model, trainer.args, processing_class=trainer.processing_class)


def test_rollouts_of_both_actions_come_from_the_models_own_engine(trainer: AdaptiveRLVRTrainer) -> None:
    assert type(trainer.engine) is AdaptiveRollouts
    assert trainer.engine is trainer.own_engine
