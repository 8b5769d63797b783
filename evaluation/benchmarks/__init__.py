"""Published benchmarks in one harness: MMEB-V1 and V2, M-BEIR, and U-MARVEL's zero-shot sets.

A benchmark is a data file in ``definitions/``; a reader turns a task's rows, in the layout they are published in, into
queries, candidates and what is relevant; everything after that is the same for all.
"""

from __future__ import annotations

from .data import LocalData
from .definition import BENCHMARKS, Benchmark, Task, load_benchmark
from .hub_data import HubData
from .problem import Problem
from .report import BenchmarkReport
from .run import run_benchmark

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkReport",
    "HubData",
    "LocalData",
    "Problem",
    "Task",
    "load_benchmark",
    "run_benchmark",
]
