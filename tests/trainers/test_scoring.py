"""umekit.trainers.scoring: against plain NumPy, through kills, by several processes, and in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import umekit
from umekit.processing.limits import MediaLimits
from umekit.processing.media import load_image
from umekit.testing import save_tiny_reranker
from umekit.trainers.collating import column
from umekit.trainers.distillation import DistillationCollator
from umekit.trainers.formats import read_rows
from umekit.trainers.formats.made import made_rows
from umekit.trainers.mining import mine
from umekit.trainers.scoring import score
from umekit.trainers.scoring.lists import listed

from .test_mining import StubEncoder, hashed, make_pool, make_rows


class StubReranker:
    """P(yes) by the texts of a pair; ``stop_after`` rows raise, as a kill would; candidates with BROKEN fail."""

    def __init__(self, stop_after: int | None = None, name: str = "r") -> None:
        self.calls, self.stop_after, self.name = 0, stop_after, name

    def fingerprint(self) -> dict[str, Any]:
        return {"model": self.name, "processor": "p"}

    def rerank(self, query: Any, candidates: Any, **options: Any) -> Any:
        assert options["on_error"] == "skip"
        self.calls += 1
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt
        if "UNREADABLE" in str(query):
            raise ValueError("no such query")
        scores = np.array([yes(text_of(query), text_of(item)) for item in candidates], np.float32)
        errors = [(n, ValueError("no")) for n, item in enumerate(candidates) if "BROKEN" in str(item)]
        scores[[n for n, _ in errors]] = np.nan
        return SimpleNamespace(scores=scores, errors=errors)


def text_of(item: Any) -> str:
    return item if isinstance(item, str) else str(item["text"])


def yes(query: str, candidate: str) -> float:
    return (sum(map(ord, query)) * 31 + sum(map(ord, candidate)) * 17) % 101 / 101


def mined_like(count: int = 12) -> list[dict[str, Any]]:
    """Rows as mining writes them."""
    return [
        {
            "query": f"query {n}",
            "positive": f"target {n}",
            "positive_id": f"t{n}",
            "negatives": [f"target {n + 7 * step}" for step in (1, 2, 3)],
            "negative_ids": [f"t{n + step}" for step in (1, 2, 3)],
            "task": "ab"[n % 2],
        }
        for n in range(count)
    ]


def lines(report: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(report.file).read_text(encoding="utf-8").splitlines()]


def test_lists_are_those_of_plain_numpy(tmp_path: Path) -> None:
    rows = mined_like()
    report = score(StubEncoder(hashed), StubReranker(), rows, out=tmp_path / "out", alpha=0.25)
    assert report is not None
    assert report.rows == 12
    assert report.failed_pairs == 0
    held = 0
    for row, found in zip(rows, lines(report), strict=True):
        query = hashed(row["query"]).astype(np.float64)
        every = [row["positive"], *row["negatives"]]
        recall = np.array([query @ hashed(text) for text in every])
        rerank = np.array([yes(row["query"], text) for text in every])
        both = 0.25 * recall + 0.75 * rerank
        keep = [0] if recall[0] > recall[1:].min() else []
        held += len(keep)
        order = sorted([*keep, 1, 2, 3], key=lambda place: -both[place])
        assert [item["text"] for item in found["candidates"]] == [every[place] for place in order]
        ids = [row["positive_id"], *row["negative_ids"]]
        assert found["candidate_ids"] == [ids[place] for place in order]
        np.testing.assert_allclose(found["recall_scores"], recall[order], atol=1e-6)
        np.testing.assert_allclose(found["rerank_scores"], rerank[order], atol=1e-6)
        np.testing.assert_allclose(found["teacher_scores"], both[order], atol=1e-6)
        assert found["positive_teacher_score"] == pytest.approx(both[0], abs=1e-6)
        assert found["task"] == row["task"]
    assert report.with_positive == held
    assert 0 < held < 12
    assert report.pairs == 36 + held


@pytest.mark.parametrize(("positive", "count"), [("always", 12), ("never", 0)])
def test_the_positive_is_forced_in_or_kept_out(tmp_path: Path, positive: Any, count: int) -> None:
    report = score(StubEncoder(hashed), StubReranker(), mined_like(), out=tmp_path, positive=positive)
    assert report is not None
    assert report.with_positive == count
    assert report.pairs == 36 + count


def test_candidates_say_themselves_whether_the_positive_was_recalled(tmp_path: Path) -> None:
    rows = [
        {
            "query": "query 1",
            "positive": "target 1",
            "candidates": ["target 2", {"text": "target 1"}, "target 2"],
        },
        {"query": "query 2", "positive": "target 2", "candidates": ["target 3"]},
    ]
    report = score(StubEncoder(hashed), StubReranker(), rows, out=tmp_path)
    assert report is not None
    assert report.with_positive == 1
    first, second = lines(report)
    assert sorted(text_of(item) for item in first["candidates"]) == ["target 1", "target 2"]  # each once
    assert [text_of(item) for item in second["candidates"]] == ["target 3"]
    assert len(listed(rows[0])[0].items) == 2


def test_a_candidate_with_the_positives_id_is_the_positive(tmp_path: Path) -> None:
    row = {"query": "query 1", "positive": "target 1", "positive_id": 7}
    recalled = {**row, "candidates": ["target 2", "Target 1"], "candidate_ids": ["8", "7"]}
    mined = {**row, "negatives": ["Target 1", "target 2"], "negative_ids": ["7", "8"]}
    report = score(StubEncoder(hashed), StubReranker(), [recalled, mined], out=tmp_path, positive="always")
    for found in lines(report):
        assert sorted(found["candidate_ids"]) == ["7", "8"]
        assert sorted(text_of(item) for item in found["candidates"]) == ["target 1", "target 2"]
    assert listed(recalled)[0].has_positive is True


@pytest.mark.parametrize("stop", [0, 1, 5, 9])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, stop: int) -> None:
    rows, options = mined_like(), {"block_size": 3}
    whole = score(StubEncoder(hashed), StubReranker(), rows, out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        score(StubEncoder(hashed), StubReranker(stop), rows, out=tmp_path / "killed", **options)
    again = StubReranker()
    report = score(StubEncoder(hashed), again, rows, out=tmp_path / "killed", **options)
    assert whole is not None
    assert report is not None
    assert again.calls == 12 - stop // 3 * 3  # finished blocks are kept
    assert Path(report.file).read_bytes() == Path(whole.file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "README.md", "scored.jsonl", "scoring.json",
    ]  # fmt: skip
    quiet = StubReranker()
    assert score(StubEncoder(hashed), quiet, rows, out=tmp_path / "killed", **options) == report
    assert quiet.calls == 0


def test_several_processes_do_parts_of_it(tmp_path: Path) -> None:
    rows = mined_like()
    whole = score(StubEncoder(hashed), StubReranker(), rows, out=tmp_path / "one", block_size=2, shard_size=4)
    calls = []
    for rank in (2, 0, 1):
        part = StubReranker()
        done = score(
            StubEncoder(hashed),
            part,
            rows,
            out=tmp_path / "many",
            block_size=2,
            shard_size=4,
            rank=rank,
            world=3,
        )
        assert done is None
        calls.append(part.calls)
    last = StubReranker()
    report = score(StubEncoder(hashed), last, rows, out=tmp_path / "many", block_size=2, shard_size=4)
    assert calls == [4, 4, 4]
    assert last.calls == 0
    assert whole is not None
    assert report is not None
    assert Path(report.file).read_bytes() == Path(whole.file).read_bytes()


def test_what_cannot_be_scored_is_counted_or_ends_the_run(tmp_path: Path) -> None:
    rows = mined_like(6)
    rows[1]["negatives"][0] = "BROKEN candidate"
    rows[3]["query"] = "UNREADABLE query"
    rows[4]["positive"] = "BROKEN positive"
    with pytest.raises(ValueError, match=r"max_failed=0: row 1, negative 0: no; row 3: no such query; row 3"):
        score(StubEncoder(hashed), StubReranker(), rows, out=tmp_path / "strict")
    report = score(StubEncoder(hashed), StubReranker(), rows, out=tmp_path / "out", max_failed=10)
    assert report is not None
    assert (report.rows, report.failed_rows, report.failed_pairs) == (4, 2, 1)
    assert all("BROKEN" not in json.dumps(row["candidates"]) for row in lines(report))
    lists = [{"query": "query 1", "positive": "BROKEN", "candidates": ["target 2", "BROKEN", "BROKEN too"]}]
    with pytest.raises(ValueError, match=r"row 0, the positive: no; row 0, candidate 2: no$"):
        score(StubEncoder(hashed), StubReranker(), lists, out=tmp_path / "lists")


def test_what_json_cannot_hold_is_written_as_parquet(tmp_path: Path) -> None:
    rows = [{**row, "weight": float("nan") if n == 1 else 1.0} for n, row in enumerate(mined_like(3))]
    report = score(StubEncoder(hashed), StubReranker(), rows, out=tmp_path)
    assert report is not None
    assert report.file.endswith("scored.parquet")
    weights = pq.read_table(report.file).column("weight").to_pylist()
    assert [np.isnan(one) for one in weights] == [False, True, False]


def test_a_candidate_whose_file_is_not_found_fails_alone(tmp_path: Path) -> None:
    rows = mined_like(2)
    rows[1]["negatives"][1] = {"text": "target 9", "image": "../elsewhere.png"}
    options = {"out": tmp_path / "out", "media_root": tmp_path}
    with pytest.raises(
        ValueError, match="1 pairs could not be scored, more than max_failed=0: row 1, negative 1: "
    ):
        score(StubEncoder(hashed), StubReranker(), rows, **options)
    report = score(StubEncoder(hashed), StubReranker(), rows, max_failed=1, **options)
    assert report is not None
    assert (report.rows, report.failed_rows, report.failed_pairs) == (2, 0, 1)


def test_a_query_that_is_a_picture_itself(tmp_path: Path) -> None:
    class Blind(StubReranker):
        def rerank(self, query: Any, candidates: Any, **options: Any) -> Any:
            assert isinstance(query["image"], Image.Image)
            return SimpleNamespace(scores=np.zeros(len(candidates), np.float32), errors=[])

    class Seeing(StubEncoder):
        def encode(self, items: Any, **options: Any) -> Any:
            return super().encode(
                ["a picture" if isinstance(i, Image.Image) else i for i in items], **options
            )

    row = {**mined_like(1)[0], "query": Image.new("RGB", (8, 8))}
    report = score(Seeing(hashed), Blind(), [row], out=tmp_path / "out", media_root=tmp_path)
    assert report is not None
    assert report.rows == 1


def test_what_is_made_of_scores_can_change_without_scoring_again(tmp_path: Path) -> None:
    rows = mined_like(6)
    rows[3]["negatives"][0] = rows[5]["negatives"][0] = "BROKEN candidate"
    options = {"out": tmp_path / "out", "block_size": 2}
    with pytest.raises(ValueError, match="2 pairs could not be scored, more than max_failed=1"):
        score(StubEncoder(hashed), StubReranker(), rows, max_failed=1, **options)
    with pytest.raises(
        ValueError, match="1 pairs could not be scored, more than max_failed=0: all of them by a"
    ):
        score(StubEncoder(hashed), StubReranker(), rows, max_failed=0, **options)
    with pytest.raises(ValueError, match="2 pairs could not be scored, more than max_failed=1"):
        score(StubEncoder(hashed), StubReranker(), rows, max_failed=1, **options)  # nor by running it twice
    again = StubReranker()
    report = score(StubEncoder(hashed), again, rows, max_failed=2, alpha=0.25, **options)
    assert again.calls == 2  # of the block that was not written
    options["out"] = tmp_path / "unbroken"
    unbroken = score(StubEncoder(hashed), StubReranker(), rows, max_failed=2, alpha=0.25, **options)
    assert lines(report) == lines(unbroken)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"query": "q", "positive": "p"}, "mine them first"),
        ({"query": "q", "negatives": ["n"]}, "no 'positive'"),
        (
            {"query": "q", "positive": "p", "negatives": ["n"], "negative_ids": ["a", "b"]},
            "2 negative_ids for 1",
        ),
        ({"query": "q", "positive": "p", "candidates": "text"}, "list of items"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"row 1: .*{said}"):
        score(StubEncoder(hashed), StubReranker(), [*mined_like(1), row], out=tmp_path)


def test_another_teacher_needs_another_folder(tmp_path: Path) -> None:
    score(StubEncoder(hashed), StubReranker(), mined_like(3), out=tmp_path)
    with pytest.raises(FileExistsError, match="other reranker"):
        score(StubEncoder(hashed), StubReranker(name="s"), mined_like(3), out=tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match="not written by umekit"):
        score(StubEncoder(hashed), StubReranker(), mined_like(3), out=tmp_path / "foreign")


def test_mined_rows_are_scored_opened_by_datasets_and_distilled(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    encoder = StubEncoder(hashed)
    mined = mine(encoder, make_rows(20), make_pool(), out=tmp_path / "mined", k=4, max_similarity=None)
    file, media = made_rows(tmp_path / "mined")
    assert str(file) == mined.file
    report = score(encoder, StubReranker(), read_rows(file, media=media), out=tmp_path / "scored")
    assert report is not None
    table = datasets.load_dataset(str(tmp_path / "scored"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(table) == report.rows == 20
    assert {"recall_scores", "rerank_scores", "teacher_scores", "candidates"} <= set(table.column_names)
    rows = read_rows(made_rows(tmp_path / "scored")[0])
    assert rows[0]["teacher_scores"] == pytest.approx(table[0]["teacher_scores"])
    assert column(rows[0], "positive_teacher_score") == pytest.approx(table[0]["positive_teacher_score"])


def test_real_models_and_pictures(
    tmp_path: Path,
    tiny_backbone: Callable[[str], Path],
    tiny_checkpoint: Callable[..., Path],
    pictures: list[Image.Image],
) -> None:
    """Scores are those of the models; a table of pictures is read by the collator that distils."""
    reranker = umekit.load(save_tiny_reranker(tmp_path / "reranker", tiny_backbone("qwen3_vl")), device="cpu")
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    rows = [
        {
            "query": "one",
            "positive": {"image": pictures[0]},
            "negatives": [{"image": one} for one in pictures[1:4]],
        },
        {"query": {"image": pictures[4]}, "positive": "a text", "negatives": ["no", "never"], "task": "t"},
    ]
    report = score(encoder, reranker, rows, out=tmp_path / "out", positive="always", show_progress=False)
    assert report is not None
    assert report.file.endswith("scored.parquet")
    found = read_rows(report.file)[0]
    items = [row["positive"] for row in rows[:1]] + rows[0]["negatives"]
    plain = reranker.rerank("one", items)
    np.testing.assert_allclose(sorted(read_scores(report.file)[0]), sorted(plain), atol=1e-6)
    batch = DistillationCollator(encoder.processor)([found, read_rows(report.file)[1]])["batch"]
    assert batch.counts["candidates"] == [4, 3]
    best = int(np.argmax(0.5 * encoder.encode(["one"], role="query")[0] @ encoder.encode(items, role="document").T
                         + 0.5 * plain))  # fmt: skip
    assert found["teacher_scores"] == sorted(found["teacher_scores"], reverse=True)
    first = load_image(found["candidates"][0]["image"], MediaLimits())
    np.testing.assert_array_equal(np.asarray(first), np.asarray(items[best]["image"]))


def read_scores(file: str) -> list[list[float]]:
    return [row["rerank_scores"] for row in pq.read_table(file).to_pylist()]
