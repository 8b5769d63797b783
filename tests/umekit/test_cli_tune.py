"""``umekit tune``: from scored rows and from an index to a cascade that is searched with; wrong calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import umekit
from umekit.cli.main import main
from umekit.encoding.cascade_folder import read_cascade
from umekit.testing import save_tiny_reranker

TEXTS = ("a ladder", "two kittens", "no ladder at all", "rain and wind", "kittens in the rain")


@pytest.fixture(scope="module")
def models(
    tiny_backbone: Callable[[str], Path],
    tiny_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[str]:
    folder = tmp_path_factory.mktemp("reranker") / "checkpoint"
    reranker = save_tiny_reranker(folder, tiny_backbone("qwen2_vl"))
    return ["--model", str(tiny_checkpoint("qwen2_vl")), "--reranker", str(reranker)]


@pytest.fixture(scope="module")
def scored(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    rows = [
        {"query": f"{text} {n}", "positive": text, "task": "ab"[n % 2], "candidates": list(TEXTS)}
        for n, text in enumerate(TEXTS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(folder / "rows.jsonl"), *models, "--out", str(folder / "out"), "--quiet"]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def indexed(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "root"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)
    assert main(["index", str(folder), *models[:2], "--quiet"]) == 0
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_scored_rows_make_a_cascade_and_tune_it_anew(
    capsys: pytest.CaptureFixture[str], models: list[str], scored: Path, indexed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "pair", tmp_path / "curve.png"
    where = ["tune", scored, "--out", out, "--min-queries", 2]
    code, printed, _ = call(capsys, *where, *models, "--metric", "mrr@5", "--picture", picture, "--json")
    assert code == 0
    found = json.loads(printed)
    assert found["queries"] == {"a": 3, "b": 2}
    assert picture.read_bytes().startswith(b"\x89PNG")
    fusion = read_cascade(out).fusion
    assert (fusion.alpha, fusion.tasks, fusion.depth) == (found["alpha"], found["tasks"], 50)
    assert set(fusion.tasks) == {"a", "b"}
    curves = json.loads((out / "tuning.json").read_text())
    lines = [json.loads(line) for line in (scored / "scored.jsonl").read_text().splitlines()]
    for task, [curve] in curves["curves"].items():
        own = [row for row in lines if row["task"] == task]
        assert curve == pytest.approx([mean_mrr(own, alpha) for alpha in curves["alphas"]])
    # Its models are known now: nothing is loaded, and another grid and depth are taken.
    code, printed, _ = call(capsys, *where, "--grid", 3, "--depths", 2, 5)
    assert code == 0
    assert printed.split()[:4] == ["task", "queries", "alpha", "whose"]
    assert json.loads((out / "tuning.json").read_text())["alphas"] == [0, 0.5, 1]
    assert read_cascade(out).fusion.depth in (2, 5)
    options = ["--rerank", out, "--task", "a", "--index", indexed, "--json"]
    code, printed, _ = call(capsys, "search", "a ladder", *options)
    share = read_cascade(out).fusion.tasks["a"]
    assert code == 0
    for row in json.loads(printed)["results"]:
        assert row["score"] == pytest.approx(share * row["recall"] + (1 - share) * row["rerank"], abs=1e-6)


def mean_mrr(rows: list[dict[str, Any]], alpha: float) -> float:
    found = []
    for row in rows:
        both = [alpha * one + (1 - alpha) * other
                for one, other in zip(row["recall_scores"], row["rerank_scores"], strict=True)]  # fmt: skip
        names = [item["text"] for item in row["candidates"]]
        own = both[names.index(row["positive"]["text"])]
        found.append(1 / sum(value >= own for value in both))
    return sum(found) / len(found)


def test_an_index_gives_the_scores_that_searching_gives(
    capsys: pytest.CaptureFixture[str], models: list[str], indexed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pair"
    rows = [
        {"query": "a ladder", "positive_id": "0.txt", "task": "t"},
        {"query": {"text": "kittens"}, "positive_ids": ["1.txt", "4.txt"], "task": "t"},
        {"query": "rain", "positive_id": "gone.txt", "task": "t"},
    ]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ["tune", tmp_path / "queries.jsonl", "--index", indexed, "--out", out, "--min-queries", 1]
    code, printed, _ = call(capsys, *where, *models, "--depths", 3, 5, "--metric", "mrr@5", "--json")
    assert code == 0
    assert json.loads(printed)["queries"] == {"t": 3}
    found = json.loads((out / "tuning.json").read_text())
    pair = umekit.Cascade.load(out, device="cpu")
    items = {f"{number}.txt": text for number, text in enumerate(TEXTS)}
    for place, alpha in ((0, 0.0), (10, 0.5), (20, 1.0)):
        pair.fusion = umekit.Fusion(alpha)
        best = []
        for row in rows:
            [ranked] = pair.rank([row["query"]], items)
            names = {row.get("positive_id"), *row.get("positive_ids", ())}
            best.append(max((1 / rank for rank, one in enumerate(ranked, 1) if one.id in names), default=0))
        assert found["curves"]["t"][1][place] == pytest.approx(sum(best) / 3, abs=1e-6)
    (indexed / "3.txt").rename(tmp_path / "away")
    try:
        code, _, err = call(capsys, *where)
    finally:
        (tmp_path / "away").rename(indexed / "3.txt")
    assert code == 1
    assert "there is no file 3.txt" in err


def test_wrong_calls_are_one_line_and_2(
    capsys: pytest.CaptureFixture[str],
    models: list[str],
    scored: Path,
    indexed: Path,
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "q", "positive_id": "nowhere"}\n')
    umekit.Cascade.of(models[1], models[3], device="cpu").save(tmp_path / "pair")
    other = ["--model", str(tiny_checkpoint("qwen3_vl")), *models[2:]]
    cases: list[tuple[list[object], str]] = [
        (["gone", "--out", tmp_path / "new"], "no such file"),
        ([rows, "--out", tmp_path / "new"], "need --index"),
        ([scored, "--out", tmp_path / "new"], "name its models by --model and --reranker"),
        ([scored, "--out", tmp_path / "pair", *models], "has its models already"),
        ([scored, "--out", tmp_path / "new", *other], "made with another embedder"),
        ([scored, "--out", tmp_path / "new", *models, "--metric", "accuracy"], "no metric"),
        ([scored, "--out", tmp_path / "new", *models, "--grid", "1"], "--grid is 2 or more"),
        ([scored, "--out", tmp_path / "new", *models, "--root", indexed], "--root needs --index"),
        ([tmp_path, "--out", tmp_path / "new", *models], "holds no rows of umekit score"),
        ([scored, "--index", indexed, "--out", tmp_path / "pair"], "give a file of queries"),
        (["digit-world", "--index", indexed, "--out", tmp_path / "new", *models], "in pools of its own"),
        ([scored, "--out", tmp_path / "new", *models, "--queries", "5"], "--queries is of digit-world"),
    ]
    for options, message in cases:
        code, out, err = call(capsys, "tune", *options)
        assert (code, out) == (2, ""), options
        assert message in err.splitlines()[-1]
        assert not (tmp_path / "new").exists()
    code, _, err = call(capsys, "tune", rows, "--index", indexed, "--out", tmp_path / "pair")
    assert code == 1
    assert "do their ids match" in err
    assert read_cascade(tmp_path / "pair").fusion == umekit.Fusion()
