"""A reranker and a distilled model are trained on two ranks as on one, in chunks as whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stage_three
import torch

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "stage_three.py"), str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]
    return stage_three.run(folder / "one", 1), ranks


@pytest.mark.parametrize("name", stage_three.CASES)
def test_on_two_ranks_as_on_one_and_in_chunks_as_whole(outcomes: Any, name: str) -> None:
    one, ranks = outcomes
    expected = one[f"{name}-None"]
    assert {"loss", "eval_loss"} < expected.keys()
    for run in (one, *ranks):
        for size in (None, 200):
            for key, value in expected.items():
                found = run[f"{name}-{size}"][key]
                torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5, msg=f"{name}-{size}: {key}")
