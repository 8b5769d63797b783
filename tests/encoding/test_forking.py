"""``datasets.map`` in forked processes, after the parent has encoded: it ends, and gives the parent's vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import datasets, numpy as np, torch, umekit
from umekit.encoding.encode_rows import EncodeRows

torch.set_num_threads(2)
texts = [f"a text of some length with the number {number}" for number in range(32)]
encoder = umekit.load(device="cpu")
vectors = encoder.encode(texts)  # torch's threads have worked now, and no child has them
rows = datasets.Dataset.from_dict({"text": texts})
by_name = rows.map(EncodeRows(), batched=True, batch_size=8, num_proc=2)
by_hand = rows.map(lambda b: {"embedding": encoder.encode(b["text"])}, batched=True, batch_size=8, num_proc=2)
for mapped in (by_name, by_hand):
    print(float(np.abs(np.array(mapped["embedding"]) - vectors).max()))
assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_map_ends_after_the_parent_has_encoded(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(float(line) < 1e-4 for line in done.stdout.split())
