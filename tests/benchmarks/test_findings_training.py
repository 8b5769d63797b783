"""Arms really train: two steps of each kind, from a random start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from findings_table.claims import CLAIMS
from findings_table.context import Context
from findings_table.mined import best_bound
from findings_table.pools import score
from findings_table.records import Arm, Claim, Phase
from findings_table.starts import PROMPT_OF, STRIPS_ALOUD, BlankReader
from findings_table.training import open_start, train_arm
from findings_table.world import World

from umekit.encoding.encoder import Encoder
from umekit.examples.ume_tiny_captions import IGNORED, CaptionReader, lesson_rows

ARMS = {arm.name: arm for claim in CLAIMS for arm in claim.arms}


def short(name: str, **changes: object) -> Arm:
    """Two steps of four rows of an arm."""
    arm = ARMS[name]
    return replace(arm, batch=4, rows=4 * 2 * len(arm.phases), **changes)


@pytest.mark.parametrize("name", ["stage-progressive", "bidirectional-mean-prompt", "adapter-on-all"])
def test_an_arm_trains(start: Path, name: str) -> None:
    arm = short(name)
    before = open_start(start, 0)[0].state_dict()
    trained = train_arm(arm, Context(0, start), 1e-3)
    assert trained.steps == sum(arm.steps(phase) for phase in arm.phases) == len(trained.history)
    assert all(np.isfinite(loss) for _, _, loss in trained.history)
    after = trained.model.state_dict()
    moved = [key for key, value in after.items() if key not in before or not torch.equal(value, before[key])]
    assert moved
    if arm.lora is not None:
        assert all("lora" in key or "base_layer" in key for key in moved)


def test_a_run_is_repeatable(start: Path) -> None:
    one, two = (train_arm(short("negatives-only"), Context(0, start), 1e-3) for _ in range(2))
    assert one.history == two.history


def test_a_learned_temperature_moves_and_a_fixed_one_does_not(start: Path) -> None:
    learned = train_arm(short("temperature-learned"), Context(0, start), 1e-3).temperature["temperature"]
    fixed = train_arm(short("temperature-0.05"), Context(0, start), 1e-3).temperature["temperature"]
    assert fixed == pytest.approx(0.05)
    assert abs(learned - 0.05) > 1e-4


def test_weights_by_convergence_read_the_earlier_run(start: Path) -> None:
    fast = [(step, "pictures", 2.0 if step < 4 else 0.5) for step in range(16)]
    slow = [(step, "retrieve_clip", 2.0 - step / 10) for step in range(16)]
    context = Context(0, start, earlier={"resample-even": {"history": fast + slow}})
    trained = train_arm(short("resample-measured"), context, 1e-3)
    share = context.notes["share_of_batches"]
    assert share["retrieve_clip"] > share["pictures"]
    assert trained.steps == 2


def test_scores_are_of_every_query(start: Path) -> None:
    model, processor = open_start(start, 0)
    values = score(Encoder(model.eval(), processor, workers=0), "labels", "validation", 40)
    assert values.shape == (40,)
    assert set(values.tolist()) <= {0, 1}


def test_the_filter_drops_what_is_too_similar(start: Path) -> None:
    context = Context(0, start)
    trained = train_arm(short("negatives-filtered"), context, 1e-3)
    counted = context.notes["filter"]
    assert trained.steps == 2
    assert counted["secret"][1] + counted["other"][1] == 2 * 4 * 4
    scores = np.array([0.1, 0.2, 0.8, 0.9], dtype=np.float32)
    assert best_bound(scores, np.array([False, False, True, True])) == pytest.approx(0.2)


def test_blanked_words_are_told_from_the_place_before(start: Path) -> None:
    _, processor = open_start(start, 0)
    rows = lesson_rows(World("train"), ("strip",), 0, 6)
    plain = CaptionReader(processor).batch(rows)
    reader = BlankReader(processor, seed=0)
    blanked = reader.batch(rows)
    asked = blanked["labels"] != IGNORED
    assert asked.any(-1).all()
    assert (blanked["labels"][asked] == plain["labels"][asked]).all()
    following = torch.roll(blanked["input_ids"], -1, dims=1)
    assert (following[asked] == reader.blank).all()
    changed = blanked["input_ids"] != plain["input_ids"]
    assert int(changed.sum()) == int(asked.sum())
    assert set(PROMPT_OF) == {"causal", "bidirectional"}


def test_phases_go_on_through_the_rows(start: Path) -> None:
    arm = Arm(
        "two",
        "two phases",
        "labels",
        phases=(Phase("pictures", 0.5), Phase("pictures", 0.5)),
        batch=8,
        rows=32,
    )
    trained = train_arm(arm, Context(0, start), 1e-3)
    assert [step for step, _, _ in trained.history] == [1, 2, 3, 4]
    assert isinstance(CLAIMS[0], Claim)


def test_reading_takes_its_turns() -> None:
    """What arms see is read aloud: strips by their caption, clips and cells by DigitWorld's."""
    world = World("train")
    rows = lesson_rows(world, STRIPS_ALOUD.sources, 0, 4)
    assert [sorted(row["item"]) for row in rows[:3]] == [
        ["image", "instruction"],
        ["image", "instruction"],
        ["instruction", "video"],
    ]
    assert rows[0]["text"] == world.row("captions", 0)["positive"]["text"]
    assert rows[3] == world.digit_world.caption("cell", 3)
