"""Items of the wrong kind or of odd types: taken as what they are, or refused with what to do."""

from __future__ import annotations

import base64
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence, features

from umekit.encoding.inputs.files import file_items
from umekit.processing.animation import is_film
from umekit.processing.documents import load_document
from umekit.processing.items import DocumentPart, ImagePart, ItemTypeError, VideoPart, parse_item
from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.media import load_image
from umekit.processing.video import Sampling, load_video

LIMITS = MediaLimits()
RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
FRAMES = [Image.fromarray(RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(5)]
PDF = b"%PDF-1.4\n%%EOF"
MP4 = b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(64)
FORMATS = ["GIF", "WEBP", "PNG", *(["AVIF"] if features.check("avif") else [])]


def packed(format: str, frames: list[Image.Image] = FRAMES) -> bytes:
    stream = io.BytesIO()
    frames[0].save(stream, format, save_all=True, append_images=frames[1:], duration=100)
    return stream.getvalue()


def as_uri(data: bytes, kind: str = "application/octet-stream") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# ---- lists of animated pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_animated_pictures_in_a_list_are_clips(format: str, tmp_path: Path) -> None:
    moving, still = packed(format), packed(format, FRAMES[:1])
    for name, data in (("moving", moving), ("still", still)):
        (tmp_path / f"{name}.{format.lower()}").write_bytes(data)
    path, other = (str(tmp_path / f"{name}.{format.lower()}") for name in ("moving", "still"))
    for clip in (moving, path, Path(path), {"bytes": moving, "path": None}, {"path": path}, as_uri(moving)):
        assert parse_item({"video": [clip, clip]}).parts == (VideoPart(clip), VideoPart(clip))
    for frame in (still, other, Path(other), as_uri(still, "image/png")):
        assert len(parse_item({"video": [frame, frame]}).parts) == 1
    with pytest.raises(ItemTypeError, match="not both in a list"):
        parse_item({"video": [moving, still]})
    for frames in ([still, path], {"array": [path], "fps": 2}):
        with pytest.raises(MediaError, match=r"frame \d: .*is an animation and no frame"):
            load_video(frames, Sampling(), LIMITS)


def test_frames_that_are_one_picture_moving_on_are_refused() -> None:
    with pytest.raises(MediaError, match=r"animation and no frame; .*frame\.copy\(\)"):
        load_video(list(ImageSequence.Iterator(Image.open(io.BytesIO(packed("GIF"))))), Sampling(), LIMITS)
    copies = [frame.copy() for frame in ImageSequence.Iterator(Image.open(io.BytesIO(packed("PNG"))))]
    found = load_video(copies, Sampling(), LIMITS)
    assert [image.tobytes() for image in found.images] == [image.tobytes() for image in FRAMES]


def test_an_open_file_of_several_pages_is_no_document(tmp_path: Path) -> None:
    FRAMES[0].save(tmp_path / "a.tif", save_all=True, append_images=FRAMES[1:])
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(2)
        np.testing.assert_array_equal(load_image(image, LIMITS), FRAMES[2])  # the page that it shows
        with pytest.raises(MediaError, match="give the file as the document"):
            load_document(image, None, 10_000, LIMITS)
    assert len(load_document(tmp_path / "a.tif", None, 10_000, LIMITS)) == 5


def test_what_cannot_be_read_is_no_film(tmp_path: Path) -> None:
    for source in (
        b"",
        b"GIF89a",
        str(tmp_path),
        "no/such.gif",
        "data:,",
        "http://a/b.gif",
        "file://host/a.gif",
        "a\0b",
    ):
        assert not is_film(source)
    assert is_film(MP4)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow has no AVIF")
def test_moving_avif_in_a_folder_is_a_clip(tmp_path: Path) -> None:
    for name, frames in (("moving", FRAMES), ("still", FRAMES[:1])):
        (tmp_path / f"{name}.avif").write_bytes(packed("AVIF", frames))
        kind = "video" if name == "moving" else "image"
        assert [item for _, item, _ in file_items(tmp_path / f"{name}.avif")] == [
            {kind: str(tmp_path / f"{name}.avif")}
        ]


# ---- files of another kind --------------------------------------------------------------------------------------


def test_files_of_another_kind_are_named() -> None:
    for data, words in (
        (MP4, r"a film \(mp4\); give it as 'video'"),
        (PDF, r"a document \(pdf\); give it as 'document'"),
    ):
        with pytest.raises(MediaError, match=words):
            load_image(data, LIMITS)
    with pytest.raises(MediaError, match="give it as 'video'"):
        load_document(MP4, 1, 1000, LIMITS)
    picture = packed("PNG", FRAMES[:1])
    for data, words in ((PDF, "give it as 'document'"), (picture, r"a picture \(png\); give it as 'image'")):
        with pytest.raises(MediaError, match=words):
            load_video(data, Sampling(), LIMITS)
    with pytest.raises(MediaError, match="one picture: give it as 'image'"):
        load_video(FRAMES[0], Sampling(), LIMITS)
    with pytest.raises(MediaError, match="cannot read the video"):  # a clip all the same
        load_video(packed("GIF")[:40], Sampling(), LIMITS)


@pytest.mark.parametrize("record", [{}, {"url": "a"}, {"bytes": None, "path": None}])
def test_records_without_content(record: dict[str, Any]) -> None:
    for read in (load_image, lambda one, limits: load_video(one, Sampling(), limits)):
        with pytest.raises(MediaError, match="'bytes' or 'path'; this one holds"):
            read(record, LIMITS)  # type: ignore[operator]
    with pytest.raises(MediaError, match="times are given with frames"):
        load_video({"path": "a.mp4", "fps": 2}, Sampling(), LIMITS)


def test_the_order_of_words_in_a_data_url() -> None:
    body = base64.b64encode(packed("PNG", FRAMES[:1])).decode()
    np.testing.assert_array_equal(load_image(f"data:image/png;base64;charset=x,{body}", LIMITS), FRAMES[0])


# ---- arrays and numbers -----------------------------------------------------------------------------------------


def test_layouts_and_masks() -> None:
    tensor = torch.from_numpy(PICTURE / 255)
    np.testing.assert_array_equal(load_image(tensor.to_sparse(), LIMITS), PICTURE)
    np.testing.assert_array_equal(load_image(np.ma.masked_array(PICTURE), LIMITS), PICTURE)
    with pytest.raises(MediaError, match="filled"):
        load_image(np.ma.masked_array(PICTURE, PICTURE > 200), LIMITS)
    with pytest.raises(ItemTypeError, match="ndarray of object"):
        parse_item(np.array(["a", None], dtype=object))


def test_a_page_may_be_a_number_of_numpy() -> None:
    assert parse_item({"document": "a.pdf", "page": np.int64(3)}).parts == (DocumentPart("a.pdf", 3),)
    for page in (np.bool_(True), np.float32(1), "1", True):
        with pytest.raises(ItemTypeError, match="takes an int"):
            parse_item({"document": "a.pdf", "page": page})
    assert parse_item({"image": ["a.gif", "b.gif"]}).parts == (ImagePart("a.gif"), ImagePart("b.gif"))


@pytest.mark.parametrize("rate", [Fraction(4), np.array(4.0), np.float32(4), torch.tensor(4.0)])
def test_rates_of_any_type(rate: Any) -> None:
    assert load_video({"array": FRAMES, "fps": rate}, Sampling(), LIMITS).seconds == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("indices", ["abcde", [None] * 5, 5, [0, 1, 2, 3, float("nan")], [[0]] * 5])
def test_indices_of_no_frames(indices: Any) -> None:
    with pytest.raises(MediaError, match="'frames_indices' must be 5 numbers"):
        load_video(
            {"array": FRAMES, "video_metadata": {"fps": 2, "frames_indices": indices}}, Sampling(), LIMITS
        )
    with pytest.raises(MediaError, match="'fps' of a video"):
        load_video({"array": FRAMES, "fps": True}, Sampling(), LIMITS)
