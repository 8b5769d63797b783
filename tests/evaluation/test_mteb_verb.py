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


class Counting:
    """ume-tiny, which counts what it encodes and may be stopped."""

    def __init__(self, encoder: Any, stop_at: int | None = None) -> None:
        self.encoder, self.stop_at, self.items = encoder, stop_at, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    @property
    def dim(self) -> int:
        return int(self.encoder.dim)

    def __repr__(self) -> str:
        return repr(self.encoder)

    def encode(self, items: Any, **options: Any) -> Any:
        self.items += len(items)
        if self.stop_at is not None and self.items > self.stop_at:
            raise KeyboardInterrupt
        return self.encoder.encode(items, **options)


def test_a_stopped_run_goes_on_with_the_next_task(task_file: Path, tiny: Any, tmp_path: Path) -> None:
    """And makes a task anew where anything differs that decides its score."""
    from umekit.evaluation.mteb_run import own_tasks, run_mteb

    def run(encoder: Any, work: Path | None, **options: Any) -> Any:
        tasks = own_tasks(task_file)
        chosen = [tasks["OwnPictures"], tasks["OwnReranking"]]
        return run_mteb(encoder, chosen, "own", work=work, source="a file", **options)

    work, count = tmp_path / "work", 2 * len(TEXTS)
    with pytest.raises(KeyboardInterrupt):
        run(Counting(tiny, stop_at=count + 1), work)
    resumed = run(rest := Counting(tiny), work)
    plain = run(tiny, None)
    assert [one.to_dict() for one in resumed.scores] == [one.to_dict() for one in plain.scores]
    assert resumed.costs["all items"]["items"] == plain.costs["all items"]["items"] > rest.items > 0
    assert resumed.conditions.settings["prompt_sha256"] == plain.conditions.settings["prompt_sha256"]
    run(again := Counting(tiny), work)
    assert again.items == 0
    for options in ({"mode": "discriminative"}, {"limit": 2}, {"options": {"dim": 64}}):
        run(changed := Counting(tiny), work, **options)
        assert changed.items > 0, options


def test_a_damaged_task_is_named(task_file: Path, tiny: Any, tmp_path: Path) -> None:
    from umekit.evaluation.mteb_run import own_tasks, run_mteb
    from umekit.evaluation.score import ResultFormatError

    run_mteb(tiny, [own_tasks(task_file)["OwnPictures"]], "own", work=tmp_path)
    [path] = (tmp_path / "tasks").iterdir()
    path.write_text('{"score": {}}', encoding="utf-8")
    with pytest.raises(ResultFormatError, match="is no task of a run"):
        run_mteb(tiny, [own_tasks(task_file)["OwnPictures"]], "own", work=tmp_path)


def test_the_first_queries_among_all_documents(
    task_file: Path, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    call = ["--benchmark", "mteb:OwnPictures", "--task-file", task_file, "--out", out, "--limit", 2]
    assert _run(*call) == 0
    report = load_report(out)
    pages = [{"image": Image.open(tmp_path / f"{number}.png")} for number in range(len(TEXTS))]
    scores = (
        tiny.encode(TEXTS[:2], role="query", instruction="Find it.") @ tiny.encode(pages, role="document").T
    )
    ranks = 1 + (scores > scores[[0, 1], [0, 1], None]).sum(axis=1)
    assert report.scores[0].value == pytest.approx((1 / np.log2(1 + ranks)).mean(), abs=1e-5)
    assert report.scores[0].n == 2
    assert report.missing() == [f"OwnPictures (2 of {len(TEXTS)} queries)"]
    assert report.conditions.command.endswith("--limit 2")
    assert _run(*call) == 2
    assert "give --resume" in capsys.readouterr().err
    assert _run(*call, "--resume") == 0
    assert load_report(out).scores == report.scores
    for arguments, words in (
        (["mteb:OwnPictures", "--task-file", task_file, "--resume"], "--resume without --out or --work"),
        (["digit-world", "--resume"], "digit-world has no --resume"),
    ):
        assert _run("--benchmark", *arguments) == 2
        assert words in capsys.readouterr().err


def test_a_task_of_the_old_form_says_how_many_queries_it_has(tiny: Any) -> None:
    """Those of mteb 1 hold queries, corpus and qrels apart, and mteb turns them round when it runs them."""
    from mteb import TaskMetadata
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    from umekit.evaluation.mteb_run import run_mteb

    names = [str(number) for number in range(3)]

    class Old(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="OldForm", description="Of mteb 1.", dataset={"path": "nobody/nothing", "revision": "1"},
            type="Retrieval", category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )  # fmt: skip

        def load_data(self, *_: Any, **__: Any) -> None:
            texts = dict(zip(names, TEXTS, strict=False))
            self.queries = {"test": texts}
            self.corpus = {"test": {name: {"text": text} for name, text in texts.items()}}
            self.relevant_docs = {"test": {name: {name: 1} for name in names}}
            self.data_loaded = True

    assert [run_mteb(tiny, [Old()], "old", limit=limit).scores[0].n for limit in (None, 2)] == [3, 2]
