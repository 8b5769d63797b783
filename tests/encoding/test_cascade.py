"""Recall, then rerank as one object: scores of both models, an alpha for each task, a folder that checks its models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import umekit
from umekit.encoding.cascade import BLOCK
from umekit.encoding.cascade_folder import (
    FILE,
    CascadeFormatError,
    CascadeMismatchError,
    ModelSource,
    is_cascade,
    read_cascade,
)
from umekit.encoding.index.two_stage import CandidateError
from umekit.encoding.storage.ownership import ForeignFileError
from umekit.processing.items import ItemError
from umekit.testing import save_tiny_reranker


@pytest.fixture(scope="module")
def folders(
    tiny_backbone: Callable[[str], Path],
    tiny_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("reranker") / "checkpoint"
    return tiny_checkpoint("qwen2_vl"), save_tiny_reranker(folder, tiny_backbone("qwen3_vl"))


@pytest.fixture(scope="module")
def pair(folders: tuple[Path, Path]) -> umekit.Cascade:
    return umekit.Cascade.of(*folders, umekit.Fusion(0.5, {"near": 0.9, "far": 0.1}, depth=4), device="cpu")


@pytest.fixture(scope="module")
def candidates(pictures: list[Image.Image]) -> dict[str, Any]:
    texts = {f"t{n}": text for n, text in enumerate(("a ladder", "two kittens", "no ladder at all", "rain"))}
    return {**texts, "p0": {"image": pictures[0]}, "p1": {"image": pictures[1], "text": "a ladder"}}


QUERIES = ["a red kitten", {"text": "a ladder", "instruction": "Find it."}, "rain and a ladder"]


def twin(
    pair: umekit.Cascade, query: Any, candidates: dict[str, Any], alpha: float, depth: int
) -> list[tuple[str, float, float, float]]:
    """What a search gives, in plain NumPy from the two models alone."""
    names = list(candidates)
    vector = pair.encoder.encode([query], role="query")[0].astype(np.float64)
    rows = pair.encoder.encode([candidates[name] for name in names], role="document").astype(np.float64)
    recall = rows @ vector
    best = np.argsort(-recall)[:depth]
    again = pair.reranker.rerank(query, [candidates[names[place]] for place in best]).astype(np.float64)
    fused = alpha * recall[best] + (1 - alpha) * again
    order = np.argsort(-fused, kind="stable")
    return [(names[best[n]], fused[n], recall[best[n]], again[n]) for n in order]


@pytest.mark.parametrize("tasks", [None, "near", ["near", "far", None], ["other", "near", "near"]])
def test_scores_and_order_are_those_of_the_models(
    pair: umekit.Cascade, candidates: dict[str, Any], tasks: Any
) -> None:
    found = pair.rank(QUERIES, candidates, k=3, tasks=tasks)
    for number, (query, rows) in enumerate(zip(QUERIES, found, strict=True)):
        task = tasks[number] if isinstance(tasks, list) else tasks
        alpha = {"near": 0.9, "far": 0.1}.get(task, 0.5)
        wanted = twin(pair, query, candidates, alpha, 4)[:3]
        assert [row.id for row in rows] == [name for name, *_ in wanted]
        for row, (_, *scores) in zip(rows, wanted, strict=True):
            assert (row.score, row.recall, row.rerank) == pytest.approx(scores, abs=1e-5)


def test_many_queries_are_as_one(pair: umekit.Cascade, candidates: dict[str, Any]) -> None:
    queries = [QUERIES[n % 3] for n in range(BLOCK + 2)]
    found = pair.rank(queries, candidates, k=4)
    for number in (0, 1, BLOCK, BLOCK + 1):
        [alone] = pair.rank([queries[number]], candidates, k=4)
        assert [row.id for row in found[number]] == [row.id for row in alone]
        for one, other in zip(found[number], alone, strict=True):
            assert (one.score, one.rerank) == pytest.approx((other.score, other.rerank), abs=1e-5)


def test_depth_is_at_least_k_and_short_lists_stay_short(
    pair: umekit.Cascade, candidates: dict[str, Any]
) -> None:
    assert len(pair.rank(["x"], candidates, k=5)[0]) == 5  # more than the cascade's depth of 4
    assert len(pair.rank(["x"], candidates, k=2, depth=2)[0]) == 2
    assert len(pair.rank(["x"], candidates, k=50)[0]) == len(candidates)
    with pytest.raises(ValueError, match="fewer than the 5 rows"):
        pair.rank(["x"], candidates, k=5, depth=4)
    with pytest.raises(ValueError, match="2 tasks for 1 queries"):
        pair.rank(["x"], candidates, tasks=["near", "far"])
    with pytest.raises(ValueError, match="index is empty"):
        pair.rank(["x"], {})


def test_faults_name_query_and_candidate(pair: umekit.Cascade, candidates: dict[str, Any]) -> None:
    index = umekit.Index(pair.encoder.dim, pair.encoder.fingerprint())
    index.add(list(candidates), pair.encoder.encode_document(list(candidates.values())))

    def item_of(name: str) -> Any:
        if name == "t0":
            raise FileNotFoundError("it is gone")
        return candidates[name]

    with pytest.raises(CandidateError, match="t0: it is gone"):
        pair.search(["x", "y"], index, item_of, depth=6, k=6)
    found = pair.search(["x", "y"], index, item_of, depth=6, k=6, on_error="skip", return_details=True)
    assert found.failed == [(0, "t0", "it is gone"), (1, "t0", "it is gone")]
    assert [len(rows) for rows in found.rows] == [5, 5]
    with pytest.warns(UserWarning, match="t0 of query 0: it is gone"):
        pair.search(["x"], index, item_of, depth=6, k=6, on_error="skip")
    with pytest.raises(ItemError, match="item 1"):
        pair.search(["x", 3], index, item_of)
    other = umekit.Index(pair.encoder.dim, {"model": "another", "processor": "p"})
    other.add(["a"], np.eye(1, pair.encoder.dim))
    with pytest.raises(ValueError, match="was made with model another"):
        pair.search(["x"], other, item_of)


# ---- a folder ------------------------------------------------------------------------------------------------------


def test_a_saved_cascade_searches_as_before(
    pair: umekit.Cascade, candidates: dict[str, Any], tmp_path: Path
) -> None:
    pair.save(tmp_path / "pair")
    assert is_cascade(tmp_path / "pair")
    assert [path.name for path in (tmp_path / "pair").iterdir()] == [FILE]
    again = umekit.Cascade.load(tmp_path / "pair", device="cpu")
    assert again.fusion == pair.fusion
    assert again.rank(QUERIES, candidates, tasks="far") == pair.rank(QUERIES, candidates, tasks="far")
    again.save(tmp_path / "pair")  # over its own
    assert read_cascade(tmp_path / "pair").fusion == pair.fusion


def test_models_within_the_folder_move_with_it(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source, name in zip(folders, ("embedder", "reranker"), strict=True):
        shutil.copytree(source, tmp_path / "pair" / name)
    monkeypatch.chdir(tmp_path)
    umekit.Cascade.of("pair/embedder", "pair/reranker").save("pair")
    named = json.loads(Path("pair", FILE).read_text())
    assert (named["embedder"]["folder"], named["reranker"]["folder"]) == ("embedder", "reranker")
    shutil.move(tmp_path / "pair", tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(umekit.Cascade.load(tmp_path / "moved").rank(["x"], {"a": "b"})[0]) == 1


def test_other_models_are_refused(pair: umekit.Cascade, folders: tuple[Path, Path], tmp_path: Path) -> None:
    pair.save(tmp_path)
    reranker = umekit.load(folders[1])
    with torch.no_grad():
        next(reranker.model.backbone.parameters()).mul_(1.5)
    reranker.model.save_pretrained(tmp_path / "trained")
    reranker.processor.save_pretrained(tmp_path / "trained")
    with pytest.raises(CascadeMismatchError, match=r"another reranker \(model 2:.*umekit tune"):
        umekit.Cascade.load(tmp_path, reranker=tmp_path / "trained")
    shutil.copytree(folders[1], tmp_path / "copy")
    assert umekit.Cascade.load(tmp_path, reranker=tmp_path / "copy").fusion == pair.fusion
    with pytest.raises(ValueError, match="is no embedder"):
        umekit.Cascade.of(folders[1], folders[1])
    with pytest.raises(ValueError, match="is no reranker"):
        umekit.Cascade.of(folders[0], folders[0])


def test_ume_tiny_and_the_hub_are_named_as_such(pair: umekit.Cascade, tmp_path: Path) -> None:
    sources = {"embedder": ModelSource(), "reranker": ModelSource("org/model", "qwen3-vl-reranker", "v1.0")}
    umekit.Cascade(pair.encoder, pair.reranker, sources=sources).save(tmp_path)
    named = json.loads((tmp_path / FILE).read_text())
    assert named["embedder"]["packaged"] == "ume-tiny"
    assert named["reranker"]["hub"] == "org/model"
    record = read_cascade(tmp_path)
    assert (record.embedder, record.reranker) == (sources["embedder"], sources["reranker"])
    with pytest.raises(ValueError, match=r"by Cascade\.of"):
        umekit.Cascade(pair.encoder, pair.reranker).save(tmp_path)
    sources["reranker"] = ModelSource("./nowhere")
    with pytest.raises(ValueError, match="no such folder, and it is no Hub id"):
        umekit.Cascade(pair.encoder, pair.reranker, sources=sources).save(tmp_path)


def test_a_foreign_file_is_left_alone(pair: umekit.Cascade, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"kind": "mine"}')
    with pytest.raises(ForeignFileError):
        pair.save(tmp_path)
    with pytest.raises(CascadeFormatError, match="is not umekit's"):
        umekit.Cascade.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema 2"),
        ({"alpha": "half"}, "'alpha'"),
        ({"alpha": 1.5}, "from 0 to 1"),
        ({"alpha": float("nan")}, "from 0 to 1"),
        ({"tasks": {"a": -0.1}}, "from 0 to 1"),
        ({"tasks": {"a": True}}, "share of 'a' is no number"),
        ({"tasks": [0.5]}, "'tasks'"),
        ({"depth": 0}, "depth is 0"),
        ({"depth": 2.5}, "'depth'"),
        ({"reranker": {"folder": "../other", "fingerprint": {}}}, "below its own folder"),
        ({"reranker": {"folder": 3, "fingerprint": {}}}, "as a text"),
        ({"reranker": {"folder": "a", "hub": "b", "fingerprint": {}}}, "one of packaged, hub and folder"),
        ({"reranker": {"fingerprint": {}}}, "one of packaged, hub and folder"),
        ({"reranker": {"hub": "../../etc", "fingerprint": {}}}, "no Hub id"),
        ({"reranker": {"hub": "a/b"}}, "'fingerprint'"),
        ({"reranker": {"packaged": "ume-huge", "fingerprint": {}}}, "comes with umekit"),
        ({"reranker": {"hub": "a/b", "revision": "x; y", "fingerprint": {}}}, "revision"),
    ],
)
def test_damaged_folders_are_refused(
    change: dict[str, Any], said: str, pair: umekit.Cascade, tmp_path: Path
) -> None:
    pair.save(tmp_path)
    block = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**block, **change}))
    with pytest.raises(CascadeFormatError, match=said):
        read_cascade(tmp_path)


def test_no_cascade(tmp_path: Path) -> None:
    with pytest.raises(CascadeFormatError, match=r"no cascade\.json; `umekit tune` writes one"):
        umekit.Cascade.load(tmp_path)
    for wrong in ({"alpha": 2}, {"tasks": {"a": -1}}, {"depth": 0}, {"depth": 2.5}, {"depth": True}):
        with pytest.raises(ValueError, match=r"from 0 to 1|depth is (0|2\.5|True); give a whole number"):
            umekit.Fusion(**wrong)  # type: ignore[arg-type]
