"""A reranker's folder as a ``CrossEncoder``: our scores where the settings can be expressed, a refusal where not."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2.exceptions import TemplateError
from PIL import Image
from transformers import AutoTokenizer

import umekit
from umekit.modeling.settings import expressible
from umekit.testing import FAMILIES, save_tiny_reranker

library = pytest.importorskip("sentence_transformers")

QUERY = "a red kitten on a bench"
OTHER_SETTINGS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"positions": "1d"},
    "qwen2_5_vl": {"positions": "1d"},
    "qwen3_vl": {"deepstack": False},
    "qwen3_5": {
        "positions": "1d"
    },  # this one has a class for classification, to which a random head would fit
}


@pytest.fixture(scope="module")
def saved(
    tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    made: dict[str, Path] = {}

    def folder(family: str, **settings: Any) -> Path:
        key = f"{family} {settings}"
        if key not in made:
            target = tmp_path_factory.mktemp(family) / "reranker"
            made[key] = save_tiny_reranker(target, tiny_backbone(family), **settings)
        return made[key]

    return folder


@pytest.fixture
def candidates(pictures: list[Image.Image]) -> list[Any]:
    smooth = pictures[3].resize((600, 180))  # over the pixel budget, so that both sides must shrink it alike
    return [
        "a short text",
        "a long text about what is seen there " * 12,
        {"image": pictures[0]},
        {"image": pictures[1], "text": "with a text"},
        {"image": smooth},
    ]


def difference(scores: Any, wanted: Any) -> float:
    return float(np.abs(np.asarray(scores, dtype=np.float32) - wanted).max())


def test_with_remote_code_scores_are_equal(
    family: str, saved: Callable[..., Path], candidates: list[Any]
) -> None:
    folder = saved(family)
    reranker = umekit.load(folder)
    assert expressible(reranker.model.settings, "sentence-transformers", family)[0]
    model = library.CrossEncoder(str(folder), trust_remote_code=True, device="cpu")
    wanted = reranker.rerank(QUERY, candidates)
    pairs = [(QUERY, one) for one in candidates]
    assert difference(model.predict(pairs), wanted) <= 1e-5
    assert difference(np.concatenate([model.predict([pair]) for pair in pairs]), wanted) <= 1e-5
    picture = candidates[2]["image"]
    wanted = reranker.rerank({"image": picture, "instruction": "Find it."}, candidates)
    found = model.predict([({"image": picture}, one) for one in candidates], prompt="Find it.")
    assert difference(found, wanted) <= 1e-5


def test_without_remote_code_scores_are_equal(
    family: str, saved: Callable[..., Path], candidates: list[Any]
) -> None:
    pytest.importorskip("torchvision")  # the stock processor has a video part that needs it
    folder = saved(family)
    model = library.CrossEncoder(str(folder), device="cpu")
    assert not type(model[0]).__module__.startswith("transformers_modules")
    wanted = umekit.load(folder).rerank(QUERY, candidates)
    scores = model.predict([(QUERY, one) for one in candidates])
    assert difference(scores[:2], wanted[:2]) <= 1e-5
    assert difference(scores, wanted) <= 1e-3  # stock frames are resized by torchvision alone


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_without_remote_code_and_torchvision_it_says_what_is_missing(saved: Callable[..., Path]) -> None:
    with pytest.raises(ImportError, match=r"(?i)torchvision"):
        library.CrossEncoder(str(saved("qwen2_vl")), device="cpu")


@pytest.mark.parametrize("trusted", [True, False], ids=["remote code", "no remote code"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_can_not_be_expressed_is_refused(family: str, trusted: bool, saved: Callable[..., Path]) -> None:
    folder = saved(family, **OTHER_SETTINGS[family])
    settings = umekit.load(folder).model.settings
    able, reason = expressible(settings, "sentence-transformers", family)
    assert not able
    assert not (folder / "1_LogitScore").exists()
    wanted = rf"CrossEncoder cannot run .*: {reason}" if trusted else "not part of Sentence Transformers"
    with pytest.raises(ValueError, match=wanted):
        library.CrossEncoder(str(folder), trust_remote_code=trusted, device="cpu")


def test_a_folder_that_is_saved_again_with_other_settings_loses_its_stock_modules(
    saved: Callable[..., Path], tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = save_tiny_reranker(tmp_path / "twice", tiny_backbone("qwen2_vl"))
    assert (folder / "1_LogitScore").is_dir()
    save_tiny_reranker(folder, tiny_backbone("qwen2_vl"), positions="1d")
    with pytest.raises(ValueError, match="CrossEncoder cannot run"):
        library.CrossEncoder(str(folder), trust_remote_code=True, device="cpu")
    save_tiny_reranker(folder, tiny_backbone("qwen2_vl"))
    model = library.CrossEncoder(str(folder), trust_remote_code=True, device="cpu")
    assert (
        difference(model.predict([(QUERY, "a text")]), umekit.load(folder).rerank(QUERY, ["a text"])) <= 1e-5
    )


def test_a_reranker_is_no_sentence_transformer(family: str, saved: Callable[..., Path]) -> None:
    folder = saved(family)
    with pytest.raises(ValueError, match=r"no vectors.*CrossEncoder"):
        library.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu").encode(["a", "b"])
    # Without remote code only the template is ours. A SentenceTransformer renders a chat of one turn; a CrossEncoder
    # has the flag set, for its statistics of single texts, too.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = [{"role": "user", "content": "a text"}]
    with pytest.raises(TemplateError, match="open it as a CrossEncoder"):
        tokenizer.apply_chat_template(text, tokenize=False)
    assert "a text" in tokenizer.apply_chat_template(text, tokenize=False, add_generation_prompt=True)
    pair = [{"role": "query", "content": "a text"}, {"role": "document", "content": "another"}]
    assert "another" in tokenizer.apply_chat_template(pair, tokenize=False)
    other = saved(family, **OTHER_SETTINGS[family])
    with pytest.raises(ValueError, match=r"no vectors.*CrossEncoder"):
        library.SentenceTransformer(str(other), trust_remote_code=True, device="cpu").encode(["a"])


def test_statistics_of_single_texts_are_rendered(saved: Callable[..., Path]) -> None:
    model = library.CrossEncoder(str(saved("qwen2_vl")), trust_remote_code=True, device="cpu")
    assert model.preprocess(["a text", "another"], task="document")["input_ids"].shape[0] == 2


def test_an_embedder_is_no_cross_encoder(family: str, tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"AutoModelForSequenceClassification|not a reranker's"):
        library.CrossEncoder(str(tiny_checkpoint(family)), trust_remote_code=True, device="cpu").predict(
            [("a", "b")]
        )
