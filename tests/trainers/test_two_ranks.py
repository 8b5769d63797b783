"""Two ranks are one process: losses, gradients, metrics, evaluation, accumulation, local loss, resume,
text on one and images on the other, bad rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_ranks

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "two_ranks.py"), str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]
    return two_ranks.run(folder / "one", 1), ranks


@pytest.mark.parametrize("name", [*two_ranks.SCENARIOS, *two_ranks.LOCAL])
def test_weights_after_training_are_those_of_one_process(outcomes: Any, name: str) -> None:
    one, ranks = outcomes
    for key, value in one[name].items():
        assert torch.equal(ranks[0][name][key], ranks[1][name][key])
        torch.testing.assert_close(ranks[0][name][key], value, rtol=1e-4, atol=1e-5, msg=f"{name}: {key}")


@pytest.mark.parametrize("name", two_ranks.SCENARIOS)
def test_logs_are_those_of_one_process(outcomes: Any, name: str) -> None:
    one, ranks = outcomes
    expected, logged = one[f"{name}_logs"], ranks[0][f"{name}_logs"]
    assert len(logged) == len(expected) > 1
    for a, b in zip(logged, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


def test_negatives_of_one_rank_are_known_as_positives_of_the_other(outcomes: Any) -> None:
    """Four negatives by content and two by id, each struck out for the one row whose positive it is."""
    dropped = [entry["false_negatives_dropped"] for entry in outcomes[1][0]["shared_logs"][:-1]]
    assert dropped == [6] * 6


def test_evaluation_counts_each_row_once(outcomes: Any) -> None:
    one, ranks = outcomes
    for rank in ranks:
        assert rank["evaluation"] == pytest.approx(one["evaluation"], rel=1e-5)


def test_bad_rows_raise_on_every_rank_and_are_named(outcomes: Any) -> None:
    one, ranks = outcomes
    assert "row 2: " in one["too_many"]
    assert "row 13: " in one["too_many"]
    for rank in ranks:
        assert rank["too_many"] == one["too_many"]


def test_resume_on_two_ranks_is_exact(outcomes: Any) -> None:
    assert all(rank["resumed"] for rank in outcomes[1])


def test_a_loss_that_is_not_finite_on_one_rank_is_left_out_on_all(outcomes: Any) -> None:
    one, ranks = outcomes
    for name in ("broken_loss", "broken_loss_cached"):
        assert [rank[f"{name}_skipped"] for rank in (one, *ranks)] == [[2]] * 3
        assert all(value.isfinite().all() for value in ranks[0][name].values())


def test_a_loss_that_is_not_finite_ends_every_rank_and_names_the_rows_of_the_one(outcomes: Any) -> None:
    _, ranks = outcomes
    assert ranks[0]["not_finite"] == ranks[1]["not_finite"]
    _, step, rows = ranks[0]["not_finite"]
    assert step == 2
    assert len(rows) == two_ranks.ROWS // 2
