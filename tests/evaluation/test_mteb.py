"""mteb runs pictures and videos on our folders, once it is told that they take these."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Array4D, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

library = pytest.importorskip("sentence_transformers")
mteb = pytest.importorskip("mteb")

retrieval = pytest.importorskip("mteb.abstasks.retrieval")
task_metadata = pytest.importorskip("mteb.abstasks.task_metadata")
models = pytest.importorskip("mteb.models")
collators = pytest.importorskip("mteb.models.modality_collators")

KINDS: dict[str, dict[str, Any]] = {"stock modules": {}, "our module": {"positions": "1d", "pooling": "mean"}}
IDS = [f"{number}" for number in range(4)]


def _task(modality: str, media: list[Any], feature: Any) -> Any:
    """Retrieval of each medium by itself."""

    class Tiny(retrieval.AbsTaskRetrieval):  # type: ignore[misc]
        metadata = task_metadata.TaskMetadata(
            name=f"Tiny{modality.title()}",
            description="Finds each medium again.",
            dataset={"path": "nobody/nothing", "revision": "1"},
            type="Any2AnyRetrieval",
            category=f"{modality[0]}2{modality[0]}",
            modalities=[modality],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            rows = Dataset.from_dict(
                {"id": IDS, modality: media}, features=Features({"id": Value("string"), modality: feature})
            )
            relevant = {one: {one: 1} for one in IDS}
            split = {"corpus": rows, "queries": rows, "relevant_docs": relevant, "top_ranked": None}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Tiny()


MODALITIES = ["text", "image", "video"]


def _model(folder: Path) -> Any:
    """The lines of README: mteb asks no folder and no SentenceTransformer what it takes, only a repository."""
    model = models.SentenceTransformerEncoderWrapper(str(folder), trust_remote_code=True, device="cpu")
    model.mteb_model_meta = model.mteb_model_meta.model_copy(update={"modalities": MODALITIES})
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_what_mteb_reads_of_a_repository(kind: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2_vl", **KINDS[kind])
    told = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    assert set(models.ModelMeta._detect_modalities_from_sbert_config(told)) == set(MODALITIES)


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_model(kind: str, tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]) -> None:
    """What an open SentenceTransformer takes is what mteb should be told; the day mteb asks it, this test fails."""
    model = library.SentenceTransformer(
        str(tiny_checkpoint("qwen2_vl", **KINDS[kind])), trust_remote_code=True, device="cpu"
    )
    assert set(MODALITIES) <= set(model.modalities)
    task = _task("image", pictures[:4], ImageFeature())
    with pytest.raises(ValueError, match=r"supports \['text'\]"):
        _score(model, task)
    wrapper = models.SentenceTransformerEncoderWrapper(model)
    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(update={"modalities": MODALITIES})
    assert _score(wrapper, task) == pytest.approx(1.0)


def _score(model: Any, task: Any) -> float:
    results = mteb.evaluate(model, [task], cache=None, show_progress_bar=False)
    return float(results.task_results[0].get_score())


@pytest.mark.parametrize("kind", KINDS)
def test_pictures(kind: str, tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]) -> None:
    model = _model(tiny_checkpoint("qwen2_vl", **KINDS[kind]))
    assert _score(model, _task("image", pictures[:4], ImageFeature())) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_videos(kind: str, tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # What mteb's collator makes of a decoder of torchcodec, which need not be installed: uint8 [T, C, H, W].
    monkeypatch.setattr(
        collators.FramesCollator,
        "resample_video",
        lambda video, **_: torch.tensor(np.array(video), dtype=torch.uint8),
    )
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 255, (4, 3, 56, 84), dtype=np.uint8) for _ in IDS]
    model = _model(tiny_checkpoint("qwen2_vl", **KINDS[kind]))
    assert _score(model, _task("video", clips, Array4D((4, 3, 56, 84), "uint8"))) == pytest.approx(1.0)
