"""``umekit evaluate CHECKPOINT --benchmark mteb:NAME`` end to end, on tasks of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mteb")

import umekit
from umekit.cli.main import main
from umekit.evaluation.results import load_report

RERANKER = Path(__file__).parents[1] / "golden" / "qwen3vl_reranker" / "checkpoint"
TEXTS = ["a red digit", "the number seven", "blue", "two digits", "a page"]
OWN = """
from pathlib import Path

from datasets import Dataset, Features, Image, Value
from mteb import TaskMetadata
from mteb.abstasks.retrieval import AbsTaskRetrieval

HERE = Path(__file__).parent
TEXTS = {texts!r}
IDS = [str(number) for number in range(len(TEXTS))]


def facts(name, kind, category, modalities):
    return TaskMetadata(
        name=name, description="Of my own.", dataset={{"path": "nobody/nothing", "revision": "7"}}, type=kind,
        category=category, modalities=modalities, eval_splits=["test"], eval_langs=["eng-Latn"],
        main_score="ndcg_at_10", prompt={{"query": "Find it."}} if kind != "Reranking" else None,
    )


class Mine(AbsTaskRetrieval):
    def load_data(self, *_, **__):
        queries = Dataset.from_dict({{"id": IDS, "text": TEXTS}})
        split = {{"corpus": self.corpus(), "queries": queries, "relevant_docs": {{one: {{one: 1}} for one in IDS}}}}
        split["top_ranked"] = dict.fromkeys(IDS, IDS) if self.metadata.type == "Reranking" else None
        self.dataset = {{"default": {{"test": split}}}}
        self.data_loaded = True


class Pictures(Mine):
    metadata = facts("OwnPictures", "Any2AnyRetrieval", "t2i", ["text", "image"])

    def corpus(self):
        images = [str(HERE / f"{{one}}.png") for one in IDS]
        return Dataset.from_dict(
            {{"id": IDS, "image": images}}, features=Features({{"id": Value("string"), "image": Image()}})
        )


class Texts(Mine):
    metadata = facts("OwnReranking", "Reranking", "t2t", ["text"])

    def corpus(self):
        return Dataset.from_dict({{"id": IDS, "text": [text[::-1] for text in TEXTS]}})
"""


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    for number in range(len(TEXTS)):
        Image.fromarray(rng.integers(0, 255, (56, 84, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    path = tmp_path / "mine.py"
    path.write_text(OWN.format(texts=TEXTS), encoding="utf-8")
    return path


def _ndcg(scores: Any) -> float:
    """nDCG@10 of the diagonal, by hand."""
    ranks = 1 + (np.asarray(scores) > np.diag(scores)[:, None]).sum(axis=1)
    return float((1 / np.log2(1 + ranks)).mean())


def _run(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_pictures_are_retrieved(task_file: Path, tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    assert _run("--benchmark", "mteb:OwnPictures", "--task-file", task_file, "--out", out) == 0
    report = load_report(out)
    [score] = report.scores
    queries = tiny.encode(TEXTS, role="query", instruction="Find it.")
    pages = [{"image": Image.open(tmp_path / f"{number}.png")} for number in range(len(TEXTS))]
    wanted = _ndcg(queries @ tiny.encode(pages, role="document").T)
    assert 0 < wanted < 1
    assert score.value == pytest.approx(wanted, abs=1e-5)
    assert (score.task, score.metric, score.n, score.revision) == (
        "OwnPictures",
        "ndcg_at_10",
        len(TEXTS),
        "7",
    )
    assert report.costs["all items"]["items"] == 2 * len(TEXTS)
    assert report.conditions.settings["tasks"] == "1 of 1"
    assert report.conditions.settings["processor"]
    assert report.mean() == score.value


def test_a_reranker_ranks_the_lists_of_a_task(task_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    how = ["--rerank", RERANKER, "--rerank-preset", "qwen3-vl-reranker"]
    assert _run("--benchmark", "mteb:OwnReranking", "--task-file", task_file, "--out", out, *how) == 0
    reranker = umekit.load(RERANKER, preset="qwen3-vl-reranker")
    backwards = [{"text": text[::-1]} for text in TEXTS]
    wanted = _ndcg(np.stack([reranker.rerank({"text": text}, backwards) for text in TEXTS]))
    report = load_report(out)
    assert report.scores[0].value == pytest.approx(wanted, abs=1e-5)
    assert report.fingerprint == reranker.fingerprint()


def test_what_cannot_be_run_is_said_in_one_line(
    task_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.py").write_text("x = 1\n")
    taken = task_file.read_text(encoding="utf-8").replace("OwnPictures", "VidoreDocVQARetrieval")
    (tmp_path / "taken.py").write_text(taken, encoding="utf-8")
    for arguments, words in (
        (["mteb:VidoreDocVQARetrieva"], "mteb knows no benchmark 'VidoreDocVQARetrieva'"),
        (["mteb:VidoreDocVQARetrieva"], "Did you mean: 'VidoreDocVQARetrieval'"),
        (["mteb:VidoreDocVQARetrieval"], "the data of VidoreDocVQARetrieval can't be loaded"),
        (["mteb:ViDoRe(v2)", "--tasks", "CIRR"], "ViDoRe(v2) has no task CIRR"),
        (["mteb:Mine", "--task-file", tmp_path / "none.py"], "defines no task"),
        (["mteb:Mine", "--task-file", tmp_path / "taken.py"], "mteb has VidoreDocVQARetrieval already"),
        (["mteb:Mine", "--task-file", tmp_path / "gone.py"], "there is no file"),
        (["mteb:Mine", "--rerank", RERANKER, "--mode", "generative"], "which has no mode and no thoughts"),
        (["mteb:"], "give a task or benchmark of mteb"),
        (["mmeb-v2", "--task-file", task_file], "mmeb-v2 has no --task-file"),
    ):
        assert _run("--benchmark", *arguments, "--out", tmp_path / "r.json") == 2, arguments
        errors = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("umekit evaluate:")
        ]
        assert len(errors) == 1, arguments
        assert words in errors[0], arguments
    assert not (tmp_path / "r.json").exists()


def test_get_model_finds_a_registered_reranker(monkeypatch: pytest.MonkeyPatch) -> None:
    import mteb

    from umekit.evaluation.mteb_model import MtebReranker, register

    # mteb asks for torchvision and torchcodec as soon as a model takes pictures and videos; ours needs neither
    monkeypatch.setattr(mteb.models.ModelMeta, "_missing_dependencies", lambda *_: [])
    name = register(str(RERANKER), preset="qwen3-vl-reranker")
    model = mteb.get_model(name)
    assert isinstance(model, MtebReranker)
    assert model.mteb_model_meta.model_type == ["cross-encoder"]
    assert model.reranker.fingerprint() == umekit.load(RERANKER, preset="qwen3-vl-reranker").fingerprint()
