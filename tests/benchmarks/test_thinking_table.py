"""The reasoning half of the findings table: its rows, its controls, its scores and its verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from findings_table.store import pack
from thinking_table import report, scoring
from thinking_table.claims import CLAIMS
from thinking_table.records import ARMS, chain
from thinking_table.rows import MIXTURE, Mixture, prompts
from thinking_table.training import add_layers, shuffled

import umekit
from umekit.encoding.packaged import packaged_model
from umekit.evaluation.digit_world import DigitWorld


def test_every_claim_reads_arms_that_there_are() -> None:
    for claim in CLAIMS:
        assert {claim.better.arm, claim.worse.arm} <= set(ARMS)
    assert [arm.name for arm in chain(["rl", "rl-twice"])] == ["thinking", "faulty", "rl", "rl-twice"]


def test_mixtures_grow_and_go_on() -> None:
    growing, plain = Mixture(100, 1), Mixture(100, 1, first=100, growing=False, thoughts=False)
    first = [growing[place] for place in range(growing.batch)]
    assert [row["task"] for row in first] == [name for name, count in MIXTURE.items() for _ in range(count)]
    assert max(row["steps"] for row in first if row["task"] == "walk") == 0
    later = [growing[40 * 64 + place]["steps"] for place in range(44)]
    assert max(later) == 8
    assert "query_thought" not in plain[0]
    assert plain[0]["query"]["text"] == prompts(1, 1, 100)[0]["query"]["text"]  # what RL begins with


def test_added_layers_begin_by_changing_nothing() -> None:
    encoder = umekit.load(packaged_model(), role="generative", dtype=torch.float32)
    items = ["the red 4", {"image": DigitWorld("test").row("walk", 0)["query"]["image"]}]
    before = encoder.encode(items, mode="both", max_new_tokens=6)
    add_layers(encoder.model.backbone, 2)
    after = encoder.encode(items, mode="both", max_new_tokens=6)
    for mode, vectors in before.items():
        np.testing.assert_allclose(after[mode], vectors, atol=1e-5)


def test_added_layers_are_saved(tmp_path: Path) -> None:
    encoder = umekit.load(packaged_model(), role="generative", dtype=torch.float32)
    add_layers(encoder.model.backbone, 1)
    torch.nn.init.normal_(encoder.model.backbone.base_model.language_model.layers[-1].mlp.down_proj.weight)
    encoder.model.save_pretrained(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    wanted = encoder.encode(["the red 4"], mode="discriminative")
    np.testing.assert_allclose(
        umekit.load(tmp_path).encode(["the red 4"], mode="discriminative"), wanted, atol=1e-6
    )


def test_shuffled_rewards_stay_in_their_group() -> None:
    values = torch.rand(4, 8)

    class Groups:
        seed = (0, 3, 0, 0)

    dealt: Any = shuffled(lambda groups: values)
    found = dealt(Groups())
    assert torch.equal(found.sort(dim=1).values, values.sort(dim=1).values)
    assert not torch.equal(found, values)
    assert torch.equal(found, dealt(Groups()))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<think>p3 red 7 p7 gold 2</think>", None),
        ("<think>p3 red 8 p8 gold 2</think>", "digit"),
        ("<think>p3 pink 7", "colour"),
        ("<think>p3 red 7 p6 gold 2</think>", "position"),
        ("<think>p3 red 7</think>", "length"),
    ],
)
def test_where_a_thought_leaves_the_right_one(text: str, kind: str | None) -> None:
    assert scoring.first_difference("p3 red 7 p7 gold 2", text) == kind


def record(walks: np.ndarray, hops: np.ndarray, easy: np.ndarray, *modes: str) -> dict[str, Any]:
    return {
        "queries": len(walks),
        "hops": pack(hops.astype(np.uint8)),
        "values": {mode: pack(walks) for mode in modes},
        "easy": {mode: {task: pack(easy) for task in scoring.EASY} for mode in modes},
        "given": {name: pack(walks) for name in ("gold", "another")} if len(modes) > 1 else {},
        "controlled": len(walks),
        "easy_queries": len(easy),
        "minutes": 1.0,
    }


def test_a_claim_is_judged_on_its_queries() -> None:
    rng = np.random.default_rng(0)
    hops = np.repeat(np.arange(9), 500)
    easy = np.ones(50, dtype=np.uint8)
    results: dict[str, dict[int, Any]] = {"thinking": {}, "glance": {}}
    for seed in range(3):
        thinking = (rng.random(len(hops)) < 0.9).astype(np.uint8)
        glance = ((rng.random(len(hops)) < 0.1) | (hops == 0)).astype(np.uint8)
        results["thinking"][seed] = record(thinking, hops, easy, "discriminative", "generative")
        results["glance"][seed] = record(glance, hops, easy, "discriminative")
    found = {row["claim"]: row for row in report.table(results)["claims"]}
    assert set(found) == {"thinking-far", "start", "easy", "direct-kept", "thought-read"}
    assert found["thinking-far"]["queries"] == 3000
    assert found["thinking-far"]["verdict"] == "reproduced"
    assert found["thinking-far"]["difference"] == pytest.approx(0.8, abs=0.02)
    assert found["thinking-far"]["reached"]
    assert not found["start"]["reached"]  # 0.9 against 1.0
    text = report.markdown({**report.table(results), "command": "x"})
    assert "reproduced" in text
    assert "**missed**" in text
