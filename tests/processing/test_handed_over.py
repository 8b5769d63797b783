"""Items as other libraries hand them over: arrays and tensors, URLs that hold or name a file, times, lists of parts."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image

import umekit
from umekit.encoding.deduplication import first_occurrences
from umekit.encoding.inputs.sample import ContentHash, Row
from umekit.processing import items
from umekit.processing.items import ItemError, parse_item
from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.media import load_image
from umekit.processing.processor import UmeProcessor
from umekit.processing.sources import read_bytes
from umekit.processing.video import Sampling, load_video

LIMITS = MediaLimits()
RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
CLIP = RANDOM.integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)


def png(array: np.ndarray = PICTURE) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


# ---- arrays -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        PICTURE,
        PICTURE.transpose(2, 0, 1),
        torch.from_numpy(PICTURE),
        torch.from_numpy(PICTURE).permute(2, 0, 1),
        torch.from_numpy(PICTURE).permute(2, 0, 1).contiguous(),
        torch.from_numpy(PICTURE / 255).requires_grad_(),
        (torch.from_numpy(PICTURE) / 255).permute(2, 0, 1),
        PICTURE[::-1][::-1],
        (PICTURE / 255).astype(np.float16),
    ],
)
def test_pictures_of_any_layout_are_the_same(array: Any) -> None:
    np.testing.assert_array_equal(load_image(array, LIMITS), PICTURE)


def test_bfloat16_grey_and_transparent_arrays() -> None:
    half = (torch.from_numpy(PICTURE) / 255).permute(2, 0, 1).bfloat16()
    assert np.abs(np.asarray(load_image(half, LIMITS), dtype=int) - PICTURE).max() <= 1
    grey = PICTURE[..., 0]
    for array in (grey, grey[None], grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        np.testing.assert_array_equal(np.asarray(load_image(array, LIMITS))[..., 0], grey)
    clear = torch.zeros(4, 8, 9, dtype=torch.uint8)
    assert load_image(clear, LIMITS).getpixel((3, 3)) == (255, 255, 255)


def test_unclear_shapes_are_as_usual_in_their_library() -> None:
    array = RANDOM.integers(0, 256, (3, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(load_image(array, LIMITS), array)
    np.testing.assert_array_equal(load_image(torch.from_numpy(array), LIMITS), array.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 6, 7), np.uint8), "no picture"),
        (torch.zeros(2, 6, 7), "no picture"),
        (torch.zeros(1, 3, 6, 7), "no picture"),
        (torch.rand(3, 6, 7) * 255, "0..1"),
        (torch.full((3, 6, 7), float("nan")), "not finite"),
        (torch.zeros(3, 6, 7, dtype=torch.int64), "int64"),
        (torch.zeros(3, 0, 7), "no pixels"),
        (torch.zeros(3, 6, 7, device="meta"), "meta"),
        (np.float32(3.0), "a path"),
    ],
)
def test_arrays_that_are_no_picture(array: Any, message: str) -> None:
    with pytest.raises((MediaError, TypeError), match=message):
        load_image(array, LIMITS)


@pytest.mark.parametrize(
    "clip",
    [
        CLIP,
        CLIP.transpose(0, 3, 1, 2),
        torch.from_numpy(CLIP).permute(0, 3, 1, 2),
        (torch.from_numpy(CLIP) / 255).permute(0, 3, 1, 2),
        list(torch.from_numpy(CLIP).permute(0, 3, 1, 2)),
        tuple(CLIP),
        {"array": torch.from_numpy(CLIP).permute(0, 3, 1, 2), "video_metadata": None},
    ],
)
def test_clips_of_any_layout_are_the_same(clip: Any) -> None:
    frames = load_video(clip, Sampling(), LIMITS)
    np.testing.assert_array_equal(np.stack([np.asarray(one) for one in frames.images]), CLIP)
    assert frames.seconds == [0, 0.5, 1, 1.5, 2]


def test_shapes_that_are_no_clip() -> None:
    for array, message in (
        (np.zeros((20, 30, 3), np.uint8), "may be one picture"),
        (torch.zeros(3, 20, 30), "may be one picture"),
        (torch.zeros(1, 2, 3, 20, 30), "no video"),
        (torch.zeros(4, 7, 20, 30), "no video"),
    ):
        with pytest.raises(MediaError, match=message):
            load_video(array, Sampling(), LIMITS)


def test_bare_arrays_are_items(tiny_checkpoint: Callable[..., Path]) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"))
    picture, clip = torch.from_numpy(PICTURE).permute(2, 0, 1), torch.from_numpy(CLIP).permute(0, 3, 1, 2)
    expected = encoder.encode(
        [{"image": Image.fromarray(PICTURE)}, {"video": list(map(Image.fromarray, CLIP))}]
    )
    np.testing.assert_allclose(encoder.encode([picture, clip]), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode([PICTURE, CLIP]), expected, atol=1e-5)
    assert encoder.encode(picture).shape == encoder.encode(CLIP).shape == (1, encoder.dim)
    for bad in (torch.zeros(3), torch.zeros(2, 3, 4, 5, 6), 3, b"bytes", None, ["a"], {"a"}):
        with pytest.raises(ItemError, match=r"item 1: cannot embed .*clip"):
            encoder.encode(["a", bad])


def test_equal_arrays_of_other_layout_are_not_mixed_up() -> None:
    cube = RANDOM.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    tensor = torch.from_numpy(cube)
    clip = {"array": CLIP, "video_metadata": {"fps": 1}}
    other = {"array": CLIP[::-1], "video_metadata": {"fps": 1}}
    given = [
        {"image": cube},
        {"image": tensor},
        {"image": cube},
        {"video": clip},
        {"video": other},
        cube,
        tensor,
    ]
    assert first_occurrences(given) == [0, 1, 0, 3, 4, 5, 6]
    assert first_occurrences(
        [{"text": ["a", "b"]}, {"text": ["ab"]}, {"image": ["a", "b"]}, {"image": ["b", "a"]}]
    ) == [*range(4)]


# ---- URLs -------------------------------------------------------------------------------------------------------


def test_data_urls() -> None:
    packed = base64.b64encode(png()).decode()
    for uri in (
        f"data:image/png;base64,{packed}",
        f"DATA:;BASE64,{packed.rstrip('=')}",
        f"data:image/png;charset=utf-8;base64,{quote(packed)}",
        "data:image/png," + quote(png()),
        "data:image/png;base64," + base64.urlsafe_b64encode(png()).decode(),
        "data:image/png;base64," + "\n".join(packed[i : i + 60] for i in range(0, len(packed), 60)),
    ):
        np.testing.assert_array_equal(load_image(uri, LIMITS), PICTURE)
    for uri, message in (
        ("data:image/png;base64", "a data URL is"),
        ("data:image/png;base64,%%%", "base64"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64,AAAA", "not a picture"),
    ):
        with pytest.raises(MediaError, match=message):
            load_image(uri, LIMITS)
    with pytest.raises(MediaError, match="limit of 100") as caught:
        read_bytes(f"data:image/png;base64,{packed}", MediaLimits(file_bytes=100))
    assert len(str(caught.value)) < 200


def test_file_urls(tmp_path: Path) -> None:
    path = tmp_path / "a b#c?d%20ü.png"
    path.write_bytes(png())
    for url in (path.as_uri(), f"file://localhost{quote(str(path))}", f"FILE:{quote(str(path))}"):
        np.testing.assert_array_equal(load_image(url, LIMITS), PICTURE)
    plain = tmp_path / "x#1.png"
    plain.write_bytes(png())
    assert read_bytes(f"file://{plain}", LIMITS) == png()
    for url, message in (
        ("file://server/share/a.png", "only files of this machine"),
        ("file:a.png", "no path"),
        ("file:///no/such.png", "no such file"),
        ("file:///a%00b.png", "no path"),
    ):
        with pytest.raises(MediaError, match=message):
            read_bytes(url, LIMITS)


# ---- times ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({"fps": 10}, [0, 0.1, 0.2, 0.3, 0.4]),
        ({"fps": 30, "frames_indices": [0, 15, 30, 60, 90]}, [0, 0.5, 1, 2, 3]),
        ({"fps": 30, "frames_indices": np.arange(5) * 3, "total_num_frames": 15}, [0, 0.1, 0.2, 0.3, 0.4]),
        ({"duration": 2.5}, [0, 0.5, 1, 1.5, 2]),
        ({"total_num_frames": 50, "duration": 5.0}, [0, 0.1, 0.2, 0.3, 0.4]),
        ({"fps": None, "total_num_frames": 5}, [0, 0.5, 1, 1.5, 2]),
    ],
)
def test_frames_bring_their_times(told: dict[str, Any], seconds: list[float]) -> None:
    for frames in (CLIP, list(CLIP)):
        found = load_video({"array": frames, "video_metadata": told}, Sampling(), LIMITS)
        assert found.seconds == pytest.approx(seconds)
    padded = load_video({"array": CLIP, "fps": 10}, Sampling(list_pad=True), LIMITS)
    assert padded.seconds == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"fps": 0}, "'fps'"),
        ({"fps": float("nan")}, "'fps'"),
        ({"fps": "2"}, "'fps'"),
        ({"fps": 2, "frames_indices": [0, 1]}, "frames_indices"),
        ({"fps": 2, "frames_indices": [0, 3, 2, 4, 5]}, "frames_indices"),
        ({"duration": -1}, "'duration'"),
        ([1], "takes a dict"),
    ],
)
def test_times_that_make_no_sense(told: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        load_video({"array": CLIP, "video_metadata": told}, Sampling(), LIMITS)
    with pytest.raises(MediaError, match="unknown key"):
        load_video({"array": CLIP, "sampling_rate": 3}, Sampling(), LIMITS)
    with pytest.raises(MediaError, match="given with frames"):
        load_video({"array": "film.mp4", "fps": 3}, Sampling(), LIMITS)


def test_qwen3_vl_reads_the_times_that_were_told(tiny_checkpoint: Callable[..., Path]) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen3_vl"))
    told = {"fps": 30, "frames_indices": [0, 30, 60, 90]}
    row = processor.prepare({"video": {"array": CLIP[:4], "video_metadata": told}})
    text = processor.tokenizer.decode(row.input_ids)
    assert "<0.5 seconds>" in text
    assert "<2.5 seconds>" in text


# ---- lists of parts ---------------------------------------------------------------------------------------------


def test_lists_are_parts_in_order() -> None:
    def parts(raw: Any) -> tuple[Any, ...]:
        return parse_item(raw).parts

    assert parts({"text": ["a", "b"]}) == (items.TextPart("a"), items.TextPart("b"))
    assert parts({"image": ["a.png", "b.png"], "text": "c"}) == (
        items.ImagePart("a.png"),
        items.ImagePart("b.png"),
        items.TextPart("c"),
    )
    assert parse_item({"image": ["a.png"]}).listed
    frames = ["a.png", "b.png"]
    assert parts({"video": frames}) == (items.VideoPart(frames),)
    assert parts({"video": ["a.mp4", "data:video/mp4;base64,AA"]}) == (
        items.VideoPart("a.mp4"),
        items.VideoPart("data:video/mp4;base64,AA"),
    )
    assert parts({"video": [frames, frames]}) == (items.VideoPart(frames), items.VideoPart(frames))
    assert len(parts({"video": [CLIP, torch.from_numpy(CLIP), {"array": CLIP, "fps": 2}]})) == 3
    assert len(parts({"video": list(CLIP)})) == 1
    assert parts({"image": [], "text": "a"}) == (items.TextPart("a"),)


def test_lists_are_embedded_as_their_parts(tiny_checkpoint: Callable[..., Path]) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl"))
    two = processor.prepare({"video": [CLIP, CLIP[:2]], "text": ["a", "b"]})
    assert [one.grid[0] for one in two.videos] == [3, 1]
    assert two.rendered.index("a") < two.rendered.rindex("b")
    images = processor.prepare({"image": [PICTURE, PICTURE[:10]]})
    np.testing.assert_array_equal(
        images.input_ids, processor.prepare({"images": [PICTURE, PICTURE[:10]]}).input_ids
    )


def test_names_of_rows_tell_tensors_apart() -> None:
    from umekit.encoding.encode_rows import _content_hash

    large = torch.zeros(3, 200, 200)
    other = large.clone()
    other[1, 100, 100] = 1
    hashes = [
        _content_hash({"image": one}) for one in (large, other, large.numpy(), large.clone().requires_grad_())
    ]
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3


class FakeDecoder:
    """What torchcodec documents of its ``VideoDecoder``: a film of 20 frames at 4 a second that begins at 3 s."""

    metadata = SimpleNamespace(average_fps=4.0, num_frames=20)

    def __len__(self) -> int:
        return 20

    def get_frame_at(self, index: int) -> Any:
        if index >= 20:
            raise IndexError(index)
        data = torch.full((3, 28, 56), index * 10, dtype=torch.uint8)
        return SimpleNamespace(data=data, pts_seconds=3 + index / 4, duration_seconds=0.25)


def test_a_film_that_its_owner_decodes(tiny_checkpoint: Callable[..., Path]) -> None:
    found = load_video(FakeDecoder(), Sampling(fps=2, max_frames=8), MediaLimits())
    shown = [np.asarray(image)[0, 0, 0] // 10 for image in found.images]
    assert shown == [0, 3, 5, 8, 11, 14, 16, 19]
    assert found.seconds == [number / 4 for number in shown]
    assert not found.from_list
    assert len(parse_item({"video": [FakeDecoder(), FakeDecoder()]}).parts) == 2
    for bare in (
        FakeDecoder(),
        {"array": CLIP, "video_metadata": {"fps": 4}},
    ):  # as sentence-transformers takes them
        assert parse_item(bare).parts == (items.VideoPart(bare),)
    encoder = umekit.load(tiny_checkpoint())
    assert np.isfinite(encoder.encode([{"video": FakeDecoder()}])).all()
    np.testing.assert_array_equal(encoder.encode(FakeDecoder()), encoder.encode([{"video": FakeDecoder()}]))


def test_a_film_that_cannot_be_decoded_says_so() -> None:
    broken = FakeDecoder()
    broken.get_frame_at = lambda index: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(MediaError, match="cannot read the video"):
        load_video(broken, Sampling(), MediaLimits())
    timeless = FakeDecoder()
    timeless.get_frame_at = lambda index: SimpleNamespace(  # type: ignore[method-assign]
        data=torch.zeros(3, 8, 8), pts_seconds=float("nan")
    )
    with pytest.raises(MediaError, match="without a time"):
        load_video(timeless, Sampling(), MediaLimits())


@pytest.mark.parametrize("rate", [None, 0, float("nan")])
def test_a_film_of_unknown_rate_is_read(rate: float | None) -> None:
    film = FakeDecoder()
    film.metadata = SimpleNamespace(average_fps=rate, num_frames=20)
    assert load_video(film, Sampling(max_frames=4), MediaLimits()).seconds == [0, 1.5, 3.25, 4.75]


def test_what_cannot_be_compared_is_never_the_same() -> None:
    hashes = []
    for _ in range(2):
        content = ContentHash()
        content.add(Row("a", {"video": FakeDecoder()}))
        hashes.append(content.hexdigest())
    assert hashes[0] != hashes[1]
    from umekit.encoding.encode_rows import _content_hash

    assert _content_hash({"video": FakeDecoder()}) != _content_hash({"video": FakeDecoder()})
