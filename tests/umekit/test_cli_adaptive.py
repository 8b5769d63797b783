"""Checkpoints that decide, on the command line: kappa and budget, what it cost, a probe and the curve."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import umekit
from umekit.cli.main import main


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("qwen2_vl", role="adaptive", max_new_tokens=4)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    target = tmp_path / "texts"
    target.mkdir()
    for number in range(12):
        (target / f"{number:02}.txt").write_text(
            " ".join([f"text {number}"] * (1 + number % 5)), encoding="utf-8"
        )
    return target


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_encode(folder: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = umekit.load(folder, device="cpu")
    asked = [
        "encode",
        str(texts),
        "--model",
        str(folder),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "v.npz"),
    ]
    for kappa, mode, ratio in (("1", "discriminative", 0.0), ("0", "generative", 1.0)):
        assert main([*asked, "--mode", "adaptive", "--kappa", kappa, "--json"]) == 0
        told = _json(capsys)
        assert told["invocation_ratio"] == ratio
        assert (told["tokens_per_item"] > 0) == bool(ratio)
        assert told["seconds_per_item"] > 0
        with np.load(tmp_path / "v.npz") as found:
            items = [(texts / Path(name).name).read_text(encoding="utf-8") for name in found["ids"]]
            np.testing.assert_allclose(found["embeddings"], encoder.encode(items, mode=mode), atol=1e-5)
            assert json.loads(str(found["manifest"]))["kappa"] == float(kappa)
    assert main([*asked, "--budget", "1"]) == 0
    assert "thought tokens and" in capsys.readouterr().out
    parts = [*asked[:-1], str(tmp_path / "parts"), "--shard-size", "6", "--kappa", "1", "--json"]
    assert main(parts) == 0
    manifest = json.loads((tmp_path / "parts" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["options"]["kappa"] == 1.0
    assert _json(capsys)["rows"] == 12
    parts[parts.index("--out") + 1] = str(tmp_path / "thinking")
    parts[parts.index("--kappa") + 1] = "0"
    told = {}
    for turn in ("made", "kept"):
        assert main([*parts, "--mode", "adaptive", *(["--resume"] if turn == "kept" else [])]) == 0
        told[turn] = _json(capsys)
    assert told["made"]["invocation_ratio"] == told["kept"]["invocation_ratio"] == 1.0
    assert told["made"]["tokens_per_item"] == told["kept"]["tokens_per_item"] > 0
    assert told["made"]["seconds_per_item"] > told["kept"]["seconds_per_item"] == 0
    manifest = json.loads((tmp_path / "thinking" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["reasoned"], told["made"]["parts"]) == (12, 2)


def test_wrong_calls(folder: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "encode",
        str(texts),
        "--model",
        str(folder),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "v.npz"),
    ]
    for options, words in (
        (["--kappa", "0.5", "--budget", "3"], "give one of them"),
        (["--kappa", "7"], "kappa is 7.0"),
        (["--mode", "generative", "--budget", "3"], "only mode='adaptive' decides"),
    ):
        assert main([*asked, *options]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "v.npz").exists()


def test_index_and_search(folder: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["index", str(texts), "--model", str(folder), "--device", "cpu"]
    assert main([*asked, "--budget", "2", "--json", "--quiet"]) == 0
    told = _json(capsys)
    assert told["encoded"] == 12
    assert 0 < told["reasoned"] < 12
    assert abs(told["thought_tokens"] - 24) <= 4
    (texts / "new.txt").write_text("a new text", encoding="utf-8")
    assert main([*asked, "--quiet"]) == 0  # with the budget of the first run
    assert "1 new" in capsys.readouterr().out
    assert main([*asked, "--quiet", "--mode", "generative"]) == 2  # which has no budget to go on with
    assert "was made with mode None, not 'generative'" in capsys.readouterr().err
    search = ["search", "text 3", "--index", str(texts), "--device", "cpu", "-k", "2"]
    assert main([*search, "--kappa", "1", "--json"]) == 0
    told = _json(capsys)
    assert told["mode"] == "discriminative"
    assert told["cost"]["invocation_ratio"] == 0.0
    assert "thought" not in told
    assert main([*search, "--kappa", "1"]) == 0
    assert "embedded at once: p(reason) is" in capsys.readouterr().out
    assert main([*search, "--kappa", "0", "--json"]) == 0
    told = _json(capsys)
    assert told["mode"] == "generative"
    assert told["thought_tokens"] > 0


def test_probe_and_curve(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [
        {"query": f"query {number} " * (1 + number % 3), "positive": f"text {number}", "task": "a"}
        for number in range(24)
    ]
    rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    common = ["--model", str(folder), "--device", "cpu", "--rows", str(rows)]
    code = main(["probe", *common, "--out", str(tmp_path / "probed"), "--kappa", "0.25", "--json"])
    told = capsys.readouterr()
    model = str(folder)
    if code == 0:
        assert "reasoning_probe.safetensors" in json.loads(told.out)["files"]
        model = str(tmp_path / "probed")
        settings = umekit.load(model, device="cpu").model.settings
        assert (settings.strategy, settings.kappa) == ("probe", 0.25)
    else:  # of random vectors no thought may have helped
        assert "nothing that a probe could tell apart" in told.err
    out = tmp_path / "curve.json"
    asked = ["evaluate", "curve", *common[2:], "--model", model, "--out", str(out), "--quiet", "--json"]
    assert main([*asked, "--draw", str(tmp_path / "curve.png")]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["curves"]["all tasks"]["ideal"]
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert main(["evaluate", "curve", "--fit-probe", "--rows", str(rows)]) == 2
    assert "--fit-probe takes DigitWorld's validation split" in capsys.readouterr().err
