"""What a thought is worth: pass@k, the oracle of both modes, and how much vectors depend on what is thought."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import umekit
from umekit.cli.main import main
from umekit.evaluation.digit_world.evaluate import score_digit_world
from umekit.evaluation.metrics import pass_at_k
from umekit.evaluation.results import load_report, save_report
from umekit.evaluation.tables import markdown_table
from umekit.evaluation.thought_report import CONDITIONS
from umekit.evaluation.thought_sensitivity import Questions, row_questions, score_thoughts, thoughts_of

DATA = {"name": "texts", "split": "all", "revision": "0"}
WORDS = ["a picture", "the text of a page", "compare", "video and query", "it is that"]


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("qwen2_vl", role="generative")


@pytest.mark.parametrize("samples", [1, 4, 7])
def test_pass_at_k_is_the_mean_over_all_subsets(samples: int) -> None:
    for k in range(1, samples + 1):
        for right in range(samples + 1):
            flags = [place < right for place in range(samples)]
            subsets = [any(one) for one in combinations(flags, k)]
            assert pass_at_k([right], samples, k)[0] == pytest.approx(np.mean(subsets), abs=1e-12)
    with pytest.raises(ValueError, match="need 1 <= k"):
        pass_at_k([0], samples, samples + 1)
    with pytest.raises(ValueError, match="as many right"):
        pass_at_k([samples + 1], samples, 1)


def test_samples_and_oracle_of_digit_world(folder: Path, tmp_path: Path) -> None:
    encoder = umekit.load(folder)
    with np.errstate(all="ignore"):
        report = score_digit_world(
            encoder,
            ["qa_what"],
            12,
            progress=False,
            max_new_tokens=3,
            num_samples=4,
            pass_at=[1, 4],
            oracle=True,
        )
    [score] = report.scores
    assert score.samples == 4
    assert 0 <= score.pass_at["1"] <= score.pass_at["4"] <= 1
    assert score.oracle is not None
    assert score.oracle.correct >= score.correct  # generative is one of the two
    assert report.conditions.settings["sampled_side"] == "query"
    save_report(report, tmp_path / "report.json")
    again = load_report(tmp_path / "report.json")
    assert again.scores == [score]
    text = markdown_table(again)
    assert "pass@k (4 thoughts drawn for each query, one for each document)" in text
    assert "oracle: right at once, or after a thought" in text
    with pytest.raises(ValueError, match="pass@5 needs"):
        score_digit_world(encoder, ["qa_what"], 12, progress=False, num_samples=4, pass_at=[5])


def test_thoughts_of_every_condition(folder: Path) -> None:
    tokenizer = umekit.load(folder).processor.prompt_tokenizer
    own = [[*range(300, 340)], [*range(300, 340)], [301, 302]]
    found = thoughts_of(tokenizer, own)
    assert found["another's"] == [own[2], own[2], own[0]]
    assert found["none"] == [[], [], []]
    empty = tokenizer.encode(tokenizer.pieces("<think></think><answer>"))
    assert found["empty"][0] == empty
    assert [len(ids) for ids in found["filler"]] == [40, 40, max(2, len(empty))]
    assert len(set(found["filler"][0]) - set(empty)) == 1


def test_report_of_a_model(folder: Path, tmp_path: Path) -> None:
    """Cosines and hits are those of the vectors that encode gives for thoughts of each condition."""
    encoder = umekit.load(folder)
    questions = [Questions("words", WORDS, WORDS, range(len(WORDS)), "texts")]
    report = score_thoughts(encoder, questions, DATA, progress=False)
    assert [score.kind for score in report.scores] == [*CONDITIONS]
    own = encoder.encode(WORDS, role="query", return_details=True)
    given = thoughts_of(encoder.processor.prompt_tokenizer, own.thought_ids)
    documents = encoder.encode(WORDS, role="document")
    for score in report.scores:
        ids = given.get(score.kind, own.thought_ids)
        vectors = encoder.encode(WORDS, role="query", thoughts=ids, max_new_tokens=99)
        cosines = (vectors * own.embeddings).sum(axis=1)
        assert score.cosine == pytest.approx(float(cosines.mean()), abs=1e-5)
        assert score.percentiles["50"] == pytest.approx(float(np.median(cosines)), abs=1e-5)
        table = vectors @ documents.T
        assert score.value == pytest.approx(np.mean(table.argmax(axis=1) == np.arange(len(WORDS))))
    assert report.scores[0].cosine == pytest.approx(1, abs=1e-6)
    assert any("did not end within their limit" in line for line in report.alarms)
    save_report(report, tmp_path / "thoughts.json")
    again = load_report(tmp_path / "thoughts.json")
    assert again.scores == report.scores
    assert "cosine with own" in markdown_table(again)


def test_what_cannot_be_compared_is_said(folder: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="writes no thoughts"):
        score_thoughts(umekit.load(tiny_checkpoint("qwen2_vl")), [], DATA)
    with pytest.raises(ValueError, match="need two of each"):
        row_questions([{"query": "a", "positive": "b"}] * 2, "mine")
    rows = [{"query": word, "positive": {"text": word}, "task": "t"} for word in (*WORDS, WORDS[0])]
    [one] = row_questions(rows, "mine")
    assert (len(one.candidates), one.positives[-1]) == (5, 0)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"query": word, "positive": f"its {word}"}) for word in WORDS))
    out = tmp_path / "thoughts.json"
    command = ["evaluate", "thoughts", str(folder), "--rows", str(rows), "--out", str(out), "--quiet"]
    assert main(command) == 0
    assert "cosine with own" in capsys.readouterr().out
    report: Any = load_report(out)
    assert {score.task for score in report.scores} == {"rows.jsonl"}
    assert report.conditions.command.startswith("umekit evaluate thoughts --model")
    assert main(["evaluate", "thoughts", str(folder), "--tasks", "qa_what", "--queries", "4", "--quiet"]) == 0
    assert "another's" in capsys.readouterr().out
    assert main(["evaluate", "thoughts", str(folder), "--blind"]) == 2
    assert "thoughts has no --blind" in capsys.readouterr().err
