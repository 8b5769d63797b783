"""Video files through PyAV: when each frame is shown, and the frames as a player shows them.

Nothing is believed of a header that packets and frames can tell: not the number of frames, not the duration, not the
rate.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .limits import Deadline, MediaError, MediaLimits, check_frame, check_step
from .media import to_rgb
from .sampling import Timeline, repaired

try:
    import av
except ImportError:  # an optional extra: the error is raised where a video file is asked for
    av = None  # type: ignore[assignment]

# Containers that hold their own frames. FFmpeg also reads playlists, which name files and addresses to open.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,flv,ogg,asf,mxf,nut,rm,dv,"
    "gif,apng,yuv4mpegpipe"
)
_OPEN_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own leave transparency out

# How a stored picture is turned: whether the display matrix swaps the axes, then the signs of the new x and y.
_TURNS = {
    (False, -1, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, 1, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, -1, -1): Image.Transpose.ROTATE_180,
    (True, -1, 1): Image.Transpose.ROTATE_270,
    (True, 1, -1): Image.Transpose.ROTATE_90,
    (True, 1, 1): Image.Transpose.TRANSPOSE,
    (True, -1, -1): Image.Transpose.TRANSVERSE,
}


class Film:
    """A video file.

    Args:
        data: the file.
        deadline: time for all that is done with it.
        limits: what it may cost.
        rate: frames per second of a film that tells nothing about its times.
    """

    def __init__(self, data: bytes, deadline: Deadline, limits: MediaLimits, rate: float) -> None:
        self.data, self.deadline, self.limits, self.rate = data, deadline, limits, rate
        self._times: list[int] | None = None  # of the frames, in the order in which they are shown

    def timeline(self) -> Timeline:
        """When the frames are shown, by the packets: nothing is decoded."""
        times: list[int | None] = []
        total, last = 0, (-1, 0)
        with self._opened() as film:
            stream = self._stream(film)
            self._check_frame(stream.codec_context.width, stream.codec_context.height)
            for packet in film.demux(stream):
                self.deadline.check()
                if packet.size == 0 or packet.is_discard:  # the end, or what an edit list cuts off
                    continue
                check_step(total, self.deadline, self.limits)
                total += 1
                times.append(packet.pts)
                if packet.pts is not None:
                    last = max(last, (packet.pts, packet.duration or 0))
            if total == 0:
                raise MediaError(f"{self.deadline.name} has no frames")
            known = [time for time in times if time is not None]
            if len(known) < total or len(set(known)) < total:
                # Without times frames are told by their number. Where a time is there twice, decoding has to show
                # in which order the frames come.
                self._times = None
                return self._decoded_timeline() if known else self._without_times(stream, total)
            self._times = sorted(known)
            tick = float(stream.time_base)
            return Timeline.of(
                [time * tick for time in self._times], last[1] * tick, _rate(stream), tick, self.rate
            )

    def decoded_timeline(self) -> Timeline:
        """The same by the frames themselves, where they are not what the packets promised."""
        self._times = None
        return self._decoded_timeline()

    def pictures(self, keep: Sequence[int], seek: bool = False) -> Iterator[Image.Image]:
        """The frames of those numbers, which rise, as RGB: upright, with square pixels, transparency on white.

        Fewer where the frames are not those that the packets promised. ``seek`` begins at the key frame before the
        first of them; where the container cannot go there, there are fewer, too.
        """
        wanted = set(keep)
        before = None
        numbers = None if self._times is None else {time: number for number, time in enumerate(self._times)}
        with self._opened() as film:
            stream = self._stream(film)
            seek = seek and self._times is not None and keep[0] > 0
            if seek and self._times is not None:
                film.seek(self._times[keep[0]], stream=stream, backward=True)
            for count, frame in enumerate(self._frames(film, stream)):
                number = count
                if numbers is not None:
                    if frame.pts not in numbers or (before is not None and numbers[frame.pts] <= before):
                        return
                    number = before = numbers[frame.pts]
                if seek and count == 0 and not (frame.key_frame and number <= keep[0]):
                    return
                if number in wanted:
                    yield _as_shown(frame, stream, self.deadline, self.limits)
                if number >= keep[-1]:
                    return

    # ---- steps ----------------------------------------------------------------------------------------------------

    def _decoded_timeline(self) -> Timeline:
        times: list[int | None] = []
        with self._opened() as film:
            stream = self._stream(film)
            for frame in self._frames(film, stream):
                check_step(len(times), self.deadline, self.limits)
                times.append(frame.pts)
            if not times:
                raise MediaError(f"{self.deadline.name} has no frame that can be decoded")
            known = [time for time in times if time is not None]
            if len(known) < len(times):
                return self._without_times(stream, len(times))
            tick = float(stream.time_base)
            seconds = repaired([time * tick for time in known])
            return Timeline.of(seconds, None, _rate(stream), tick, self.rate)

    def _without_times(self, stream: Any, total: int) -> Timeline:
        return Timeline.at_rate(total, _rate(stream), self.rate)

    def _frames(self, film: Any, stream: Any) -> Iterator[Any]:
        """Frames one by one; packets that give none are counted against the time, too.

        Packets that cannot be decoded are passed over, as players do, with a warning: a film that is cut off often
        ends in one.
        """
        decoder = _decoder_of(stream, self.deadline)
        bad = 0
        for packet in film.demux(stream):
            self.deadline.check()
            try:
                frames = decoder.decode(packet)
            except av.error.InvalidDataError:
                bad += 1
                continue
            for frame in frames:
                self.deadline.check()
                self._check_frame(frame.width, frame.height)  # it may differ from the header's
                yield frame
        if bad:
            warnings.warn(
                f"{self.deadline.name} is damaged or cut off: {bad} packets could not be decoded",
                stacklevel=2,
            )

    def _opened(self) -> Any:
        return av.open(io.BytesIO(self.data), "r", options=_OPEN_OPTIONS, metadata_errors="replace")

    def _stream(self, film: Any) -> Any:
        if not film.streams.video:
            raise MediaError(f"{self.deadline.name} has no video stream")
        return film.streams.video[0]

    def _check_frame(self, width: int, height: int) -> None:
        check_frame(width, height, self.deadline, self.limits)


def _as_shown(frame: Any, stream: Any, deadline: Deadline, limits: MediaLimits) -> Image.Image:
    """A decoded frame as a player shows it, as RGB: upright, with square pixels, transparency on white."""
    picture = to_rgb(_picture(frame))
    ratio = stream.sample_aspect_ratio
    if ratio and ratio > 0 and ratio != 1:  # one side is enlarged, so that nothing is lost
        width, height = round(frame.width * max(ratio, 1)), round(frame.height / min(ratio, 1))
        check_frame(width, height, deadline, limits)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    turn = _turn(frame)
    return picture if turn is None else picture.transpose(turn)


def _decoder_of(stream: Any, deadline: Deadline) -> Any:
    """What decodes a stream's packets, transparency included, in one thread.

    FFmpeg's threads race where a film is damaged: which frames a decoder repairs, and even how many it gives, then
    depends on the machine and the moment. Several films are read at a time instead.

    Raises:
        MediaError: this build of PyAV has none for that transparency.
    """
    context = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and context.name in ALPHA_DECODERS:
        try:
            context = av.CodecContext.create(ALPHA_DECODERS[context.name], "r")
        except av.codec.codec.UnknownCodecError:
            raise MediaError(
                f"{deadline.name} is transparent in places, and this build of PyAV cannot decode that"
            ) from None
    context.thread_type, context.thread_count = "NONE", 1
    return context


def _rate(stream: Any) -> float | None:
    return float(stream.average_rate) if stream.average_rate else None


def _picture(frame: Any) -> Image.Image:
    """A decoded frame with its transparency, if its format has any."""
    if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
        return Image.fromarray(frame.to_ndarray(format="rgba"))
    return frame.to_image()


def _turn(frame: Any) -> Image.Transpose | None:
    """How a stored picture becomes the one that is shown, by its display matrix; to the nearest right angle."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), dtype=np.int32).tolist()
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    x, y = (c, b) if swapped else (a, d)
    return _TURNS.get((swapped, -1 if x < 0 else 1, -1 if y < 0 else 1))
