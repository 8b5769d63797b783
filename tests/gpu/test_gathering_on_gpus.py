"""Rows of every rank, with gradient, through NCCL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import umekit

RANKS = 2
SOURCE_ROOT = Path(umekit.__file__).resolve().parent.parent


@pytest.mark.skipif(torch.cuda.device_count() < RANKS, reason=f"needs {RANKS} CUDA devices")
def test_rows_and_gradients(tmp_path: Path) -> None:
    script = Path(__file__).with_name("gathering_ranks.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    paths = os.pathsep.join(filter(None, (str(SOURCE_ROOT), os.environ.get("PYTHONPATH"))))
    subprocess.run(
        [sys.executable, *launcher, str(script), "nccl", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        timeout=300,
    )
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    for one in found:
        assert one["rows"][:, 0].tolist() == [1, 1, 2, 2, 2]
    assert torch.cat([one["grad"] for one in found])[:, 0].tolist() == [0, 1, 2, 3, 4]
