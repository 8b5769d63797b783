"""The Trainer with FSDP2 on two ranks: groups, dtypes, temperature, media of one rank only, saved files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsdp_ranks
import pytest
import torch
from safetensors.torch import load_file

from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def outcomes(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of all runs, and by scenario what each rank returned; ``one`` is a single process on media."""
    checkpoint, folder = tiny_checkpoint("qwen2_vl"), tmp_path_factory.mktemp("fsdp")
    paths = [str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "fsdp_ranks.py"), str(checkpoint), str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = {
        name: [torch.load(folder / f"{name}-rank-{rank}.pt", weights_only=False) for rank in range(2)]
        for name in fsdp_ranks.SCENARIOS
    }
    one = fsdp_ranks.run(checkpoint, folder / "one", fsdp_ranks.SCENARIOS["media"])
    return folder, {**found, "one": one}


def test_training_is_that_of_one_process(outcomes: Any) -> None:
    """Gradient caching, clipping, a learned temperature, and videos on one rank only."""
    folder, found = outcomes
    for rank in found["media"]:
        for a, b in zip(rank["logs"], found["one"]["logs"], strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
        assert rank["temperature"] == pytest.approx(found["one"]["temperature"], rel=1e-5)
    assert found["one"]["temperature"] != pytest.approx(0.05, rel=1e-4)
    for file in ("model.safetensors", "objective.safetensors"):
        expected, saved = load_file(folder / "one" / file), load_file(folder / "media" / file)
        assert saved.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(saved[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", fsdp_ranks.SCENARIOS)
def test_each_block_is_a_group_and_the_objective_is_none(outcomes: Any, name: str) -> None:
    for rank in outcomes[1][name]:
        groups = rank["groups"]
        assert "" in groups
        assert sum("visual.blocks." in group for group in groups) == 2
        assert sum("language_model.layers." in group for group in groups) == 2
        assert not any(group.startswith("objective") for group in groups)
        assert ("model.backbone.lm_head" in groups) == (name == "pure"), "a tied head is with the embeddings"


@pytest.mark.parametrize("name", ["half", "pure"])
def test_vectors_and_temperature_are_float32_in_half_precision(outcomes: Any, name: str) -> None:
    folder, found = outcomes
    saved = load_file(folder / name / "objective.safetensors")["temperature.log_temperature"]
    assert saved.dtype == torch.float32
    for rank in found[name]:
        dtype, temperature = rank["seen"]
        assert dtype == torch.float32
        assert torch.tensor(temperature).bfloat16().item() != temperature
        assert rank["temperature"] == pytest.approx(saved.exp().item(), rel=1e-6)
        assert rank["temperature"] != pytest.approx(0.05, rel=1e-7), "it has been trained"


def test_pure_bfloat16_weights_stay_so(outcomes: Any) -> None:
    folder, found = outcomes
    assert found["pure"][0]["dtypes"] == ["torch.bfloat16", "torch.float32"]
    weights = load_file(folder / "pure" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights, "tied"
    again = UmeForDiscriminativeEmbedding.from_pretrained(folder / "pure", dtype=torch.bfloat16).backbone
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
