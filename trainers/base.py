"""NativeTrainer: a ``transformers.Trainer`` with native checkpoints and an exact resume."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from .adapters import load_adapter_weights
from .checkpoints import check_checkpoint, last_complete_checkpoint, mark_incomplete
from .gradient_cache import Metrics
from .objectives.saving import SavedObjective
from .sharding import give_own_group, set_up_plugin
from .validation import same_random_state
from .wrapping import ModelWithObjective, kept_use_cache

logger = logging.getLogger(__name__)


class NativeTrainer(Trainer):
    """Trains a model together with an objective that may learn something of its own.

    model: has ``save_pretrained`` and ``load_native_weights``, which write and strictly read the backbone's
    own layout. A checkpoint holds the native weights, the processor's files and the objective's. Resume and
    load-best go through the strict loader, so a missing key or file raises.
    """

    def __init__(self, model: nn.Module, args: Any, *, objective: SavedObjective, **kwargs: Any) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}
        with kept_use_cache(model):
            super().__init__(model=ModelWithObjective(model, objective), args=args, **kwargs)

    def create_accelerator_and_postprocess(self) -> None:
        """As in the parent; FSDP is set up for a model with an objective, or refused (ValueError)."""
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            set_up_plugin(self.accelerator.state.fsdp_plugin)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in the parent; under FSDP what the objective learns is in a group of its own."""
        optimizer = super().create_optimizer(model)
        if self.is_fsdp_enabled:
            give_own_group(optimizer, self.objective_module.parameters())
        return optimizer

    # ---- parts -----------------------------------------------------------------------------------

    @property
    def native_model(self) -> Any:
        """The embedding model itself, out of every wrapper."""
        return self.accelerator.unwrap_model(self.model).model

    @property
    def objective_module(self) -> Any:
        """The objective with its learned parameters."""
        return self.accelerator.unwrap_model(self.model).objective

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices of the backbone only: no norm, no bias, no temperature."""
        matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
        names = super().get_decay_parameter_names(model)
        return [name for name in names if name in matrices and not name.startswith("objective.")]

    # ---- logs --------------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in the parent; leaves the random generators as they were, so that training goes on the same."""
        with same_random_state():
            return super().evaluate(*args, **kwargs)

    def _record(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            total, count = self._sums.get(name, (torch.zeros((), device=value.device), 0))
            self._sums[name] = (total + value.detach().float(), count + 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the training metrics since the last log."""
        if "loss" in logs and self._sums:
            logs = {**logs, **{name: (total / count).item() for name, (total, count) in self._sums.items()}}
            self._sums = {}
        super().log(logs, start_time)

    # ---- save and load ---------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        mark_incomplete(folder)
        native = own = None
        if state_dict is not None:
            named = _without_second_names(state_dict, self.accelerator.unwrap_model(self.model))
            native, own = _entries(named, "model."), _entries(named, "objective.")
        self.native_model.save_pretrained(str(folder), state_dict=native)
        self.objective_module.save_pretrained(folder, state_dict=own)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(str(folder))
        torch.save(self.args, os.path.join(folder, "training_args.bin"))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in the parent; ``True`` is the newest *complete* checkpoint, and raises if there is none."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(
                str(self.args.output_dir), self.args.world_size, self._own_optimizer_files
            )
        self._sums = {}
        return super().train(resume_from_checkpoint, *args, **kwargs)

    @property
    def _own_optimizer_files(self) -> bool:
        return not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self._own_optimizer_files:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        check_checkpoint(resume_from_checkpoint, self.args.world_size)
        self._load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if not self._own_optimizer_files:
            super()._load_best_model()
            return
        logger.info("loading the best model from %s", self.state.best_model_checkpoint)
        self._load_weights(str(self.state.best_model_checkpoint))

    def _load_weights(self, folder: str) -> None:
        if getattr(self.native_model, "_hf_peft_config_loaded", False):
            load_adapter_weights(self.native_model.backbone, folder)  # the base is what it was at the start
        else:
            self.native_model.load_native_weights(folder)
        self.objective_module.load_weights(folder)


def _without_second_names(state_dict: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """Tied parameters once: gathered from their shards they are a tensor for each name, and all would be written."""
    first = {name for name, _ in module.named_parameters()}
    second = {name for name, _ in module.named_parameters(remove_duplicate=False)} - first
    return {name: value for name, value in state_dict.items() if name not in second}


def _entries(state_dict: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What stands under ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
