"""NativeTrainer: a ``transformers.Trainer`` with native checkpoints and an exact resume."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from ..encoding.storage.atomic import naming_the_disk
from .callbacks import ClampObjective
from .checkpoints import check_checkpoint, last_complete_checkpoint, mark_incomplete
from .distributed import max_over_ranks
from .finite import FiniteSteps, NonFiniteError, named, nonfinite_weights, without_gradients
from .lora import adapter_in_float32, load_adapter_weights
from .model_with_objective import Metrics, ModelWithObjective, kept_use_cache
from .objectives.saving import SavedObjective
from .random_state import same_random_state
from .sharding import give_own_group, set_up_plugin

logger = logging.getLogger(__name__)


class NativeTrainer(Trainer):
    """Trains a model together with an objective that may learn something of its own.

    model: has ``save_pretrained`` and ``load_native_weights``, which write and strictly read the backbone's
    own layout. A checkpoint holds the native weights, the processor's files and the objective's. Resume and
    load-best go through the strict loader, so a missing key or file raises.

    A step whose loss or gradient is not finite is never taken: NonFiniteError, which names step, rows and the last
    good checkpoint, or with the argument ``max_skipped_steps`` up to so many are left out and counted. No checkpoint
    and no model is saved with weights that are not finite. A subclass's ``training_step`` gives each batch's loss to
    :meth:`_watch`.
    """

    def __init__(self, model: nn.Module, args: Any, *, objective: SavedObjective, **kwargs: Any) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self.finite = FiniteSteps(getattr(args, "max_skipped_steps", 0))
        if widened := adapter_in_float32(getattr(model, "backbone", None)):
            logger.warning(
                "%d weights of the adapter were in half precision: they are trained in float32", widened
            )
        if getattr(getattr(model, "settings", None), "strategy", None) == "probe":
            logger.warning(
                "a probe decides when this model thinks, fitted on its states before this training: fit it anew "
                "afterwards (umekit probe)"
            )
        with kept_use_cache(model):
            super().__init__(model=ModelWithObjective(model, objective), args=args, **kwargs)
        if self.finite.limit and self.is_deepspeed_enabled:
            raise ValueError(
                "max_skipped_steps: DeepSpeed takes its steps by itself, and none can be left out"
            )
        self.add_callback(self.finite)
        self.add_callback(ClampObjective(objective))

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

    # ---- numbers that are not finite ---------------------------------------------------------

    def _watch(self, loss: Tensor, rows: Sequence[str], metrics: Metrics) -> Tensor:
        """Look at a batch's loss (with its weight in the step), record its metrics if it is finite; the loss.

        rows: their names.
        """
        if self.finite.saw(loss, rows):
            self._record(metrics)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # What is called last before every optimiser step, whatever max_grad_norm is.
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if reason := self.finite.judge(norm, self.args.device, self._loss_scale):
            self._leave_out(self.state.global_step + 1, reason)
        return norm

    @property
    def _loss_scale(self) -> float | None:
        """By which losses are multiplied before a backward in float16; None in any other precision."""
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None:
            return float(scaler.get_scale())
        return math.inf if self.is_deepspeed_enabled and self.args.fp16 else None  # it has its own

    def _leave_out(self, step: int, reason: str) -> None:
        rows = self.finite.rows(self.args.device)
        broken = self._nonfinite_weights()
        if not broken and len(self.finite.skipped) < self.finite.limit:
            self.finite.skip(step, reason, rows)
            if self._loss_scale is None:  # a scaler has seen them, and takes no step by itself
                without_gradients(self.optimizer)
            return
        checkpoint = self._last_good()
        raise NonFiniteError(
            f"step {step}: {reason}; {named(rows)}. "
            + (f"The weights of the step before are not finite ({broken[0]}). " if broken else "")
            + ("No step was taken with it. " if not self.is_deepspeed_enabled else "")
            + (f"{len(self.finite.skipped)} steps were left out before. " if self.finite.skipped else "")
            + f"The last good checkpoint: {checkpoint or 'none'}. A smaller learning rate, a warm-up, a larger "
            "temperature, bfloat16 in place of float16 or the repair of a row may help; max_skipped_steps=N leaves up "
            "to N such steps out",
            step,
            rows,
            checkpoint,
        )

    def _nonfinite_weights(self) -> list[str]:
        """Names of trained weights that are not finite; empty on every rank or on none."""
        broken = nonfinite_weights(self.model)
        if not self._own_optimizer_files and max_over_ranks(len(broken), self.args.device) and not broken:
            return ["in the shards of another rank"]
        return broken

    def _last_good(self) -> str | None:
        try:
            return last_complete_checkpoint(
                str(self.args.output_dir), self.args.world_size, self._own_optimizer_files
            )
        except FileNotFoundError:
            return None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in the parent. Raises NonFiniteError, before anything is written, if trained weights are not finite."""
        if broken := self._nonfinite_weights():
            checkpoint = self._last_good()
            raise NonFiniteError(
                f"step {self.state.global_step}: {len(broken)} of the trained weights are not finite ({broken[0]}), "
                f"and nothing is saved. The last good checkpoint: {checkpoint or 'none'}",
                self.state.global_step,
                checkpoint=checkpoint,
            )
        with naming_the_disk(Path(output_dir or str(self.args.output_dir))):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        # The state of an optimiser is larger than the weights, and torch does not say that it was the disk.
        with naming_the_disk(Path(str(self.args.output_dir))):
            super()._save_checkpoint(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        # Nothing is better than NaN: the first to be so would stay the best.
        name = str(self.args.metric_for_best_model or "")
        value = metrics.get(name if name.startswith("eval_") else f"eval_{name}")
        if value is not None and not math.isfinite(value):
            logger.warning("%s is %s at step %d, and not the best", name, value, self.state.global_step)
            return False
        return super()._determine_best_metric(metrics, trial)

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
        logs.update(self.finite.logged(logs))  # in place: they may be the metrics that train() returns
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
        output = super().train(resume_from_checkpoint, *args, **kwargs)
        return output._replace(training_loss=output.metrics["train_loss"])

    def _init_training_state(
        self, max_steps: int, steps_of_epoch: int, epochs: int, resume_from_checkpoint: Any, trial: Any
    ) -> tuple[int, int]:
        place = super()._init_training_state(max_steps, steps_of_epoch, epochs, resume_from_checkpoint, trial)
        if self.state.global_step < max_steps:
            return place
        # The parent looks at the number of steps only after one more.
        logger.warning(
            "nothing is left to train: %s is of step %d, and the run has %d",
            resume_from_checkpoint,
            self.state.global_step,
            max_steps,
        )
        return epochs, 0

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
