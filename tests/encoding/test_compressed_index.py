"""IVF-PQ from shards: near the exact index on clustered vectors, and refused when anything is off."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import umekit
from umekit.cli.main import main
from umekit.encoding.fingerprint import IndexMismatchError
from umekit.encoding.index.compressed import CompressedIndex
from umekit.encoding.index.exact import Index
from umekit.encoding.index.manifest import IndexFormatError
from umekit.encoding.index.opening import index_settings, open_index
from umekit.encoding.inputs import Row, Sample
from umekit.encoding.shards.run import encode_shards

pytest.importorskip("faiss")
DIM, ROWS = 32, 6000
FINGERPRINT = {"model": "m" * 64, "processor": "p" * 64, "dim": DIM}


def clustered(count: int, seed: int) -> np.ndarray:
    """Unit rows [count, 32] around 60 directions, which the seed does not move."""
    centers = np.random.default_rng(0).normal(size=(60, DIM))
    rng = np.random.default_rng(seed)
    rows = centers[rng.integers(0, 60, count)] + 0.5 * rng.normal(size=(count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Given:
    """A source whose items are row numbers, and the encoder that looks their vectors up."""

    dim = DIM

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def count(self) -> int:
        return len(self.vectors)

    def samples(self) -> Any:
        for row in range(len(self.vectors)):
            yield Sample(f"é{row}", lambda row=row: [Row(f"é{row}", str(row))])

    def fingerprint(self) -> Any:
        return dict(FINGERPRINT)

    def encode(self, items: Any, **options: Any) -> Any:
        rows = self.vectors[[int(item["text"] if isinstance(item, dict) else item) for item in items]]
        if "return_details" not in options:
            return rows
        nothing = [None] * len(rows)
        cost = {"invocation_ratio": 0.0, "tokens_per_item": 0.0, "seconds_per_item": 0.0}
        return SimpleNamespace(embeddings=rows, errors=[], thoughts=nothing, **cost)


class Named(Given):
    def fingerprint(self) -> str:
        return "source"


def shards_of(vectors: np.ndarray, out: Path, **options: Any) -> Path:
    encode_shards(Given(vectors), Named(vectors), out, 1000, model="a-model", mode=None, **options)
    return out


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards_of(clustered(ROWS, 1), tmp_path_factory.mktemp("shards") / "out")


@pytest.fixture(scope="module")
def built(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "ivf"
    CompressedIndex.build(shards, folder)
    return folder


def recall(found: list[list[str | None]], expected: list[list[str | None]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected, strict=True)]))


def test_recall_against_exact(shards: Path, built: Path, tmp_path: Path) -> None:
    exact, index = Index.from_shards(shards), CompressedIndex.load(built)
    assert len(index) == len(exact) == ROWS
    queries = clustered(100, 2)
    expected, true_scores = exact.search(queries, 10)
    found, scores = index.search(queries, 10)
    assert recall(found, expected) > 0.93
    assert np.mean([a[0] == b[0] for a, b in zip(found, expected, strict=True)]) > 0.95
    assert (np.diff(scores, axis=1) <= 0).all()
    both = [i for i in range(100) if found[i][0] == expected[i][0]]
    np.testing.assert_allclose(scores[both, 0], true_scores[both, 0], atol=2e-3)
    index.nprobe = 10_000
    index.rescored = 40
    assert recall(index.search(queries, 10)[0], expected) > 0.98

    bare = CompressedIndex.build(shards, tmp_path / "bare", keep_vectors=False, code_bytes=16)
    assert recall(bare.search(queries, 10)[0], expected) > 0.6
    assert not list((tmp_path / "bare").glob("*/vectors.npy"))


def test_the_interface_of_the_exact_index(built: Path) -> None:
    index = CompressedIndex.load(built, FINGERPRINT)
    names, scores = index.search(clustered(1, 3)[0], 3)
    assert [len(row) for row in names] == [3]
    assert scores.shape == (1, 3)
    assert all(name is not None and name.startswith("é") for name in names[0])
    many, padded = index.search(clustered(2, 3), 2 * ROWS)
    assert many[0][-1] is None
    assert np.isneginf(padded[0, -1])
    with pytest.raises(ValueError, match="k is 0"):
        index.search(clustered(1, 3), 0)
    with pytest.raises(ValueError, match="shape"):
        index.search(np.ones((1, 3)))
    with pytest.raises(ValueError, match="not unit"):
        index.search(np.full((1, DIM), np.nan))


def test_what_is_refused(shards: Path, built: Path, tmp_path: Path) -> None:
    with pytest.raises(IndexMismatchError):
        CompressedIndex.load(built, FINGERPRINT | {"model": "x" * 64})
    with pytest.raises(FileExistsError):
        CompressedIndex.build(shards, built)
    with pytest.raises(ValueError, match="does not divide"):
        CompressedIndex.build(shards, tmp_path / "x", code_bytes=5)
    with pytest.raises(ValueError, match="are few"):
        CompressedIndex.build(shards_of(clustered(50, 1), tmp_path / "few"), tmp_path / "x")
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").iterdir())

    def damaged(name: str, change: Any, manifest: dict[str, Any] | None = None) -> Path:
        copy = Path(shutil.copytree(built, tmp_path / name))
        data = next(copy.glob("data-*"))
        change(data)
        if manifest is not None:
            told = json.loads((copy / "manifest.json").read_text())
            (copy / "manifest.json").write_text(json.dumps(told | manifest))
        return copy

    def flip(data: Path) -> None:
        raw = bytearray((data / "index.faiss").read_bytes())
        raw[len(raw) // 2] ^= 1
        (data / "index.faiss").write_bytes(raw)

    def other_kind(data: Path) -> None:
        (data / "index.faiss").write_bytes(pickle.dumps("no index"))

    def linked(data: Path) -> None:
        shutil.move(data / "ids.npy", tmp_path / "ids.npy")
        (data / "ids.npy").symlink_to(tmp_path / "ids.npy")

    with pytest.raises(IndexFormatError, match="damaged"):
        CompressedIndex.load(damaged("a", flip))
    with pytest.raises(IndexFormatError, match="not an IVF-PQ"):
        CompressedIndex.load(damaged("b", other_kind), hashes=False)
    with pytest.raises(IndexFormatError, match="plain file"):
        CompressedIndex.load(damaged("c", linked))
    with pytest.raises(IndexFormatError, match="impossible"):
        CompressedIndex.load(damaged("d", lambda data: None, {"generation": "../elsewhere"}))
    with pytest.raises(IndexFormatError, match="rows of"):
        CompressedIndex.load(damaged("e", lambda data: None, {"count": 7}))


def test_rebuilding_replaces_the_data(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    CompressedIndex.build(shards, folder, lists=8)
    CompressedIndex.build(shards, folder, lists=8, rebuild=True)
    assert len(list(folder.glob("data-*"))) == 1


def test_float16_shards(tmp_path: Path) -> None:
    vectors = clustered(1500, 1)
    index = CompressedIndex.build(shards_of(vectors, tmp_path / "half", dtype="float16"), tmp_path / "index")
    names, scores = index.search(vectors[:5], 1)
    assert [row[0] for row in names] == [f"é{row}" for row in range(5)]
    np.testing.assert_allclose(scores[:, 0], 1, atol=2e-3)


def test_command_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Given(clustered(ROWS, 1))
    loaded: list[Any] = []

    def load(path: Any = None, **_: Any) -> Any:
        loaded.append(path)
        return encoder

    monkeypatch.setitem(vars(umekit), "load", load)
    for compressed in (False, True):
        folder = tmp_path / f"index-{compressed}"
        extra = ["--compressed"] if compressed else []
        arguments = ["index", "--from-shards", str(shards), "--index", str(folder), "--json", *extra]
        assert main(arguments) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == ROWS
        assert main(arguments) == 2
        assert "--rebuild" in capsys.readouterr().err
        assert isinstance(open_index(folder), CompressedIndex) == compressed
        assert index_settings(folder)["model"] == "a-model"
        assert main(["search", "17", "--index", str(folder), "-k", "2", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["results"]
        assert found[0]["id"] == "é17"
        assert found[0]["score"] == pytest.approx(1, abs=2e-3)
    assert loaded == ["a-model", "a-model"]
    inside = Path(shutil.copytree(shards, tmp_path / "shards"))
    assert main(["index", "--from-shards", str(inside)]) == 0
    capsys.readouterr()
    assert main(["search", "17", "--index", str(inside), "-k", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["id"] == "é17"
    assert main(["index", str(tmp_path), "--compressed"]) == 2
    assert main(["index", "--from-shards", str(tmp_path), "--index", str(tmp_path / "x")]) == 2
    assert "not a folder of shards" in capsys.readouterr().err
