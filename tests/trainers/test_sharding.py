"""What sharded training is told and refused, without any process but this one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stub_model import StubModel, stub_rows, stub_trainer
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer

from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.trainers.distributed import no_sync
from umekit.trainers.dummy_media import lacking, sharded_dummies, unsharded_dummies
from umekit.trainers.gradient_cache import Chunks, cached_backward
from umekit.trainers.lazy_media import LazyMedia
from umekit.trainers.model_with_objective import ModelWithObjective
from umekit.trainers.objectives import ContrastiveObjective
from umekit.trainers.sharding import give_own_group, set_up_plugin


def plugin(**settings: Any) -> SimpleNamespace:
    """accelerate's, as far as it is looked at, with the Trainer's defaults for bf16."""
    half = torch.bfloat16
    defaults = {
        "state_dict_type": "StateDictType.FULL_STATE_DICT",
        "fsdp_version": 2,
        "cpu_ram_efficient_loading": False,
        "mixed_precision_policy": MixedPrecisionPolicy(half, half, half),
        "ignored_modules": None,
    }
    return SimpleNamespace(**{**defaults, **settings})


def test_half_precision_is_for_the_weights_only() -> None:
    given = plugin()
    set_up_plugin(given)
    policy = given.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (
        torch.bfloat16, torch.float32, None,
    )  # fmt: skip
    assert given.ignored_modules == "objective"
    without = plugin(mixed_precision_policy=None, ignored_modules="model.a.*")
    set_up_plugin(without)
    assert without.mixed_precision_policy is None
    assert without.ignored_modules == "(?:model.a.*)|objective"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"state_dict_type": "StateDictType.SHARDED_STATE_DICT"}, "FULL_STATE_DICT"),
        ({"state_dict_type": "StateDictType.SHARDED_STATE_DICT", "fsdp_version": 1}, "FULL_STATE_DICT"),
        ({"cpu_ram_efficient_loading": True}, "cpu_ram_efficient_loading"),
        ({"ignored_modules": [nn.Linear(1, 1)]}, "regular expression"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        set_up_plugin(plugin(**settings))


def test_the_trainer_refuses_them_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(self: Any) -> None:
        self.accelerator = SimpleNamespace(
            state=SimpleNamespace(fsdp_plugin=plugin(state_dict_type="SHARDED_STATE_DICT"))
        )
        self.is_fsdp_enabled = True

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", create)
    with pytest.raises(ValueError, match="FULL_STATE_DICT"):
        stub_trainer(tmp_path)


def test_whole_parameters_have_groups_of_their_own() -> None:
    layer, own = nn.Linear(2, 2), nn.Parameter(torch.ones(1))
    groups = [{"params": [layer.weight], "lr": 3.0}, {"params": [layer.bias, own], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2.0)
    for _ in range(2):  # twice is once
        give_own_group(optimizer, [own])
        assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1, 1]
    last = optimizer.param_groups[-1]
    assert last["params"] == [own]
    assert (last["lr"], last["weight_decay"]) == (2.0, 0.0)


@pytest.mark.parametrize("switch", [False, True])
def test_sync_each_batch_is_honoured(switch: bool) -> None:
    entered: list[Any] = []

    @contextlib.contextmanager
    def without(model: Any) -> Iterator[None]:
        entered.append(model)
        yield

    state = SimpleNamespace(
        sync_gradients=True,
        plugin_kwargs={"sync_each_batch": switch},
        _set_sync_gradients=lambda _value: None,
    )
    with no_sync(SimpleNamespace(gradient_state=state, no_sync=without), nn.Linear(1, 1), deepspeed=False):
        pass
    assert len(entered) == (not switch)


def test_accelerate_finds_the_blocks_of_the_backbone(
    tiny_checkpoint: Callable[..., Path], family: str
) -> None:
    model = UmeForDiscriminativeEmbedding.from_pretrained(tiny_checkpoint(family), dtype=torch.float32)
    wrapped = ModelWithObjective(model, ContrastiveObjective())
    present = {type(module).__name__ for module in model.modules()}
    assert wrapped._no_split_modules
    assert set(wrapped._no_split_modules) <= present
    tied = model.backbone.get_output_embeddings().weight is model.backbone.get_input_embeddings().weight
    assert wrapped.get_output_embeddings() is (model.backbone.get_output_embeddings() if tied else None)
    model.backbone.get_output_embeddings().weight = model.backbone.get_input_embeddings().weight
    assert wrapped.get_output_embeddings() is model.backbone.get_output_embeddings()


def test_an_objective_is_saved_from_gathered_tensors(tmp_path: Path) -> None:
    objective = ContrastiveObjective(learnable_temperature=True)
    objective.save_pretrained(tmp_path, state_dict={"temperature.log_temperature": torch.tensor([-3.5])})
    again = ContrastiveObjective.from_pretrained(tmp_path)
    assert again.temperature.log_temperature.item() == -3.5
    with pytest.raises(RuntimeError, match=r"temperature\.log_temperature.*\[\] were gathered"):
        objective.save_pretrained(tmp_path / "none", state_dict={})
    assert not (tmp_path / "none").exists()


def test_the_trainer_saves_gathered_tensors(tmp_path: Path) -> None:
    trainer = stub_trainer(tmp_path)
    gathered = {name: value + 1 for name, value in trainer.model.state_dict().items()}
    trainer._save(str(tmp_path / "saved"), state_dict=gathered)
    saved = ContrastiveObjective.from_pretrained(tmp_path / "saved")
    assert torch.equal(
        saved.temperature.log_temperature, trainer.objective_module.temperature.log_temperature + 1
    )


def test_a_forward_gets_the_media_that_any_rank_may_have() -> None:
    image, video = SimpleNamespace(videos=[]), SimpleNamespace(videos=["frames"])
    unknown = LazyMedia("a.mp4", "document", {}, length=3, patches=4, cut_tokens=0, content=5)

    def wanted(items: list[Any], batch: dict[str, Any]) -> list[Any]:
        made = sharded_dummies(items, "picture", lambda: "video", torch.device("cpu"))
        return lacking(made, batch)

    pixels, frames = {"pixel_values": 0}, {"pixel_values_videos": 0}
    assert wanted([image], {}) == ["picture"]
    assert wanted([image], pixels) == []
    for item in (video, unknown):
        assert wanted([image, item], {}) == ["picture", "video"]
        assert wanted([image, item], pixels) == ["video"]
        assert wanted([image, item], frames) == ["picture"]
        assert wanted([image, item], {**pixels, **frames}) == []
    either = unsharded_dummies("picture")
    assert [lacking(either, batch) for batch in ({}, pixels, frames)] == [["picture"], [], []]


def test_parameters_are_asked_for_after_the_first_pass(tmp_path: Path) -> None:
    """As FSDP2 does: the first forward replaces the objective's parameter by another object."""
    rows = stub_rows(6)
    trainer = stub_trainer(tmp_path, rows=rows, dropout=0.0, chunk_tokens=30)
    temperature = trainer.objective_module.temperature
    before = temperature.log_temperature

    def replace(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        if temperature.log_temperature is before:
            temperature.log_temperature = nn.Parameter(before.detach().clone())

    trainer.model.register_forward_hook(replace)
    trainer.training_step(trainer.model, trainer.data_collator(rows))
    assert temperature.log_temperature is not before
    assert temperature.log_temperature.grad.abs().item() > 0


def test_a_parameter_without_a_gradient_is_named() -> None:
    module = ModelWithObjective(StubModel(), ContrastiveObjective(learnable_temperature=True))
    with pytest.raises(RuntimeError, match=r"temperature\.log_temperature"):
        cached_backward(
            Chunks(
                module,
                [[0, 1]],
                lambda indices: {
                    "input_ids": torch.ones(len(indices), 3, dtype=torch.int64),
                    "attention_mask": torch.ones(len(indices), 3, dtype=torch.int64),
                },
            ),
            lambda embeddings: (embeddings.sum(), {}),
            backward=torch.Tensor.backward,
            objective_parameters=lambda: dict(module.objective.named_parameters()),
        )
