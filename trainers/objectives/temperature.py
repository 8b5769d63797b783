"""The home of a learnable temperature: one bounded log-temperature per task, float32, no weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

DEFAULT_TASK = "default"


class LearnableTemperature(nn.Module):
    """tau_t = exp(theta_t) for each task t (RzenEmbed section 3.4.2 uses one per task family).

    temperature: the value to start from. tasks: names; None is a single temperature for all rows.
    bounds: (lowest, highest) tau. The parameter is projected into them by :meth:`clamp_` after each
    optimiser step (the trainer does it), so that the gradient is never cut off at a bound. What is used is within
    them also where an optimiser keeps a copy of its own (DeepSpeed's float32 master) and brings the parameter back
    out. learnable=False keeps it fixed, wherever it is.

    The parameter ``log_temperature`` is float32 [tasks] and stays so when the module is cast to half
    precision.
    """

    def __init__(
        self,
        temperature: float = 0.02,
        *,
        tasks: Sequence[str] | None = None,
        bounds: tuple[float, float] = (0.005, 0.2),
        learnable: bool = True,
    ) -> None:
        super().__init__()
        low, high = bounds
        if not 0 < low <= high:
            raise ValueError(f"temperature bounds must be 0 < lowest <= highest, got {bounds}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if learnable and not low <= temperature <= high:
            raise ValueError(f"temperature {temperature} is outside its bounds {bounds}")
        if tasks is not None and (not tasks or len(set(tasks)) != len(tasks)):
            raise ValueError(f"tasks must be distinct names, got {list(tasks)}")
        self.tasks = list(tasks) if tasks is not None else [DEFAULT_TASK]
        self.per_task = tasks is not None
        self.bounds = (float(low), float(high))
        start = torch.full((len(self.tasks),), math.log(temperature), dtype=torch.float32)
        self.log_temperature = nn.Parameter(start, requires_grad=learnable)

    def index(self, tasks: Sequence[str]) -> Tensor:
        """Task names [n] -> int64 [n], zeros without tasks. An unknown name raises ValueError."""
        if not self.per_task:
            return torch.zeros(len(tasks), dtype=torch.int64)
        unknown = sorted(set(tasks) - set(self.tasks))
        if unknown:
            raise ValueError(f"no temperature for the tasks {unknown}; the objective has {self.tasks}")
        return torch.tensor([self.tasks.index(task) for task in tasks], dtype=torch.int64)

    def forward(self, task_index: Tensor | None = None) -> Tensor:
        """tau, float32: [n] for int64 task_index [n], 0-d for None (only where there is one task)."""
        tau = self._bounded().exp()
        if task_index is not None:
            return tau[task_index.to(tau.device)]
        if self.per_task and len(self.tasks) > 1:
            raise ValueError(f"rows must name their task: the objective has {self.tasks}")
        return tau[0]

    def _bounded(self) -> Tensor:
        """The logarithms within the bounds, float32 [tasks]; the gradient is as if they were not bounded."""
        theta = self.log_temperature.float()
        if not self.log_temperature.requires_grad:
            return theta
        low, high = self.bounds
        return theta + (theta.clamp(math.log(low), math.log(high)) - theta).detach()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Project the temperatures into their bounds, in place. A fixed temperature is left as it is."""
        if self.log_temperature.requires_grad:
            low, high = self.bounds
            self.log_temperature.clamp_(math.log(low), math.log(high))

    def values(self) -> dict[str, Tensor]:
        """Detached 0-d temperatures by metric name: ``temperature``, or ``temperature_<task>`` each."""
        tau = self._bounded().detach().exp()
        if not self.per_task:
            return {"temperature": tau[0]}
        return {f"temperature_{task}": tau[i] for i, task in enumerate(self.tasks)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)
