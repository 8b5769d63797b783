"""umekit mine, soup and merge: exit codes, one-line errors, JSON, and that options arrive."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import umekit
from umekit.cli.main import main

TESTS = Path(__file__).parents[1]
FakeEncoder = runpy.run_path(str(TESTS / "encoding" / "fake_encoder.py"))["FakeEncoder"]
save_adapter = runpy.run_path(str(TESTS / "trainers" / "adapter_folders.py"))["save_adapter"]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


def one_error(err: str) -> str:
    (line,) = [line for line in err.splitlines() if "error:" in line]
    assert "Traceback" not in err
    return line


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows on disk, and an encoder without a model behind ``umekit.load``."""
    monkeypatch.setitem(vars(umekit), "load", lambda path, **_: FakeEncoder())
    file = tmp_path / "rows.jsonl"
    lines = [{"query": f"q{n}", "positive": f"p{n}", "task": "ab"[n % 2], "own": n} for n in range(12)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_mine(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = (
        "-k",
        3,
        "--max-similarity",
        "none",
        "--scope",
        "local",
        "--memory-gib",
        0.25,
        "--quiet",
        "--json",
    )
    code, text, _ = call(capsys, "mine", "model", rows, "--out", out, *options)
    report = json.loads(text)
    assert code == 0
    assert (report["rows"], report["negatives"], report["candidates"]) == (12, 36, 12)
    for line in (out / "mined.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert {int(item[1:]) % 2 for item in row["negatives"]} == {row["own"] % 2}
        assert row["positive"] not in row["negatives"]
    code, text, err = call(capsys, "mine", "model", rows, "--out", out, "--quiet")
    assert code == 2
    assert "made with other settings" in one_error(err)


def test_mine_with_a_pool_and_filters(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({"id": f"c{n}", "text": f"c{n}"}) + "\n" for n in range(30)))
    code, text, _ = call(
        capsys, "mine", "model", rows, "--pool", pool, "--out", tmp_path / "out", "-k", 2, "--max-similarity", 0.1,
        "--relative-margin", 0.95, "--quiet",
    )  # fmt: skip
    assert code == 0
    assert "12 rows" in text
    assert "of 30 candidates" in text
    assert "max_similarity" in text
    for line in (tmp_path / "out" / "mined.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert max(row["negative_scores"], default=-1) <= min(0.1, 0.95 * row["positive_score"]) + 1e-6


def test_mine_refuses_bad_calls(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "out", "--quiet")
    code, _, err = call(capsys, "mine", "model", tmp_path / "none.jsonl", *out)
    assert (code, "there is no such file" in one_error(err)) == (2, True)
    code, _, err = call(capsys, "mine", "model", rows, *out, "--max-similarity", 7)
    assert (code, "a cosine is from -1 to 1" in one_error(err)) == (2, True)
    code, _, err = call(capsys, "mine", "model", rows, *out, "--max-similarity", "much")
    assert (code, "--help" in one_error(err)) == (2, True)
    for size in ("0", "inf", "nan"):
        code, _, err = call(capsys, "mine", "model", rows, *out, "--memory-gib", size)
        assert (code, "need a number above 0" in one_error(err)) == (2, True)
    outside = tmp_path / "outside.jsonl"
    outside.write_text(json.dumps({"query": "q", "positive": {"image": "../secret.png"}}) + "\n")
    code, _, err = call(capsys, "mine", "model", outside, *out)
    assert code == 1
    assert "may only name files below its own folder" in one_error(err)


def test_merge_and_soup(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (save_adapter(tiny_checkpoint(), tmp_path / name, seed) for seed, name in enumerate("ab"))
    code, text, _ = call(capsys, "merge", a, tmp_path / "merged", "--json")
    assert code == 0
    assert {"config.json", "model.safetensors", "golden/golden.json"} <= set(json.loads(text)["files"])
    code, text, _ = call(
        capsys,
        "soup",
        a,
        b,
        "--out",
        tmp_path / "soup",
        "--weights",
        1,
        3,
        "--base",
        tiny_checkpoint(),
        "--json",
    )
    report = json.loads(text)
    assert code == 0
    assert (report["mode"], report["weights"]) == ("delta", [0.25, 0.75])
    code, text, _ = call(
        capsys, "soup", tmp_path / "merged", tmp_path / "soup", "--out", tmp_path / "both", "--json"
    )
    assert (code, json.loads(text)["mode"]) == (0, "checkpoints")
    vectors = [umekit.load(tmp_path / name, device="cpu").encode(["a text"]) for name in ("merged", "both")]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-5


def test_merge_and_soup_refuse_bad_calls(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, adapter = tiny_checkpoint(), save_adapter(tiny_checkpoint(), tmp_path / "a")
    out = tmp_path / "out"
    for arguments, message in (
        (("merge", tmp_path / "none", out), "is not a folder"),
        (("merge", checkpoint, out), "is not an adapter folder"),
        (("merge", adapter, checkpoint), "is not an empty folder"),
        (("soup", adapter, tmp_path / "none", "--out", out), "is not a folder"),
        (("soup", adapter, checkpoint, "--out", out), "give adapters or checkpoints, not both"),
        (
            ("soup", checkpoint, checkpoint, "--out", out, "--base", checkpoint),
            "--base is for adapters",
        ),
        (("soup", adapter, adapter, "--out", out, "--weights", 1), "1 weights for 2 folders"),
    ):
        code, _, err = call(capsys, *arguments)
        assert (code, message in one_error(err)) == (2, True), err
    assert not out.exists()
