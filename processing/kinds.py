"""What a file is: the one table of endings, and what its first bytes say where the ending lies or is missing.

Everything that looks for media asks here: folders, archives, files of the command line, strings that may be paths.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["image", "video", "document"]

ENDINGS: dict[str, Kind] = {}  # of the name, in lower case and with its dot
for _kind, _endings in (
    (
        "image",
        "png apng jpg jpeg jpe jfif jif mpo webp bmp dib gif tif tiff avif avifs heic heif hif heics heifs "
        "jp2 j2k j2c jpc jpf jpx jpg2 tga icb vda vst ppm pgm pbm pnm pfm pcx qoi psd ico sgi dds",
    ),
    (
        "video",
        "mp4 m4v mov qt webm mkv avi mpg mpeg mpe mpv m1v m2v vob mod mts m2ts m2t 3gp 3gpp 3g2 flv f4v wmv asf ogv "
        "ogm mxf rm rmvb dv mj2 divx y4m",
    ),
    ("document", "pdf"),
):
    ENDINGS.update({f".{ending}": _kind for ending in _endings.split()})  # type: ignore[misc]

# Endings of films and of other things (TypeScript, Amiga music, Fortran): in folders, the content has the say.
CHECKED = frozenset({".mts", ".mod"})
# What begins like a medium and is none of ours: raw photos are TIFF, drawings PDF, sound has the containers of films.
OTHERS = frozenset(
    f".{ending}"
    for endings in (
        "dng nef nrw arw srf sr2 cr2 cr3 crw orf rw2 rwl pef srw raf 3fr erf kdc mrw x3f iiq ai ait indd",
        "m4a m4b m4p m4r aac mp3 mka wma oga ogg opus spx weba wav flac aax",
        "part crdownload download partial tmp",  # not whole yet
    )
    for ending in endings.split()
)

HEAD_BYTES = 2048  # of a file's beginning that tell what it is
PDF_BYTES = 1024  # of them, in which the header of a PDF may begin
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
PAGED = frozenset({"tiff"})  # formats of pictures that may have further pages
ANIMATED = frozenset({"gif", "webp", "png", "avif"})  # and further frames

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg 2000"),
    (b"\xff\x4f\xff\x51\0", "jpeg 2000"),
    (b"qoif", "qoi"),
    (b"8BPS\0\x01", "psd"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c", "asf"),
    (b"\0\0\x01\xba", "mpeg"),
    (b"\0\0\x01\xb3", "mpeg"),
    (b".RMF\0\0", "realmedia"),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", "mxf"),
    (b"YUV4MPEG2 ", "y4m"),
)
_IMAGES = frozenset(
    {"png", "jpeg", "gif", "tiff", "jpeg 2000", "qoi", "psd", "webp", "bmp", "avif", "heic", "netpbm"}
)
_NETPBM = re.compile(rb"P[1-6FfY]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s")
_ATOMS = frozenset(
    {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
)  # of a QuickTime film without a brand
_TS_PACKET = 188


def media_kind(source: str | os.PathLike[str]) -> Kind | None:
    """``image``, ``video`` or ``document`` by the ending of a path or URL, or by the type of a data URI.

    Any text may end like a file: whether one that is no URL is a path at all is for the caller to find out. None for
    anything else, texts (.txt) included.
    """
    text = os.fsdecode(source)
    if text[:5].lower() == "data:":
        family = text[5:60].lower()
        if family.startswith("application/pdf"):
            return "document"
        return "image" if family.startswith("image/") else "video" if family.startswith("video/") else None
    if "://" in text[:32]:
        try:
            text = unquote(urlsplit(text).path)
        except ValueError:  # brackets that are no address
            return None
    return ENDINGS.get(ending_of(text))


def ending_of(path: str | os.PathLike[str]) -> str:
    """The ending of a name in lower case, with its dot; empty where it has none."""
    return PurePosixPath(os.fsdecode(path).replace("\\", "/")).suffix.lower()


def format_of(head: bytes) -> str | None:
    """The format of a file by its first ``HEAD_BYTES``; None where they do not tell (TGA has no mark at all)."""
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _brand(head)
    if head[:2] == b"BM" and head[6:10] == bytes(4) and head[15:18] == bytes(3):
        return "bmp"
    if head[4:8] in _ATOMS and head[:2] == bytes(2):
        return "mp4"
    if head[:4] == b"OggS":
        return "ogg" if any(mark in head for mark in (b"\x80theora", b"OVP80", b"BBCD\0")) else None
    if _NETPBM.match(head):
        return "netpbm"
    for offset, packet in (
        (0, _TS_PACKET),
        (4, _TS_PACKET + 4),
    ):  # of cameras, with a time before each packet
        marks = head[offset::packet]
        if len(marks) >= 4 and set(marks) == {0x47} and 0 in head:  # a text has no NUL
            return "mpeg-ts"
    return "pdf" if b"%PDF-" in head[: PDF_BYTES + 4] else None


def kind_of_format(name: str | None) -> Kind | None:
    """The kind of :func:`format_of`'s answer."""
    if name is None:
        return None
    return "document" if name == "pdf" else "image" if name in _IMAGES else "video"


def other_kind(data: bytes, wanted: Kind) -> str | None:
    """Words for a file that is of another kind than the one it was given as; None where its bytes do not tell."""
    found = format_of(data[:HEAD_BYTES])
    kind = kind_of_format(found)
    if kind is None or kind == wanted:
        return None
    name = {"image": "a picture", "video": "a film", "document": "a document"}[kind]
    return f"it is {name} ({found}); give it as {kind!r}"


def _brand(head: bytes) -> str | None:
    """A file of boxes by its brands: a picture, or a film; None for audio and raw photos."""
    size = int.from_bytes(head[:4], "big")
    major, others = head[8:12], head[16 : min(max(size, 16), 256)]
    brands = {major, *(others[i : i + 4] for i in range(0, len(others), 4))}
    if major in (b"crx ", b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "):
        return None
    if major in (b"avif", b"avis") or (major in (b"mif1", b"msf1") and b"avif" in brands):
        return "avif"
    return "heic" if major in HEIC_BRANDS else "mp4"
