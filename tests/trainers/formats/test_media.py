"""Media by path, in archives and as bytes; nothing leads out of the root."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from umekit.encoding.inputs import OutsideRootError
from umekit.processing.limits import MediaError, MediaLimits
from umekit.trainers.formats import MediaRoot


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.jpg").write_bytes(b"a file")
    with zipfile.ZipFile(folder / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/b.jpg", b"zipped")
        archive.writestr("big.jpg", b"0" * 5000)
        archive.writestr("../escape.jpg", b"stays in memory")
    with tarfile.open(folder / "c.tar", "w") as tar:
        for name, data in (("./0001.jpg", b"tarred"), ("0002.jpg", b"second")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return folder


def test_paths_members_bytes_and_addresses(root: Path) -> None:
    media = MediaRoot(root)
    assert media.find("sub/a.jpg") == str(root / "sub" / "a.jpg")
    assert media.find("b.zip::in/b.jpg") == b"zipped"
    assert media.find(["c.tar::0001.jpg", "c.tar::0002.jpg"]) == [b"tarred", b"second"]
    assert media.find({"bytes": b"x", "path": "ignored"}) == b"x"
    assert media.find({"bytes": None, "path": "b.zip::in/b.jpg"}) == b"zipped"
    assert media.find("https://example.org/a.jpg") == "https://example.org/a.jpg"
    item = {"text": "sub/a.jpg", "image": "sub/a.jpg", "video": None}
    assert media.item(item) == {"text": "sub/a.jpg", "image": str(root / "sub" / "a.jpg")}
    assert media.item("sub/a.jpg") == "sub/a.jpg", "a str is a text"


def test_an_archive_can_be_the_root(root: Path) -> None:
    assert MediaRoot(root / "b.zip").find("in/b.jpg") == b"zipped"
    assert MediaRoot(root / "c.tar").find("0001.jpg") == b"tarred"


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "/etc/passwd", "sub/../../secret.jpg", "../media/b.zip::in/b.jpg"]
)
def test_no_path_leads_out(root: Path, path: str) -> None:
    with pytest.raises(OutsideRootError):
        MediaRoot(root).find(path)


def test_a_link_does_not_lead_out(root: Path) -> None:
    (root / "link.jpg").symlink_to(root.parent / "secret.jpg")
    with pytest.raises(OutsideRootError):
        MediaRoot(root).find("link.jpg")


def test_without_a_root_no_file_is_named() -> None:
    with pytest.raises(OutsideRootError, match="cannot name files"):
        MediaRoot(None).find("a.jpg")


def test_members_stay_in_memory_and_links_are_none(root: Path) -> None:
    media = MediaRoot(root)
    assert media.find("b.zip::../escape.jpg") == b"stays in memory"
    assert sorted(path.name for path in root.parent.iterdir()) == ["media", "secret.jpg"]
    with pytest.raises(MediaError, match=r"c\.tar has no member 'link\.jpg'"):
        media.find("c.tar::link.jpg")
    with pytest.raises(MediaError, match=r"b\.zip has no member 'nothing'"):
        media.find("b.zip::nothing")
    with pytest.raises(MediaError, match="no archive"):
        media.find("d.zip::x")


def test_a_member_over_the_limit_and_archives_of_other_kinds(root: Path) -> None:
    media = MediaRoot(root, MediaLimits(file_bytes=1000))
    with pytest.raises(MediaError, match=r"big\.jpg has 5000 bytes; the limit is 1000"):
        media.find("b.zip::big.jpg")
    with tarfile.open(root / "d.tar.gz", "w:gz") as tar:
        tar.add(root / "sub" / "a.jpg", "a.jpg")
    with pytest.raises(MediaError, match="unpack it once"):
        media.find("d.tar.gz::a.jpg")
    with pytest.raises(MediaError, match="neither a zip nor a plain tar"):
        media.find("sub/a.jpg::x")
    with pytest.raises(FileNotFoundError):
        MediaRoot(root / "nowhere")


def test_workers_open_archives_anew(root: Path) -> None:
    media = MediaRoot(root)
    media.find("b.zip::in/b.jpg")
    assert pickle.loads(pickle.dumps(media)).find("b.zip::in/b.jpg") == b"zipped"


def test_a_member_is_bytes_that_know_their_place(root: Path) -> None:
    found = MediaRoot(root / "b.zip").find("in/b.jpg")
    for one in (found, pickle.loads(pickle.dumps(found))):  # as it comes from a worker
        assert (one, one.archive, one.member) == (b"zipped", str(root / "b.zip"), "in/b.jpg")
