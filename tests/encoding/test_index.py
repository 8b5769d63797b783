"""The index: exact search, a folder that survives kills and damage, and re-indexing."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umekit.encoding.index import exact as index_module
from umekit.encoding.index import folder_index
from umekit.encoding.index.exact import Index, IndexFormatError, IndexMismatchError
from umekit.encoding.index.folder_index import index_folder
from umekit.encoding.inputs.files import UnreadableFileError, file_items

FakeEncoder = runpy.run_path(str(Path(__file__).with_name("fake_encoder.py")))["FakeEncoder"]

PRINT = {"model": "m" * 64, "processor": "p" * 64, "dim": 8}


def unit(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def filled() -> Index:
    index = Index(dim=8, fingerprint=PRINT)
    index.add([f"row{n:02}" for n in range(30)], unit(30), [{"n": n} for n in range(30)])
    return index


# --- search ---------------------------------------------------------------------------------------------


def test_search_is_exact(filled: Index) -> None:
    queries = unit(5, seed=1)
    ids, scores = filled.search(queries, k=7)
    reference = queries @ filled.vectors.T
    for row, (names, values) in enumerate(zip(ids, scores, strict=True)):
        best = np.argsort(-reference[row])[:7]
        assert names == [f"row{n:02}" for n in best]
        np.testing.assert_allclose(values, reference[row][best], atol=1e-6)
    assert scores.dtype == np.float32


def test_short_lists_are_padded(filled: Index) -> None:
    ids, scores = filled.search(unit(2, seed=2), k=33)
    assert scores.shape == (2, 33)
    assert ids[0][30:] == [None] * 3
    assert np.isneginf(scores[:, 30:]).all()
    assert np.isfinite(scores[:, :30]).all()


def test_an_empty_index_gives_only_padding() -> None:
    ids, scores = Index(dim=8).search(unit(1), k=2)
    assert ids == [[None, None]]
    assert np.isneginf(scores).all()


def test_ties_come_in_order_of_ids_even_beyond_the_net() -> None:
    index = Index(dim=8)
    same = unit(1)[0]
    names = [f"t{n:03}" for n in np.random.default_rng(0).permutation(200)]
    index.add(names, np.repeat(same[None], 200, axis=0))
    ids, _ = index.search(same, k=5)
    assert ids[0] == [f"t{n:03}" for n in range(5)]


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(filled: Index, k: int) -> None:
    with pytest.raises(ValueError, match="k is"):
        filled.search(unit(1), k=k)


def test_a_wrong_or_bad_query_is_refused(filled: Index) -> None:
    with pytest.raises(ValueError, match=r"\[n, 8\]"):
        filled.search(unit(1, dim=4))
    with pytest.raises(ValueError, match="query 1"):
        filled.search(np.stack([unit(1)[0], np.full(8, np.nan)]))


def test_missing_faiss_names_the_extra(filled: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install umekit\[search\]"):
        filled.search(unit(1))


# --- add and remove -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.zeros(8), np.full(8, np.nan), np.full(8, np.inf), unit(1)[0] * 2])
def test_bad_vectors_are_refused_by_name_and_nothing_enters(filled: Index, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="culprit"):
        filled.add(["fine", "culprit"], np.stack([unit(1)[0], bad]))
    assert len(filled) == 30
    assert "fine" not in filled


@pytest.mark.parametrize("names", [["row00"], ["x", "x"], [""], [3]])
def test_bad_ids_are_refused(filled: Index, names: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"twice|non-empty"):
        filled.add(names, unit(len(names)))


def test_shapes_must_agree(filled: Index) -> None:
    with pytest.raises(ValueError, match="need"):
        filled.add(["a", "b"], unit(2, dim=4))
    with pytest.raises(ValueError, match="metadata"):
        filled.add(["a", "b"], unit(2), [{}])
    filled.add([], np.zeros((0, 8)))


def test_removed_rows_are_not_found(filled: Index) -> None:
    best = filled.search(filled.vectors[3], k=1)[0][0][0]
    assert best == "row03"
    assert filled.remove(["row03", "nobody"]) == 1
    assert filled.search(unit(30)[3], k=1)[0][0][0] != "row03"
    assert filled.get("row04") == {"n": 4}
    with pytest.raises(KeyError):
        filled.get("row03")


# --- the folder -----------------------------------------------------------------------------------------


def data_folder(folder: Path) -> Path:
    return folder / json.loads((folder / "manifest.json").read_text())["generation"]


def test_save_and_load(filled: Index, tmp_path: Path) -> None:
    filled.save(tmp_path / "i")
    again = Index.load(tmp_path / "i", PRINT)
    np.testing.assert_array_equal(again.vectors, filled.vectors)
    assert again.ids == filled.ids
    assert again.metadata == filled.metadata
    manifest = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert manifest["fingerprint"] == PRINT
    assert manifest["count"] == 30
    assert "numpy" in manifest["versions"]


def test_odd_characters_survive(tmp_path: Path) -> None:
    index = Index(dim=8)
    index.add(["grün/日本\u2028.png"], unit(1), [{"snippet": "a\u2028b\u0085c\nd"}])
    index.save(tmp_path)
    again = Index.load(tmp_path)
    assert again.ids == index.ids
    assert again.metadata == index.metadata


def test_saving_again_leaves_one_data_folder(filled: Index, tmp_path: Path) -> None:
    filled.save(tmp_path)
    filled.remove(["row00"])
    filled.save(tmp_path)
    assert len(list(tmp_path.glob("data-*"))) == 1
    assert len(Index.load(tmp_path)) == 29


@pytest.mark.parametrize("step", ["ids.json", "metadata.jsonl", "manifest.json"])
def test_a_kill_while_saving_leaves_the_old_index(
    filled: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    filled.save(tmp_path)
    real = index_module.write_atomically

    def dies(path: Path, data: bytes) -> None:
        if path.name == step:
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(index_module, "write_atomically", dies)
    filled.remove(["row00"])
    with pytest.raises(KeyboardInterrupt):
        filled.save(tmp_path)
    assert len(Index.load(tmp_path)) == 30


def test_a_kill_while_vectors_are_written_leaves_the_old_index(
    filled: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.save(tmp_path)
    real = np.save

    def dies(file: Any, array: np.ndarray, **options: Any) -> None:
        real(file, array[:3], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        filled.save(tmp_path)
    assert len(Index.load(tmp_path)) == 30
    assert len(list(tmp_path.glob("data-*"))) == 1


def test_a_large_index_is_not_copied_to_be_checked_or_written(tmp_path: Path) -> None:
    """Fourteen gigabytes of vectors should need fourteen, and not five times as many."""
    index = Index(dim=256, fingerprint={**PRINT, "dim": 256})
    vectors = unit(4000, 256)
    index.add([str(n) for n in range(4000)], vectors, [{}] * 4000)
    index.save(tmp_path / "warm")
    Index.load(tmp_path / "warm")
    tracemalloc.start()
    try:
        index.save(tmp_path / "index")
        saving = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        loaded = Index.load(tmp_path / "index")
        loading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert saving < vectors.nbytes / 2
    assert loading < 1.5 * vectors.nbytes + saving
    np.testing.assert_array_equal(loaded.vectors, vectors)


@pytest.mark.parametrize("name", ["model", "processor", "prompts"])
def test_another_encoder_is_refused_and_both_are_named(tmp_path: Path, name: str) -> None:
    mine = {**PRINT, "prompts": "q" * 64}
    Index(8, mine).save(tmp_path)
    with pytest.raises(IndexMismatchError, match=f"{name} {mine[name][:12]}.*{name} zzzzzzzzzzzz"):
        Index.load(tmp_path, {**mine, name: "z" * 64})


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"kind": "other"},
        {"dim": 0},
        {"dim": "8"},
        {"dim": 9},
        {"count": 29},
        {"count": True},
        {"dtype": "float16"},
        {"generation": "../elsewhere"},
        {"generation": "/etc"},
        {"generation": "data-0123456789abcdef"},
        {"files": {"../../secret": "0"}},
        {"files": {}},
        {"fingerprint": None},
        {"versions": []},
    ],
)
def test_an_impossible_manifest_is_refused(filled: Index, tmp_path: Path, changes: dict[str, Any]) -> None:
    filled.save(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises((IndexFormatError, ValueError)):
        Index.load(tmp_path)


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Replace a data file *and* its hash, so that only the checks of content stand in the way."""
    import hashlib

    (data_folder(folder) / name).write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder, files={**files, name: hashlib.sha256(data).hexdigest()})


def npy(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("vectors.npy", npy(np.full((30, 8), np.nan, np.float32))),
        ("vectors.npy", npy(np.zeros((30, 8), np.float32))),
        ("vectors.npy", npy(unit(29))),
        ("vectors.npy", npy(unit(30).astype(np.float64))),
        ("vectors.npy", npy(np.array([{"a": 1}], dtype=object))),
        ("vectors.npy", b"nothing"),
        ("ids.json", json.dumps(["same"] * 30).encode()),
        ("ids.json", json.dumps(list(range(30))).encode()),
        ("ids.json", b"{}"),
        ("metadata.jsonl", b"{}\n" * 29),
        ("metadata.jsonl", b"[]\n" * 30),
        ("metadata.jsonl", b"\xff\n" * 30),
    ],
)
def test_damaged_content_is_refused(filled: Index, tmp_path: Path, name: str, data: bytes) -> None:
    filled.save(tmp_path)
    rewrite(tmp_path, name, data)
    with pytest.raises(IndexFormatError):
        Index.load(tmp_path)


def test_a_flipped_byte_or_a_missing_file_is_seen(filled: Index, tmp_path: Path) -> None:
    filled.save(tmp_path)
    path = data_folder(tmp_path) / "vectors.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IndexFormatError, match="sha256"):
        Index.load(tmp_path)
    path.unlink()
    with pytest.raises(IndexFormatError, match="missing"):
        Index.load(tmp_path)


def test_no_manifest_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(IndexFormatError, match="not an umekit index"):
        Index.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(IndexFormatError, match="not JSON"):
        Index.load(tmp_path)


# --- folders of files -----------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "trip").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8), (number * 80, 0, 0)).save(root / f"p{number}.png")
    Image.new("RGB", (8, 8), (0, 99, 0)).save(root / "trip" / "q.JPG")
    pages = [Image.new("RGB", (40, 40), (0, 0, n * 100)) for n in range(3)]
    pages[0].save(root / "report.pdf", save_all=True, append_images=pages[1:])
    (root / "notes.md").write_text("# Köln\nthree red sevens")
    (root / "clip.mp4").write_bytes(b"a clip")
    (root / "program.exe").write_bytes(b"x")
    (root / ".hidden.png").write_bytes(b"x")
    for path in root.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return root


def run(root: Path, encoder: Any = None, **options: Any) -> Any:
    return index_folder(encoder or FakeEncoder(), root, show_progress=False, **options)


ALL = ["clip.mp4", "notes.md", "p0.png", "p1.png", "p2.png"]
ALL += [f"report.pdf#page={page}" for page in (1, 2, 3)]
ALL += ["trip/q.JPG"]


def test_every_kind_of_file_gets_its_rows(photos: Path) -> None:
    index, report = run(photos)
    assert sorted(index.ids) == ALL
    assert report.rows == 9
    assert len(report.added) == 7
    assert report.failed == []
    assert index.get("notes.md")["snippet"] == "# Köln three red sevens"
    assert index.get("report.pdf#page=2")["page"] == 2
    assert index.get("clip.mp4")["kind"] == "video"
    assert Index.load(photos / ".umekit-index").ids == index.ids


def test_a_second_run_encodes_nothing(photos: Path) -> None:
    run(photos)
    encoder = FakeEncoder()
    index, report = run(photos, encoder)
    assert encoder.seen == []
    assert report.unchanged == 7
    assert sorted(index.ids) == ALL


def test_changed_new_and_deleted_files(photos: Path) -> None:
    before, _ = run(photos)
    (photos / "notes.md").write_text("four blue twos")
    (photos / "p1.png").unlink()
    (photos / "new.txt").write_text("new")
    encoder = FakeEncoder()
    index, report = run(photos, encoder)
    assert (report.added, report.updated, report.removed) == (["new.txt"], ["notes.md"], ["p1.png"])
    assert len(encoder.seen) == 2
    assert sorted(index.ids) == sorted({*ALL, "new.txt"} - {"p1.png"})
    changed = index.vectors[index.ids.index("notes.md")]
    assert not np.allclose(changed, before.vectors[before.ids.index("notes.md")])


def test_a_touched_file_is_not_encoded_again(photos: Path) -> None:
    run(photos)
    os.utime(photos / "p0.png")
    encoder = FakeEncoder()
    _, report = run(photos, encoder)
    assert encoder.seen == []
    assert report.unchanged == 7


def test_a_change_of_same_size_and_time_just_after_reading_is_seen(photos: Path) -> None:
    path = photos / "notes.md"
    path.write_text("aaaa")
    facts = path.stat()
    run(photos)
    path.write_text("bbbb")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    _, report = run(photos)
    assert report.updated == ["notes.md"]


def test_a_pdf_that_loses_a_page_loses_a_row(photos: Path) -> None:
    run(photos)
    pages = [Image.new("RGB", (40, 40), (9, 9, n * 100)) for n in range(2)]
    pages[0].save(photos / "report.pdf", save_all=True, append_images=pages[1:])
    index, report = run(photos)
    assert report.updated == ["report.pdf"]
    assert "report.pdf#page=2" in index
    assert "report.pdf#page=3" not in index


def test_bad_files_are_reported_and_never_enter(photos: Path) -> None:
    (photos / "bad.png").write_bytes(b"BROKEN")
    (photos / "bad.pdf").write_bytes(b"not a pdf")
    (photos / "empty.txt").write_bytes(b"")
    (photos / "latin.txt").write_bytes(b"\xe9t\xe9")
    index, report = run(photos)
    assert sorted(index.ids) == ALL
    assert {name for name, _ in report.failed} == {"bad.png", "bad.pdf", "empty.txt", "latin.txt"}
    assert dict(report.failed)["bad.png"] == "the decoder gave up"
    assert "bad.png" not in report.added
    _, again = run(photos)
    assert len(again.failed) == 4


def test_a_file_that_breaks_loses_its_old_row(photos: Path) -> None:
    run(photos)
    (photos / "p0.png").write_bytes(b"BROKEN")
    (photos / "report.pdf").write_bytes(b"no longer")
    index, report = run(photos)
    assert "p0.png" not in index
    assert not any(name.startswith("report") for name in index.ids)
    assert report.updated == []


def test_on_error_raise_keeps_the_old_index(photos: Path) -> None:
    run(photos)
    (photos / "p0.png").write_bytes(b"BROKEN")
    with pytest.raises(UnreadableFileError, match=r"p0\.png"):
        run(photos, on_error="raise")
    assert len(Index.load(photos / ".umekit-index")) == 9


def test_links_out_of_the_folder_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (photos / "link.txt").symlink_to(tmp_path / "secret.txt")
    (photos / "loop").symlink_to(photos)
    index, report = run(photos)
    assert sorted(index.ids) == ALL
    assert [name for name, _ in report.failed] == ["link.txt"]


def test_not_recursive(photos: Path) -> None:
    index, _ = run(photos, recursive=False)
    assert "trip/q.JPG" not in index


def test_an_index_inside_the_folder_is_not_indexed(photos: Path) -> None:
    index, _ = run(photos, index_folder=photos / "index")
    (photos / "index" / "x.txt").write_text("x")
    index, _ = run(photos, index_folder=photos / "index")
    assert sorted(index.ids) == ALL


def test_another_model_or_setting_needs_a_rebuild(photos: Path) -> None:
    run(photos, settings={"mode": "generative"})
    with pytest.raises(IndexMismatchError, match="model"):
        run(photos, FakeEncoder(model="e" * 64), settings={"mode": "generative"})
    with pytest.raises(IndexMismatchError, match="mode 'generative'"):
        run(photos)
    index, report = run(photos, FakeEncoder(model="e" * 64), rebuild=True)
    assert len(report.added) == 7
    assert index.fingerprint["model"] == "e" * 64


def test_memory_that_ran_out_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder goes to the encoder in several calls: what one has learned, the next need not."""
    asked: list[int | None] = []

    class Small(FakeEncoder):  # type: ignore[misc, valid-type]
        def encode(self, items: Any, **options: Any) -> Any:
            asked.append(options.get("batch_tokens"))
            found = super().encode(items, **options)
            return SimpleNamespace(**vars(found), batch_tokens=128, halved=len(asked) == 1)

    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    monkeypatch.setattr(folder_index, "CHUNK_BYTES", 10)  # two texts
    index, report = index_folder(Small(), tmp_path)
    assert asked == [None, 128, 128]
    assert len(index) == report.rows == 6


def test_not_a_folder(photos: Path) -> None:
    with pytest.raises(NotADirectoryError):
        run(photos / "p0.png")


def test_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (n * 60, 0, 0)) for n in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.gif")
    assert file_items(tmp_path / "a.gif")[0][2] == {"kind": "video"}
    assert file_items(tmp_path / "b.gif")[0][2] == {"kind": "image"}


def test_a_killed_process_leaves_the_old_index(filled: Index, tmp_path: Path) -> None:
    filled.save(tmp_path)
    code = (
        "import os, signal, sys\n"
        "from umekit.encoding.index import exact as module\n"
        "real = module.write_atomically\n"
        "def dies(path, data):\n"
        "    if path.name == 'manifest.json': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(path, data)\n"
        "module.write_atomically = dies\n"
        "index = module.Index.load(sys.argv[1])\n"
        "index.remove(['row00'])\n"
        "index.save(sys.argv[1])\n"
    )
    repository = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=repository, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("data-*"))) == 2
    assert len(Index.load(tmp_path)) == 30


def test_a_picture_too_large_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "big.gif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableFileError, match="exceeds limit"):
        file_items(tmp_path / "big.gif")
