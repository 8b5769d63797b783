"""A text over the limit of tokens is never cut silently: a field, one warning a call, counts of the verbs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import umekit
from umekit.cli.main import main
from umekit.encoding.encode_rows import EncodeRows
from umekit.encoding.index.folder_index import index_folder
from umekit.encoding.inputs import open_source
from umekit.encoding.shards.run import encode_shards
from umekit.processing.cut_texts import TextCutWarning
from umekit.testing import save_tiny_reranker

LIMIT = 80
LONG = "the picture of a page, to compare " * 20
SHORT = "a page"


@contextmanager
def told(times: int) -> Iterator[list[str]]:
    """Exactly so many warnings of cut texts."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    name = TextCutWarning.__name__  # a checkpoint's own code has a class of its own
    said += [str(one.message) for one in caught if one.category.__name__ == name]
    assert len(said) == times, said


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return limited(tiny_checkpoint("qwen2_vl"), tmp_path_factory.mktemp("limited") / "checkpoint")


def limited(checkpoint: Path, target: Path) -> Path:
    encoder = umekit.load(checkpoint)
    encoder.model.save_pretrained(target)
    encoder.processor.with_max_length(LIMIT).save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def encoder(folder: Path) -> umekit.Encoder:
    return umekit.load(folder)


def test_texts_with_pictures_and_instructions(encoder: umekit.Encoder, pictures: list[Any]) -> None:
    encoder = umekit.Encoder(encoder.model, encoder.processor.with_max_length(150))
    items = [
        SHORT,
        LONG,
        {"text": LONG, "image": pictures[0]},
        {"text": LONG, "instruction": "compare"},
        LONG,
        7,
    ]
    with told(1) as said:
        found = encoder.encode(items, return_details=True, on_error="skip")
    lost = [encoder.processor.prepare(item).cut_tokens for item in items[:5]]
    assert found.truncated == [*lost, 0]
    assert lost[0] == 0
    assert all(count > 0 for count in lost[1:])
    whole = max(encoder.processor.with_max_length(9999).prepare(item).length for item in items[:5])
    assert f"4 of 6 items were cut: the longest has {whole} tokens, its limit is 150" in said[0]
    with told(0):
        assert encoder.encode([SHORT], return_details=True).truncated == [0]
    with told(1), pytest.warns(UserWarning, match="could not be encoded"):
        encoder.encode(items, on_error="skip")


def test_a_cut_from_the_right(encoder: umekit.Encoder) -> None:
    right = umekit.Encoder(encoder.model, encoder.processor.with_settings(truncation="right", max_length=20))
    with told(1) as said:
        found = right.encode([LONG, SHORT, LONG + "more"], return_details=True)
    assert [count > 0 for count in found.truncated] == [True, False, True]
    assert "its limit is 20" in said[0]


def test_thoughts(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    thinker = umekit.load(limited(tiny_checkpoint("qwen2_vl", role="generative"), tmp_path / "g"))
    for mode in ("generative", "discriminative", "both"):
        with told(1):
            found = thinker.encode([LONG, SHORT], mode=mode, return_details=True)
        assert [count > 0 for count in found.truncated] == [True, False]
        with told(1):
            alone = thinker.model.encode(
                [LONG, SHORT], processor=thinker.processor, mode=mode, return_details=True
            )
        assert alone.truncated == found.truncated


def test_auto_model_and_processor(encoder: umekit.Encoder) -> None:
    with told(1):
        encoder.model.encode([LONG, SHORT, LONG], processor=encoder.processor, batch_size=1)
    with told(1):
        encoder.processor.encode_items([LONG, SHORT])
    with told(1):
        chat = [{"role": "user", "content": LONG}]
        encoder.processor.apply_chat_template([chat, chat], tokenize=True)
    with told(0):
        encoder.model.encode([SHORT], processor=encoder.processor)


def test_pairs(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    save_tiny_reranker(tmp_path, tiny_backbone("qwen2_vl"))
    reranker = umekit.load(tmp_path)
    limit = reranker.processor.prepare_pair("a", SHORT).length + 30
    reranker.processor = reranker.processor.with_max_length(limit)
    with told(1) as said:
        found = reranker.rerank("a", [SHORT, LONG, LONG], return_details=True)
    assert found.truncated[0] == 0
    assert found.truncated[1] == found.truncated[2] > 0
    assert f"2 of 3 items were cut: the longest has {limit + found.truncated[1]} tokens" in said[0]
    with told(1) as said:
        reranker.rerank_many(["a", LONG], [[SHORT, LONG], [SHORT]])
    assert "2 of 3 items" in said[0]
    with told(1):
        reranker.model.rerank("a", [LONG, SHORT, LONG], processor=reranker.processor)


def test_sentence_transformers_tells_once_a_call(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model = SentenceTransformer(
        str(limited(tiny_checkpoint("qwen2_vl", positions="1d"), tmp_path)), trust_remote_code=True
    )
    texts = [LONG + str(number) for number in range(5)] + [SHORT] * 5
    for _ in range(2):
        with told(1):
            model.encode(texts, batch_size=2)
    with told(0):
        model.encode([SHORT] * 3, batch_size=2)


def test_rows(folder: Path) -> None:
    with told(1):
        EncodeRows(folder, column="text")({"text": [LONG, SHORT, LONG + "more"]})


def test_folders_and_shards(encoder: umekit.Encoder, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in (("a", LONG), ("b", SHORT), ("c", LONG + "more")):
        (texts / f"{name}.txt").write_text(text)
    with told(1) as said:
        _, report = index_folder(encoder, texts, tmp_path / "index")
    assert report.truncated == 2
    assert "2 texts were cut" in said[0]
    with told(1):
        made = encode_shards(encoder, open_source([str(texts)]), tmp_path / "shards", 2)
    assert made.truncated == 2
    assert made.manifest is not None
    assert made.manifest["truncated"] == 2
    with told(1):
        assert encode_shards(encoder, open_source([str(texts)]), tmp_path / "shards", 2).truncated == 2


def test_parts_of_older_versions_are_kept(encoder: umekit.Encoder, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(SHORT)
    source = open_source([str(tmp_path / "texts")])
    encode_shards(encoder, source, tmp_path / "out", 2)
    (done,) = (tmp_path / "out").glob("*.done.json")
    record = json.loads(done.read_text())
    del record["truncated"]
    done.write_text(json.dumps(record))
    assert encode_shards(encoder, source, tmp_path / "out", 2).kept == 1


def test_verbs_count_them(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in (("a", LONG), ("b", SHORT), ("c", LONG + "more")):
        (texts / f"{name}.txt").write_text(text)
    model = ["--model", str(folder), "--quiet"]
    files = [str(file) for file in sorted(texts.iterdir())]
    calls = {
        "index": ["index", str(texts), "--index", str(tmp_path / "index"), "--rebuild"],
        "encode": ["encode", *files, "--text", LONG, "--out", str(tmp_path / "out.npz")],
        "shards": ["encode", str(texts), "--out", str(tmp_path / "shards"), "--shard-size", "2", "--resume"],
    }
    for name, call in calls.items():
        count = 3 if name == "encode" else 2
        with told(0):
            assert main([*call, *model]) == 0
        assert f"{count} cut at the model's limit of tokens, " in capsys.readouterr().out
        with told(0):
            assert main([*call, *model, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["truncated"] == count


def test_media_tokens_and_the_pooled_token_stay(encoder: umekit.Encoder, pictures: list[Any]) -> None:
    row = encoder.processor.prepare({"text": LONG, "image": pictures[4]})
    free = encoder.processor.with_max_length(9999).prepare({"text": LONG, "image": pictures[4]})
    assert row.length <= LIMIT
    assert (row.token_types == 1).sum() == (free.token_types == 1).sum() > 0
    assert row.slots[-1] == 1
    assert np.isclose(np.linalg.norm(encoder.encode([SHORT])), 1)
