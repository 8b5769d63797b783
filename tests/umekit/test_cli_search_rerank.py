"""``umekit search --rerank``: both scores, their fusion, and calls that can't be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.cli.main import main
from umekit.encoding.index.two_stage import folder_items
from umekit.testing import save_tiny_reranker

NAMES = {"clip.gif", "notes.md", "picture.png", "report.pdf#page=1", "report.pdf#page=2"}


@pytest.fixture(scope="module")
def reranker(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_reranker(tmp_path_factory.mktemp("reranker") / "checkpoint", tiny_backbone("qwen2_vl"))


@pytest.fixture(scope="module")
def indexed(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "root"
    folder.mkdir()
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (64, 48, 3), dtype=np.uint8)) for _ in range(4)]
    frames[0].save(folder / "picture.png")
    frames[1].save(folder / "clip.gif", save_all=True, append_images=frames[2:])
    frames[0].save(folder / "report.pdf", save_all=True, append_images=[frames[1]])
    (folder / "notes.md").write_text("a wooden ladder")
    assert main(["index", str(folder), "--model", str(tiny_checkpoint("qwen2_vl")), "--quiet"]) == 0
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


def results(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    code, out, _ = call(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)["results"]


def test_both_scores_and_their_fusion(
    capsys: pytest.CaptureFixture[str], indexed: Path, reranker: Path
) -> None:
    where = ["search", "a red kitten", "--index", indexed]
    recall = {row["id"]: row["score"] for row in results(capsys, *where)}
    assert set(recall) == NAMES
    for share, options in ((0.5, []), (0.2, ["--fusion", 0.2])):
        rows = results(capsys, *where, "--rerank", reranker, *options)
        assert {row["id"] for row in rows} == NAMES
        assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
        for row in rows:
            assert row["recall"] == pytest.approx(recall[row["id"]], abs=1e-6)
            assert row["score"] == pytest.approx(
                share * row["recall"] + (1 - share) * row["rerank"], abs=1e-6
            )
        assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    text = next(row for row in rows if row["id"] == "notes.md")
    alone = umekit.load(reranker).rerank({"text": "a red kitten"}, ["a wooden ladder"])[0]
    assert text["rerank"] == pytest.approx(float(alone), abs=1e-5)


def test_depth_and_table(capsys: pytest.CaptureFixture[str], indexed: Path, reranker: Path) -> None:
    where = ["search", "--image", indexed / "picture.png", "--index", indexed]
    nearest = [row["id"] for row in results(capsys, *where, "-k", 3)]
    rows = results(capsys, *where, "-k", 2, "--rerank", reranker, "--rerank-depth", 3, "--fusion", 0)
    assert len(rows) == 2
    assert {row["id"] for row in rows} <= set(nearest)
    code, out, _ = call(capsys, *where, "--rerank", reranker, "-k", 2)
    assert code == 0
    assert out.splitlines()[0].split() == ["rank", "score", "recall", "rerank", "id", "what"]
    assert len(out.splitlines()) == 4


def test_files_that_are_gone_are_named(
    capsys: pytest.CaptureFixture[str], indexed: Path, reranker: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(indexed, folder)
    (folder / "notes.md").unlink()
    code, out, err = call(capsys, "search", "x", "--index", folder, "--rerank", reranker, "--json")
    shown = json.loads(out)
    assert code == 1
    assert {row["id"] for row in shown["results"]} == NAMES - {"notes.md"}
    assert [name for name, _ in shown["failed"]] == ["notes.md"]
    assert "there is no file notes.md" in err
    empty = tmp_path / "empty"
    empty.mkdir()
    code, out, err = call(capsys, "search", "x", "--index", folder, "--rerank", reranker, "--root", empty)
    assert (code, out) == (2, "")
    assert "none of the 5 rows found can be opened below" in err.splitlines()[-1]


def test_an_index_elsewhere_needs_its_root(
    capsys: pytest.CaptureFixture[str], indexed: Path, reranker: Path, tmp_path: Path
) -> None:
    shutil.copytree(indexed / ".umekit-index", tmp_path / "moved")
    where = ["search", "x", "--index", tmp_path / "moved", "--rerank", reranker]
    code, _, err = call(capsys, *where)
    assert code == 2
    assert "--root DIR" in err.splitlines()[-1]
    assert {row["id"] for row in results(capsys, *where, "--root", indexed)} == NAMES


@pytest.fixture(scope="module")
def cascade(
    reranker: Path, tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("cascade")
    pair = umekit.Cascade.of(
        tiny_checkpoint("qwen2_vl"), reranker, umekit.Fusion(0.3, {"photos": 0.8}, depth=3), device="cpu"
    )
    pair.save(folder)
    return folder


def test_a_cascade_brings_reranker_depth_and_shares(
    capsys: pytest.CaptureFixture[str], indexed: Path, reranker: Path, cascade: Path
) -> None:
    where = ["search", "a red kitten", "--index", indexed, "-k", 3]
    for share, options in ((0.3, []), (0.8, ["--task", "photos"]), (0.1, ["--fusion", 0.1])):
        rows = results(capsys, *where, "--rerank", cascade, *options)
        bare = results(capsys, *where, "--rerank", reranker, "--fusion", share, "--rerank-depth", 3)
        assert rows == bare
    assert len(results(capsys, *where, "--rerank", cascade, "-k", 5)) == 5  # deeper than the cascade's 3
    pair = umekit.Cascade.load(cascade, device="cpu")
    index = umekit.Index.load(indexed / ".umekit-index")
    items = folder_items(index, indexed)
    [found] = pair.search([{"text": "a red kitten"}], index, items, k=3, tasks="photos")
    rows = results(capsys, *where, "--rerank", cascade, "--task", "photos")
    assert [row.id for row in found] == [row["id"] for row in rows]
    assert [row.score for row in found] == pytest.approx([row["score"] for row in rows], abs=1e-6)


def test_a_cascade_of_other_models_is_one_line_and_2(
    capsys: pytest.CaptureFixture[str], indexed: Path, cascade: Path, tmp_path: Path
) -> None:
    block = json.loads((cascade / "cascade.json").read_text())
    for which in ("embedder", "reranker"):
        block[which]["fingerprint"]["processor"] = "0" * 64
        (tmp_path / "cascade.json").write_text(json.dumps(block))
        code, out, err = call(capsys, "search", "x", "--index", indexed, "--rerank", tmp_path)
        assert (code, out) == (2, "")
        assert f"was made with another {which} (processor 00000000000000 there" in err.splitlines()[-1]
        block[which] = json.loads((cascade / "cascade.json").read_text())[which]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "photos"], "--task needs --rerank"),
        (["--rerank", "R", "--task", "photos"], "is of a cascade"),
        (["--rerank", "C", "--task", "pages"], "no share was chosen for pages"),
        (["--rerank", "C", "--rerank-preset", "qwen3-vl-reranker"], "--rerank-preset is of a bare reranker"),
        (["--fusion", "0.5"], "--fusion needs --rerank"),
        (["--rerank-depth", "5"], "--rerank-depth needs --rerank"),
        (["--root", "."], "--root needs --rerank"),
        (["--rerank", "R", "--fusion", "1.5"], "from 0 to 1"),
        (["--rerank", "R", "--fusion", "nan"], "from 0 to 1"),
        (["--rerank", "R", "--rerank-depth", "5"], "fewer than the 10 results"),
        (["--rerank", "E"], "is an embedder"),
        (["--rerank", "R", "--root", "nowhere"], "is not a folder"),
    ],
)
def test_wrong_calls_are_one_line_and_2(
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    indexed: Path,
    reranker: Path,
    cascade: Path,
    tiny_checkpoint: Callable[..., Path],
) -> None:
    named = {"R": str(reranker), "C": str(cascade), "E": str(tiny_checkpoint("qwen2_vl"))}
    code, out, err = call(
        capsys, "search", "x", "--index", indexed, *(named.get(one, one) for one in options)
    )
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
