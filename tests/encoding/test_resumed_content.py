"""A part that is there is kept for one reason: it was made of what is there now."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.encoding.fake_encoder import FakeEncoder
from umekit.encoding.index.exact import Index
from umekit.encoding.inputs import Row, open_source
from umekit.encoding.inputs.sample import ContentHash
from umekit.encoding.shards.run import encode_shards

SIDE = 16


class Encoder(FakeEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def encode(self, items: Any, **options: Any) -> Any:
        self.batches += 1
        return super().encode(items, **options)

    def _vector(self, item: Any) -> np.ndarray:
        images = [item["image"]] if isinstance(item, dict) and "image" in item else []
        if images and isinstance(images[0], bytes):
            item = {"text": hashlib.sha256(images[0]).hexdigest()}
        return super()._vector(item)


def encoded(source: Path, out: Path, size: int = 2) -> tuple[Any, Any, Index]:
    report = encode_shards(Encoder(), open_source(source), out, size, role="document", show_progress=False)
    return report.made, report.kept, Index.from_shards(out)


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (colour, 0, 0)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def folder(root: Path) -> Path:
    for number in range(6):
        (root / f"p{number}.png").write_bytes(png(number))
    return root


def lines(root: Path) -> Path:
    folder(root)
    path = root / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{n}", "image": f"p{n}.png"}) + "\n" for n in range(6)))
    return path


def archive(root: Path) -> Path:
    path = root / "samples.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(6):
            data = png(number)
            info = tarfile.TarInfo(f"s{number}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            padding = tarfile.TarInfo(
                f"s{number}.bin"
            )  # so that the ends of the archive are far from the middle
            padding.size = 1 << 16
            tar.addfile(padding, io.BytesIO(bytes(1 << 16)))
    return path


def change_picture(root: Path) -> None:
    """Another picture of the same size and time in the third place."""
    path = root / "p2.png"
    facts = path.stat()
    path.write_bytes(png(200))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_size == facts.st_size


def change_member(root: Path) -> None:
    path = root / "samples.tar"
    data = path.read_bytes()
    assert data.count(png(2)) == 1
    path.write_bytes(data.replace(png(2), png(200)))


@pytest.mark.parametrize(
    ("make", "change"), [(folder, change_picture), (lines, change_picture), (archive, change_member)]
)
def test_a_change_in_the_middle_makes_that_part_anew(
    tmp_path: Path, make: Callable[[Path], Path], change: Callable[[Path], None]
) -> None:
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in")
    assert encoded(source, tmp_path / "out")[:2] == (3, 0)
    made, kept, before = encoded(source, tmp_path / "out")
    assert (made, kept) == (0, 3)
    change(tmp_path / "in")
    with pytest.warns(UserWarning, match="part-00001.* was made of other content than is there now"):
        made, kept, after = encoded(source, tmp_path / "out")
    assert (made, kept) == (1, 2)
    differs = np.abs(before.vectors - after.vectors).max(axis=1) > 0
    assert [name for name, other in zip(before.ids, differs, strict=True) if other] == [before.ids[2]]
    fresh = encoded(source, tmp_path / "fresh")[2]
    np.testing.assert_array_equal(after.vectors, fresh.vectors)
    for path in (tmp_path / "fresh").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_the_middle_of_a_long_file_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n:04d} " + "x" * 1000}) + "\n" for n in range(400)))
    encoded(path, tmp_path / "out", 100)
    path.write_text(path.read_text().replace("0200 x", "9999 x"))
    with pytest.warns(UserWarning, match="part-00002"):
        assert encoded(path, tmp_path / "out", 100)[:2] == (1, 3)


def test_a_file_that_was_mended_is_read_again(tmp_path: Path) -> None:
    root = folder(tmp_path)
    good = (root / "p1.png").read_bytes()
    (root / "p1.png").write_bytes(b"BROKEN" + bytes(len(good) - 6))
    assert len(encoded(root, tmp_path / "out")[2]) == 5
    (root / "p1.png").write_bytes(good)
    with pytest.warns(UserWarning, match="part-00000"):
        made, kept, index = encoded(root, tmp_path / "out")
    assert (made, kept, len(index)) == (1, 2, 6)


def test_a_part_of_an_earlier_version_is_made_anew(tmp_path: Path) -> None:
    root = folder(tmp_path)
    encoded(root, tmp_path / "out")
    path = tmp_path / "out" / "part-00001-of-00003.done.json"
    record = json.loads(path.read_text())
    del record["content"]
    path.write_text(json.dumps(record))
    assert encoded(root, tmp_path / "out")[:2] == (1, 2)


def hash_of(*items: Any) -> str:
    content = ContentHash()
    for number, item in enumerate(items):
        content.add(Row(str(number), item))
    return content.hexdigest()


def test_what_counts_as_content(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(1))
    (tmp_path / "c.png").write_bytes(png(2))
    a, b, c = (str(tmp_path / f"{name}.png") for name in "abc")
    assert hash_of({"image": a}) == hash_of({"image": b}) == hash_of({"image": f"file://{a}"})
    assert hash_of({"images": [a, b]}) == hash_of({"images": [b, a]})
    different = [
        {"image": a},
        {"image": c},
        {"text": a},
        a,
        {"image": str(tmp_path / "none.png")},
        {"image": str(tmp_path)},
        {"image": "https://example.org/a.png"},
        {"image": Image.open(a)},
        {"image": Image.open(c)},
        {"image": np.zeros((4, 4, 3), np.uint8)},
        {"image": np.zeros((4, 3, 4), np.uint8)},
        {"image": png(1)},
        {"images": [a]},
        {"images": [a, c]},
        {"images": [c, a]},
        {"video": a},
        {"document": a, "page": 1},
        {"document": a, "page": 2},
        {"text": "x", "instruction": "y"},
        {"text": "xy", "instruction": ""},
        {"text": "x\0y"},
        None,
    ]
    assert len({hash_of(item) for item in different}) == len(different)
    assert hash_of("ab", "c") != hash_of("a", "bc")


def test_files_that_cannot_be_read_are_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as handle:
        handle.truncate(2**40)
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in ("pipe.png", "huge.png", "loop.png", "nul\0.png", "x" * 5000):
        assert hash_of({"image": str(tmp_path / name)})
