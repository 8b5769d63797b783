"""What may be handed in, and what is said when it may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umekit.processing import items
from umekit.processing.items import ItemError, ItemTypeError, parse_item
from umekit.processing.processor import UmeProcessor


def test_key_order_is_content_order() -> None:
    parts = parse_item(
        {"image": 1, "text": "a", "images": [2, 3], "video": 4, "document": 5, "page": 2}
    ).parts
    assert parts == (
        items.ImagePart(1),
        items.TextPart("a"),
        items.ImagePart(2),
        items.ImagePart(3),
        items.VideoPart(4),
        items.DocumentPart(5, 2),
    )
    assert parse_item({"text": "a", "image": 1}).parts == (items.TextPart("a"), items.ImagePart(1))


def test_a_str_is_text_even_if_it_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Image.new("RGB", (8, 8)).save(path)
    for text in (str(path), "http://example.org/cat.png", "data:image/png;base64,AAAA"):
        assert parse_item(text).parts == (items.TextPart(text),)


def test_values_that_are_none_are_left_out() -> None:
    row = {"text": "a", "image": None, "images": None, "video": None, "document": None, "page": None}
    assert parse_item({**row, "instruction": None}) == items.Item((items.TextPart("a"),), None)
    assert parse_item({"text": "", "instruction": ""}) == items.Item((items.TextPart(""),), "")


@pytest.mark.parametrize(
    ("raw", "kind", "message"),
    [
        (3, ItemTypeError, "cannot embed a int"),
        (None, ItemTypeError, "NoneType"),
        (b"bytes", ItemTypeError, "bytes"),
        (["a", "b"], ItemTypeError, "list"),
        (np.zeros(4), ItemTypeError, "array of shape"),
        (np.array(["a"]), ItemTypeError, "ndarray"),
        ({"txt": "a"}, ItemTypeError, "unknown key 'txt'"),
        ({"text": 3}, ItemTypeError, "'text' takes a str"),
        ({"text": ["a", 3]}, ItemTypeError, "'text' takes a str"),
        ({"text": []}, ItemError, "nothing to embed"),
        ({"video": ["a.mp4", "b.png"]}, ItemTypeError, "not both in a list"),
        ({"text": "a", "instruction": 1}, ItemTypeError, "'instruction' takes a str"),
        ({"images": "a.png"}, ItemTypeError, "use 'image' for one"),
        ({"document": "a.pdf", "page": "2"}, ItemTypeError, "'page' takes an int"),
        ({"document": "a.pdf", "page": True}, ItemTypeError, "'page' takes an int"),
        ({"document": "a.pdf", "page": 0}, ItemError, "counts from 1"),
        ({"text": "a", "page": 1}, ItemError, "needs a 'document'"),
        ({}, ItemError, "nothing to embed"),
        ({"text": None, "instruction": "find"}, ItemError, "nothing to embed"),
        ("lone \ud800 surrogate", ItemError, "surrogate at 5"),
    ],
)
def test_what_cannot_be_embedded_is_named(raw: Any, kind: type[ItemError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        parse_item(raw, 7)
    assert str(caught.value).startswith("item 7: ")
    assert caught.value.index == 7


def test_the_processor_names_the_item(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl"))
    for broken in ({"image": tmp_path / "none.png"}, {"image": b"no picture"}, {"video": []}, {"image": 3}):
        with pytest.raises(ItemError, match="item 2: "):
            processor.prepare_all(["a", "b", broken])
    with pytest.raises(ItemTypeError, match="item 1: "):
        processor.prepare_all(["a", 3])
    with pytest.raises(ValueError, match="role is 'passage'"):
        processor.prepare("a", role="passage")


def test_default_instructions_per_role(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl"))
    prompt = replace(processor.settings.prompt, instructions={"query": "find the page", "document": "a page"})
    processor = processor.with_settings(prompt=prompt)
    processor.save_pretrained(tmp_path)
    for reader in (processor, UmeProcessor.from_pretrained(tmp_path)):

        def text(item: Any, reader: UmeProcessor = reader, **kwargs: Any) -> str:
            return reader.prepare(item, **kwargs).rendered

        assert "find the page\na" in text("a", role="query")
        assert "a page\na" in text("a", role="document")
        assert (
            text("a")
            == text("a", role="query", instruction="")
            == text({"text": "a", "instruction": ""}, role="query")
        )
        assert "mine\na" in text("a", role="query", instruction="mine")
        own = {"text": "a", "instruction": "its own"}
        assert "its own\na" in text(own, role="query", instruction="mine")
