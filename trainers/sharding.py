"""What sharded training (FSDP2) must be told about an embedding model and its objective.

The objective stays whole on every rank, in float32 and outside FSDP: its parameters are a few numbers, half
precision would round a temperature by a hundredth of its logarithm, and what is not in a shard cannot be a shard when
the loss reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

OBJECTIVE = "objective"  # its name in ModelWithObjective


def set_up_plugin(plugin: Any) -> None:
    """Change accelerate's FSDP plugin before anything is sharded.

    FSDP2 leaves the objective alone, reduces gradients in float32, and does not round what a forward returns: vectors
    and losses are float32.

    Raises:
        ValueError: a setting with which no native checkpoint could be written, or whose loader asks of every
            parameter that it is sharded.
    """
    if "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise ValueError(
            f"fsdp_config has state_dict_type {plugin.state_dict_type}, with which no weights in the model's own "
            'layout are saved: set "state_dict_type": "FULL_STATE_DICT"'
        )
    if plugin.fsdp_version != 2:
        return
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "fsdp_config has cpu_ram_efficient_loading, which shards every parameter and so the objective: set it to "
            "false"
        )
    if plugin.mixed_precision_policy is not None:
        # No output dtype rather than float32: every block has the same policy, and what goes from one to the next
        # would double.
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )
    plugin.ignored_modules = _with_objective(plugin.ignored_modules)


def _with_objective(ignored: Any) -> str:
    """A regular expression of module names (only of such does accelerate move the modules to the device)."""
    if ignored is None:
        return OBJECTIVE
    if not isinstance(ignored, str):
        raise ValueError("FSDP's ignored_modules must be a regular expression of module names here")
    return f"(?:{ignored})|{OBJECTIVE}"


def give_own_group(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Move parameters into groups of their own with the settings of the old ones.

    One call of a fused optimiser takes sharded tensors or whole ones, not both.
    """
    apart = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in apart]
        rest = [p for p in group["params"] if id(p) not in apart]
        if moved and rest:
            group["params"] = rest
            optimizer.add_param_group({**group, "params": moved})


def average_unsharded(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Where ``model`` is sharded by FSDP2, average over ranks the gradients of parameters that it left alone.

    They are equal but for rounding if every rank computes the loss of the whole batch, and clipping by a norm that
    differs between ranks would draw the ranks apart. A collective: to be called on every rank.
    """
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
