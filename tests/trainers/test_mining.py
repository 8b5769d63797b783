"""umekit.trainers.mining: against brute force in NumPy, through kills, with ties, and in bounded memory."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.trainers.formats import read_rows
from umekit.trainers.mining import MiningSettings, mine
from umekit.trainers.mining import blocks as blocking
from umekit.trainers.mining import run as running
from umekit.trainers.mining.items import content_key, modality
from umekit.trainers.mining.vectors import QueryBlock, Vectors

DIM = 8


class StubEncoder:
    """Vectors by text; ``stop_after`` encode calls raise, as a kill would; texts with BROKEN fail."""

    def __init__(self, vectors: Any, dim: int = DIM, stop_after: int | None = None) -> None:
        self.vectors, self.dim, self.calls, self.stop_after = vectors, dim, 0, stop_after
        self.roles: set[str] = set()

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "m", "processor": "p", "dim": self.dim}

    def encode(self, items: Sequence[Any], *, role: str, **_: Any) -> Any:
        self.calls += 1
        self.roles.add(role)
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt
        errors = [(n, ValueError("cannot be read")) for n, item in enumerate(items) if "BROKEN" in str(item)]
        rows = np.stack([self.vectors(_text(item)) for item in items]).astype(np.float32)
        rows[[number for number, _ in errors]] = np.nan
        return SimpleNamespace(embeddings=rows, errors=errors)


def _text(item: Any) -> str:
    return item if isinstance(item, str) else str(item.get("text", item))


def unit(values: Any) -> np.ndarray:
    rows = np.asarray(values, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def hashed(text: str) -> np.ndarray:
    """A vector that depends on the text alone; texts of one number lean the same way."""
    number = int("".join(filter(str.isdigit, text)) or 0)
    shared = np.random.default_rng(number % 7).normal(size=DIM)
    return unit(shared + 0.8 * np.random.default_rng(sum(map(ord, text)) * 31 + number).normal(size=DIM))


def make_rows(count: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "query": f"query {n}",
            "positive": f"target {n % 40}",
            "positive_id": f"t{n % 40}",
            "task": "ab"[n % 2],
            "weight": n / 2,
        }
        for n in range(count)
    ]


def make_pool(count: int = 90) -> list[dict[str, Any]]:
    return [{"id": f"t{n}", "text": f"target {n}", "task": "ab"[n % 2]} for n in range(count)]


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def brute_force(
    rows: list[dict[str, Any]],
    pool: list[dict[str, Any]],
    k: int,
    max_similarity: float | None,
    relative_margin: float | None,
    max_positive_similarity: float | None,
    depth: int,
    local: bool,
) -> list[list[str]]:
    """Ids of the negatives that pass, in order, by loops over everything in float64."""
    found = []
    for row in rows:
        query, positive = hashed(row["query"]).astype(float), hashed(row["positive"]).astype(float)
        scored = []
        for place, item in enumerate(pool):
            if not local or item["task"] == row["task"]:
                vector = hashed(item["text"]).astype(float)
                scored.append((-float(query @ vector), place, item, float(positive @ vector)))
        names = []
        for negative, _, item, near in sorted(scored, key=lambda one: one[:2])[:depth]:
            score = -negative
            if item["id"] == row["positive_id"] or item["text"] == row["positive"]:
                continue
            if max_similarity is not None and score > max_similarity:
                continue
            if relative_margin is not None and score > relative_margin * float(query @ positive):
                continue
            if max_positive_similarity is not None and near > max_positive_similarity:
                continue
            names.append(item["id"])
        found.append(names[:k])
    return found


@pytest.mark.parametrize(
    ("limits", "local"),
    [
        ((None, None, None), False),
        ((0.7, None, None), False),
        ((0.5, 0.95, None), False),
        ((None, 0.8, 0.6), False),
        ((0.6, 0.95, 0.8), True),
    ],
)
@pytest.mark.parametrize("depth", [7, 90])
def test_negatives_are_those_of_brute_force(
    limits: tuple[float | None, ...], local: bool, depth: int, tmp_path: Path
) -> None:
    rows, pool = make_rows(), make_pool()
    report = mine(
        StubEncoder(hashed), rows, pool, out=tmp_path, k=4, max_similarity=limits[0], relative_margin=limits[1],
        max_positive_similarity=limits[2], depth=depth, scope="local" if local else "global", block_size=17,
        shard_size=13,
    )  # fmt: skip
    wanted = brute_force(rows, pool, 4, *limits, depth, local)
    mined = read(report.file)
    assert len(mined) == report.rows == 60
    for row, names in zip(mined, wanted, strict=True):
        kept = len(row["negative_ids"]) - row["random_negatives"]
        assert row["negative_ids"][:kept] == names
        assert kept == 4 or len(names) == kept
        query = hashed(row["query"])
        for name, item, score in zip(
            row["negative_ids"], row["negatives"], row["negative_scores"], strict=True
        ):
            assert item == {"text": f"target {name[1:]}"}
            assert score == pytest.approx(float(query @ hashed(item["text"])), abs=1e-6)
            assert limits[0] is None or score <= limits[0] + 1e-6
        assert row["positive_score"] == pytest.approx(float(query @ hashed(row["positive"])), abs=1e-6)
        assert row["positive_id"] not in row["negative_ids"]
        assert len(set(row["negative_ids"])) == len(row["negative_ids"])
        if local:
            assert {int(name[1:]) % 2 for name in row["negative_ids"]} <= {"ab".index(row["task"])}
    assert report.filled == sum(row["random_negatives"] for row in mined)
    assert report.short == sum(len(row["negatives"]) < 4 for row in mined)
    assert report.dropped["known"] > 0
    assert [row["weight"] for row in mined] == [row["weight"] for row in rows]


def test_random_negatives_fill_up_and_are_counted(tmp_path: Path) -> None:
    rows, pool = make_rows(8), make_pool()
    encoder = StubEncoder(hashed)
    options: dict[str, Any] = {"k": 5, "max_similarity": 0.2, "depth": 5}
    report = mine(encoder, rows, pool, out=tmp_path / "a", seed=1, **options)
    assert report.filled > 10
    assert report.short == 0
    for row in read(report.file):
        assert max(row["negative_scores"]) <= 0.2
    again = mine(encoder, rows, pool, out=tmp_path / "b", seed=1, block_size=3, shard_size=7, **options)
    assert Path(again.file).read_bytes() == Path(report.file).read_bytes()  # whatever the blocks are
    other = mine(encoder, rows, pool, out=tmp_path / "c", seed=2, **options)
    assert Path(other.file).read_bytes() != Path(report.file).read_bytes()
    tight = mine(encoder, rows, pool, out=tmp_path / "d", k=5, max_similarity=-0.99)
    assert (tight.negatives, tight.filled, tight.short) == (0, 0, 8)


def test_known_positives_are_no_negatives(tmp_path: Path) -> None:
    """By id, by ids and content of all rows with the same query, and the query itself."""
    vectors = {
        "one": [1, 0.1],
        "two": [1, 0.2],
        "three": [1, 0.3],
        "four": [1, 0.4],
        "q": [1, 0],
        "far": [0, 1],
    }
    encoder = StubEncoder(lambda text: unit(vectors[text]), dim=2)
    rows = [
        {"query": "q", "positive": {"text": "one", "instruction": "x"}, "positive_ids": ["p4"]},
        {"query": "q", "positive": "two", "positive_id": "p2"},
    ]
    pool = [
        {"id": f"p{n}", "item": name} for n, name in enumerate(["q", "one", "two", "three", "four", "far"])
    ]
    report = mine(encoder, rows, pool, out=tmp_path, k=3, max_similarity=None)
    found = read(report.file)
    assert found[0]["negative_ids"] == ["p3", "p5"]
    assert found[1]["negative_ids"] == ["p3", "p5"]
    assert report.short == 2
    assert encoder.roles == {"query", "document"}


def test_the_pool_is_the_positives_each_once(tmp_path: Path) -> None:
    rows = make_rows()
    rows[5]["positive"] = "another target 5"  # of an id that another row has: its vector is its own
    report = mine(StubEncoder(hashed), rows, out=tmp_path, k=40, max_similarity=None)
    assert report.candidates == 40
    found = read(report.file)
    assert found[5]["positive_score"] == pytest.approx(float(hashed("query 5") @ hashed("another target 5")))
    for row in found:
        assert len(row["negative_ids"]) == len(set(row["negative_ids"])) == 39
        assert row["positive_id"] not in row["negative_ids"]


def test_equal_scores_are_in_the_order_of_the_pool(tmp_path: Path) -> None:
    """Only the first number matters, so 50 candidates tie; shards and blocks do not show."""
    pool = [{"id": f"c{n}", "text": f"same {n}"} for n in range(50)]
    rows = [{"query": "query", "positive": "positive"}] * 3
    encoder = StubEncoder(lambda text: unit([1.0, 0.5] if "same" in text else [1.0, 0.0]), dim=2)
    files = []
    for number, (shard, block) in enumerate([(50, 10), (7, 1), (3, 2)]):
        report = mine(
            encoder, rows, pool, out=tmp_path / str(number), k=5, max_similarity=None, depth=8,
            shard_size=shard, block_size=block,
        )  # fmt: skip
        files.append(Path(report.file).read_bytes())
    assert json.loads(files[0].splitlines()[0])["negative_ids"] == ["c0", "c1", "c2", "c3", "c4"]
    assert files[0] == files[1] == files[2]


def test_a_threshold_itself_passes(tmp_path: Path) -> None:
    vectors = {"q": [1, 0], "p": [1, 0], "edge": [0.6, 0.8], "over": [0.61, 0.7924]}
    encoder = StubEncoder(lambda text: np.float32(vectors[text]), dim=2)
    pool = [{"id": name, "text": name} for name in ("edge", "over")]
    report = mine(encoder, [{"query": "q", "positive": "p"}], pool, out=tmp_path, k=2, max_similarity=0.6)
    (row,) = read(report.file)
    assert row["negative_ids"] == ["edge"]
    assert row["negative_scores"] == [pytest.approx(0.6)]  # a cosine, and no squared distance (which is 0.8)


# ---- stopping, memory, failures ----------------------------------------------------------------------------------


def test_a_killed_run_goes_on_and_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, pool = make_rows(), make_pool()
    options: dict[str, Any] = {"k": 3, "relative_margin": 0.95, "block_size": 16, "shard_size": 16}
    whole = mine(StubEncoder(hashed), rows, pool, out=tmp_path / "whole", **options)
    out = tmp_path / "broken"
    for stop in (2, 3):  # in the queries, then in the pool
        with pytest.raises(KeyboardInterrupt):
            mine(StubEncoder(hashed, stop_after=stop), rows, pool, out=out, **options)
    real, calls = blocking.mine_block, []

    def killed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(blocking, "mine_block", killed)
    with pytest.raises(KeyboardInterrupt):
        mine(StubEncoder(hashed), rows, pool, out=out, **options)
    assert not (out / "mined.jsonl").exists()
    with monkeypatch.context() as patch:
        patch.setattr(running, "write_atomically", _interrupt)  # after the rows, before the manifest
        with pytest.raises(KeyboardInterrupt):
            mine(StubEncoder(hashed), rows, pool, out=out, **options)
    assert len(calls) == 3 + 2  # blocks 1 and 2 of 4 were there
    encoder = StubEncoder(hashed)
    report = mine(encoder, rows, pool, out=out, **options)
    assert encoder.calls == 0
    assert Path(report.file).read_bytes() == Path(whole.file).read_bytes()
    assert (out / "mining.json").read_bytes() == (tmp_path / "whole" / "mining.json").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["mined.jsonl", "mining.json"]
    assert mine(encoder, rows, pool, out=out, **options) == report  # finished: nothing is done again
    with pytest.raises(FileExistsError, match="made with other settings"):
        mine(encoder, rows, pool, out=out, **{**options, "k": 2})
    with pytest.raises(FileExistsError, match="made with other columns"):
        mine(encoder, [{**rows[0], "positive_ids": ["t3"]}, *rows[1:]], pool, out=out, **options)


@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_pool_is_read_once_for_all_blocks_that_fit(
    scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight blocks: in one pass, three to a pass, and one to a pass are the same bytes; a resumed run reads less."""
    rows, pool = make_rows(), make_pool()
    options: dict[str, Any] = {"k": 3, "depth": 20, "block_size": 8, "shard_size": 16, "scope": scope}
    passes: list[int] = []
    real = Vectors.blocks

    def counted(self: Vectors) -> Any:
        passes.append(1)
        return real(self)

    monkeypatch.setattr(Vectors, "blocks", counted)
    block = 8 * QueryBlock.row_bytes(DIM, 20) / 2**30
    files = []
    for name, memory, wanted in (("one", 1.0, 1), ("three", 3.5 * block, 3), ("each", block / 9, 8)):
        passes.clear()
        report = mine(StubEncoder(hashed), rows, pool, out=tmp_path / name, memory_gib=memory, **options)
        assert len(passes) == wanted
        files.append(Path(report.file).read_bytes())
    assert files[0] == files[1] == files[2]
    with monkeypatch.context() as patch:
        patch.setattr(running, "write_rows", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            mine(StubEncoder(hashed), rows, pool, out=tmp_path / "again", **options)
    (folder,) = (tmp_path / "again" / "work").glob("blocks-*")
    for number in (1, 6, 7):
        (folder / f"{number:05d}.npy").unlink()
    passes.clear()
    report = mine(StubEncoder(hashed), rows, pool, out=tmp_path / "again", memory_gib=2.5 * block, **options)
    assert len(passes) == 2
    assert Path(report.file).read_bytes() == files[0]


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_kept_vectors_serve_other_limits(tmp_path: Path) -> None:
    rows, pool = make_rows(), make_pool()
    first = mine(StubEncoder(hashed), rows, pool, out=tmp_path, keep_vectors=True)
    (tmp_path / "mining.json").unlink()
    encoder = StubEncoder(hashed)
    second = mine(encoder, rows, pool, out=tmp_path, max_similarity=0.4)
    assert encoder.calls == 0
    assert second.dropped["max_similarity"] > first.dropped["max_similarity"]


class Lazy:
    """20 000 records that exist only while they are read."""

    def __init__(self, count: int, prefix: str) -> None:
        self.count, self.prefix = count, prefix

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, Any]:
        if self.prefix == "row":
            return {"query": f"query {number}", "positive": f"item {number}"}
        return {"id": str(number), "text": f"item {number}"}


def test_memory_does_not_hold_the_pool(tmp_path: Path) -> None:
    """20 000 vectors of 256 numbers are 20 MB on disk; the run may hold a shard and some keys."""
    table = np.random.default_rng(0).normal(size=(1000, 256)).astype(np.float32)
    encoder = StubEncoder(lambda text: unit(table[int(text.split()[1]) % 1000]), dim=256)
    tracemalloc.start()
    report = mine(
        encoder, Lazy(50, "row"), Lazy(20_000, "pool"), out=tmp_path, max_similarity=None, shard_size=1000,
        block_size=25,
    )  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.candidates == 20_000
    assert report.negatives == 250
    assert peak < 12e6, f"{peak / 1e6:.1f} MB"


def test_what_cannot_be_encoded_is_named(tmp_path: Path) -> None:
    rows, pool = make_rows(10), make_pool(40)
    rows[3]["query"] = "BROKEN query"
    rows[4]["positive"], rows[4]["positive_id"] = "BROKEN positive 4", "elsewhere"
    pool[30]["text"] = "BROKEN item 30"
    with pytest.raises(
        ValueError, match=r"3 items could not be encoded, more than max_failed=0: query of row 3: c"
    ):
        mine(StubEncoder(hashed), rows, pool, out=tmp_path / "a")
    report = mine(StubEncoder(hashed), rows, pool, out=tmp_path / "b", max_failed=3)
    assert report.failed == [
        "query of row 3: cannot be read", "pool item 30: cannot be read", "positive of row 4: cannot be read"
    ]  # fmt: skip
    found = read(report.file)
    assert [row["query"] for row in found] == [f"query {n}" for n in range(10) if n not in (3, 4)]
    assert all("t30" not in row["negative_ids"] for row in found)


def test_bad_arguments_and_rows(tmp_path: Path) -> None:
    encoder = StubEncoder(hashed)
    for wrong, message in (
        ({"k": 0}, "need 1 <= k"), ({"depth": 3}, "need 1 <= k"), ({"max_similarity": 1.5}, "a cosine is from"),
        ({"relative_margin": -1.0}, "it is a factor"), ({"scope": "near"}, "use one of global, local"),
        ({"seed": -1}, "need at least 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            MiningSettings(**wrong)
    good = {"query": "q 1", "positive": "p 1"}
    for rows, pool, options, message in (
        ([], None, {}, "no rows"),
        ([good, {"query": "q"}], None, {}, "row 1: no 'positive'"),
        ([good, {"query": "q", "positive": 3}], None, {}, "row 1: an item is a text"),
        ([good], [{"id": "a"}], {}, "pool item 0: an item is"),
        ([good], [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], {}, "pool items 0 and 1 have one id"),
        ([good], None, {"scope": "local"}, "row 0: scope 'local' needs a column 'task'"),
        ([{**good, "task": "b"}], [{"text": "x", "task": "a"}], {"scope": "local"}, "row 0: no candidate has task 'b'"),
        ([{**good, "negatives": ["x"]}], None, {}, "row 0 has negatives already"),
        ([good], None, {"format": "csv"}, "format is 'csv'"),
        ([good], None, {"block_size": 0}, "block_size is 0"),
        ([good], None, {"memory_gib": 0.0}, "memory_gib is 0.0"),
        ([good], None, {"memory_gib": float("nan")}, "memory_gib is nan"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            mine(encoder, rows, pool, out=tmp_path / "out", **options)  # type: ignore[arg-type]


# ---- items, files, and a real model ------------------------------------------------------------------------------


def test_equal_content_has_an_equal_key() -> None:
    picture = Image.new("RGB", (4, 4), (1, 2, 3))
    assert content_key("a") == content_key({"text": "a", "image": None, "instruction": "find"})
    assert content_key("a") != content_key("b")
    assert content_key("a", instruction=True) != content_key(
        {"text": "a", "instruction": "i"}, instruction=True
    )
    assert content_key(picture) == content_key({"image": picture.copy()})
    assert content_key(picture) != content_key(Image.new("RGB", (4, 4)))
    assert content_key({"image": b"xy"}) == content_key({"image": {"bytes": b"xy", "path": None}})
    assert modality({"text": "a", "images": [picture]}) == "image+text"


def test_local_by_modality(tmp_path: Path) -> None:
    rows = [
        {"query": "query 1", "positive": "target 1"},
        {"query": "query 2", "positive": {"image": "a.png"}},
    ]
    pool: list[Any] = [*(f"target {n}" for n in range(6)), *({"image": f"{n}.png"} for n in range(6))]
    report = mine(
        StubEncoder(hashed),
        rows,
        pool,
        out=tmp_path,
        k=3,
        max_similarity=None,
        scope="local",
        local_by="modality",
    )
    text, image = read(report.file)
    assert all(isinstance(item, str) for item in text["negatives"])
    assert all(set(item) == {"image"} for item in image["negatives"])


def test_ume_tiny_mines_pictures_and_the_rows_can_be_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files stay where they are and are named relative to their folder; bytes and pictures go into parquet."""
    media = tmp_path / "media"
    (media / "deep").mkdir(parents=True)
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]
    paths = [media / "deep" / f"{n}.png" for n in range(4)]
    for path, colour in zip(paths, colours, strict=True):
        Image.new("RGB", (56, 56), colour).save(path)
    encoder = umekit.load()
    rows = [{"query": f"colour {n}", "positive": {"image": str(path)}} for n, path in enumerate(paths)]
    report = mine(encoder, rows, out=tmp_path / "out", k=2, max_similarity=None)
    assert report.media_root == str(media / "deep")
    found = read_rows(report.file, media=report.media_root)
    assert Path(found[1]["positive"]["image"]) == paths[1]
    vectors = encoder.encode_document([{"image": str(path)} for path in paths])
    queries = encoder.encode_query([row["query"] for row in rows])
    for number, scores in enumerate(queries @ vectors.T):
        order = [n for n in np.argsort(-scores) if n != number][:2]
        assert [Path(item["image"]) for item in found[number]["negatives"]] == [paths[n] for n in order]
        np.testing.assert_allclose(read(report.file)[number]["negative_scores"], scores[order], atol=2e-5)
    rows = [
        {"query": "one", "positive": {"image": Image.open(paths[0])}, "task": "a"},
        {
            "query": {"text": "two", "instruction": "find"},
            "positive": {"image": paths[1].read_bytes()},
            "task": None,
        },
        {"query": "three", "positive": "a text", "task": "b"},
    ]
    pictured = mine(encoder, rows, out=tmp_path / "parquet", k=2, max_similarity=None)
    assert pictured.file.endswith("mined.parquet")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    back = read_rows(pictured.file, cache_dir=tmp_path / "cache")
    assert [row["query"]["text"] for row in back] == ["one", "two", "three"]  # type: ignore[attr-defined]
    assert back[2]["positive"] == {"text": "a text"}
    for item in [back[0]["positive"], *back[2]["negatives"]]:
        assert np.isfinite(encoder.encode([item])).all()
    with pytest.raises(TypeError, match="use format 'parquet'"):
        mine(encoder, rows, out=tmp_path / "c", k=1, format="jsonl", max_similarity=None)


def test_parquet_refuses_contrary_orders_of_content(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4))
    rows = [
        {"query": {"text": "1", "image": picture}, "positive": "target 1"},
        {"query": {"image": picture, "text": "2"}, "positive": "target 2"},
    ]
    with pytest.raises(ValueError, match="one order of an item's keys, and query has"):
        mine(StubEncoder(hashed), rows, out=tmp_path, max_similarity=None)


# ---- what is read, and media that are named ------------------------------------------------------------------------


def test_one_query_id_or_one_query_is_the_same_question(tmp_path: Path) -> None:
    """Rows 0 and 1 share an id, rows 1 and 2 the query: what any of them knows is no negative of the others."""
    rows = [
        {"query": "query 1", "positive": "target 1", "query_id": "a"},
        {"query": "query 2", "positive": "target 2", "query_id": "a"},
        {"query": "query 2", "positive": "target 3", "query_id": "b"},
        {"query": "query 2", "positive": "target 4"},
        {"query": "query 5", "positive": "target 5", "query_id": "c"},
    ]
    report = mine(StubEncoder(hashed), rows, out=tmp_path, k=4, max_similarity=None)
    *same, other = read(report.file)
    assert all(row["negatives"] == ["target 5"] for row in same)
    assert set(other["negatives"]) == {f"target {n}" for n in (1, 2, 3, 4)}


def archived_rows(folder: Path, count: int = 8) -> Any:
    """Rows whose positives are members of a zip, and one that is a file beside it."""
    (folder / "deep").mkdir(parents=True)
    with zipfile.ZipFile(folder / "deep" / "images.zip", "w") as archive:
        for number in range(count):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, format="PNG")
            archive.writestr(f"in/{number}.png", buffer.getvalue())
            if number == 0:
                (folder / "0.png").write_bytes(buffer.getvalue())
    names = ["0.png", *(f"deep/images.zip::in/{number}.png" for number in range(1, count))]
    lines = [json.dumps({"query": f"query {n}", "positive": {"image": name}}) for n, name in enumerate(names)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return read_rows(folder / "rows.jsonl")


class Counted:
    """Rows that count how often one is read."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.reads = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        self.reads += 1
        return self.rows[number]


def content(item: Any) -> bytes:
    image = item["image"]
    return image if isinstance(image, bytes) else Path(image).read_bytes()


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_members_of_archives_are_named_and_rows_are_read_a_few_times(format: Any, tmp_path: Path) -> None:
    given = archived_rows(tmp_path / "data")
    rows = Counted(given)
    encoder = StubEncoder(lambda text: hashed(text[-20:]))
    choice = None if format == "jsonl" else format
    report = mine(encoder, rows, out=tmp_path / "out", k=5, max_similarity=None, format=choice)
    # Scanned, its query and its positive encoded, and written; and each negative is read where it is written.
    assert rows.reads <= 4 * len(rows) + report.negatives
    assert report.file.endswith(f".{format}")
    assert report.media_root == str(tmp_path / "data")
    back = read_rows(report.file, media=report.media_root, cache_dir=tmp_path / "cache")
    by_name = {content(row["positive"]) for row in given}
    for row, mined in zip(given, back, strict=True):
        assert content(mined["positive"]) == content(row["positive"])
        assert {content(item) for item in mined["negatives"]} < by_name
    assert Path(back[0]["positive"]["image"]) == tmp_path / "data" / "0.png"
    if format == "jsonl":
        assert read(report.file)[3]["positive"] == {"image": "deep/images.zip::in/3.png"}
    assert b"PNG" not in Path(report.file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"mined.{format}", "mining.json"]


def test_bytes_beside_archives_go_into_parquet(tmp_path: Path) -> None:
    """In two chunks, with a column and a key of an item that only the last row has."""
    given = archived_rows(tmp_path / "data")
    rows = [{**given[number % 8], "query": f"query {number}"} for number in range(70)]
    rows.append({"query": "a picture", "positive": {"image": b"no file", "text": "last"}, "task": "late"})
    encoder = StubEncoder(lambda text: hashed(text[-20:]))
    report = mine(encoder, rows, out=tmp_path / "out", k=2, max_similarity=None)
    assert report.file.endswith("mined.parquet")
    back = read_rows(report.file, media=report.media_root, cache_dir=tmp_path / "cache")
    assert len(back) == 71
    assert back[70]["positive"] == {"image": b"no file", "text": "last"}
    assert back[70]["task"] == "late"
    assert "task" not in back[0]
    assert content(back[9]["positive"]) == content(given[1]["positive"])
