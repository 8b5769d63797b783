"""Folders as people have them: what is found, what is an error of one file, and what is only counted."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from umekit.encoding.inputs import files, open_source
from umekit.encoding.inputs.files import UnreadableFileError, file_items
from umekit.encoding.inputs.folder import counted, list_files
from umekit.processing.limits import MediaLimits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    return folder


def test_links_pipes_and_sockets_end_nothing(root: Path, tmp_path: Path) -> None:
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "loop").symlink_to(root / "loop")
    (root / "gone.png").symlink_to(root / "nothing")
    (root / "up").symlink_to(root)
    (tmp_path / "out.txt").write_text("secret")
    (root / "out.txt").symlink_to(tmp_path / "out.txt")
    os.mkfifo(root / "pipe.mp4")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "s"))
    listing = list_files(root)
    errors = {found.name: found.error for found in listing.files}
    assert errors["a.png"] is None
    assert "leads nowhere" in str(errors["loop.jpg"])
    assert "leads nowhere" in str(errors["gone.png"])
    assert "out of the folder" in str(errors["out.txt"])
    assert errors["pipe.mp4"] == "not a regular file"
    assert listing.left_out == {"broken links": 1, "links to folders": 1, "sockets, pipes and devices": 2}


def test_deep_folders_and_odd_names(root: Path) -> None:
    (root / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    here, depth = os.getcwd(), 1500  # more than Python's stack
    os.chdir(root)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        errors = {found.name: found.error for found in list_files(root).files}
        for _ in range(depth):  # pytest could not remove them: it recurses
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(here)
    assert errors == {"a.png": None, "\\udcff.png": "its name is not valid UTF-8"}


def test_the_content_says_what_a_file_is(root: Path) -> None:
    (root / "a.png").rename(root / "photo")
    Image.new("RGB", (8, 8)).save(root / "really.mp4", "JPEG")
    Image.new("RGB", (8, 8)).save(root / "b.dng", "TIFF")
    (root / "types.mts").write_text("export type A = string\n")
    (root / "talk.py").write_text("HEADER = '%PDF-1.4'\n")
    (root / "song.m4a").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
    listing = list_files(root)
    assert [found.name for found in listing.files] == ["photo", "really.mp4"]
    assert [next(iter(file_items(found.path)[0][1])) for found in listing.files] == ["image", "image"]
    assert counted(listing.left_out) == "1 .dng, 1 .m4a, 1 .mts, 1 .py"


def test_pages_of_a_tiff_are_rows_and_animations_are_videos(root: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (n * 60, 0, 0)) for n in range(3)]
    frames[0].save(root / "scan.tif", save_all=True, append_images=frames[1:])
    frames[0].save(root / "moving.png", save_all=True, append_images=frames[1:])
    assert [row.id for sample in open_source(root).samples() for row in sample.rows()] == [
        "a.png",
        "moving.png",
        *(f"scan.tif#page={page}" for page in (1, 2, 3)),
    ]
    assert file_items(root / "moving.png")[0][2] == {"kind": "video"}


@pytest.mark.parametrize(
    "error",
    [
        struct.error("short"),
        SyntaxError("no"),
        IndexError("x"),
        EOFError(),
        ZeroDivisionError(),
        MemoryError(),
    ],
)
def test_whatever_a_reader_raises_is_an_error_of_its_file(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def raises(*_: object) -> None:
        raise error

    monkeypatch.setattr(files, "medium_kind", raises)
    with pytest.raises(UnreadableFileError):
        file_items(root / "a.png")


def test_cut_off_gifs(tmp_path: Path) -> None:
    frames = [Image.new("L", (32, 32), n * 60) for n in range(3)]
    path = tmp_path / "b.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        with suppress(UnreadableFileError):  # and nothing else
            file_items(path)


def test_a_sparse_file_is_refused_by_its_size(root: Path) -> None:
    with (root / "big.png").open("wb") as handle:
        handle.truncate(1 << 40)
    with pytest.raises(UnreadableFileError, match="more than the limit"):
        file_items(root / "big.png", MediaLimits())
