"""Model cards: code that runs, metadata that parses, and results of this model only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import umekit
from umekit.cli.main import main
from umekit.evaluation.conditions import Conditions
from umekit.evaluation.digit_world.report import DigitWorldReport, DigitWorldScore
from umekit.evaluation.results import load_report, save_report
from umekit.hub_cards.card import CardOptions, ResultMismatchError, build_card, split_about
from umekit.hub_cards.facts import read_facts, settings_rows
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding

ABOUT = Path(__file__).parents[2] / "examples" / "ume_tiny_about.md"


@pytest.fixture
def checkpoint(tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `tiny`, beside a photo, in the working directory."""
    (tmp_path / "tiny").symlink_to(tiny_checkpoint())
    Image.new("RGB", (60, 60), "red").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return Path("tiny")


OPTIONS = CardOptions(repo="tiny")


def report_of(fingerprint: dict[str, Any]) -> DigitWorldReport:
    score = DigitWorldScore(
        "sum", "R@1", 0.75, 2000, "sum", "labels", 36, 1 / 36, pools=1, optimistic=1500, majority=0.05
    )
    return DigitWorldReport(
        "digit-world",
        [score],
        fingerprint,
        Conditions(
            model="tiny",
            settings={"mode": None, "encoder": "Encoder(...)"},
            data={"name": "digit-world", "split": "test", "seed": 0, "definitions": "d" * 64},
            versions={"umekit": "1", "torch": "2", "transformers": "5", "python": "3"},
            machine="a machine, 2 cores",
            seconds=3.0,
            command="umekit evaluate digit-world",
            created="2026-01-02T03:04:05+00:00",
        ),
        complete={"sum": {"family": "sum", "kinds": ["labels"]}},
    )


def runnable(code: str) -> str:
    """The snippet as the card says to write it where torchvision is not installed."""
    if "SentenceTransformer(" not in code or find_spec("torchvision"):
        return code
    return code.replace('"tiny")', '"tiny", trust_remote_code=True)')


def blocks(card: ModelCard) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.content, flags=re.DOTALL)


def test_every_snippet_runs(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks(build_card(checkpoint, options=OPTIONS))
    assert len(found) == 3
    for code in found:
        if "sentence_transformers" in code:
            pytest.importorskip("sentence_transformers")
            assert "trust_remote_code" not in code  # causal, last token: stock modules do
        exec(compile(runnable(code), "snippet", "exec"), {"__name__": "snippet"})
        printed = capsys.readouterr().out
        assert len(re.findall(r"-?\d\.\d+", printed)) == (6 if "[2, 3]" in code else 2), printed


def test_snippets_agree(checkpoint: Path) -> None:
    """The three ways give the same similarities: what a card promises."""
    pytest.importorskip("sentence_transformers")
    transformers, sentence, _ = blocks(build_card(checkpoint, options=OPTIONS))
    spaces: list[dict[str, Any]] = []
    for code in (transformers, sentence):
        space: dict[str, Any] = {}
        exec(compile(runnable(code), "snippet", "exec"), space)
        spaces.append(space)
    for side in ("queries", "documents"):
        left, right = (torch.as_tensor(space[side]).float() for space in spaces)
        assert torch.allclose(left, right, atol=1e-4), side


def test_remote_code_is_said_where_it_is_needed(tiny_checkpoint: Callable[..., Path]) -> None:
    card = build_card(tiny_checkpoint("qwen2_vl", positions="1d"), options=OPTIONS)
    sentence = next(code for code in blocks(card) if "SentenceTransformer" in code)
    assert "trust_remote_code=True" in sentence
    assert card.data.library_name == "transformers"
    assert "sentence-transformers: not possible; 1-D positions" in card.content


def test_metadata_is_valid(checkpoint: Path) -> None:
    own = umekit.load("tiny").fingerprint()
    card = build_card(checkpoint, [report_of(own)], ABOUT.read_text(), OPTIONS)
    block = card.content.split("---\n")[1]
    data = yaml.safe_load(block)
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "sentence-transformers"
    assert data["pipeline_tag"] == "sentence-similarity"
    assert "base_model" not in data
    result = data["model-index"][0]["results"][0]
    assert result["metrics"][0] == {"type": "recall_at_1", "value": 0.75, "name": "recall@1"}
    assert result["dataset"]["split"] == "test"
    assert ModelCard(card.content).data.eval_results[0].metric_value == 0.75


def test_the_committed_card_says_what_the_committed_results_say() -> None:
    root = ABOUT.parents[1]
    names = ("digit_world", "ume-tiny-thinking", "ume-tiny-thoughts", "ume-tiny-curve")
    reports = [load_report(root / "benchmarks" / "results" / f"{name}.json") for name in names]
    made = build_card(root / "examples" / "ume-tiny", reports, fingerprint=reports[0].fingerprint)
    committed = (root / "examples" / "ume-tiny" / "README.md").read_text()
    text = made.content
    metadata = text[: text.index("\n# ")]
    scores = text[text.index("\n## Scores") : text.index("\n## Training data")]
    assert metadata in committed
    assert scores in committed


def test_sections(checkpoint: Path) -> None:
    own = umekit.load("tiny").fingerprint()
    text = build_card(checkpoint, [report_of(own)], ABOUT.read_text(), OPTIONS).content
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings == ["How to use it", "Settings", "Scores", "Training data", "Limits", "Versions"]
    assert "A real model of a small world" in text
    assert "| sum | sum | labels | 36 | 2,000 | 0.750 |" in text
    assert "a machine, 2 cores" in text
    assert "{{" not in text
    assert "\n\n\n" not in text


def test_without_results_nothing_is_claimed(checkpoint: Path) -> None:
    card = build_card(checkpoint, options=OPTIONS)
    assert "nothing is claimed" in card.content
    assert "Not stated by the author" in card.content
    assert card.data.eval_results is None


@pytest.mark.parametrize("name", ["model", "processor", "dim"])
def test_results_of_another_model_are_refused(checkpoint: Path, name: str) -> None:
    own = umekit.load("tiny").fingerprint()
    other = {**own, name: 7 if name == "dim" else "f" * 64}
    with pytest.raises(ResultMismatchError, match=name):
        build_card(checkpoint, [report_of(own), report_of(other)], options=OPTIONS)
    with pytest.raises(ResultMismatchError):
        build_card(checkpoint, [replace(report_of(own), fingerprint={})], options=OPTIONS)


def test_facts_are_the_models(tiny_checkpoint: Callable[..., Path], family: str) -> None:
    facts = read_facts(tiny_checkpoint(family))
    model = UmeForDiscriminativeEmbedding.from_pretrained(tiny_checkpoint(family))
    assert facts.parameters == sum(weight.numel() for weight in model.parameters())
    assert facts.dim == model.dim
    assert set(facts.values) == {"float32"}
    rows = dict(settings_rows(facts))
    assert rows["Attention"] == "causal"
    assert f"{facts.parameters:,}" in rows["Parameters"]


def test_folders_without_settings_or_weights(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no ume block"):
        read_facts(tiny_backbone("qwen2_vl"))


@pytest.mark.parametrize("word", ['a "quote"', "two\nlines", "back\\slash"])
def test_examples_stay_inside_their_strings(checkpoint: Path, word: str) -> None:
    with pytest.raises(ValueError, match="can't stand in the card's code"):
        build_card(checkpoint, options=replace(OPTIONS, query=word))


def test_about_is_split() -> None:
    found = split_about("# t\n\nlead\n\nmore\n\n## Limits\n\nmany\n\n### sub\n\nx\n\n## Thanks\n\nall\n")
    assert found == {"": "lead\n\nmore", "Limits": "many\n\n### sub\n\nx", "Thanks": "all"}


def test_the_verb(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_report(report_of(umekit.load("tiny").fingerprint()), Path("r.json"))
    call = ["card", "tiny", "--results", "r.json", "--about", str(ABOUT), "--out", "card.md"]
    assert main([*call, "--repo", "someone/tiny", "--query", "red 4"]) == 0
    text = Path("card.md").read_text()
    assert '"someone/tiny"' in text
    assert '"red 4"' in text
    assert text.splitlines()[text.splitlines().index("# tiny")] == "# tiny"
    capsys.readouterr()
    assert main(call) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*call, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "card.md", "results": 1}
    assert main(["card", "nowhere"]) == 2
