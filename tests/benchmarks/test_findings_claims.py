"""The claims are well formed: arms, data, prompts and pools exist, and arms of a claim see equal rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from findings_table.claims import CLAIMS, chosen
from findings_table.context import Context
from findings_table.instructions import PARTS, SEEN, UNSEEN
from findings_table.jobs import QUARTER, Settings, Work
from findings_table.pools import POOLS, by_part, pools_of
from findings_table.prompts import DIRECT, PROMPTS, put_on
from findings_table.records import Arm, Claim
from findings_table.rows import DATA, LABEL_TASKS, BatchRows

from umekit.examples.ume_tiny_model import build_model, build_processor, build_tokenizer
from umekit.processing.processor import UmeProcessor

ARMS = {arm.name: arm for claim in CLAIMS for arm in claim.arms}


@pytest.fixture(scope="module")
def processor() -> UmeProcessor:
    return build_processor(build_tokenizer())


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_claim_is_complete(claim: Claim) -> None:
    assert claim.statement
    assert claim.condition
    assert any(system in claim.source for system in ("U-MARVEL", "RzenEmbed"))
    assert {claim.better, *claim.worse} <= set(claim.names)
    assert claim.better not in claim.worse
    assert len({arm.pool for arm in claim.arms}) == 1  # the queries are paired


def test_names_are_unique_and_arms_are_shared_whole() -> None:
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    Work(CLAIMS, (0, 1, 2), Settings(Path("nowhere")))  # raises for two arms of one name
    with pytest.raises(ValueError, match="no claims"):
        chosen(["nonsense"])


@pytest.mark.parametrize("arm", ARMS.values(), ids=lambda arm: arm.name)
def test_arm_can_be_made(arm: Arm) -> None:
    assert arm.pool in POOLS
    assert arm.prompt in {DIRECT, *PROMPTS}
    assert arm.soup != bool(arm.phases)
    assert arm.start == "read" or arm.prompt != DIRECT  # the other starts have learned under a prompt
    if arm.soup:
        return
    assert sum(phase.share for phase in arm.phases) == 1
    assert all(phase.data in DATA for phase in arm.phases)
    assert len(arm.rates) == 2
    for divide in (1, QUARTER):  # no batch is cut off, so that equal rows are equal
        assert sum(arm.steps(phase, divide) for phase in arm.phases) * arm.batch == arm.rows / divide


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_arms_of_a_claim_see_equal_rows(claim: Claim) -> None:
    assert len({arm.rows for arm in claim.arms if not arm.soup}) == 1
    assert len({arm.rates for arm in claim.arms if not arm.soup}) == 1


@pytest.mark.parametrize("name", [name for name in DATA if "filtered" not in name and "weighted" not in name])
def test_batches_are_full_and_repeatable(name: str) -> None:
    context = Context(3, Path("nowhere"))
    one, two = (BatchRows(DATA[name], context, steps=2, batch=16) for _ in range(2))
    assert len(one) == 32
    for index in (0, 17, 31):
        row, again = one[index], two[index]
        assert row["positive_id"] == again["positive_id"]
        assert {"query", "positive", "task"} <= set(row)
    assert set(one.sets) == {0, 1}


def test_mixed_and_apart_batches_hold_the_same_rows() -> None:
    context = Context(0, Path("nowhere"))
    for apart, mixed, sets in (
        ("labels_apart", "labels_merged", 4),
        ("modalities_apart", "modalities_mixed", 3),
    ):
        size = 12
        both = [[DATA[name](context, number, size) for number in range(sets)] for name in (apart, mixed)]
        keys = [
            sorted((row["dataset"], row["positive_id"]) for batch in found for row in batch) for found in both
        ]
        assert keys[0] == keys[1]
        assert all(len({row["dataset"] for row in batch}) == 1 for batch in both[0])
        assert all(len({row["dataset"] for row in batch}) == sets for batch in both[1])


def test_labels_collide_across_sets() -> None:
    rows = DATA["labels_merged"](Context(0, Path("nowhere")), 0, 400)
    by_set = {name: {row["positive_id"] for row in rows if row["dataset"] == name} for name in LABEL_TASKS}
    assert by_set["digits"] & by_set["counts"]


def test_near_duplicates_come_in_fours_that_differ_little() -> None:
    rows = DATA["near_duplicates"](Context(0, Path("nowhere")), 0, 16)
    names = [row["positive_id"].split() for row in rows]
    for first in range(0, 16, 4):
        for other in names[first + 1 : first + 4]:
            changed = sum(a != b for a, b in zip(names[first], other, strict=True))
            assert 1 <= changed <= 4  # a digit, a colour, or a swap of two cells


def test_hard_only_strikes_the_batch_out() -> None:
    only = DATA["mined_only"](Context(0, Path("nowhere")), 0, 8)
    unfiltered = DATA["mined_unfiltered"](Context(0, Path("nowhere")), 0, 8)
    assert len({row["positive_id"] for row in only}) == 1
    assert [row["negatives"] for row in only] == [row["negatives"] for row in unfiltered]
    assert len({row["positive_id"] for row in unfiltered}) == 8


def test_instructions_are_disjoint_and_of_the_stated_length(processor: UmeProcessor) -> None:
    assert len(SEEN) == 16
    assert len(UNSEEN) == 8
    assert not set(SEEN) & set(UNSEEN)
    for words in (*SEEN, *UNSEEN):
        for part in PARTS:
            assert 10 <= len(processor.tokenizer(words.format(part=part)).input_ids) <= 30


def test_thirty_meanings_in_four_wordings() -> None:
    (ask,) = pools_of("worded", "validation", 50)
    assert len(ask.candidates) == 120
    assert len({candidate["text"] for candidate in ask.candidates}) == 120
    assert len(set(ask.groups.tolist())) == 30


def test_instructed_pool_has_four_texts_of_every_picture() -> None:
    (ask,) = pools_of("instructed", "validation", 400)
    texts = [candidate["text"] for candidate in ask.candidates]
    assert len(set(texts)) == 400
    assert len({id(query["image"]) for query in ask.queries}) == 100


def test_values_count_the_right_candidates_among_the_first_and_ties_against() -> None:
    (ask,) = pools_of("worded", "validation", 3)
    documents = np.eye(30, dtype=np.float32)[ask.groups]
    assert ask.values(documents[np.searchsorted(ask.groups, ask.wanted)], documents).tolist() == [4, 4, 4]
    assert ask.values(np.ones((3, 30), dtype=np.float32), documents).tolist() == [0, 0, 0]
    assert ask.chance == pytest.approx(4 / 120)


def test_parts_of_a_pool_are_told_apart() -> None:
    digits = pools_of("labels", "validation", 40)[0]
    assert digits.part == "digits"
    values = np.zeros(40, dtype=np.uint8)
    values[: len(digits.queries)] = 1  # the first part
    found = by_part("labels", "validation", 40, values)
    assert found["digits"] == {"mean": 1.0, "chance": 0.1}
    assert found["colours"] == {"mean": 0.0, "chance": 0.125}


def test_mask_leaves_the_instruction_out_and_the_other_arm_takes_it_in(processor: UmeProcessor) -> None:
    model = build_model(processor.tokenizer)
    item = {"text": "p1 red 4", "instruction": "find the scene"}
    counts = {}
    for name in ("bidirectional-mean", "bidirectional-mean-unmasked", "causal-last"):
        prompted, own = put_on(model, processor, name)
        one = own.prepare(item, role="query")
        counts[name] = int((one.slots > 0).sum()), one.length
        assert prompted.settings.attention == PROMPTS[name].model.attention
    span = len(processor.tokenizer("find the scene").input_ids) + 2
    assert counts["bidirectional-mean-unmasked"][0] == counts["bidirectional-mean-unmasked"][1]
    assert counts["bidirectional-mean"][0] == counts["bidirectional-mean"][1] - span
    assert counts["causal-last"][0] == 1


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_hold_every_part_of_an_item(processor: UmeProcessor, name: str) -> None:
    _, own = put_on(build_model(processor.tokenizer), processor, name)
    text = own.tokenizer.decode(own.prepare({"text": "gold 5", "instruction": "find the page"}).input_ids)
    assert "gold 5" in text
    assert "find the page" in text
    assert ("read the caption" in text) == (name in ("embedding-prompt",) or name.endswith("compression"))
