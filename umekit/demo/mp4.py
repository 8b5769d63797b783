"""A list of frames -> the bytes of an mp4 file, with whichever encoder PyAV has."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

from PIL import Image

# codec and options: as little loss as it allows
CODECS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"crf": "4", "preset": "veryfast"}),
    ("h264", {"crf": "4"}),
    ("mpeg4", {"qmin": "1", "qmax": "2", "mpv_flags": "+strict_gop"}),
)
FRAMES_PER_SECOND = 2


def mp4_bytes(frames: list[Image.Image]) -> bytes:
    """Encode RGB frames of one even size.

    Raises:
        ImportError: PyAV is missing.
        RuntimeError: none of the codecs can be used.
    """
    try:
        import av
    except ImportError:
        raise ImportError("writing clips needs PyAV: pip install umekit[demo]") from None
    for codec, options in CODECS:
        try:
            return _encode(frames, codec, options)
        except (av.FFmpegError, ValueError):
            continue
    raise RuntimeError(f"PyAV has none of the codecs {', '.join(codec for codec, _ in CODECS)}")


def _encode(frames: list[Image.Image], codec: str, options: dict[str, str]) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream: Any = file.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        if codec == "mpeg4":
            stream.bit_rate = 8_000_000
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_image(frame)))
        file.mux(stream.encode())
    return buffer.getvalue()
