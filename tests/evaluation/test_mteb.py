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


# --- umekit's own wrapper -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tiny: Any) -> Any:
    from umekit.evaluation.mteb_model import MtebEncoder

    return MtebEncoder(tiny, "umekit/ume-tiny")


def test_the_record_is_filled(own: Any) -> None:
    meta = own.mteb_model_meta
    assert meta.modalities == MODALITIES
    assert (meta.embed_dim, meta.model_type, str(meta.similarity_fn_name)) == (192, ["dense"], "cosine")
    assert meta.n_parameters > meta.n_embedding_parameters > 0


def test_any_to_any_retrieval_and_its_ndcg(own: Any, tiny: Any, pictures: list[Image.Image]) -> None:
    """Text finds pictures: mteb's nDCG@10 is ours."""
    from umekit.evaluation.ranked import per_query
    from umekit.evaluation.ranking import rank

    texts = ["a red digit", "the number seven", "blue", "two digits"]
    task = _mixed_task(pictures[:4], texts)
    found = _score(own, task)
    queries = tiny.encode(texts, role="query", instruction="Find it.")
    documents = tiny.encode([{"image": one} for one in pictures[:4]], role="document")
    ranks = rank(queries, documents, [{place: 1.0} for place in range(4)])
    assert found == pytest.approx(per_query("ndcg_linear@10", *ranks.of("pessimistic")).mean(), abs=1e-5)


def _mixed_task(images: list[Any], texts: list[str]) -> Any:
    task = _task("image", images, ImageFeature())
    update = {"category": "t2i", "modalities": ["text", "image"], "prompt": {"query": "Find it."}}
    task.metadata = task.metadata.model_copy(update=update)

    def load_data(*_: Any, **__: Any) -> None:
        corpus = Dataset.from_dict(
            {"id": IDS, "image": images}, features=Features({"id": Value("string"), "image": ImageFeature()})
        )
        queries = Dataset.from_dict({"id": IDS, "text": texts})
        relevant = {one: {one: 1} for one in IDS}
        split = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
        task.dataset = {"default": {"test": split}}
        task.data_loaded = True

    task.load_data = load_data
    return task


def test_a_video_task(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        collators.FramesCollator,
        "resample_video",
        staticmethod(lambda video, **_: torch.tensor(np.array(video), dtype=torch.uint8)),
    )
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 255, (4, 3, 56, 84), dtype=np.uint8) for _ in IDS]
    monkeypatch.setattr(own, "instructions", False)
    found = _score(own, _task("video", clips, Array4D((4, 3, 56, 84), "uint8")))
    items = [{"video": torch.tensor(clip)} for clip in clips]
    assert found == pytest.approx(_ndcg(own.encoder, items), abs=1e-5)


def _ndcg(encoder: Any, items: list[Any]) -> float:
    """Of items that are to find themselves."""
    from umekit.evaluation.ranked import per_query
    from umekit.evaluation.ranking import rank

    queries, documents = (encoder.encode(items, role=role) for role in ("query", "document"))
    ranks = rank(queries, documents, [{place: 1.0} for place in range(len(items))])
    return float(per_query("ndcg_linear@10", *ranks.of("pessimistic")).mean())


def test_image_classification(own: Any) -> None:
    from mteb.abstasks.classification import AbsTaskClassification

    class Colours(AbsTaskClassification):  # type: ignore[misc]
        metadata = task_metadata.TaskMetadata(
            name="TinyColours",
            description="Red or blue.",
            dataset={"path": "nobody/nothing", "revision": "1"},
            type="ImageClassification",
            category="i2c",
            modalities=["image"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
        )
        input_column_name = "image"
        samples_per_label = 4
        n_experiments = 1

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            from datasets import DatasetDict

            def rows(count: int) -> Dataset:
                images = [Image.new("RGB", (56, 56), ("red", "blue")[n % 2]) for n in range(count)]
                labels = [n % 2 for n in range(count)]
                features = Features({"image": ImageFeature(), "label": Value("int64")})
                return Dataset.from_dict({"image": images, "label": labels}, features=features)

            self.dataset = DatasetDict({"train": rows(8), "test": rows(4)})
            self.data_loaded = True

    assert _score(own, Colours()) == pytest.approx(1.0)


def test_a_reranking_task(tiny_checkpoint: Callable[..., Path]) -> None:
    """The list of each query is ranked by the reranker; mteb's nDCG is that of its scores."""
    from umekit.evaluation.mteb_model import MtebReranker
    from umekit.evaluation.ranked import per_query
    from umekit.evaluation.ranking import rank_scores

    class Said:
        """Scores by the number of letters that query and candidate share."""

        model, processor = None, None

        def rerank(self, query: Any, candidates: Any, **_: Any) -> np.ndarray:
            said = [len(set(query["text"]) & set(one["text"])) / 26 for one in candidates]
            return np.array(said, dtype=np.float32)

    class Small(retrieval.AbsTaskRetrieval):  # type: ignore[misc]
        metadata = task_metadata.TaskMetadata(
            name="TinyReranking",
            description="Ranks four texts.",
            dataset={"path": "nobody/nothing", "revision": "1"},
            type="Reranking",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            rows = Dataset.from_dict({"id": IDS, "text": TEXTS})
            relevant = {one: {one: 1} for one in IDS}
            ranked = dict.fromkeys(IDS, IDS)
            split = {"corpus": rows, "queries": rows, "relevant_docs": relevant, "top_ranked": ranked}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    model = MtebReranker.__new__(MtebReranker)
    model.reranker, model.frames = Said(), 8
    model.mteb_model_meta = models.ModelMeta.create_empty(
        overwrites={"name": "umekit/said", "revision": "1", "model_type": ["cross-encoder"]}
    )
    found = _score(model, Small())
    scores = [Said().rerank({"text": one}, [{"text": other} for other in TEXTS]) for one in TEXTS]
    ranks = rank_scores(scores, [{place: 1.0} for place in range(4)])
    assert found == pytest.approx(per_query("ndcg_linear@10", *ranks.of("pessimistic")).mean(), abs=1e-5)


TEXTS = ["abcd", "abcxyz", "mnop", "mnabcdefgh"]


def test_get_model_finds_a_registered_path(
    pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    # mteb asks for torchvision and torchcodec as soon as a model takes pictures and videos; ours needs neither.
    monkeypatch.setattr(models.ModelMeta, "_missing_dependencies", lambda *_: [])
    from umekit.encoding.packaged import packaged_model
    from umekit.evaluation.mteb_model import MtebEncoder, register

    name = register(str(packaged_model()))
    model = mteb.get_model(name)
    assert isinstance(model, MtebEncoder)
    model.instructions = False
    items = [{"image": one} for one in pictures[:4]]
    found = _score(model, _task("image", pictures[:4], ImageFeature()))
    assert found == pytest.approx(_ndcg(model.encoder, items), abs=1e-5)


def test_two_models_or_modes_share_no_place_in_the_cache_of_mteb(
    own: Any, tiny: Any, tiny_checkpoint: Callable[..., Path]
) -> None:
    """It finds results by name and revision: without a commit, the revision is of what decides a score."""
    import umekit
    from umekit.evaluation.mteb_model import MtebEncoder

    other = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    every = [
        MtebEncoder(tiny),
        MtebEncoder(tiny, mode="discriminative"),
        MtebEncoder(tiny, frames=4),
        MtebEncoder(tiny, instructions=False),
        MtebEncoder(other),
    ]
    revisions = [one.mteb_model_meta.revision for one in every]
    assert len(set(revisions)) == len(revisions)
    assert own.mteb_model_meta.revision == revisions[0]
    assert MtebEncoder(tiny, revision="abc").mteb_model_meta.revision == "abc"


def test_instructions_are_those_of_the_side(tiny: Any) -> None:
    from umekit.evaluation.mteb_model import MtebEncoder

    given: list[Any] = []

    class Listening:
        def __getattr__(self, name: str) -> Any:
            return getattr(tiny, name)

        def encode(self, items: Any, **options: Any) -> Any:
            given.append((options["role"], options["instruction"]))
            return np.zeros((len(items), 192), dtype=np.float32)

    model = MtebEncoder(Listening())
    assert model.mteb_model_meta.model_type == ["dense"]
    task = _task("image", [Image.new("RGB", (28, 28))] * 4, ImageFeature()).metadata
    batches = torch.utils.data.DataLoader(Dataset.from_dict({"text": ["a"]}))
    for prompt in ("Look.", {"query": "Find it."}, {"query": "Find it.", "document": "A page."}):
        for side in ("query", "document", None):
            model.encode(
                batches,
                task_metadata=task.model_copy(update={"prompt": prompt}),
                prompt_type=None if side is None else mteb.types.PromptType(side),
            )
    assert [instruction for _, instruction in given] == [
        *("Look.", None, "Look."),
        *("Find it.", None, "Find it."),
        *("Find it.", "A page.", "Find it."),
    ]
    assert [role for role, _ in given] == ["query", "document", "query"] * 3


def test_a_main_score_below_zero(tmp_path: Path) -> None:
    """A correlation, or p-MRR: a task of many must not cost the report."""
    from umekit.evaluation.conditions import Conditions
    from umekit.evaluation.mteb_kept import DoneTask, KeptTasks
    from umekit.evaluation.mteb_report import MtebReport, MtebScore
    from umekit.evaluation.results import load_report, save_report
    from umekit.evaluation.tables import markdown_table

    score = MtebScore("STS", "cosine_spearman", -0.25, 4, family="STS", revision="1")
    kept = KeptTasks(tmp_path, {})
    kept.write(DoneTask(score, 4))
    found = kept.read("STS", "1")
    assert found is not None
    assert found.score == score
    data = {"name": "mteb:STS", "split": "test", "revision": "1"}
    conditions = Conditions.of_run(0, model="m", settings={"encoder": "e"}, data=data, command="c")
    fingerprint = {"model": "a", "processor": "b"}
    save_report(MtebReport("mteb:STS", [found.score], fingerprint, conditions), tmp_path / "r.json")
    again = load_report(tmp_path / "r.json")
    assert again.scores == [score]
    assert "-0.250" in markdown_table(again)
    with pytest.raises(ValueError, match="no mean in -1"):
        MtebScore("STS", "cosine_spearman", -1.5, 4)
