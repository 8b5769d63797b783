"""Out of memory: half the tokens, the same vectors, and a word about it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import umekit
from umekit.modeling.batching import out_of_memory
from umekit.modeling.pooling import DegenerateVectorError
from umekit.modeling.prefix import PrefixReader
from umekit.processing.items import ItemError
from umekit.testing import save_tiny_reranker

TEXTS = [f"text {'word ' * (number % 13)}{number}" for number in range(40)]
KINDS = {
    "cuda": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": lambda: RuntimeError(
        "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    "numpy": lambda: MemoryError("Unable to allocate 3.00 GiB"),
}


class Short:
    """A model that raises for batches of more than ``room`` padded tokens; all else is the model's own."""

    def __init__(self, model: Any, room: int, error: Callable[[], Exception]) -> None:
        self._model, self._room, self._error = model, room, error
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **batch: Any) -> Any:
        size = batch["input_ids"].numel()
        if size > self._room:
            raise self._error()
        self.sizes.append(size)
        return self._model(**batch)


@pytest.fixture
def whole(tiny_checkpoint: Callable[..., Path]) -> umekit.Encoder:
    return umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")


def short(whole: umekit.Encoder, room: int, kind: str = "cuda") -> tuple[umekit.Encoder, Short]:
    model = Short(whole.model, room, KINDS[kind])
    return umekit.Encoder(model, whole.processor, batch_tokens=2048), model  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_the_budget_is_halved_and_all_items_are_encoded(whole: umekit.Encoder, kind: str) -> None:
    expected = whole.encode(TEXTS, batch_tokens=100_000)
    encoder, model = short(whole, 300, kind)
    with pytest.warns(
        UserWarning, match=r"out of memory on cpu: batch_tokens is now \d+ instead of 2048"
    ) as said:
        found = encoder.encode(TEXTS, return_details=True)
    assert len(said) == 1
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-5)
    assert found.errors == []
    assert 75 < found.batch_tokens <= 300
    assert max(model.sizes) <= 300
    assert len(model.sizes) < len(TEXTS), "items were encoded one by one"
    assert encoder.batch_tokens == 2048  # of the encoder: another call may find more room


def test_an_item_that_does_not_fit_alone_is_named(whole: umekit.Encoder) -> None:
    texts = [*TEXTS[:5], "word " * 300, *TEXTS[5:8]]
    encoder, _ = short(whole, 150)
    with pytest.warns(UserWarning, match="out of memory"):
        found = encoder.encode(texts, on_error="skip", return_details=True)
    assert [index for index, _ in found.errors] == [5]
    assert str(found.errors[0][1]).startswith("item 5: its ")
    assert "tokens do not fit into the memory of cpu even alone" in str(found.errors[0][1])
    assert np.isnan(found.embeddings[5]).all()
    rest = [number for number in range(len(texts)) if number != 5]
    np.testing.assert_allclose(found.embeddings[rest], whole.encode([texts[i] for i in rest]), atol=1e-5)
    with pytest.raises(ItemError, match=r"item 5: .*even alone"):
        encoder.encode(texts)


def test_enough_memory_changes_nothing_and_says_nothing(whole: umekit.Encoder) -> None:
    """A sharded run's bytes depend on its batches, and these on nothing but items and budget."""
    encoder, _ = short(whole, 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = encoder.encode(TEXTS, batch_tokens=512, return_details=True)
    assert found.batch_tokens == 512
    np.testing.assert_array_equal(found.embeddings, whole.encode(TEXTS, batch_tokens=512))


def test_halving_depends_on_the_items_alone(whole: umekit.Encoder) -> None:
    """Where memory is short in the same way, a shard that is made again has the same bytes."""
    runs = []
    for _ in range(2):
        encoder, _ = short(whole, 300)
        with pytest.warns(UserWarning, match="out of memory"):
            runs.append(encoder.encode(TEXTS, batch_tokens=1024))
    np.testing.assert_array_equal(*runs)


def test_other_errors_of_a_model_are_not_hidden(whole: umekit.Encoder) -> None:
    encoder = umekit.Encoder(Short(whole.model, 0, lambda: RuntimeError("shapes differ")), whole.processor)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="shapes differ"):
        encoder.encode(TEXTS, on_error="skip")
    assert not out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 0.25])
def test_a_bad_vector_is_named_by_its_item(whole: umekit.Encoder, value: float) -> None:
    """Zero, not finite, constant."""

    class Breaks(Short):
        def __call__(self, **batch: Any) -> Any:
            output = self._model(**batch)
            longest = batch["attention_mask"].sum(1) > 60
            output.embeddings = torch.where(longest[:, None], value, output.embeddings)
            return output

    texts = ["one", "two", "word " * 40, "three"]
    encoder = umekit.Encoder(Breaks(whole.model, 0, MemoryError), whole.processor)  # type: ignore[arg-type]
    with pytest.raises(DegenerateVectorError, match=r"item 2: its vector is zero, constant or not finite"):
        encoder.encode(texts)
    found = encoder.encode(texts, on_error="skip", return_details=True)
    assert [index for index, _ in found.errors] == [2]
    assert np.isnan(found.embeddings[2]).all()
    assert np.isfinite(found.embeddings[[0, 1, 3]]).all()


def test_what_leaks_from_a_library_is_named_by_its_item(
    whole: umekit.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = whole.processor.prepare

    def prepare(item: Any, **options: Any) -> Any:
        if item == "bad":
            raise RecursionError("too deep")
        return real(item, **options)

    monkeypatch.setattr(type(whole.processor), "prepare", staticmethod(prepare))
    with pytest.raises(ItemError, match="item 1: RecursionError: too deep"):
        whole.encode(["good", "bad"])


@pytest.fixture
def reranker(tmp_path: Path, tiny_backbone: Callable[[str], Path]) -> umekit.Reranker:
    found = umekit.load(save_tiny_reranker(tmp_path / "reranker", tiny_backbone("qwen2_vl")), device="cpu")
    assert isinstance(found, umekit.Reranker)
    return found


def make_short(room: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """No forward of more than ``room`` tokens, a row's copy of the prefix counted; gives the sizes that were run."""
    sizes: list[int] = []
    real = PrefixReader._forward

    def forward(self: PrefixReader, rows: Any, length: int, cache: Any) -> Any:
        size = len(rows) * max(row.length for row in rows)
        if size > room:
            raise KINDS["cuda"]()
        sizes.append(size)
        return real(self, rows, length, cache)

    monkeypatch.setattr(PrefixReader, "_forward", forward)
    return sizes


LONG_QUERY = "which of these is about the word that I look for? " * 12


def test_a_reranker_halves_its_budget_too(reranker: umekit.Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a long common beginning a budget below one whole row still holds several rows."""
    expected = reranker.rerank(LONG_QUERY, TEXTS)
    row = max(reranker.processor.prepare_pairs(LONG_QUERY, TEXTS), key=lambda row: row.length).length
    sizes = make_short(2 * row, monkeypatch)
    with pytest.warns(UserWarning, match="out of memory") as said:
        found = reranker.rerank(LONG_QUERY, TEXTS, batch_tokens=2048, return_details=True)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert found.errors == []
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    assert found.batch_tokens < row
    assert max(sizes) <= 2 * row


def test_many_queries_share_what_was_learned_about_memory(
    reranker: umekit.Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_short(400, monkeypatch)
    with pytest.warns(UserWarning, match="out of memory") as said:
        reranker.rerank_many(["word", "text", "none"], [TEXTS] * 3, batch_tokens=2048)
    assert len(said) == 1


def test_a_failed_reading_leaves_nothing_waiting(
    reranker: umekit.Reranker, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = reranker.model.vision_cache(reranker.processor)
    rows = reranker.processor.prepare_pairs("which", [{"image": picture} for picture in pictures])
    make_short(0, monkeypatch)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        reranker.model.pair_logits(rows, processor=reranker.processor, features=features)
    assert not features._waiting
    assert not features._kept


def test_a_pair_that_does_not_fit_alone_is_named(
    reranker: umekit.Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TEXTS[:5], "word " * 600, *TEXTS[5:8]]
    expected = reranker.rerank("word", texts)
    make_short(400, monkeypatch)
    with pytest.warns(UserWarning, match="out of memory"):
        found = reranker.rerank("word", texts, on_error="skip", return_details=True)
    assert [index for index, _ in found.errors] == [5]
    assert str(found.errors[0][1]).startswith("item 5: with the query it has ")
    assert np.isnan(found.scores[5])
    np.testing.assert_allclose(np.delete(found.scores, 5), np.delete(expected, 5), atol=1e-5)
    with pytest.raises(ItemError, match="item 5"):
        reranker.rerank("word", texts)


def test_features_that_wait_give_way_first(whole: umekit.Encoder, pictures: list[Any]) -> None:
    """A batch that fails beside features for later batches is run again without them, and not halved."""
    items = [{"image": pictures[0], "text": "word " * count} for count in (1, 20, 60)]
    alone = np.concatenate([whole.encode([item]) for item in items])

    class Full(Short):
        def __call__(self, **batch: Any) -> Any:
            if "mm_encoder_outputs" in batch:
                raise self._error()
            return self._model(**batch)

    encoder = umekit.Encoder(Full(whole.model, 0, KINDS["cuda"]), whole.processor)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = encoder.encode(items, batch_tokens=100, return_details=True)
    assert found.errors == []
    assert found.batch_tokens == 100
    np.testing.assert_allclose(found.embeddings, alone, atol=1e-5)
