"""Sources: ids and order, what is bad keeps its place, and nothing names a file outside its root."""

from __future__ import annotations

import base64
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umekit.encoding.inputs import InputError, OutsideRootError, Row, Source, open_source
from umekit.encoding.inputs import lines as lines_module
from umekit.encoding.inputs.columns import Columns, media_within
from umekit.processing.limits import MediaLimits


def rows_of(source: Source) -> list[Row]:
    """All rows, through a pickle as another process would have them; twice, to see that nothing is used up."""
    found = [row for sample in source.samples() for row in sample.rows()]
    copy = pickle.loads(pickle.dumps(source))
    assert [row.id for sample in copy.samples() for row in sample.rows()] == [row.id for row in found]
    assert copy.fingerprint() == source.fingerprint()
    assert len({row.id for row in found}) == len(found)
    return found


def png(color: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (color, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def pdf(pages: int = 2) -> bytes:
    buffer = io.BytesIO()
    sheets = [Image.new("RGB", (20, 20), (0, 0, 60 * n)) for n in range(pages)]
    sheets[0].save(buffer, "PDF", save_all=True, append_images=sheets[1:])
    return buffer.getvalue()


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def tar(path: Path, members: list[tuple[str, Any]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            header = tarfile.TarInfo(name)
            if isinstance(data, tarfile.TarInfo):
                header = data
                archive.addfile(header)
                continue
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


# --- folders --------------------------------------------------------------------------------------------


def test_a_folder_in_order_with_bad_files_in_their_place(tmp_path: Path) -> None:
    root = tmp_path / "files"
    (root / "sub").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(png())
    (root / "b.png").write_bytes(png())
    (root / "a.txt").write_text("a text")
    (root / "sub" / "doc.pdf").write_bytes(pdf(3))
    (root / "c.txt").write_text("")
    (root / "d.csv").write_text("not ours")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "e.txt").symlink_to(tmp_path / "secret.txt")
    source = open_source(root)
    found = rows_of(source)
    assert source.count() == 5
    assert [row.id for row in found] == ["a.txt", "b.png", "c.txt", "e.txt"] + [
        f"sub/doc.pdf#page={page}" for page in (1, 2, 3)
    ]
    assert found[0].item == {"text": "a text"}
    assert found[1].item == {"image": str(root / "b.png")}
    assert found[2].error == "the file is empty"
    assert "leads out" in str(found[3].error)
    before = source.fingerprint()
    (root / "a.txt").write_text("another text")
    assert open_source(root).fingerprint() != before


def test_nothing_to_encode(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no"):
        open_source(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "gone")
    (tmp_path / "x.csv").write_text("a,b")
    with pytest.raises(InputError, match="can't read"):
        open_source(tmp_path / "x.csv")


def test_what_a_folder_is(tmp_path: Path) -> None:
    jsonl(tmp_path / "rows.jsonl", "a")
    (tmp_path / "README.md").write_text("about the data")
    assert [row.id for row in rows_of(open_source(tmp_path))] == ["rows.jsonl:1"]
    (tmp_path / "picture.png").write_bytes(png())
    assert "picture.png" in [row.id for row in rows_of(open_source(tmp_path))]
    assert [row.id for row in rows_of(open_source(tmp_path, format="jsonl"))] == ["rows.jsonl:1"]


# --- jsonl ----------------------------------------------------------------------------------------------


def test_jsonl_rows_are_texts_items_or_columns(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "rows.jsonl",
        '"a text"',
        "",
        {"id": 7, "text": "t", "image": "pictures/a.png", "label": 3, "video": None},
        {"item": {"image": "https://example.org/a.png", "text": "t"}, "id": "own"},
        {"label": 1},
        {"images": ["a.png", "b.png"], "instruction": "find"},
        '{"text": NaN}',
        "[" * 100_000,
        {"id": True, "text": "x"},
        {"id": "\ud800", "text": "x"},
        "5",
    )
    found = rows_of(open_source(path))
    assert found[0] == Row("rows.jsonl:1", "a text")
    assert found[1] == Row("7", {"text": "t", "image": str(tmp_path / "pictures/a.png")})
    assert found[2] == Row("own", {"image": "https://example.org/a.png", "text": "t"})
    assert "the row has label" in str(found[3].error)
    assert found[4].item["images"] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert found[4].id == "rows.jsonl:6"
    assert [row.error is not None for row in found[5:]] == [True] * 5
    assert open_source(path).count() == len(found)


def test_columns_by_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"key": "k", "caption": "c", "text": "not this", "jpg": "a.jpg"})
    columns = {"text": "caption", "image": "jpg", "id": "key"}
    assert rows_of(open_source(path, columns=columns)) == [
        Row("k", {"text": "c", "image": str(tmp_path / "a.jpg")})
    ]
    assert rows_of(open_source(path, columns={"item": "caption"}))[0].item == "c"
    with pytest.raises(ValueError, match="unknown key"):
        open_source(path, columns={"picture": "jpg"})


def test_an_endless_line_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "LINE_BYTES", 100)
    path = jsonl(tmp_path / "rows.jsonl", {"text": "x" * 1000}, {"text": "good"}, '"' + "y" * 97 + '"')
    assert [row.error is None for row in rows_of(open_source(path))] == [False, True, True]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../secret.png",
        "a/../../secret.png",
        "file:///etc/passwd",
        "C:\\windows\\x.png",
        "..\\secret.png",
        "\\\\server\\x.png",
        "link/secret.png",
        "a\0.png",
        {"path": "/etc/passwd"},
        ["ok.png", "../secret.png"],
    ],
)
def test_no_row_names_a_file_outside(tmp_path: Path, path: Any) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    (tmp_path / "secret.png").write_bytes(png())
    with pytest.raises(OutsideRootError):
        media_within(path, root)
    for key in ("image", "video", "document", "images"):
        value = [path] if key == "images" and not isinstance(path, list) else path
        for row in ({key: value}, {"item": {key: value}}):
            assert Columns().row(row, "x", root).error is not None
    with pytest.raises(OutsideRootError, match="cannot name files"):
        media_within("ok.png", None)


def test_a_row_holds_what_an_item_holds(tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    frames = [f"{number}.png" for number in range(3)]
    inner = [str(tmp_path / name) for name in frames]
    clip, found_clip = {"array": frames, "fps": 4}, {"array": inner, "fps": 4}
    path = jsonl(
        tmp_path / "rows.jsonl",
        {"image": uri},
        {"image": ["DATA:,x", "0.png"]},
        {"text": ["one", "two"], "video": clip},
        {"video": [frames, frames]},
        {"item": {"video": [clip, {"array": "0.mp4", "video_metadata": {"fps": 1}}]}},
    )
    rows = rows_of(open_source(path))
    assert [row.item for row in rows] == [
        {"image": uri},
        {"image": ["DATA:,x", inner[0]]},
        {"text": ["one", "two"], "video": found_clip},
        {"video": [inner, inner]},
        {"video": [found_clip, {"array": str(tmp_path / "0.mp4"), "video_metadata": {"fps": 1}}]},
    ]
    wrong: tuple[dict[str, Any], ...] = (
        {"video": {"array": ["../0.png"], "fps": 2}},
        {"video": [[["0.png"]]]},
        {"video": {"path": "0.mp4", "fps": 2}},
        {"video": {"array": [["0.png"]]}},
        {"video": {"array": {"array": []}}},
        {"text": [["one"]]},
        {"text": [{"a": 1}]},
        {"instruction": ["one"], "text": "a"},
    )
    for row in wrong:
        assert Columns().row(row, "x", tmp_path).error is not None


# --- parquet and datasets -------------------------------------------------------------------------------


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    count = 150
    table = pa.table(
        {
            "id": [f"p{number}" for number in range(count)],
            "text": [f"text {number}" for number in range(count)],
            "image": [{"bytes": png(number), "path": "x.png"} for number in range(count - 1)]
            + [{"bytes": None, "path": "../out.png"}],
            "other": list(range(count)),
        }
    )
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "one.parquet", row_group_size=70)
    (tmp_path / "data" / "two.parquet").write_bytes(b"PAR1 not really")
    source = open_source(tmp_path / "data")
    found = rows_of(source)
    assert source.count() == count + 1
    assert [row.id for row in found] == [f"p{number}" for number in range(count)] + ["two.parquet"]
    assert found[70].item == {"text": "text 70", "image": png(70)}
    assert "below its own folder" in str(found[count - 1].error)
    assert found[-1].error is not None
    samples = list(source.samples())
    assert samples[80].rows()[0].id == "p80"
    assert samples[3].rows()[0].id == "p3"  # a step back


def test_a_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"caption": ["a", "b", "c"], "image": [{"bytes": png(n), "path": None} for n in range(3)]}
    features = datasets.Features({"caption": datasets.Value("string"), "image": datasets.Image()})
    dataset = datasets.Dataset.from_dict(rows, features=features).select([2, 0])
    dataset.save_to_disk(tmp_path / "saved")
    source = open_source(tmp_path / "saved", columns={"text": "caption", "image": "image"})
    assert rows_of(source) == [
        Row("saved#0", {"text": "c", "image": png(2)}),
        Row("saved#1", {"text": "a", "image": png(0)}),
    ]
    assert source.count() == 2
    both = datasets.DatasetDict({"train": dataset, "test": dataset.select([0])})
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(InputError, match="splits train, test"):
        open_source(tmp_path / "both")
    assert open_source(tmp_path / "both", split="test").count() == 1
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_data_files"] = [{"filename": "../both/test/data-00000-of-00001.arrow"}]
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="outside"):
        open_source(tmp_path / "saved")


# --- tars -----------------------------------------------------------------------------------------------


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_samples_of_a_tar(tmp_path: Path, mode: str) -> None:
    members = [
        ("dir/0001.jpg", png(1)),
        ("dir/0001.json", json.dumps({"text": "from json", "label": 3}).encode()),
        ("0002.png", png(2)),
        ("0002.txt", b"a caption"),
        ("0002.cls", b"5"),
        ("0003.a.png", png(3)),
        ("0003.b.png", png(4)),
        ("0004.pdf", pdf(2)),
        ("0005.pickle", pickle.dumps({"text": "x"})),
        ("0006.json", json.dumps({"image": "/etc/passwd", "text": "x"}).encode()),
        ("0007.png", link("0007.png", "/etc/passwd", tarfile.SYMTYPE)),
        ("0008.png", link("0008.png", "0002.png", tarfile.LNKTYPE)),
        ("../../0009.txt", b"up"),
        ("0002.jpg", png(9)),
        ("0010.txt", b"\xff\xfe\x00"),
        ("0011.txt", b"last"),
    ]
    path = tar(tmp_path / ("a.tar.gz" if mode == "w:gz" else "a.tar"), members, mode)
    source = open_source(path)
    found = {
        row.id.removeprefix(path.name + "/"): row
        for row in [r for u in source.samples() for r in u.rows()][:10]
    }
    assert source.count() is None
    assert found["dir/0001"].item == {"image": png(1), "text": "from json"}
    assert found["0002"].item == {"image": png(2), "text": "a caption"}
    assert found["0003"].item == {"images": [png(3), png(4)]}
    assert found["0004#page=2"].item["page"] == 2
    assert "no image" in str(found["0005"].error)
    assert "cannot name files" in str(found["0006"].error)
    for name in ("0007", "0008"):
        assert "link" in str(found[name].error)
    assert found["../../0009"].item == {"text": "up"}
    assert sorted(tmp_path.iterdir()) == [path]  # nothing was extracted
    every = [row for sample in source.samples() for row in sample.rows()]
    assert every[-3].error == "the archive has this key in two places"
    assert every[-2].error is not None
    assert every[-1].item == {"text": "last"}


def test_broken_and_oversized_archives(tmp_path: Path) -> None:
    good = tar(tmp_path / "a.tar", [("1.txt", b"one"), ("2.txt", b"x" * 5000), ("3.txt", b"three")])
    limits = MediaLimits(file_bytes=1000)
    assert [row.error is None for row in rows_of(open_source(good, limits=limits))] == [True, False, True]
    (tmp_path / "b.tar").write_bytes(good.read_bytes()[:2048])
    (tmp_path / "c.tar").write_bytes(b"no tar at all" * 100)
    bomb = tar(tmp_path / "d.tar.gz", [("1.txt", bytes(100_000)), ("2.txt", b"two")], "w:gz")
    assert len(bomb.read_bytes()) < 2000
    found = rows_of(open_source(tmp_path, limits=limits))
    errors = {row.id: row.error for row in found if row.error is not None}
    assert set(errors) == {"a.tar/2", "b.tar/2", "c.tar", "d.tar.gz"} or "b.tar" in errors
    assert {"a.tar/1", "a.tar/3", "b.tar/1"} <= {row.id for row in found}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_are_what_they_hold_and_none_is_lost(tmp_path: Path, mode: str) -> None:
    members = [
        ("1.first.txt", b"one"),
        ("1.jpg_orig", png()),
        ("1.md", b"two"),
        ("1.cls", b"7"),
        ("2.txt", b"three"),
        ("2.npy", b"\x93NUMPY" + bytes(100)),
        ("2", b"nothing"),
        ("2.dng", b"II*\0" + bytes(100)),
        (".hidden", b"x"),
        ("3.cls", b"8"),
        ("4.a.pdf", b"%PDF-1.4"),
        ("4.b.pdf", b"%PDF-1.4"),
    ]
    source = open_source(tar(tmp_path / ("a.tar.gz" if mode == "w:gz" else "a.tar"), members, mode))
    items = {row.id.partition("/")[2]: row for row in rows_of(source)}
    assert items["1"].item == {"text": ["one", "two"], "image": png()}
    assert items["2"].item == {"text": "three"}
    assert "no image" in str(items["3"].error)
    assert "two documents" in str(items["4"].error)
    assert source.left_out == {".cls": 2, ".npy": 1, ".dng": 1, "without an ending": 1}  # type: ignore[attr-defined]


def test_an_animation_in_a_tar_is_a_video(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((8, 8, 3), 90 * n, np.uint8)) for n in range(3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    path = tar(tmp_path / "a.tar", [("1.gif", buffer.getvalue())])
    assert rows_of(open_source(path))[0].item == {"video": buffer.getvalue()}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_sample_is_limited_as_a_whole(tmp_path: Path, mode: str) -> None:
    """Six members, each within the limit; what no item takes does not count."""
    large = [(f"2.{number}.png", bytes(30_000)) for number in range(6)]
    members = [("1.txt", b"one"), ("1.npy", bytes(90_000)), *large, ("3.txt", b"three")]
    path = tar(tmp_path / "a.tar", members, mode)
    found = rows_of(open_source(path, limits=MediaLimits(file_bytes=100_000)))
    assert [(row.id[-1], row.error is None) for row in found] == [("1", True), ("2", False), ("3", True)]
    assert "more than 100000 bytes" in str(found[1].error)
