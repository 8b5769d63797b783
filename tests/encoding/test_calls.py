"""An argument that would be ignored, or be every item's error, is refused at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import umekit
from umekit.cli.main import main
from umekit.encoding.encode_rows import EncodeRows
from umekit.encoding.index.exact import Index
from umekit.encoding.inputs import open_source
from umekit.encoding.shards.run import encode_shards
from umekit.testing import save_tiny_reranker

NO_COUNT = [0, -1, 1.5, True, False, "8", float("nan")]


class Table:
    """What tables of pandas and polars have in common; one is read as the names of its columns."""

    columns = ("text", "image")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def to_dict(self) -> dict[str, list[str]]:
        return {name: [name] for name in self.columns}


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Callable[..., Path]) -> umekit.Encoder:
    return umekit.load(tiny_checkpoint("qwen2_vl"))


@pytest.fixture(scope="module")
def thinker(tiny_checkpoint: Callable[..., Path]) -> umekit.Encoder:
    return umekit.load(tiny_checkpoint("qwen2_vl", role="generative"))


BAD: list[dict[str, Any]] = [
    *({"batch_tokens": value} for value in NO_COUNT),
    *({"num_samples": value} for value in (*NO_COUNT, None)),
    {"mode": ""},
    {"role": ""},
    {"on_error": ""},
    {"reduce": ""},
    {"instruction": 3},
    {"instruction": b"find"},
    {"kappa": 0.5},
    {"colour": "red"},
]
THINKING: list[dict[str, Any]] = [
    *({"max_new_tokens": value} for value in NO_COUNT),
    *({"temperature": value} for value in (-1, float("inf"), float("nan"), True, "1")),
    *({"top_p": value} for value in (0, -1, 1.5, True, "1")),
    *({"seed": value} for value in (-1, 0.5, True, "1")),
]


@pytest.mark.parametrize("options", BAD, ids=str)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_encode(encoder: umekit.Encoder, options: dict[str, Any], on_error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        encoder.encode(["a"], **{"on_error": on_error, **options})


@pytest.mark.parametrize("options", [*THINKING, {"mode": ""}, {"reduce": ""}, {"num_samples": 0}], ids=str)
def test_thoughts(thinker: umekit.Encoder, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        thinker.encode(["a"], **options)
    if "seed" not in options:
        with pytest.raises(ValueError, match=next(iter(options))):
            thinker.model.encode(["a"], processor=thinker.processor, **options)


@pytest.mark.parametrize("value", NO_COUNT)
def test_other_doors(
    encoder: umekit.Encoder, tiny_backbone: Callable[[str], Path], tmp_path: Path, value: Any
) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        encoder.model.encode(["a"], processor=encoder.processor, batch_size=value)
    with pytest.raises(ValueError, match="batch_tokens"):
        umekit.Encoder(encoder.model, encoder.processor, batch_tokens=value)
    with pytest.raises(ValueError, match="batch_tokens"):
        EncodeRows(batch_tokens=value)
    index = Index(64, {"model": "a", "processor": "b", "dim": 64})
    index.add(["a"], np.eye(1, 64, dtype=np.float32), [{}])
    with pytest.raises(ValueError, match="k is"):
        index.search(np.eye(1, 64, dtype=np.float32), k=value)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    for name in ("batch_tokens", "threads"):
        with pytest.raises(ValueError, match=name):
            encode_shards(encoder, open_source([str(tmp_path / "texts")]), tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


def test_reranker(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    reranker = umekit.load(save_tiny_reranker(tmp_path, tiny_backbone("qwen2_vl")))
    for value in NO_COUNT:
        for call in (
            lambda v: reranker.rerank("a", ["b"], batch_tokens=v),
            lambda v: reranker.rerank_many(["a"], [["b"]], batch_tokens=v),
            lambda v: reranker.model.rerank("a", ["b"], processor=reranker.processor, batch_tokens=v),
            lambda v: type(reranker)(reranker.model, reranker.processor, batch_tokens=v),
        ):
            with pytest.raises(ValueError, match="batch_tokens"):
                call(value)
    with pytest.raises(ValueError, match="on_error"):
        reranker.rerank("a", ["b"], on_error="")


def test_whole_numbers_of_numpy_are_taken(encoder: umekit.Encoder) -> None:
    assert (
        encoder.encode(["a"], batch_tokens=np.int64(64), num_samples=np.int32(1)) == encoder.encode(["a"])
    ).all()


@pytest.mark.parametrize("items", [{"a", "b"}, frozenset("ab"), Table(), b"a", memoryview(b"a"), None, 3])
def test_what_is_no_list_of_items(encoder: umekit.Encoder, items: Any) -> None:
    with pytest.raises(TypeError, match=r"give|has no order"):
        encoder.encode(items)


def test_lists_of_items_of_any_type(encoder: umekit.Encoder) -> None:
    expected = encoder.encode(["a", "b"])
    for items in (
        ("a", "b"),
        iter("ab"),
        {"a": 1, "b": 2}.keys(),
        np.array(["a", "b"]),
        np.array(["a", "b"], object),
    ):
        np.testing.assert_array_equal(encoder.encode(items), expected)


def test_an_empty_instruction_is_none(encoder: umekit.Encoder) -> None:
    plain = encoder.processor.prepare("a", instruction="")
    assert (encoder.processor.prepare({"text": "a", "instruction": ""}).input_ids == plain.input_ids).all()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--batch-tokens", "0"),
        ("--threads", "0"),
        ("--max-new-tokens", "0"),
        ("--max-new-tokens", "-3"),
        ("--mode", ""),
        ("--role", ""),
        ("--shard-size", "0"),
    ],
)
def test_verbs(tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    call = ["encode", "--text", "a", "--out", str(tmp_path / "out.npz"), *arguments]
    try:
        code = main(call)
    except SystemExit as end:  # argparse's
        code = int(end.code or 0)
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()
