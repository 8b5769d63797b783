"""A new trainer in under 60 lines: two slots and a token loss, in chunks as in one forward, on two ranks as on one."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_trainer

HERE = Path(__file__).resolve().parent
CASES = ("full", "lora", "dropout")


@pytest.fixture(scope="module")
def outcomes(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, list[Any]]:
    checkpoint = str(tiny_checkpoint("qwen2_vl", role="generative"))
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "toy_trainer.py"), checkpoint, str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]
    return toy_trainer.run(checkpoint, folder / "one", 1), ranks


@pytest.mark.parametrize("name", CASES)
def test_in_chunks_as_in_one_forward(outcomes: Any, name: str) -> None:
    one, ranks = outcomes
    for run in (one, *ranks):
        whole, cached = run[f"{name}-None"], run[f"{name}-200"]
        for key, value in whole.items():
            torch.testing.assert_close(cached[key], value, rtol=1e-5, atol=1e-5, msg=f"{name}: {key}")


@pytest.mark.parametrize("name", ["full", "lora"])  # dropout draws otherwise on two ranks
def test_on_two_ranks_as_on_one(outcomes: Any, name: str) -> None:
    one, ranks = outcomes
    for key, value in one[f"{name}-200"].items():
        assert torch.equal(ranks[0][f"{name}-200"][key], ranks[1][f"{name}-200"][key])
        torch.testing.assert_close(ranks[0][f"{name}-200"][key], value, rtol=1e-5, atol=1e-5, msg=key)


def test_every_part_is_trained(outcomes: Any) -> None:
    one, _ = outcomes
    names = set(one["full-None"])
    assert {"objective.temperature.log_temperature", "loss"} < names
    assert any("lora_B" in name for name in one["lora-None"])
    # Dropout was on: it drew, and the result is another one.
    assert not torch.equal(one["dropout-None"]["loss"], one["lora-None"]["loss"])


def test_it_is_short() -> None:
    kinds = (toy_trainer.ThoughtCollator, toy_trainer.ToyTrainer)
    assert sum(len(inspect.getsource(kind).splitlines()) for kind in kinds) < 60
