"""Rollouts: what may be written, edges of a group, video, another engine, and an exact resume."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reasoning_reference
import rlvr_run
import torch
from PIL import Image
from torch import Tensor
from transformers import TrainerCallback

import umekit
from umekit.trainers import RLVRTrainer, RLVRTrainingArguments
from umekit.trainers.objectives import group_advantages, rank_gap_reward
from umekit.trainers.rollout_batches import rollout_batch
from umekit.trainers.rollout_rewards import RolloutGroups
from umekit.trainers.rollouts import Completion, Prompt, RolloutEnds, Sampling
from umekit.trainers.vllm_rollouts import VllmRollouts, merged_weights, picture


@pytest.fixture
def untrained(tiny_checkpoint: Callable[..., Path]) -> dict[str, Any]:
    """Settings of a model that writes anything."""
    return {"checkpoint": tiny_checkpoint("qwen2_vl", role="generative"), "preset": None}


def moving(pictures: list[Image.Image]) -> dict[str, Any]:
    return {"video": [picture.resize((56, 56)) for picture in pictures[:4]], "text": "what happens"}


def film_rows(pictures: list[Image.Image]) -> list[dict[str, Any]]:
    """A video, a picture and a text in one batch."""
    return [
        {"query": moving(pictures), "positive": "one"},
        {"query": {"image": pictures[4], "text": "which"}, "positive": {"image": pictures[4]}},
        {"query": "a text alone", "positive": moving(pictures[1:])},
        {"query": "another", "positive": "two"},
    ]


# ---- what is written -------------------------------------------------------------------------------


def test_each_prompt_draws_by_its_own_seed_and_never_media(untrained: dict[str, Any], tmp_path: Path) -> None:
    trainer = rlvr_run.rlvr_trainer(tmp_path, **untrained)
    engine, prepare = trainer.own_engine, trainer.processing_class.prepare
    items = [prepare(text, role="query", mode="generative") for text in ("one", "two words", "three of them")]
    prompts = [Prompt(item, (3, number)) for number, item in enumerate(items)]
    sampling = Sampling(5, 20)
    together = engine.rollout(prompts, sampling)
    engine.batch_tokens = 100
    for number in (2, 0):
        [alone] = engine.rollout([prompts[number]], sampling)
        for one, other in zip(alone, together[number], strict=True):
            assert one.tokens == other.tokens
            torch.testing.assert_close(one.vector, other.vector, atol=1e-5, rtol=0)
    tokens = {token for row in together for one in row for token in one.tokens}
    assert len(tokens) > 100
    assert not tokens & trainer.native_model.thought_tokens.never
    assert max(tokens) < len(trainer.processing_class.tokenizer)
    assert all(len(one.tokens) <= 20 for row in together for one in row)
    first = [one.tokens[0] for one in engine.rollout([prompts[0]], Sampling(40, 1, 1.0, 3))[0]]
    assert len(set(first)) <= 3


def test_what_ends_a_rollout() -> None:
    ends = RolloutEnds(gen_emb=9, ends=frozenset({8}))
    assert ends.cut([1, 9, 2, 9, 8, 4]) == [1, 9]
    assert ends.cut([1, 8, 9]) == [1, 8]
    assert ends.cut([1, 2]) == [1, 2]
    assert ends.place([1, 8]) is None
    official = RolloutEnds(9, frozenset({8}), official=True)
    assert official.cut([1, 9, 2, 9, 8, 4]) == [1, 9, 2, 9, 8]
    assert official.place([1, 9, 2, 9, 8]) == 3


# ---- edges of a group ------------------------------------------------------------------------------


def test_equal_rewards_move_nothing(tmp_path: Path) -> None:
    reward = lambda groups: torch.full((4, 4), 0.3)  # noqa: E731
    trainer = rlvr_run.rlvr_trainer(tmp_path, trainer={"rewards": {"same": (reward, 1.0)}}, beta=0.0)
    found = rlvr_run.taken(trainer)
    assert all(not gradient.any() for gradient in found["gradients"].values())
    assert found["logged"][0]["query_equal_groups"] == 1


def test_advantages_with_a_floor_and_without_scaling() -> None:
    rewards = torch.tensor([[0.5, 0.5001, 0.4999, 0.5], [1.0, 0.0, 0.0, 1.0]])
    plain = group_advantages(rewards)
    floored = group_advantages(rewards, min_deviation=0.1)
    assert plain[0].abs().max() > 0.5
    assert floored[0].abs().max() < 0.002
    values = rewards.double().numpy()
    deviation = np.maximum(values.std(axis=1, ddof=1, keepdims=True), 0.1)
    expected = (values - values.mean(axis=1, keepdims=True)) / (deviation + 1e-4)
    np.testing.assert_allclose(floored, expected, atol=1e-4)
    assert group_advantages(torch.full((1, 3), 0.1)).abs().max() == 0
    torch.testing.assert_close(
        group_advantages(rewards, scale=False), rewards - rewards.mean(1, keepdim=True)
    )


def test_equal_answers_are_no_negatives() -> None:
    torch.manual_seed(0)
    queries, targets = torch.randn(3, 2, 8), torch.randn(3, 2, 8)
    targets[2] = targets[0]
    apart = rank_gap_reward(queries, targets)
    masked = rank_gap_reward(queries, targets, target_ids=torch.tensor([0, 1, 0]))
    torch.testing.assert_close(masked[1], apart[1])
    alone = rank_gap_reward(queries[:2], targets[:2])
    torch.testing.assert_close(masked[0], alone[0])


@pytest.mark.filterwarnings("ignore:a query has no other targets")
def test_one_group_alone(tmp_path: Path) -> None:
    rows = reasoning_reference.rows()[:1]
    trainer = rlvr_run.rlvr_trainer(
        tmp_path, train_dataset=rows, per_device_train_batch_size=1, targets="greedy"
    )
    [logged] = rlvr_run.taken(trainer)["logged"]
    assert np.isfinite(logged["loss"])
    assert logged["query_own_share"] == pytest.approx(1 - logged["query_forced_share"])


def test_rollouts_that_never_end(untrained: dict[str, Any], tmp_path: Path) -> None:
    """Cut at the limit: no form, no vector, and still something to learn from."""
    trainer = rlvr_run.rlvr_trainer(tmp_path, max_completion_length=3, **untrained)
    [logged] = rlvr_run.taken(trainer)["logged"]
    assert logged["query_forced_share"] > 0.9
    assert logged["query_length"] <= 3
    assert np.isfinite(logged["grad_norm"])


# ---- media -----------------------------------------------------------------------------------------


def test_a_video_reaches_the_log_probabilities(
    untrained: dict[str, Any], pictures: list[Image.Image], tmp_path: Path
) -> None:
    rows = film_rows(pictures)
    trainer = rlvr_run.rlvr_trainer(tmp_path, train_dataset=rows, **untrained)
    found = rlvr_run.taken(trainer)
    assert all(value is not None and np.isfinite(value) for value in found["logged"][0].values())
    likely = []
    for film in (moving(pictures), moving(pictures[::-1])):
        batch = trainer.data_collator([{**rows[0], "query": film}, *rows[1:]])["batch"]
        written = {role: [[[5, 6, 7]]] * 4 for role in ("query", "positive")}
        likely.append(trainer.passed(trainer.model, rollout_batch(batch, written, trainer.ends))[1])
    before, after = likely
    assert (before[0] - after[0]).abs().max() > 1e-3
    for one, other in zip(before[1:], after[1:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_media_that_are_read_again(
    pictures: list[Image.Image], untrained: dict[str, Any], tmp_path: Path
) -> None:
    runs = [
        rlvr_run.taken(
            rlvr_run.rlvr_trainer(
                tmp_path,
                train_dataset=film_rows(pictures),
                chunk_tokens=400,
                media_per_chunk=again,
                **untrained,
            )
        )
        for again in (False, True)
    ]
    for name, gradient in runs[0]["gradients"].items():
        torch.testing.assert_close(runs[1]["gradients"][name], gradient)


# ---- vLLM ------------------------------------------------------------------------------------------


class StandIn:
    """The part of ``vllm.LLM`` that is used."""

    def __init__(self) -> None:
        self.loaded: list[dict[str, Tensor]] = []
        self.asked: list[Any] = []

    def apply_model(self, change: Callable[[Any], Any]) -> None:
        change(types.SimpleNamespace(load_weights=lambda pairs: self.loaded.append(dict(pairs))))

    def reset_prefix_cache(self) -> None:
        self.cleared = True

    def generate(self, prompts: Any, parameters: Any, use_tqdm: bool) -> Any:
        self.asked += list(zip(prompts, parameters, strict=True))
        rng = np.random.default_rng(len(self.asked))
        completion = lambda: types.SimpleNamespace(token_ids=[*rng.integers(5, 300, 4), 656])  # noqa: E731
        return [types.SimpleNamespace(outputs=[completion() for _ in range(one.n)]) for one in parameters]


def test_vllm_gets_prompts_and_new_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("vllm")
    fake.SamplingParams = types.SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    llm = StandIn()
    trainer = rlvr_run.rlvr_trainer(tmp_path, lora=True, max_steps=2, beta=0.0)
    trainer.engine = VllmRollouts(llm, trainer.processing_class)
    trainer.train()
    first, second = llm.loaded
    assert first.keys() == rlvr_run.rlvr_trainer(tmp_path).native_model.backbone.state_dict().keys()
    changed = [name for name in first if not torch.equal(first[name], second[name])]
    assert changed
    assert all("proj" in name or "mlp" in name for name in changed)
    merged = dict(merged_weights(trainer.native_model.backbone))
    name = next(iter(changed))
    layer = trainer.native_model.backbone.get_submodule(name.removesuffix(".weight"))
    delta = layer.get_delta_weight("default")
    torch.testing.assert_close(merged[name], layer.base_layer.weight + delta)
    prompt, parameters = llm.asked[0]
    item = trainer.data_collator(reasoning_reference.rows())["batch"].items[0]
    assert (
        prompt["prompt_token_ids"].count(652) == len(prompt["multi_modal_data"]["image"]) == len(item.images)
    )
    assert (parameters.n, parameters.max_tokens) == (4, 12)
    rows = trainer.native_model.backbone.config.get_text_config().vocab_size
    without_token = range(len(trainer.processing_class.tokenizer), rows)
    assert len(without_token) > 0
    unsaid = {*trainer.native_model.thought_tokens.never, *without_token}
    assert parameters.logit_bias == dict.fromkeys(unsaid, -100.0)
    assert trainer.native_model.backbone.config.image_token_id in parameters.logit_bias
    assert len({one.seed for _, one in llm.asked}) == len(llm.asked)


def test_a_picture_out_of_its_patches(
    untrained: dict[str, Any], pictures: list[Image.Image], tmp_path: Path
) -> None:
    processor = rlvr_run.rlvr_trainer(tmp_path, **untrained).processing_class
    resized = pictures[2].resize((84, 56))
    [patches] = processor.prepare({"image": resized}, role="query").images
    np.testing.assert_array_equal(np.asarray(picture(patches, processor.layout.merge)), np.asarray(resized))
    film = processor.prepare(moving(pictures), role="query", mode="generative")
    engine = VllmRollouts(StandIn(), processor)
    with pytest.raises(ValueError, match="videos"):
        engine.rollout([Prompt(film, (0,))], Sampling(1, 1))


# ---- a run -----------------------------------------------------------------------------------------


class Killed(Exception):
    """In place of a crash."""


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def test_resumed_is_unbroken(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "train_dataset": reasoning_reference.rows() * 2,
        "train_sampling_strategy": "random",
        "max_steps": 4,
        "learning_rate": 3e-4,
        "save_strategy": "steps",
        "save_steps": 2,
        "num_iterations": 2,
        "lora": True,
        "log_completions_steps": 1,
        "logged_rows": 1,
    }
    whole = rlvr_run.taken(rlvr_run.rlvr_trainer(tmp_path / "whole", **settings))
    broken = rlvr_run.rlvr_trainer(tmp_path / "broken", **settings)
    broken.add_callback(KillAt(3))
    with pytest.raises(Killed):
        broken.train()
    again = rlvr_run.rlvr_trainer(tmp_path / "broken", **settings)
    again.train(resume_from_checkpoint=True)
    model = again.accelerator.unwrap_model(again.model)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert torch.equal(weight, whole["weights"][name]), name
    files = sorted(path.name for path in (tmp_path / "broken" / "completions").iterdir())
    assert files == [f"step-{step:06d}.jsonl" for step in range(0, 4, 2)]
    for file in files:
        texts = [(tmp_path / run / "completions" / file).read_text() for run in ("whole", "broken")]
        assert texts[0] == texts[1]
    line = json.loads(texts[0].splitlines()[0])
    assert line.keys() >= {
        "step",
        "role",
        "row",
        "sample",
        "text",
        "reward_format",
        "reward_embed",
        "advantage",
    }


def test_evaluation_thinks_greedily(tmp_path: Path) -> None:
    trainer = rlvr_run.rlvr_trainer(tmp_path, per_device_eval_batch_size=4)
    rows = reasoning_reference.rows()
    found = trainer.evaluate(rows)
    items = trainer.data_collator(rows)["batch"]
    greedy = Sampling(1, 12, 0.0)
    vectors = [
        torch.stack(
            [row[0].vector for row in trainer.own_engine.rollout([Prompt(i, (1,)) for i in side], greedy)]
        )
        for side in (items.items[:4], items.items[4:])
    ]
    best = (vectors[0] @ vectors[1].T).argmax(dim=1)
    assert found["eval_recall@1"] == (best == torch.arange(4)).float().mean()


# ---- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "discriminative"}, "prompts that ask"),
        ({"targets": "none"}, "targets is one of"),
        ({"num_generations": 1}, "at least 2"),
        ({"loss_norm": "none"}, "loss_norm is one of"),
        ({"max_completion_length": 0}, "must be positive"),
        ({"beta": -1.0}, "must not be negative"),
        ({"learnable_temperature": True}, "only the anchor"),
        ({"num_iterations": 2, "max_steps": 3}, "multiple of num_iterations"),
        (
            {"num_iterations": 2, "save_strategy": "best", "eval_strategy": "steps", "eval_steps": 3}
            | {"metric_for_best_model": "recall@1"},
            "eval_steps is 3.* multiple of num_iterations",
        ),
        ({"anchor_weight": 0.1, "per_device_train_batch_size": 1}, "a batch of one row"),
    ],
)
def test_arguments_that_cannot_be(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RLVRTrainingArguments(output_dir=str(tmp_path), **{"use_cpu": True, **settings})


def test_rewards_and_engines_that_cannot_be(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    def broken(groups: RolloutGroups) -> Tensor:
        found = torch.zeros(4, 4)
        found[1, 2] = float("nan")
        return found

    trainer = rlvr_run.rlvr_trainer(tmp_path, trainer={"rewards": {"mine": (broken, 1.0)}})
    with pytest.raises(ValueError, match=r"reward 'mine' of row 1.*query side, is not finite"):
        trainer.train()
    trainer.rewards = {"mine": (lambda groups: torch.zeros(3), 1.0)}
    with pytest.raises(ValueError, match=r"has the shape \[3\]"):
        trainer.train()

    class Short:
        def update(self, model: Any) -> None:
            self.model = model

        def rollout(self, prompts: Any, sampling: Any) -> list[list[Completion]]:
            return [[Completion([1])] for _ in prompts]

    trainer = rlvr_run.rlvr_trainer(tmp_path, trainer={"rollout_engine": Short()})
    with pytest.raises(ValueError, match="Short gave"):
        trainer.train()

    class Writes(Short):
        def __init__(self, *tokens: int) -> None:
            self.tokens = tokens

        def rollout(self, prompts: Any, sampling: Any) -> list[list[Completion]]:
            return [[Completion([*self.tokens])] * sampling.count for _ in prompts]

    picture = trainer.native_model.backbone.config.image_token_id
    for tokens, message in (
        ([5, picture], f"Writes wrote token {picture}, which may not be written"),
        ([5, 10**6], "Writes wrote token 1000000, which the tokenizer of"),
        ([5] * 13, "Writes wrote 13 tokens, more than 12, after prompt 0 of 8: let it stop"),
        ([], "Writes wrote no token, after prompt 0 of 8"),
    ):
        trainer = rlvr_run.rlvr_trainer(tmp_path, trainer={"rollout_engine": Writes(*tokens)})
        with pytest.raises(ValueError, match=message):
            trainer.train()
    with pytest.raises(ValueError, match="no 'positive_vectors'"):
        rlvr_run.rlvr_trainer(tmp_path, targets="frozen").train()
    model = umekit.load(tiny_checkpoint(), device="cpu").model
    with pytest.raises(TypeError, match="does not think"):
        RLVRTrainer(model, trainer.args)
