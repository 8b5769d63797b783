"""The cost-quality curve: what thinking at every threshold would score, from one encoding in each mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.evaluation.curve import measure_curve
from umekit.evaluation.curve_report import ALL, CurveReport, curve_table, draw_curve, matched
from umekit.evaluation.curves import Outcomes
from umekit.evaluation.results import load_report, save_report
from umekit.evaluation.score import ResultFormatError
from umekit.evaluation.tables import markdown_table
from umekit.evaluation.thought_sensitivity import Questions

RNG = np.random.default_rng(0)
OUTCOMES = Outcomes(
    RNG.integers(0, 2, 50).astype(float),
    RNG.integers(0, 2, 50).astype(float),
    RNG.integers(1, 60, 50).astype(float),
)


def test_every_point_is_what_its_threshold_gives() -> None:
    scores = RNG.random(50).round(1)  # with ties
    points = OUTCOMES.sweep(scores)
    for point in points:
        thinks = [score > point["kappa"] for score in scores]
        pairs = zip(thinks, OUTCOMES.reasoned, OUTCOMES.at_once, strict=True)
        assert point["score"] == pytest.approx(
            np.mean([after if yes else before for yes, after, before in pairs])
        )
        spent = [tokens for yes, tokens in zip(thinks, OUTCOMES.tokens, strict=True) if yes]
        assert point["tokens_per_item"] == pytest.approx(sum(spent) / 50, abs=1e-4)
        assert point["invocation_ratio"] == pytest.approx(np.mean(thinks))
    ratios = [point["invocation_ratio"] for point in points]
    assert ratios == sorted(ratios)
    for end, fixed in ((points[0], OUTCOMES.never()), (points[-1], OUTCOMES.always())):
        assert {**end, "kappa": None} == fixed


def test_who_knows_beforehand_thinks_only_where_it_helps() -> None:
    ideal = OUTCOMES.ideal()
    assert ideal["score"] == pytest.approx(np.maximum(OUTCOMES.at_once, OUTCOMES.reasoned).mean())
    assert ideal["invocation_ratio"] == pytest.approx(np.mean(OUTCOMES.reasoned > OUTCOMES.at_once))
    scores = OUTCOMES.helps().astype(float)  # a strategy that does know is as good
    best = matched(OUTCOMES.sweep(scores), ideal["score"])
    assert best is not None
    assert {**best, "kappa": None} == ideal
    assert matched(OUTCOMES.sweep(scores), 1.01) is None


@pytest.fixture(scope="module")
def measured(
    tiny_checkpoint: Callable[..., Path], pictures: list[Image.Image]
) -> tuple[umekit.Encoder, CurveReport]:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl", role="adaptive", max_new_tokens=4), device="cpu")
    texts = [f"text {number}" for number in range(12)]
    asked = [
        Questions("words", [*texts[:6], texts[0]], texts, [0, 1, 2, 3, 4, 5, 0], "text"),
        Questions("pictures", pictures, [{"image": one} for one in pictures], [*range(6)], "image"),
    ]
    middle = float(np.median(encoder.encode_query(texts, kappa=1, return_details=True).reason_scores))
    encoder.model.settings = replace(encoder.model.settings, kappa=middle)
    data = {"name": "a test", "split": "test", "revision": "1"}
    return encoder, measure_curve(encoder, asked, data, fitted_on=[asked[0]], progress=False)


def test_the_curve_goes_through_what_was_encoded(measured: tuple[umekit.Encoder, CurveReport]) -> None:
    encoder, report = measured
    assert set(report.curves) == {ALL, "words", "pictures"}
    for task, points in report.curves.items():
        assert {"never", "always", "ideal", "policy", "margin"} <= set(points)
        for name in ("policy", "margin"):
            assert {**points[name][0], "kappa": None} == points["never"][0]
            assert {**points[name][-1], "kappa": None} == points["always"][0]
        if task != ALL:
            for kind in ("never", "always", "ideal"):
                score = report.score(task, kind)
                assert score is not None
                assert score.value == pytest.approx(points[kind][0]["score"], abs=1e-6)
    cost = report.costs
    assert cost["queries, never"]["thought_tokens"] == 0
    assert cost["queries, always"]["items"] == 13
    assert cost["queries, always"]["tokens_per_item"] == pytest.approx(
        report.curves[ALL]["always"][0]["tokens_per_item"], abs=0.01
    )
    assert 0 < cost["queries, adaptive"]["thoughts"] < 13
    assert cost["queries, adaptive"]["seconds"] > 0
    assert report.conditions.settings["kappa"] == encoder.model.settings.kappa
    if "probe" not in report.curves[ALL]:
        assert any(note.startswith("no probe: a thought helps") for note in report.notes)


def test_a_result_file_and_its_picture(measured: tuple[umekit.Encoder, CurveReport], tmp_path: Path) -> None:
    _, report = measured
    path = tmp_path / "curve.json"
    save_report(report, path)
    again = load_report(path)
    assert isinstance(again, CurveReport)
    assert again.curves == report.curves
    assert markdown_table(again) == markdown_table(report)
    assert "| all tasks | ideal |" in curve_table(again)
    draw_curve(again, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert min(picture.size) > 400
    block = json.loads(path.read_text(encoding="utf-8"))
    for broken in (None, {"all tasks": {"never": [{"score": "x"}]}}):
        path.write_text(json.dumps({**block, "curves": broken}), encoding="utf-8")
        with pytest.raises(ResultFormatError, match="'curves' is missing or incomplete"):
            load_report(path)


def test_who_decides_nothing_has_no_curve(tiny_checkpoint: Callable[..., Path]) -> None:
    encoder: Any = umekit.load(tiny_checkpoint("qwen2_vl", role="generative"), device="cpu")
    with pytest.raises(ValueError, match="it decides nothing"):
        measure_curve(encoder, [], {})
