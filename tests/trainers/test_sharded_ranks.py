"""Two ranks with sharded parameters (FSDP2) are one process, though one has text only and the other images."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import sharded_ranks
import torch

HERE = Path(__file__).resolve().parent


def test_text_on_one_rank_and_images_on_the_other(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint("qwen3_vl")
    paths = [str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "sharded_ranks.py"), str(checkpoint), str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for number, budget in enumerate((None, 100)):
        expected = sharded_ranks.step(checkpoint, tmp_path, budget)
        assert any("visual" in name for name in expected)
        for rank in range(2):
            found = torch.load(tmp_path / f"{number}-rank-{rank}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5, msg=f"{budget}: {name}")
