"""Indexes and shards that come from anywhere: heads that lie, wrong types, numbers that lead out of the rows."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from tests.encoding.fake_encoder import FakeEncoder
from tests.encoding.shard_probe import ProbeEncoder
from umekit.encoding.index import folder_index
from umekit.encoding.index.compressed import CompressedIndex
from umekit.encoding.index.exact import Index, IndexFormatError
from umekit.encoding.index.folder_index import index_folder
from umekit.encoding.index.opening import open_index
from umekit.encoding.inputs import open_source
from umekit.encoding.shards.parts import ShardSet
from umekit.encoding.shards.run import encode_shards
from umekit.encoding.storage.contents import file_sha256, read_npy
from umekit.processing.limits import MediaLimits

DEEP = b"[" * 200_000
LONG = b'{"dim": ' + b"9" * 10_000 + b"}"


def npy_head(shape: str, dtype: str = "'<f4'", data: bytes = b"") -> bytes:
    """An npy file whose head says what it likes."""
    head = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


LIES = {
    "huge": npy_head("(99999999999, 4)"),
    "larger than numbers go": npy_head(f"({10**40}, 4)"),
    "negative": npy_head("(-1, 4)"),
    "deep": npy_head("(" * 4000),
    "call": npy_head("__import__('os').getpid()"),
    "object": npy_head("(3, 4)", "'|O'"),
    "no dtype": npy_head("(3, 4)", "'nonsense'"),
    "records": npy_head("(3, 4)", "[('a', '<f4')]"),
    "big endian": npy_head("(3, 4)", "'>f4'", bytes(48)),
    "cut off": npy_head("(3, 4)", data=bytes(47)),
    "more": npy_head("(3, 4)", data=bytes(49)),
    "version": b"\x93NUMPY\x09\x00" + bytes(80),
    "empty": b"",
    "zip": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("mapped", [False, True])
def test_heads_of_npy_that_lie(tmp_path: Path, name: str, mapped: bool) -> None:
    path = tmp_path / "v.npy"
    path.write_bytes(LIES[name])
    with pytest.raises(IndexFormatError, match=r"v\.npy"):
        read_npy(path, np.float32, (3, 4), IndexFormatError, mapped=mapped)


def saved(folder: Path) -> Path:
    index = Index(dim=4)
    index.add(["a", "b", "c"], np.eye(3, 4))
    index.save(folder)
    return next(folder.glob("data-*"))


def rewrite(folder: Path, data: Path, name: str, content: bytes) -> None:
    """Replace a file and its sha256, as an attacker would."""
    (data / name).write_bytes(content)
    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    raw["files"][name] = file_sha256(data / name)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("vectors.npy", data) for data in LIES.values()),
        ("ids.json", DEEP),
        ("ids.json", b"[1" + b"0" * 9999 + b"]"),
        ("ids.json", b'["a", "b", "\\ud800"]'),
        ("ids.json", b'["a", "b", ["c"]]'),
        ("ids.json", b'["a", "b", {}]'),
        ("ids.json", b'["a", "b", ""]'),
        ("ids.json", b'{"a": 1, "b": 2, "c": 3}'),
        ("ids.json", b"\xff"),
        ("metadata.jsonl", b"{}\n{}\n" + DEEP + b"\n"),
        ("metadata.jsonl", b"{}\n{}\n7\n"),
        ("metadata.jsonl", b"{}\n{}\n\xff\n"),
        ("metadata.jsonl", b"{}\n"),
    ],
)
def test_data_of_an_index(tmp_path: Path, name: str, content: bytes) -> None:
    data = saved(tmp_path)
    rewrite(tmp_path, data, name, content)
    with pytest.raises(IndexFormatError) as found:
        Index.load(tmp_path)
    assert name in str(found.value) or "id" in str(found.value)
    assert len(str(found.value)) < 600


@pytest.mark.parametrize("content", [DEEP, LONG, b"\xff\xfe", b"7", b'{"kind": ["umekit-index"]}'])
def test_manifests_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(IndexFormatError, match=r"manifest\.json"):
        open_index(tmp_path)
    with pytest.raises(IndexFormatError, match=r"manifest\.json"):
        CompressedIndex.load(tmp_path)
    with pytest.raises(IndexFormatError, match=r"manifest\.json"):
        ShardSet(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 10**30},
        {"dim": 4.0},
        {"count": 10**30},
        {"count": -1},
        {"fingerprint": {"dim": "4"}},
        {"fingerprint": {"dim": [4]}},
        {"files": {"vectors.npy": 1, "ids.json": 2, "metadata.jsonl": 3}},
        {"settings": []},
    ],
)
def test_fields_of_a_manifest(tmp_path: Path, changes: dict[str, Any]) -> None:
    saved(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(IndexFormatError) as found:
        Index.load(tmp_path)
    assert next(iter(changes)) in str(found.value) or "damaged" in str(found.value)


@pytest.mark.parametrize("name", ["size", "mtime_ns", "read_ns", "rows", "sha256", "path"])
def test_metadata_of_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    index_folder(FakeEncoder(), tmp_path, show_progress=False)
    folder = tmp_path / ".umekit-index"
    data = next(folder.glob("data-*"))
    row = json.loads((data / "metadata.jsonl").read_text())
    for value in ([], {}, None, True):
        rewrite(folder, data, "metadata.jsonl", json.dumps(row | {name: value}).encode() + b"\n")
        with pytest.raises(IndexFormatError, match=rf"metadata\.jsonl says of 'a\.txt' that {name} is"):
            index_folder(FakeEncoder(), tmp_path, show_progress=False)


def test_a_sparse_file_is_not_read_to_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("huge.png", "huge.txt", "huge.pdf"):
        with (tmp_path / name).open("wb") as handle:
            handle.truncate(2**40)
    hashed: list[Path] = []
    monkeypatch.setattr(folder_index, "file_sha256", lambda path: hashed.append(path) or "0" * 64)
    (tmp_path / "a.txt").write_text("a")
    _, report = index_folder(FakeEncoder(), tmp_path, show_progress=False)
    assert [path.name for path in hashed] == ["a.txt"]
    reason = f"{2**40} bytes, more than the limit of {MediaLimits().file_bytes}"
    assert report.failed == [("huge.pdf", reason), ("huge.png", reason), ("huge.txt", reason)]


# ---- compressed --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("malformed")
    rows = folder / "rows.jsonl"
    lines = [json.dumps({"text": f"text {number}", "id": f"ä{number}"}) + "\n" for number in range(1100)]
    rows.write_text("".join(lines))
    encode_shards(ProbeEncoder(), open_source(rows), folder / "out", 300, role="document")
    return folder / "out"


def faiss_file(change: Callable[[Any], None]) -> Callable[[Path], bytes]:
    def changed(data: Path) -> bytes:
        index = faiss.read_index(str(data / "index.faiss"))
        change(index)
        faiss.write_index(index, str(data / "changed"))
        return (data / "changed").read_bytes()

    return changed


def set_row(row: int) -> Callable[[Any], None]:
    def change(index: Any) -> None:
        number = next(one for one in range(index.nlist) if index.invlists.list_size(one))
        faiss.rev_swig_ptr(index.invlists.get_ids(number), index.invlists.list_size(number))[0] = row

    return change


def set_nprobe(index: Any) -> None:
    index.nprobe = 0


def starts(change: Callable[[np.ndarray], None]) -> Callable[[Path], bytes]:
    def changed(data: Path) -> bytes:
        buffer, array = io.BytesIO(), np.load(data / "ids.npy")
        change(array)
        np.save(buffer, array)
        return buffer.getvalue()

    return changed


def into_a_letter(array: np.ndarray) -> None:
    array[1] = 1


def backwards(array: np.ndarray) -> None:
    array[5] = array[9]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("index.faiss", faiss_file(set_row(10**15)), "holds the row 1000000000000000; there are 1100"),
        ("index.faiss", faiss_file(set_row(1100)), "holds the row 1100"),
        ("index.faiss", faiss_file(set_row(-7)), "holds the row -7"),
        ("index.faiss", faiss_file(set_nprobe), "nprobe"),
        ("index.faiss", lambda data: (data / "index.faiss").read_bytes()[:-9], "can't be read"),
        ("ids.npy", starts(into_a_letter), "begins inside of a letter"),
        ("ids.npy", starts(backwards), "does not say where"),
        ("ids.npy", lambda _: LIES["huge"], "holds"),
        ("ids.utf8", lambda data: (data / "ids.utf8").read_bytes().replace(b"\xa4", b"\xff"), "not UTF-8"),
        ("vectors.npy", lambda _: LIES["deep"], "vectors.npy"),
    ],
)
def test_data_of_a_compressed_index(
    shards: Path, tmp_path: Path, name: str, content: Callable[[Path], bytes], said: str
) -> None:
    CompressedIndex.build(shards, tmp_path, lists=8)
    data = next(tmp_path.glob("data-*"))
    rewrite(tmp_path, data, name, content(data))
    with pytest.raises(IndexFormatError, match=said):
        open_index(tmp_path)


# ---- shards ------------------------------------------------------------------------------------------------------


def edited(folder: Path, out: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    for path in folder.iterdir():
        os.link(path, out / path.name)
    raw = json.loads((folder / "manifest.json").read_text())
    change(raw)
    (out / "manifest.json").unlink()
    (out / "manifest.json").write_text(json.dumps(raw))
    return out


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(dim=10**30),
        lambda raw: raw.update(dim=None),
        lambda raw: raw.update(options=[]),
        lambda raw: raw["options"].update(role=["document"]),
        lambda raw: raw["options"].update(mode={}),
        lambda raw: raw.update(parts={}),
        lambda raw: raw.update(rows="1100"),
        lambda raw: raw["parts"].append(7),
        lambda raw: raw["parts"][0].update(rows=-1),
        lambda raw: raw["parts"][0].update(name="../../etc"),
        lambda raw: raw["parts"][0].update(files=[]),
        lambda raw: raw["parts"][0]["files"].update({"part-00000-of-00004.npy": {}}),
        lambda raw: raw.update(double_ids=3, double_ids_named=7),
        lambda raw: raw.update(fingerprint="x"),
    ],
)
def test_manifests_of_shards(shards: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(IndexFormatError, match=r"manifest\.json"):
        Index.from_shards(edited(shards, tmp_path, change))


@pytest.mark.parametrize(
    ("ending", "content"), [*((".npy", data) for data in LIES.values()), (".ids.json", DEEP)]
)
def test_data_of_shards(shards: Path, tmp_path: Path, ending: str, content: bytes) -> None:
    name = f"part-00000-of-00004{ending}"

    def told(raw: dict[str, Any]) -> None:
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(content)
        raw["parts"][0]["files"][name] = {"bytes": len(content), "sha256": file_sha256(tmp_path / name)}

    with pytest.raises(IndexFormatError, match="part-00000-of-00004"):
        Index.from_shards(edited(shards, tmp_path, told))


@pytest.mark.parametrize("name", ["units", "rows", "errors", "files", "halved_to"])
def test_a_record_of_a_part_that_cannot_be_is_none(tmp_path: Path, name: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n{"text": "b"}\n')
    encode_shards(ProbeEncoder(), open_source(rows), tmp_path / "out", 2)
    path = tmp_path / "out" / "part-00000-of-00001.done.json"
    whole = path.read_bytes()
    for value in ("x", [7], {"a": 1}, -1, True):
        path.write_text(json.dumps(json.loads(whole) | {name: value}))
        report = encode_shards(ProbeEncoder(), open_source(rows), tmp_path / "out", 2)
        assert (report.made, report.kept) == (1, 0)
        assert path.read_bytes() == whole
