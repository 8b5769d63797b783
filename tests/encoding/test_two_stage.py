"""The rows that a search found, opened and scored again: fusion, order, what can't be opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.encoding.index.folder_index import index_folder
from umekit.encoding.index.two_stage import CandidateError, file_row, folder_items, fuse, rescore
from umekit.encoding.inputs.columns import OutsideRootError
from umekit.encoding.inputs.files import UnreadableFileError
from umekit.testing import save_tiny_reranker


@pytest.fixture(scope="module")
def reranker(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("reranker") / "checkpoint"
    return umekit.load(save_tiny_reranker(folder, tiny_backbone("qwen3_vl")))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of file."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (64, 48, 3), dtype=np.uint8)) for _ in range(5)]
    (folder / "sub").mkdir()
    frames[0].save(folder / "sub" / "picture.png")
    frames[1].save(folder / "clip.gif", save_all=True, append_images=frames[2:])
    frames[0].save(folder / "report.pdf", save_all=True, append_images=[frames[1]])
    (folder / "notes.md").write_text("a wooden ladder, long text " * 40)
    return folder


NAMES = ["sub/picture.png", "clip.gif", "report.pdf#page=1", "report.pdf#page=2", "notes.md"]


def test_fusion_is_a_share_of_each() -> None:
    recall, rerank = np.float32([0.9, -0.2, 0.5]), np.float32([0.1, 1.0, 0.5])
    for alpha in (0.0, 0.25, 0.5, 1.0):
        found = fuse(recall, rerank, alpha)
        assert found.dtype == np.float32
        for one, a, b in zip(found, recall, rerank, strict=True):
            assert float(one) == pytest.approx(alpha * a + (1 - alpha) * b, abs=1e-6)
    assert fuse([0.4], [0.8]) == pytest.approx([0.6])
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 1"):
            fuse(recall, rerank, alpha)
    with pytest.raises(ValueError, match="one of each"):
        fuse(recall, rerank[:2])


def test_items_of_every_kind_of_row(root: Path) -> None:
    base = root.resolve()
    assert file_row("sub/picture.png", root) == {"image": str(base / "sub" / "picture.png")}
    assert file_row("clip.gif", root) == {"video": str(base / "clip.gif")}
    assert file_row("report.pdf#page=2", root) == {"document": str(base / "report.pdf"), "page": 2}
    assert (
        file_row("notes.md", root)["text"] == (root / "notes.md").read_text().strip()
    )  # all of it, no snippet
    facts = {"path": "report.pdf", "page": 1, "kind": "document"}
    assert file_row("any name", root, facts) == {"document": str(base / "report.pdf"), "page": 1}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("gone.png", FileNotFoundError, "there is no file gone.png in"),
        ("report.pdf#page=3", UnreadableFileError, "report.pdf has no page 3"),
        ("report.pdf", UnreadableFileError, "report.pdf has no row of its own"),
        ("../secret.png", OutsideRootError, "below its own folder"),
        ("/etc/hostname", OutsideRootError, "below its own folder"),
    ],
)
def test_rows_that_can_not_be_opened(name: str, error: type[Exception], message: str, root: Path) -> None:
    with pytest.raises(error, match=message):
        file_row(name, root)


def test_an_index_may_not_name_files_outside_by_its_metadata(root: Path) -> None:
    with pytest.raises(OutsideRootError):
        file_row("notes.md", root, {"path": "../../etc/passwd"})


def test_scores_are_the_rerankers_and_order_is_that_of_the_fusion(reranker: Any, root: Path) -> None:
    found = [(name, 0.9 - 0.1 * place) for place, name in enumerate(NAMES)]
    query = {"text": "a ladder", "instruction": "Find it."}
    alone = reranker.rerank(query, [file_row(name, root) for name in NAMES])
    for alpha in (0.0, 0.3, 1.0):
        [rows], failed = rescore(
            reranker, [query], [found], lambda name: file_row(name, root), alphas=[alpha]
        )
        assert failed == []
        for row in rows:
            place = NAMES.index(row.id)
            assert row.recall == found[place][1]
            assert row.rerank == pytest.approx(float(alone[place]), abs=1e-5)
            assert row.score == pytest.approx(alpha * row.recall + (1 - alpha) * row.rerank, abs=1e-6)
        scores = [row.score for row in rows]
        assert scores == sorted(scores, reverse=True)
    assert [row.id for row in rows] == NAMES  # alpha 1: as the search had them


def test_equal_scores_keep_the_order_of_the_search(reranker: Any) -> None:
    found = [("b", 0.5), ("a", 0.5), ("c", 0.5)]
    [rows], _ = rescore(reranker, ["x"], [found], lambda name: "one text")
    assert [row.id for row in rows] == ["b", "a", "c"]


def test_what_can_not_be_opened_is_named_or_left_out(reranker: Any, root: Path) -> None:
    (root / "broken.png").write_bytes(b"\x89PNG no picture")
    found = [("gone.png", 0.9), ("notes.md", 0.8), ("broken.png", 0.7)]

    def item_of(name: str) -> Any:
        return file_row(name, root)

    with pytest.raises(CandidateError, match=r"gone\.png: there is no file"):
        rescore(reranker, ["x"], [found], item_of)
    with pytest.raises(CandidateError, match=r"broken\.png: "):
        rescore(reranker, ["x"], [found[1:]], item_of)
    rows, failed = rescore(reranker, ["y", "x"], [[], found], item_of, on_error="skip")
    assert [[row.id for row in one] for one in rows] == [[], ["notes.md"]]
    assert [(number, name) for number, name, _ in failed] == [(1, "gone.png"), (1, "broken.png")]
    with pytest.raises(ValueError, match="on_error"):
        rescore(reranker, ["x"], [found], item_of, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 0 to 1"):
        rescore(reranker, ["x"], [found], item_of, alphas=[2])
    with pytest.raises(ValueError, match="1 queries, 2 lists"):
        rescore(reranker, ["x"], [found, found], item_of)
    assert rescore(reranker, ["x"], [[]], item_of) == ([[]], [])


def test_rows_of_a_folders_index(
    reranker: Any, root: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"))
    (root / "broken.png").unlink(missing_ok=True)
    index, _ = index_folder(encoder, root, tmp_path / "index")
    ids, scores = encoder.search(["a ladder"], index, k=10)
    found = [
        (name, score) for name, score in zip(ids[0], scores[0].tolist(), strict=True) if name is not None
    ]
    [rows], _ = rescore(reranker, ["a ladder"], [found], folder_items(index, root))
    assert {row.id for row in rows} == set(NAMES)
