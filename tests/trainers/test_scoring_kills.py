"""Scoring that is killed for real, in every phase, and goes on to the same file; 50 x 1,000 pairs in bounded memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umekit.testing import save_tiny_reranker

PROBE = Path(__file__).with_name("scoring_probe.py")
ROOT = PROBE.parents[2]
SCORING = "work/blocks-*/[0-9]*.npy"


def start(*words: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, *map(str, words)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(*words: object) -> str:
    process = start(*words)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err.decode()
    return out.decode()


def kill_when(folder: Path, pattern: str, count: int, *words: object) -> None:
    """Start it, and SIGKILL it as soon as so many files are there."""
    process = start(*words)
    until = time.monotonic() + 600
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, f"it ended before there were {count} {pattern}"
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def make_rows(path: Path, rows: int, candidates: int, letters: int) -> Path:
    """Rows with texts of so many letters, all different."""
    filling = "x" * letters

    def line(number: int) -> dict[str, Any]:
        others = [f"candidate {number} {place} {filling}" for place in range(candidates - 1)]
        return {"query": f"query {number}", "positive": f"positive {number} {filling}", "negatives": others}

    with path.open("w") as file:
        file.writelines(json.dumps(line(number)) + "\n" for number in range(rows))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "scoring.json"}


def test_a_killed_run_goes_on_to_the_same_file(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "rows.jsonl", 40, 6, 20)
    finish(PROBE, rows, tmp_path / "whole", 4, 0)
    broken = tmp_path / "broken"
    kill_when(broken, SCORING, 3, PROBE, rows, broken, 4, 0.02)
    found = json.loads(finish(PROBE, rows, broken, 4, 0))
    assert 4 <= found["calls"] <= 28  # three blocks of four rows, at least, were kept
    assert files_of(broken) == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_fifty_thousand_pairs_in_bounded_memory_through_kills(tmp_path: Path) -> None:
    """50 candidates of 1,000 rows, 100 MB of text; killed while it encodes, scores (twice) and writes."""
    rows = make_rows(tmp_path / "rows.jsonl", 1000, 50, 2000)
    size = rows.stat().st_size / 2**20
    whole = json.loads(finish(PROBE, rows, tmp_path / "whole", 16, 0))
    assert whole["calls"] == 1000
    assert size > 90
    assert whole["grown"] < size / 3, "memory grows with the rows"
    broken = tmp_path / "broken"
    kill_when(broken, "work/items/part-*", 10, PROBE, rows, broken, 16, 0)
    for blocks in (5, 30):
        kill_when(broken, SCORING, blocks, PROBE, rows, broken, 16, 0.005)
    kill_when(broken, "work/scored.jsonl.*", 1, PROBE, rows, broken, 16, 0)
    found = json.loads(finish(PROBE, rows, broken, 16, 0))
    assert found["calls"] == 0  # all were scored when it was killed while it wrote
    assert found["grown"] < size / 3
    assert files_of(broken) == files_of(tmp_path / "whole")
    assert sum(1 for _ in (broken / "scored.jsonl").open()) == 1000


@pytest.mark.slow
def test_real_models_are_killed_and_go_on(
    tmp_path: Path, tiny_backbone: Callable[[str], Path], tiny_checkpoint: Callable[..., Path]
) -> None:
    reranker = save_tiny_reranker(tmp_path / "reranker", tiny_backbone("qwen3_vl"))
    rows = make_rows(tmp_path / "rows.jsonl", 40, 8, 10)
    words = ["-m", "umekit.cli.main", "score", rows, "--model", tiny_checkpoint("qwen2_vl"), "--quiet"]
    words += ["--reranker", reranker, "--device", "cpu", "--block-size", 2, "--out"]
    finish(*words, tmp_path / "whole")
    kill_when(tmp_path / "broken", SCORING, 4, *words, tmp_path / "broken")
    finish(*words, tmp_path / "broken")
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "whole")
