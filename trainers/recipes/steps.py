"""The steps that leave a model: training and souping; and what a step of either kind begins with."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, set_seed

from ...encoding.loading import load
from ..arguments import ItemTrainingArguments
from ..checkpoints import last_complete_checkpoint
from ..finite import NonFiniteError
from ..item_trainer import ItemTrainer
from ..lora import add_lora
from ..lora.checkpoint_souping import soup_checkpoints
from ..lora.merging import merge
from ..lora.souping import soup
from ..registry import trainer_class
from ..sampling import PlannedRows, Source
from .plan_file import check_plan, write_plan
from .prompts import get_prompt
from .schema import START, Recipe, RecipeError
from .sources import Opener, eval_rows, open_sources, train_rows
from .step_specs import DataSpec, ModelSpec, PromptSpec, SoupStep, TrainStep

logger = logging.getLogger(__name__)

MODEL, ADAPTER = "model", "adapter"  # folders in a step's


@dataclass(frozen=True)
class StepContext:
    """Where a step runs: ``root`` holds the folders of all steps, ``folder`` is this one's."""

    recipe: Recipe
    root: Path
    folder: Path
    formats: Mapping[str, Opener]
    resume: bool

    def result_of(self, name: str) -> Path:
        """What an earlier step left."""
        done = json.loads((self.root / name / "done.json").read_text(encoding="utf-8"))
        return self.root / name / str(done["result"])


def train_step(step: TrainStep, context: StepContext) -> dict[str, Any]:
    """Train, save, merge; returns the metrics and where the result is."""
    trainer = build_trainer(step, context)
    rows: Any = trainer.train_dataset
    checkpoint = _checkpoint(context, trainer, rows)
    if checkpoint is None and trainer.is_world_process_zero():
        write_plan(context.folder, rows, trainer.args.world_size)
    output = trainer.train(resume_from_checkpoint=checkpoint)
    metrics = {name: value for name, value in output.metrics.items() if name.startswith("train_")}
    if step.eval_data is not None:
        metrics |= {k: v for k, v in trainer.evaluate().items() if k.startswith("eval_") and "_per_" not in k}
        broken = [k for k, v in metrics.items() if k.startswith("eval_") and not math.isfinite(v)]
        if broken:
            raise NonFiniteError(
                f"step {step.name}: {broken[0]} is {metrics[broken[0]]} after training, and nothing is kept of it but "
                f"the checkpoints in {trainer.args.output_dir}",
                trainer.state.global_step,
            )
    metrics["steps"] = trainer.state.global_step
    metrics["temperature"] = {k: float(v) for k, v in trainer.objective_module.values().items()}
    kept = context.folder / (MODEL if step.lora is None else ADAPTER)
    trainer.save_model(str(kept))
    result = kept
    if step.lora is not None and step.keep == "merged":
        result = context.folder / MODEL
        if trainer.is_world_process_zero():
            result = _fresh(result)
            merge(kept, result)
            trainer.objective_module.save_pretrained(result)
    return {"result": result.name, **metrics}


def _checkpoint(context: StepContext, trainer: ItemTrainer, rows: PlannedRows) -> str | None:
    """Where a training that was broken off goes on; None for the beginning.

    Raises:
        RecipeError: there are checkpoints, and none that this run can go on from, or they are of another plan.
    """
    folder = context.folder / "trainer"
    if not context.resume or not any(folder.glob("checkpoint-*/trainer_state.json")):
        return None
    check_plan(context.folder, rows, trainer.args.world_size)
    try:
        return last_complete_checkpoint(folder, trainer.args.world_size, trainer._own_optimizer_files)
    except FileNotFoundError as error:
        raise RecipeError(
            f"{error}: those that are there are cut off, or of another number of processes than "
            f"{trainer.args.world_size}. Run as many, or remove {folder} to begin the step anew"
        ) from None


def build_trainer(step: TrainStep, context: StepContext) -> ItemTrainer:
    """The trainer of a step, ready to run: model, prompt, adapter, data, arguments."""
    args = training_arguments(step, context)
    # Made first: the arguments choose this process's device, which quantised weights are loaded onto.
    model, processor = start_of_step(
        context, context.recipe.start_of(step), None if _is_sharded(args) else args.device
    )
    if step.prompt is not None:
        model, processor = _prompted(model, processor, step.prompt)
    set_seed(args.seed)  # before anything is drawn: an adapter begins at random
    if step.lora is not None:
        add_lora(model, **step.lora.model_dump())
    batch = args.per_device_train_batch_size * args.world_size
    steps = args.max_steps // args.updates_per_batch * args.gradient_accumulation_steps
    sources = sources_of(step.data, context, processor)
    rows = train_rows(step.data, sources, batch, steps, args.num_train_epochs, context.recipe.seed)
    if args.max_steps <= 0:
        args.max_steps = len(rows) // batch // args.gradient_accumulation_steps * args.updates_per_batch
        if args.max_steps == 0:
            raise RecipeError(
                f"step {step.name}: {len(rows)} rows make no step of {batch * args.gradient_accumulation_steps}: "
                "a smaller batch, or more epochs"
            )
    held_out = None
    if step.eval_data is not None:
        held_out = eval_rows(sources_of(step.eval_data, context, processor))
    trainer = trainer_class(step.trainer)
    objective = trainer.make_objective(args)
    if step.objective_from is not None:
        objective.load_weights(context.result_of(step.objective_from))
    return trainer(
        model,
        args,
        processing_class=processor,
        objective=objective,
        train_dataset=rows,
        eval_dataset=held_out,
    )


def _is_sharded(args: ItemTrainingArguments) -> bool:
    """Whether weights are dealt out over devices later (FSDP, DeepSpeed), so that no device holds all of them."""
    return bool(args.fsdp) or bool(args.deepspeed) or os.environ.get("ACCELERATE_USE_FSDP") == "true"


def training_arguments(step: TrainStep, context: StepContext) -> ItemTrainingArguments:
    """The arguments of a step; the learning rate follows its rule.

    Raises:
        RecipeError: an argument has no such name, or a value that it cannot have.
    """
    given = {
        "seed": context.recipe.seed,
        "train_sampling_strategy": "sequential",  # the plan is the order
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
        "save_total_limit": 2,
        **step.arguments,
        "output_dir": str(context.folder / "trainer"),
    }
    try:
        parser = HfArgumentParser(trainer_class(step.trainer).arguments_class)  # type: ignore[arg-type]
        (args,) = parser.parse_dict(given, allow_extra_keys=False)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"step {step.name}: arguments: {error}") from None
    rule = step.learning_rate_rule
    if rule is not None:
        batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        args.learning_rate *= (batch / rule.batch) ** rule.power
    return args


def soup_step(step: SoupStep, context: StepContext) -> dict[str, Any]:
    """Average what several steps left: adapters, or whole models."""
    parts = [context.result_of(name) for name in step.of]
    weights = None if step.weights is None else list(step.weights)
    whole = all(part.name.startswith(MODEL) for part in parts)
    result = _fresh(context.folder / MODEL)
    if whole:
        soup_checkpoints(parts, result, weights=weights)
    else:
        soup(parts, result, weights=weights)
    return {"result": result.name, "of": list(step.of)}


def sources_of(data: DataSpec, context: StepContext, processor: Any) -> list[Source]:
    seed = context.recipe.seed
    return open_sources(data, context.formats, context.result_of, processor.tokenizer, seed)


def start_of_step(context: StepContext, name: str, device: torch.device | None) -> tuple[Any, Any]:
    """Model and processor that a step starts from; on the CPU for no device."""
    spec = context.recipe.model
    options = {**model_options(spec), "device": device or torch.device("cpu")}
    if name == START:
        encoder = load(spec.path, preset=spec.preset, role=spec.role, revision=spec.revision, **options)
    else:
        encoder = load(context.result_of(name), **options)
    return encoder.model, encoder.processor


def model_options(spec: ModelSpec) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": spec.dtype}
    if spec.attn_implementation is not None:
        options["attn_implementation"] = spec.attn_implementation
    if spec.quantize is not None:
        from transformers import BitsAndBytesConfig

        from ...modeling.backbone import UNQUANTISED_MODULES

        bits: dict[str, Any] = {"load_in_8bit": True}
        if spec.quantize == "4bit":
            bits = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_compute_dtype": torch.bfloat16,
            }
        options["quantization_config"] = BitsAndBytesConfig(
            **bits, llm_int8_skip_modules=list(UNQUANTISED_MODULES)
        )
    return options


def _prompted(model: Any, processor: Any, spec: PromptSpec) -> tuple[Any, Any]:
    changes = {
        name: value
        for name in ("attention", "positions", "deepstack")
        if (value := getattr(spec, name)) is not None
    }
    if spec.name is not None:
        return get_prompt(spec.name).put_on(model, processor, **changes)
    settings = dataclasses.replace(model.settings, **changes)
    return model.with_settings(settings), processor


def _fresh(folder: Path) -> Path:
    """The folder, or one beside it: a result that a killed run left without having noted it is not ours to remove."""
    found, number = folder, 1
    while found.exists():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    if found != folder:
        logger.warning(
            "%s is there from a run that was broken off; the result goes to %s", folder, found.name
        )
    return found
