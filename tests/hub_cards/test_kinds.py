"""Cards of checkpoints that think, in both modes, and of rerankers: code that runs, numbers from files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import umekit
from umekit.cli.main import main
from umekit.evaluation.conditions import Conditions
from umekit.evaluation.costs import Cost
from umekit.evaluation.curve_report import CurveReport
from umekit.evaluation.curves import Outcomes
from umekit.evaluation.digit_world.report import DigitWorldReport, DigitWorldScore, Share
from umekit.evaluation.results import save_report
from umekit.evaluation.score import Score
from umekit.evaluation.thought_report import CONDITIONS, ThoughtReport, ThoughtScore
from umekit.hub_cards.card import CardOptions, ResultMismatchError, build_card
from umekit.hub_cards.modes import modes_section
from umekit.testing import save_tiny_reranker
from umekit.trainers import add_lora

OPTIONS = CardOptions(repo="tiny")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a photo."""
    Image.new("RGB", (60, 60), "red").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def thinking(folder: Path, tiny_checkpoint: Callable[..., Path]) -> Path:
    (folder / "tiny").symlink_to(tiny_checkpoint("qwen2_vl", role="generative"))
    return Path("tiny")


def conditions(mode: str | None, **settings: Any) -> Conditions:
    return Conditions(
        model="tiny",
        settings={"mode": mode, "encoder": "Encoder(...)", **settings},
        data={
            "name": "digit-world",
            "split": "test",
            "seed": 0,
            "definitions": "d" * 64,
            "revision": "r" * 64,
        },
        versions={"umekit": "1", "torch": "2", "transformers": "5", "python": "3"},
        machine="a machine, 2 cores",
        seconds=3.0,
        command="umekit evaluate digit-world",
        created="2026-01-02T03:04:05+00:00",
    )


def report_of(
    mode: str | None, rights: dict[str, float], fingerprint: Any = None, oracle: int = 0
) -> DigitWorldReport:
    scores = [
        DigitWorldScore(
            task, "R@1", value, 2000, "sum", "labels", 36, 1 / 36, revision=f"pools of {task}", pools=1,
            optimistic=2000, majority=0.05, oracle=Share(oracle, 2000) if oracle else None,
        )
        for task, value in rights.items()
    ]  # fmt: skip
    tokens = 0 if mode == "discriminative" else 41_000
    costs = {"all queries": Cost(2000, 8.0, 2000 if tokens else 0, tokens).to_dict()}
    print_ = fingerprint or {"model": "m", "processor": "p", "dim": 8}
    return DigitWorldReport("digit-world", scores, print_, conditions(mode), costs=costs)


def thoughts_of(fingerprint: dict[str, Any]) -> ThoughtReport:
    scores = [
        ThoughtScore.of(
            "walk", [1, 0], [0.5, cosine], [20, 21], kind=kind, family="walk", candidates=2, chance=0.5
        )
        for kind, cosine in zip(CONDITIONS, (1.0, 0.25, 0.2, 0.1, 0.05), strict=True)
    ]
    return ThoughtReport("thoughts", scores, fingerprint, conditions("generative"))


def blocks(card: ModelCard) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.content, flags=re.DOTALL)


def run(code: str) -> None:
    if not find_spec("torchvision"):  # as the card says
        code = code.replace('"tiny")', '"tiny", trust_remote_code=True)') if "sentence_t" in code else code
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


def test_both_modes_run_in_every_way_and_agree(thinking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers")
    found = blocks(build_card(thinking, options=OPTIONS))
    assert len(found) == 3
    printed = []
    for code in found:
        run(code)
        out = capsys.readouterr().out
        assert re.findall("discriminative|generative", out) == ["discriminative", "generative"]
        scores = out.split("\n[", 2)[0] if "umekit" in code else out
        printed.append([float(one) for one in re.findall(r"-?\d\.\d{3,}", scores)])
        assert len(printed[-1]) == 4
    for other in printed[1:]:
        assert other == pytest.approx(printed[0], abs=2e-4)
    assert out.endswith("[12]\n")  # tokens of the thought that the umekit way shows
    assert printed[0][:2] != pytest.approx(printed[0][2:], abs=1e-3)


@pytest.mark.usefixtures("folder")
def test_a_checkpoint_that_by_default_embeds_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers")
    encoder = umekit.load(role="generative")
    encoder.model.settings = replace(encoder.model.settings, default_mode="discriminative", max_new_tokens=4)
    encoder.model.save_pretrained("tiny")
    encoder.processor.save_pretrained("tiny")
    card = build_card(Path("tiny"), options=OPTIONS)
    [code] = [one for one in blocks(card) if "SentenceTransformer(" in one]
    run(code)
    assert len(re.findall(r"-?\d\.\d{3,}", capsys.readouterr().out)) == 4
    assert (
        "(`umekit export --role discriminative`). Without `mode` it is the discriminative one."
        in card.content
    )
    assert "a native form of its direct vectors" in card.content
    assert "| Default mode | discriminative |" in card.content


def test_scores_costs_and_sensitivity_stand_in_the_card(thinking: Path) -> None:
    own = umekit.load("tiny").fingerprint()
    before = report_of("discriminative", {"sum": 0.5, "walk": 0.25, "only": 0.1}, own)
    after = report_of("generative", {"sum": 0.45, "walk": 0.9}, own, oracle=1900)
    for name, report in (("before", before), ("after", after), ("thoughts", thoughts_of(own))):
        save_report(report, Path(f"{name}.json"))
    files = [word for name in ("before", "after", "thoughts") for word in ("--results", f"{name}.json")]
    assert main(["card", "tiny", *files, "--out", "card.md"]) == 0
    text = Path("card.md").read_text()
    section = text[text.index("## At once, or after a thought") : text.index("## Training data")]
    assert "| sum | labels | R@1 | 2,000 | 0.500 | 0.450 | -5.0 | 0.950 |" in section
    assert "| walk | labels | R@1 | 2,000 | 0.250 | 0.900 | +65.0 | 0.950 |" in section
    assert "| mean of 2 |  |  |  | 0.375 | 0.675 | +30.0 |  |" in section
    assert "only" not in section.split("What a thought costs")[0]
    assert "| generative | DigitWorld | queries | 2,000 | 20.5 | 0.0040 | a machine, 2 cores |" in section
    assert "| discriminative | DigitWorld | queries | 2,000 | 0.0 | 0.0040 |" in section
    assert "not measured" not in section
    assert "### DigitWorld, test split, generative mode" in text
    sensitivity = text[text.index("### Thought sensitivity") :]
    assert re.search(r"\| walk \| walk \| another's \|.*\| 0\.375 \|", sensitivity)
    data = yaml.safe_load(text.split("---\n")[1])
    names = [
        (result["dataset"]["name"], metric["name"], metric["value"])
        for result in data["model-index"][0]["results"]
        for metric in result["metrics"]
    ]
    assert ("DigitWorld walk (labels)", "recall@1 (generative mode)", 0.9) in names
    assert ("DigitWorld walk (labels)", "recall@1 (discriminative mode)", 0.25) in names
    assert [name for name, *_ in names if name.startswith("Thought")] == ["Thought sensitivity walk (own)"]
    with pytest.raises(ResultMismatchError):
        build_card(thinking, [report_of("generative", {"sum": 0.5})], options=OPTIONS)


def test_what_was_not_measured_is_said() -> None:
    nothing = modes_section([], "generative")
    assert nothing.count("was not measured") == 3
    alone = report_of(None, {"sum": 0.5}, oracle=1500)
    text = modes_section([alone], "generative")
    assert "| sum | labels | R@1 | 2,000 | 0.500 | 0.750 |" in text
    assert "The discriminative mode alone was not measured" in text
    assert "What a thought costs:" in text
    direct = modes_section([alone], "discriminative")  # the same file of one that embeds at once by default
    assert "What a thought costs was not measured" in direct
    with pytest.raises(ValueError, match="two results of DigitWorld, test split, in the generative mode"):
        modes_section([alone, report_of("generative", {"sum": 0.5})], "generative")
    apart = [alone, report_of("discriminative", {"walk": 0.5})]
    assert "no task was measured in both modes" in modes_section(apart, "generative")


def test_a_reranker(
    folder: Path, tiny_backbone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers")
    save_tiny_reranker(Path("tiny"), tiny_backbone("qwen2_vl"))
    card = build_card(Path("tiny"), options=OPTIONS)
    printed = []
    for code in blocks(card):
        run(code)
        printed.append([float(one) for one in re.findall(r"\d\.\d{3,}", capsys.readouterr().out)])
    assert len(printed) == 3
    for scores in printed:
        assert scores == pytest.approx(printed[0], abs=2e-4)
        assert len(scores) == 2
    data = yaml.safe_load(card.content.split("---\n")[1])
    assert data["pipeline_tag"] == "text-ranking"
    assert "Dimensions" not in card.content
    assert "At once" not in card.content
    save_tiny_reranker(Path("plain"), tiny_backbone("qwen2_vl"), positions="1d")
    assert "CrossEncoder(" not in build_card(Path("plain"), options=OPTIONS).content
    with pytest.raises(ResultMismatchError, match="a reranker's card takes results of"):
        build_card(Path("tiny"), [report_of(None, {"sum": 0.5})], options=OPTIONS)


def test_an_adapter_of_a_reranker(
    folder: Path, tiny_backbone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers")
    base = umekit.load(save_tiny_reranker(Path("base"), tiny_backbone("qwen2_vl")))
    add_lora(base.model, rank=2, alpha=8, init_lora_weights=False)
    base.model.save_pretrained("tiny")
    base.processor.save_pretrained("tiny")
    card = build_card(Path("tiny"), options=OPTIONS)
    assert "a LoRA on `base`" in card.content
    assert "sentence-transformers: not possible; its adapter is not merged" in card.content
    printed = []
    for code in blocks(card):
        exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
        printed.append([float(one) for one in re.findall(r"\d\.\d{3,}", capsys.readouterr().out)])
    assert len(printed) == 3
    for scores in printed:
        assert scores == pytest.approx(printed[0], abs=2e-4)
        assert len(scores) == 2


@pytest.fixture
def deciding(folder: Path, tiny_checkpoint: Callable[..., Path]) -> Path:
    (folder / "tiny").symlink_to(tiny_checkpoint("qwen2_vl", role="adaptive"))
    return Path("tiny")


def test_a_checkpoint_that_decides_runs_in_every_way(
    deciding: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers")
    card = build_card(deciding, options=OPTIONS)
    printed = []
    for code in blocks(card):
        run(code)
        out = capsys.readouterr().out
        printed.append([float(one) for one in re.findall(r"-?\d\.\d{3,}", out)][:6])
    for scores in printed:
        assert len(scores) == 6
        assert scores == pytest.approx(printed[0], abs=2e-4)
    assert len(printed) == 3
    text = card.content
    assert "adaptive-reasoning" in text
    assert "| Kappa | 0.5: thinks where p(reason) is over it" in text
    assert "and decides which" in text
    assert "What thinking where it pays scores and costs was not measured" in text


def test_a_curve_stands_in_the_card_of_its_checkpoint(deciding: Path) -> None:
    own = umekit.load("tiny").fingerprint()
    outcomes = Outcomes(np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 0, 0]), np.array([20.0, 30, 20, 30]))
    hits = {"never": [1, 0, 0, 0], "adaptive": [1, 1, 0, 0], "always": [1, 1, 0, 0], "ideal": [1, 1, 0, 0]}
    scores = [
        Score.of_queries("walk", "R@1", values, kind=kind, family="walk", candidates=4, chance=0.25)
        for kind, values in hits.items()
    ]
    points = {name: [getattr(outcomes, name)()] for name in ("never", "always", "ideal")}
    points["policy"] = outcomes.sweep(np.array([0.1, 0.9, 0.2, 0.3]))
    costs = {"never": Cost(4, 0.4), "adaptive": Cost(4, 0.8, 1, 30), "always": Cost(4, 2.0, 4, 100)}
    report = CurveReport(
        "curve",
        scores,
        own,
        conditions("adaptive"),
        complete={"walk": {"family": "walk", "kinds": [*hits], "metric": "R@1"}},
        costs={f"queries, {name}": cost.to_dict() for name, cost in costs.items()},
        curves={"all tasks": points},
    )
    save_report(report, Path("curve.json"))
    assert main(["card", "tiny", "--results", "curve.json", "--out", "card.md"]) == 0
    text = Path("card.md").read_text()
    section = text[text.index("## At once, or after a thought") : text.index("## Training data")]
    for line in (
        "| walk | never | 0.250 |",
        "| walk | adaptive | 0.500 |",
        "| adaptive | 25.0% | 7.5 | 0.2000 | a machine, 2 cores |",
        "| always | 100.0% | 25.0 | 0.5000 | a machine, 2 cores |",
        "| ideal | 25.0% | 7.5 | - | - |",
    ):
        assert line in section
    assert "| all tasks | policy, cheapest as good as always | 0.500 | 25.0% | 7.5 | 30% |" in text
    data = yaml.safe_load(text.split("---\n")[1])
    [result] = data["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.5
