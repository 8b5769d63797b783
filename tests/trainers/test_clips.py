"""Clips of a long video: the right frames, the right negatives, the same ones at every reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umekit.encoding.inputs import OutsideRootError
from umekit.processing.items import parse_item
from umekit.processing.limits import MediaError, MediaLimits
from umekit.trainers.clips import ClipRows, cut, read_clip, video_seconds
from umekit.trainers.sampling import Source, target_codes

av = pytest.importorskip("av")

RATE, SECONDS = 10, 12


def write_film(path: Path, codec: str = "mpeg4", rate: int = RATE) -> Path:
    """Second s is grey of 20 s; a key frame every 25 frames, so that clips do not begin at one."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 48, 32, "yuv420p", 25
        stream.bit_rate = 2_000_000
        for number in range(rate * SECONDS):
            grey = np.full((32, 48, 3), 20 * (number // rate), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("films") / "long.mp4")


def shades(frames: list[Image.Image]) -> list[float]:
    return [round(float(np.asarray(frame).mean()) / 20, 1) for frame in frames]


def videos(path: Any) -> list[dict[str, Any]]:
    clips = [{"start": s, "end": s + 2.0, "text": f"seconds {s} to {s + 2}"} for s in range(0, 12, 2)]
    clips.append({"start": 1.0, "end": 3.0, "text": "overlaps with two"})
    clips.append({"start": 10.0, "end": 12.0, "text": "seconds 0 to 2"})
    return [{"video": path, "clips": clips}]


def test_a_clip_has_the_frames_of_its_middles(film: Path) -> None:
    assert shades(read_clip(film, 3.0, 7.0, 4)) == pytest.approx([3, 4, 5, 6], abs=0.11)
    assert shades(read_clip(film.read_bytes(), 9.0, 12.0, 3)) == pytest.approx([9, 10, 11], abs=0.11)
    assert shades(read_clip(film, 5.0, 5.5, 3)) == pytest.approx([5, 5, 5], abs=0.11)
    assert shades(read_clip(film, 0.0, 1.0, 1)) == pytest.approx([0], abs=0.11)
    assert video_seconds(film) == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.ts", "mpeg2video"), ("a.mpg", "mpeg2video"), ("a.mkv", "mpeg4"), ("a.avi", "mpeg4")],
)
def test_a_clip_is_right_where_a_container_has_no_index(tmp_path: Path, name: str, codec: str) -> None:
    path = write_film(tmp_path / name, codec, rate=25)
    assert shades(read_clip(path, 3.0, 7.0, 4)) == pytest.approx([3, 4, 5, 6], abs=0.11)
    assert shades(read_clip(path, 9.0, 14.0, 5)) == pytest.approx([9, 10, 11, 11, 11], abs=0.11)


def test_a_clip_that_outlasts_the_video_ends_with_its_last_frame(film: Path) -> None:
    assert shades(read_clip(film, 10.0, 14.0, 4)) == pytest.approx([10, 11, 11, 11], abs=0.11)
    with pytest.raises(MediaError, match="ends before the clip that starts at 20"):
        read_clip(film, 20.0, 22.0, 2)


def test_limits_and_files_that_are_no_films(film: Path) -> None:
    with pytest.raises(MediaError, match="more than 5 frames in a clip"):
        read_clip(film, 0.0, 10.0, 3, MediaLimits(video_frames=5))
    with pytest.raises(MediaError, match="more than the limit of 100"):
        read_clip(film, 0.0, 1.0, 1, MediaLimits(image_pixels=100))
    with pytest.raises(MediaError, match="cannot read the video"):
        read_clip(b"no film at all", 0.0, 1.0, 1)
    with pytest.raises(MediaError, match="cannot read the video"):
        video_seconds(b"no film at all")


def test_rows_have_other_clips_of_the_video_as_negatives(film: Path) -> None:
    rows = ClipRows(
        videos(film.name), media=film.parent, frames=2, negatives=3, seed=1, task="video", dataset="long"
    )
    assert len(rows) == 8
    row = rows[2]
    assert row["query"] == "seconds 4 to 6"
    assert (row["task"], row["dataset"], row["positive_id"]) == ("video", "long", "video 0 4-6.0")
    assert shades(row["positive"]["video"]) == pytest.approx([4, 5], abs=0.11)
    assert len(row["negatives"]) == 3
    expected = [[s, s + 1] for s in (rows.videos[0]["clips"][one]["start"] for one in rows.negatives_of(2))]
    for negative, second in zip(row["negatives"], expected, strict=True):
        parse_item(negative)
        assert shades(negative["video"]) == pytest.approx(second, abs=0.11)
    again = ClipRows(videos(film.name), media=film.parent, frames=2, negatives=3, seed=1)
    assert [again.negatives_of(i) for i in range(8)] == [rows.negatives_of(i) for i in range(8)]
    other = ClipRows(videos(film.name), media=film.parent, frames=2, negatives=3, seed=2)
    assert [other.negatives_of(i) for i in range(8)] != [rows.negatives_of(i) for i in range(8)]


def test_clips_that_overlap_or_say_the_same_are_no_negatives(film: Path) -> None:
    rows = ClipRows(videos(film.name), media=film.parent, negatives=99)
    assert rows.negatives_of(0) == [1, 2, 3, 4, 5], "not the overlapping 6 and not 7, which has its text"
    assert rows.negatives_of(6) == [2, 3, 4, 5, 7]
    assert rows.negatives_of(5) == [0, 1, 2, 3, 4, 6]
    assert ClipRows(videos(film.name), negatives=0).negatives_of(3) == []


def test_planning_decodes_nothing() -> None:
    rows = ClipRows(videos("nowhere.mp4"), instruction="Find the clip.")
    assert rows.names_only()[1]["query"] == {"text": "seconds 2 to 4", "instruction": "Find the clip."}
    assert len(set(target_codes([Source("clips", rows)])[0].tolist())) == 8


def test_bad_videos_are_named(film: Path) -> None:
    good = {"start": 0, "end": 1, "text": "t"}
    for clips, message in (
        ([], "video 1 needs 'video' and a list of 'clips'"),
        ([good, {**good, "text": ""}], "video 1, clip 1: no 'text'"),
        ([{**good, "end": 0}], "video 1, clip 0: from 0 to 0 is no stretch"),
        ([{**good, "start": None}], "video 1, clip 0: from None to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ClipRows([*videos("a.mp4"), {"video": "b.mp4", "clips": clips}])
    with pytest.raises(MediaError, match=r"video 0 \(gone\.mp4\): no such file"):
        ClipRows(videos("gone.mp4"), media=film.parent)[0]
    with pytest.raises(MediaError, match="may only name files below") as caught:
        ClipRows(videos("../gone.mp4"), media=film.parent)[0]
    assert isinstance(caught.value.__cause__, OutsideRootError)
    with pytest.raises(ValueError, match="frames must be positive"):
        ClipRows(videos("a.mp4"), frames=0)


def test_cut() -> None:
    assert cut(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert cut(9.5, 4) == [(0, 4), (4, 8)], "a rest of less than half a clip is left out"
    assert cut(9.5, 4, least=1) == [(0, 4), (4, 8), (8, 9.5)]
    assert cut(8, 4, stride=2, least=4) == [(0, 4), (2, 6), (4, 8)]
    assert cut(100, 10, most_clips=3) == [(0, 10), (40, 50), (90, 100)]
    assert cut(0, 4) == []
    with pytest.raises(ValueError, match="must be positive"):
        cut(10, 0)
