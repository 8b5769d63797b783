"""Nothing that umekit did not write is deleted, moved or written over, whatever it is called and however old it is."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

import umekit
from tests.encoding.fake_encoder import FakeEncoder
from tests.encoding.shard_probe import ProbeEncoder
from umekit.cli.main import main
from umekit.demo.gallery import write_gallery
from umekit.encoding.index.compressed import CompressedIndex
from umekit.encoding.index.exact import Index
from umekit.encoding.inputs import open_source
from umekit.encoding.shards.run import encode_shards
from umekit.encoding.storage.atomic import naming_the_disk, new_folder
from umekit.encoding.storage.ownership import (
    MARK,
    AtomicFolder,
    ForeignFileError,
    make_marked,
    place,
    read_mark,
    register,
    remove_marked,
)
from umekit.modeling.saving import write_sentence_transformers_files
from umekit.modeling.settings import UmeSettings
from umekit.trainers.mining import mine

DEAD = 2**22 + 1  # no process has this number


def user_folder(path: Path, *names: str) -> dict[Path, bytes]:
    """A folder of a user, of long ago."""
    path.mkdir(parents=True)
    for name in names or ("photo.jpg", "vectors.npy"):
        (path / name).write_bytes(f"mine: {name}".encode())
        os.utime(path / name, (0, 0))
    os.utime(path, (0, 0))
    return {file: file.read_bytes() for file in path.iterdir()}


def untouched(files: dict[Path, bytes]) -> bool:
    return all(path.read_bytes() == data for path, data in files.items())


def of_dead_process(folder: Path) -> None:
    lines = (folder / MARK).read_text().split("\n")
    lines[0] = json.dumps(json.loads(lines[0]) | {"pid": DEAD})
    (folder / MARK).write_text("\n".join(lines))


def filled(rows: int = 3) -> Index:
    index = Index(dim=4)
    vectors = np.random.default_rng(0).normal(size=(rows, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index.add([f"row{number}" for number in range(rows)], vectors)
    return index


def shards(tmp_path: Path, out: Path, rows: int = 3) -> Path:
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(rows)))
    encode_shards(ProbeEncoder(), open_source(lines), out, 512)
    return out


# ---- marks -------------------------------------------------------------------------------------------------------


def test_only_announced_files_are_removed(tmp_path: Path) -> None:
    folder = make_marked(tmp_path / "a", "one")
    register(folder, "two").write_text("2")
    (folder / "one").write_text("1")
    (folder / ".one.abcd_123").write_text("half")  # what written_atomically leaves when it is killed
    kept = user_folder(folder / "below", "one")
    (folder / "three").write_text("3")
    (folder / "link").symlink_to(tmp_path)
    assert not remove_marked(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["below", "link", "three"]
    assert untouched(kept)
    assert not remove_marked(folder)  # it is the user's now


@pytest.mark.parametrize(
    "spoil",
    [
        lambda mark: mark.unlink(),
        lambda mark: mark.write_text(""),
        lambda mark: mark.write_text("{}\n"),
        lambda mark: mark.write_text("[" * 10_000),
        lambda mark: mark.write_bytes(b"\xff\xfe"),
        lambda mark: mark.write_text(mark.read_text().replace('"a"', '"b"')),  # another folder's
        lambda mark: mark.write_text(mark.read_text().replace("umekit-mark", "other")),
        lambda mark: (mark.rename(mark.with_name("m")), mark.symlink_to("m")),
    ],
)
def test_a_mark_that_is_not_as_it_was_written_is_none(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    folder = make_marked(tmp_path / "a", "one")
    (folder / "one").write_text("1")
    spoil(folder / MARK)
    assert read_mark(folder) is None
    assert not remove_marked(folder)
    assert (folder / "one").exists()


def test_names_that_lead_elsewhere_remove_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("x")
    folder = make_marked(tmp_path / "a", "../precious", str(precious), "link")
    (folder / "link").symlink_to(precious)
    remove_marked(folder)
    assert precious.exists()
    linked = tmp_path / "linked"
    linked.symlink_to(make_marked(tmp_path / "b", "one"))
    assert not remove_marked(linked)


def test_scratch_leaves_what_only_looks_like_its_own(tmp_path: Path) -> None:
    users = user_folder(tmp_path / ".tmp-photos")
    users |= user_folder(tmp_path / f".tmp-{place()}-{'0' * 8}-{DEAD}")
    dead = make_marked(tmp_path / f".tmp-{place()}-{'1' * 8}-{DEAD}", "a")
    (dead / "a").write_text("half")
    of_dead_process(dead)
    mixed = make_marked(tmp_path / f".tmp-{place()}-{'2' * 8}-{DEAD}", "a")
    of_dead_process(mixed)
    (mixed / "a").write_text("half")
    (mixed / "note.txt").write_text("a user's")
    elsewhere = make_marked(tmp_path / f".tmp-{'0' * 12}-{'3' * 8}-{DEAD}")
    (elsewhere / MARK).write_text((elsewhere / MARK).read_text().replace(place(), "0" * 12))
    living = make_marked(tmp_path / f".tmp-{place()}-{'4' * 8}-{os.getpid()}", "a")
    (tmp_path / f".tmp-{place()}-{'5' * 8}-{DEAD}").symlink_to(living)
    with AtomicFolder(tmp_path) as scratch:
        scratch.write("b", b"b")
    assert untouched(users)
    assert not dead.exists()
    assert [path.name for path in mixed.iterdir()] == ["note.txt"]
    assert elsewhere.is_dir()
    assert living.is_dir()
    os.utime(elsewhere, (0, 0))
    with AtomicFolder(tmp_path):
        pass
    assert not elsewhere.exists()  # with a mark, and a day old


# ---- indexes -----------------------------------------------------------------------------------------------------


def test_folders_that_are_called_like_data_of_an_index_stay(tmp_path: Path) -> None:
    users = user_folder(tmp_path / "data-20231224") | user_folder(tmp_path / "data-00000000")
    index = filled()
    index.save(tmp_path)
    first = next(path for path in tmp_path.glob("data-*") if (path / MARK).exists())
    shutil.copy(first / MARK, tmp_path / "data-20231224" / MARK)
    index.save(tmp_path)
    assert not first.exists()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"generation": "data-00000000"}))
    index.save(tmp_path)  # an index from elsewhere may name any folder as its data
    assert untouched(users)


def test_data_of_killed_processes_leave_and_those_of_living_stay(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from umekit.encoding.index import exact as module\n"
        "def dies(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "module.write_atomically = dies\n"
        "module.Index(dim=4).save(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    (dead,) = tmp_path.glob("data-*")
    living = make_marked(tmp_path / "data-0123456789abcdef", "vectors.npy")
    filled().save(tmp_path)
    assert not dead.exists()
    assert living.exists()
    assert len(Index.load(tmp_path)) == 3


def test_a_foreign_manifest_is_never_written_over(tmp_path: Path) -> None:
    for name, text in (("a", '{"name": "my extension"}'), ("b", "not JSON"), ("c", "[" * 10_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
        with pytest.raises(ForeignFileError, match=r"manifest\.json was not written by umekit"):
            filled().save(tmp_path / name)
        assert (tmp_path / name / "manifest.json").read_text() == text
        assert not list((tmp_path / name).glob("data-*"))
    made = shards(tmp_path, tmp_path / "shards")
    with pytest.raises(ForeignFileError):
        filled().save(made)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "manifest.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ForeignFileError):
        filled().save(tmp_path / "d")


def test_a_compressed_build_has_no_freer_hand(tmp_path: Path) -> None:
    made = shards(tmp_path, tmp_path / "shards", 1200)
    out = tmp_path / "index"
    users = user_folder(out / "data-20231224")
    (out / "manifest.json").write_text('{"name": "my extension"}')
    with pytest.raises(ForeignFileError):
        CompressedIndex.build(made, out, lists=8, rebuild=True)
    (out / "manifest.json").unlink()
    CompressedIndex.build(made, out, lists=8)
    CompressedIndex.build(made, out, lists=8, rebuild=True)
    assert len(list(out.glob("data-*"))) == 2
    assert untouched(users)


# ---- shards ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["manifest.json", "errors.jsonl", "run.json", "part-00000-of-00001.npy", "part-00000.parquet"]
)
def test_shards_write_over_no_file_of_another(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    users = user_folder(out, name, "other.txt")
    with pytest.raises(ValueError if name == "run.json" else ForeignFileError, match=name):
        shards(tmp_path, out)
    assert untouched(users)
    assert len(list(out.iterdir())) == 2


def test_shards_destroy_no_index_and_no_file_that_came_later(tmp_path: Path) -> None:
    out = tmp_path / "out"
    filled().save(out)
    with pytest.raises(ForeignFileError):
        shards(tmp_path, out)
    assert len(Index.load(out)) == 3
    out = shards(tmp_path, tmp_path / "run")
    shards(tmp_path, out)  # its own are written again
    for name, text in (("manifest.json", '{"name": "my extension"}'), ("errors.jsonl", '{"my": "log"}\n')):
        own = (out / name).read_bytes()
        (out / name).write_text(text)
        with pytest.raises(ForeignFileError, match=name):
            shards(tmp_path, out)
        assert (out / name).read_text() == text
        (out / name).write_bytes(own)


# ---- mining ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["work/notes.txt", "mining.json", "mined.jsonl"])
def test_mining_leaves_what_is_there(tmp_path: Path, name: str) -> None:
    rows = [{"query": f"q{number}", "positive": f"p{number}"} for number in range(8)]
    path = tmp_path / "out" / name
    users = user_folder(path.parent, path.name)
    with pytest.raises(ForeignFileError, match=path.name if path.parent.name == "out" else "work"):
        mine(ProbeEncoder(), rows, out=tmp_path / "out", k=2, max_similarity=None, depth=4)
    assert untouched(users)


def test_mining_keeps_what_a_user_puts_into_its_work(tmp_path: Path) -> None:
    rows = [{"query": f"q{number}", "positive": f"p{number}"} for number in range(8)]
    options: dict[str, Any] = {"out": tmp_path, "k": 2, "max_similarity": None, "depth": 4}
    mine(ProbeEncoder(), rows, **options, keep_vectors=True)
    (tmp_path / "work" / "notes.txt").write_text("mine")
    (tmp_path / "work" / "pool" / "part-of-me.txt").write_text("mine")
    (tmp_path / "mining.json").unlink()
    mine(ProbeEncoder(), rows, **options)
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == ["mined.jsonl", "mining.json", "work/notes.txt", "work/pool/part-of-me.txt"]


# ---- folders and files that are named by the user ----------------------------------------------------------------


def test_a_new_folder_takes_no_other_ones_place(tmp_path: Path) -> None:
    users = user_folder(tmp_path / ".out.writing-1") | user_folder(tmp_path / f".out.writing-{os.getpid()}")
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "out" / "a").read_text() == "a"
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "failed"):
        raise ZeroDivisionError
    assert untouched(users)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "link"):
        pass
    with pytest.raises(OSError), new_folder(tmp_path / "empty"):  # noqa: PT011
        (tmp_path / "empty" / "came").write_text("meanwhile")
    assert (tmp_path / "empty" / "came").exists()
    assert sorted(path.name for path in tmp_path.glob(".*")) == sorted({path.parent.name for path in users})


def test_the_demo_writes_over_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(vars(umekit), "load", lambda *_, **__: FakeEncoder())
    users = user_folder(tmp_path / "gallery" / "pictures", "scene-01.png")
    with pytest.raises(ForeignFileError, match=r"scene-01\.png"):
        write_gallery(tmp_path / "gallery")
    assert main(["demo", "--out", str(tmp_path), "--quiet"]) == 2
    assert "scene-01.png was not written by umekit" in capsys.readouterr().err
    sheet = user_folder(tmp_path / "sheet", "contact-sheet.html")
    assert main(["demo", "--out", str(tmp_path / "sheet"), "--quiet"]) == 2
    assert untouched(users | sheet)
    assert [path.name for path in (tmp_path / "sheet").iterdir()] == ["contact-sheet.html"]


def test_encode_replaces_its_own_npz_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(vars(umekit), "load", lambda *_, **__: FakeEncoder())
    out = tmp_path / "mine.npz"
    np.savez(out, ids=np.arange(3), embeddings=np.ones(3), manifest=np.array("{}"))
    before = out.read_bytes()
    assert main(["encode", "--text", "a", "--out", str(out), "--quiet"]) == 2
    assert "mine.npz was not written by umekit" in capsys.readouterr().err
    assert out.read_bytes() == before
    for _ in range(2):
        assert main(["encode", "--text", "a", "--out", str(tmp_path / "own.npz"), "--quiet"]) == 0


def test_a_saved_checkpoint_takes_away_its_own_modules_alone(tmp_path: Path) -> None:
    settings = UmeSettings()
    write_sentence_transformers_files(tmp_path, settings, "qwen2_vl", 8)
    assert (tmp_path / "1_Pooling").is_dir()
    users = {tmp_path / "2_Normalize" / "notes.txt": b"mine"}
    (tmp_path / "2_Normalize" / "notes.txt").write_bytes(b"mine")
    write_sentence_transformers_files(tmp_path, settings, "qwen2_vl", 8, adapter=True)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"2_Normalize"}
    assert untouched(users)
    foreign = user_folder(tmp_path / "1_Pooling", "config.json")
    write_sentence_transformers_files(tmp_path, settings, "qwen2_vl", 8, adapter=True)
    assert untouched(foreign)


# ---- full disks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("16 requested and 0 written"),  # NumPy
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named(tmp_path: Path, error: Exception) -> None:
    full = pytest.raises(OSError, match=r"the disk is full: \d+ MiB of \d+ MiB are free there")
    with full as found, naming_the_disk(tmp_path / "not" / "there.npy"):
        raise error
    assert found.value.errno == errno.ENOSPC
    assert found.value.filename == str(tmp_path / "not" / "there.npy")
    with pytest.raises(OSError, match="other"), naming_the_disk(tmp_path):
        raise OSError("other")
    with pytest.raises(RuntimeError), naming_the_disk(tmp_path):  # there is room: it was something else
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")


def test_a_full_disk_leaves_the_former_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled()
    index.save(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full"):
        index.save(tmp_path)
    assert len(list(tmp_path.glob("data-*"))) == 1
    assert len(Index.load(tmp_path)) == 3
