"""The README's picture shows every result, and the right one in green."""

from __future__ import annotations

from pathlib import Path

import pytest
import readme_picture
from PIL import Image, ImageColor

from umekit.demo.queries import Result


def test_a_row_a_query_and_the_right_one_is_green(tmp_path: Path) -> None:
    pytest.importorskip("av")
    pytest.importorskip("pypdfium2")
    from umekit.demo.gallery import pdf_bytes
    from umekit.demo.mp4 import mp4_bytes
    from umekit.demo.queries import Query

    picture = Image.new("RGB", (84, 84), "navy")
    picture.save(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(mp4_bytes([picture] * 4))
    (tmp_path / "c.pdf").write_bytes(pdf_bytes([picture]))
    hits = (("a.png", 0.9), ("b.mp4", 0.5), ("c.pdf#page=1", 0.1))
    query = Query("text -> image", {}, "image", "b.mp4", text="a text", file=tmp_path / "a.png")
    sheet = readme_picture.draw([(Result(query, hits), "said")] * 2, tmp_path, 3)
    assert sheet.size == (readme_picture.WIDTH, readme_picture.HEAD + 2 * readme_picture.ROW)
    green = ImageColor.getrgb(readme_picture.RIGHT)
    middle = readme_picture.HEAD + readme_picture.ROW // 2
    frames = [
        sheet.getpixel((readme_picture.HITS + readme_picture.CARD * place + 2, middle)) for place in range(3)
    ]
    assert [frame == green for frame in frames] == [False, True, False]
