"""umekit train --print-launch: the torchrun line for one node and for several."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from umekit.cli.main import main

RECIPE = "rzenembed-qwen2vl-2b"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["train", RECIPE, *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out.strip(), output.err.strip()


def test_one_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line, _ = call(capsys, "--out", tmp_path / "a b", "--print-launch", 8)
    assert code == 0
    assert line == (
        "torchrun --standalone --nproc-per-node 8 --module umekit.cli.main train "
        f"{RECIPE} --out {shlex.quote(str(tmp_path / 'a b'))} --resume"
    )
    assert call(capsys, "--out", tmp_path / "a b", "--print-launch", 8, "--nodes", 1)[1] == line


def test_several_nodes_meet_at_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line, _ = call(capsys, "--out", "runs/x", "--print-launch", 8, "--nodes", 2, "--max-steps", 3)
    assert code == 0
    assert line == (
        "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint $MASTER:29500 --nproc-per-node 8 "
        f"--module umekit.cli.main train {RECIPE} --out runs/x --resume --max-steps 3"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nodes", 2), "--print-launch prints: give both"),
        (("--print-launch", 8, "--nodes", 0), "must be positive, got 8 and 0"),
        (("--print-launch", 0), "must be positive, got 0 and 1"),
    ],
)
def test_refusals(arguments: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_training_that_breaks_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"query": f"red {number}", "positive": f"a red {number}"} for number in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e30,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    source = {"name": "rows", "path": str(tmp_path / "rows.jsonl")}
    step = {
        "kind": "train",
        "name": "one",
        "source": "here",
        "data": {"sources": [source]},
        "arguments": arguments,
    }
    recipe = {"name": "broken", "source": "here", "steps": [step]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    out = tmp_path / "out"
    assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(out), "--max-steps", "4"]) == 1
    error = capsys.readouterr().err
    assert "step 2: the loss is not finite; its rows: row " in error
    assert str(out / "one" / "trainer" / "checkpoint-1") in error
    assert not (out / "one" / "done.json").exists()
    assert [path.name for path in (out / "one" / "trainer").iterdir()] == ["checkpoint-1"]
