"""DigitWorld: what makes its numbers mean something: independent simulators, balance, meanings, splits."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from umekit.evaluation.digit_world import (
    CAPTION_KINDS,
    COLOURS,
    INSTRUCTIONS,
    POSITIONS,
    TASKS,
    DigitWorld,
    all_texts,
    word_kind,
)
from umekit.evaluation.digit_world.__main__ import average, measure
from umekit.evaluation.digit_world.clips import Clip, make_clip
from umekit.evaluation.digit_world.dataset import TaskRows
from umekit.evaluation.digit_world.glyphs import load_glyphs
from umekit.evaluation.digit_world.pools import family
from umekit.evaluation.digit_world.rows import Draw
from umekit.evaluation.digit_world.scenes import CHANGES, near_scene, random_scene
from umekit.evaluation.digit_world.walks import make_until_gold, make_walk

KEYS = {
    "query", "positive", "negatives", "task", "family", "dataset", "steps", "answer", "query_thought",
    "positive_thought", "positive_answer", "positive_id",
}  # fmt: skip
LABEL_TASKS = [name for name, task in TASKS.items() if task.labels]
RETRIEVAL_TASKS = [name for name, task in TASKS.items() if not task.labels]
HARD_TASKS = [name for name, task in TASKS.items() if task.near is not None]


@pytest.fixture(scope="module")
def world() -> DigitWorld:
    return DigitWorld("validation", seed=3)


def plain(value: Any) -> Any:
    """Pictures as bytes, so that rows compare by content."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return (value.size, value.tobytes()) if hasattr(value, "tobytes") else value


def read(caption: str) -> dict[str, tuple[str, int]]:
    """`p1 red 4 p2 ...` -> {"p1": ("red", 4), ...}."""
    words = caption.split()
    return {words[i]: (words[i + 1], int(words[i + 2])) for i in range(0, len(words), 3)}


def simulate(digits: list[int], start: int, hops: int) -> list[int]:
    """Follow the digits, written without the generator's helpers. Cells are 0..8."""
    path = [start]
    for _ in range(hops):
        path.append(digits[path[-1]] - 1)
    return path


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_valid(world: DigitWorld, name: str) -> None:
    task = TASKS[name]
    for row in world.rows(name, 24):
        assert set(row) == KEYS
        assert (row["task"], row["dataset"], row["family"]) == (name, name, task.family)
        assert row["query"]["instruction"] == INSTRUCTIONS[name]
        assert set(row["query"]) - {"instruction"} == set(task.query.split("+"))
        for item in [row["positive"], *row["negatives"]]:
            assert set(item) == {task.positive}
            assert plain(item) != plain(row["positive"]) or item is row["positive"]
        if task.labels:
            assert row["positive"]["text"] == row["answer"] == row["positive_id"]
            assert row["answer"] in task.labels
        for text in (row["answer"], row["query_thought"], row["positive_answer"], row["positive_id"]):
            assert text
            assert text == text.lower()
        # A positive's thought knows the positive alone: what it means, and nothing where it says so itself.
        assert row["positive_thought"] == ("" if task.positive == "text" else row["positive_id"])


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_a_function_of_split_seed_task_and_index(name: str) -> None:
    first, again = DigitWorld("train", 1), DigitWorld("train", 1)
    again.row(name, 5)  # another order of calls
    assert plain(first.row(name, 2, negatives=1)) == plain(again.row(name, 2, negatives=1))
    assert plain(first.row(name, 2)) == plain(first.rows(name, 1, start=2)[0])
    assert plain(first.row(name, 2)) != plain(first.row(name, 3))
    others = [DigitWorld("train", 2), DigitWorld("test", 1)]
    assert all(plain(first.row(name, 2)) != plain(other.row(name, 2)) for other in others)


def test_image_sizes_are_whole_tokens(world: DigitWorld) -> None:
    assert world.row("walk", 0)["query"]["image"].size == (84, 84)
    assert world.row("ground_cell", 0)["positive"]["image"].size == (56, 56)
    heights = {world.row("retrieve_page", i)["positive"]["image"].size for i in range(20)}
    assert heights == {(112, 112), (112, 140)}
    assert [frame.size for frame in world.row("clip_end", 0)["query"]["video"]] == [(84, 84)] * 4
    assert len(world.row("retrieve_moment", 0)["query"]["video"]) == 8


def test_splits_share_no_handwriting() -> None:
    samples = {split: set(load_glyphs(split).samples.tolist()) for split in ("train", "validation", "test")}
    assert samples["train"] == set(range(1197))
    assert samples["validation"] == set(range(1197, 1397))
    assert samples["test"] == set(range(1397, 1797))
    for split in samples:
        glyphs = load_glyphs(split)  # type: ignore[arg-type]
        assert glyphs.masks.shape == (len(glyphs.digits) + 1, 28, 28)
        assert not glyphs.masks[-1].any()
        assert set(glyphs.digits.tolist()) == set(range(10))


def test_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="dev"):
        DigitWorld("dev")  # type: ignore[arg-type]


def test_pixels_show_the_colour_of_each_cell(world: DigitWorld) -> None:
    from umekit.evaluation.digit_world.words import RGB

    scene = random_scene(world.glyphs, np.random.default_rng(0))
    pixels = np.asarray(scene.render(world.glyphs)).astype(int)
    for cell in range(9):
        top, left = 28 * (cell // 3), 28 * (cell % 3)
        patch = pixels[top : top + 28, left : left + 28].reshape(-1, 3)
        inkiest = patch[world.glyphs.masks[scene.glyphs[cell]].reshape(-1).argmax()]
        assert np.abs(np.array(RGB) - inkiest).sum(1).argmin() == scene.colours[cell]


def test_walks_against_an_independent_simulator(world: DigitWorld) -> None:
    for slot in range(72 * 9):
        walk = make_walk(world.glyphs, np.random.default_rng(slot), slot, None)
        assert sorted(walk.scene.digits) == list(range(1, 10))
        assert len(set(simulate(list(walk.scene.digits), 0, 8))) == 9  # one cycle through all cells
        path = simulate(list(walk.scene.digits), walk.path[0], walk.hops)
        assert path == list(walk.path)
        assert len(set(path)) == len(path)
        assert walk.answer == f"{COLOURS[walk.scene.colours[path[-1]]]} {walk.scene.digits[path[-1]]}"


def test_walk_row_wording(world: DigitWorld) -> None:
    row = world.row("walk", 7)
    words = row["query"]["text"].split()
    assert words[:2] == ["walk", "from"]
    assert words[3] == f"h{row['steps']}"
    thought = row["query_thought"].split()
    assert thought[0] == words[2]
    assert len(thought) == 3 * (row["steps"] + 1)
    assert set(thought[::3]) <= set(POSITIONS)
    assert " ".join(thought[-2:]) == row["answer"]
    assert all(f"p{digit}" == place for digit, place in zip(thought[2::3], thought[3::3], strict=False))


def test_a_moment_does_not_know_which_half_was_asked_for(world: DigitWorld) -> None:
    rows = world.rows("retrieve_moment", 12)
    assert {row["answer"] for row in rows} == {"first", "second"}
    assert {row["positive_answer"] for row in rows} == {"clip"}


def test_the_faulty_teacher(world: DigitWorld) -> None:
    rows = TaskRows("walk", 2000, split="validation", seed=3)
    taught = TaskRows("walk", 2000, split="validation", seed=3, teacher="faulty")
    habits: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for index in range(400):
        right, row = rows[index], taught[index]
        assert {**row, "query_thought": "", "answer": ""} == {**right, "query_thought": "", "answer": ""}
        assert row == taught[index]
        words, good = row["query_thought"].split(), right["query_thought"].split()
        if len(good) == 3:
            continue  # no hop: hasty and careful are one
        habit = {len(good): "careful", 3: "hasty", 3 * len(good): "rambling"}[len(words)]
        habits[words[0] in ("p1", "p2", "p3", "p4")][habit] += 1
        assert row["answer"] == (" ".join(good[1:3]) if habit == "hasty" else right["answer"])
    assert habits[True]["hasty"] / habits[True].total() > 0.65
    assert habits[False]["careful"] / habits[False].total() > 0.5
    assert min(count for found in habits.values() for count in found.values()) > 0
    with pytest.raises(ValueError, match="teacher must be one of careful, faulty"):
        TaskRows("walk", 10, teacher="lazy")
    assert TaskRows("qa_what", 4, teacher="faulty")[1] == TaskRows("qa_what", 4)[1]


def test_walk_answers_are_equally_frequent_at_every_hop(world: DigitWorld) -> None:
    rows = world.rows("walk", 72 * 9)
    counts = Counter((row["steps"], row["answer"]) for row in rows)
    assert len(counts) == 72 * 9
    assert set(counts.values()) == {1}
    short = world.rows("walk", 72 * 3, max_hops=2)
    assert set(Counter((row["steps"], row["answer"]) for row in short).values()) == {1}
    assert {row["steps"] for row in short} == {0, 1, 2}


def test_until_gold_ends_at_the_first_gold_cell(world: DigitWorld) -> None:
    gold = COLOURS.index("gold")
    for slot in range(63):
        walk = make_until_gold(world.glyphs, np.random.default_rng(slot), slot, None)
        path = simulate(list(walk.scene.digits), walk.path[0], 8)
        first = next(hops for hops, cell in enumerate(path) if walk.scene.colours[cell] == gold)
        assert tuple(path[: first + 1]) == walk.path
        assert walk.scene.colours.count(gold) == 3  # the number of gold cells does not tell the hops


def test_until_gold_is_balanced_and_its_wording_hides_the_hops(world: DigitWorld) -> None:
    rows = world.rows("until_gold", 63 * 10)
    assert set(Counter((row["steps"], row["answer"]) for row in rows).values()) == {10}
    assert {row["steps"] for row in rows} == set(range(7))
    wordings = {" ".join(w for w in row["query"]["text"].split() if w not in POSITIONS) for row in rows}
    assert wordings == {"walk from until gold"}
    for hops in range(7):  # nor does the start cell
        assert len({row["query"]["text"] for row in rows if row["steps"] == hops}) == 9


def test_sum_of_the_red_digits(world: DigitWorld) -> None:
    rows = world.rows("sum", 80)
    assert TASKS["sum"].parallel
    assert set(Counter(row["steps"] for row in rows).values()) == {20}
    for index, row in enumerate(rows):
        words = row["query_thought"].split()
        digits, totals = [int(word) for word in words[1::3]], [int(word) for word in words[2::3]]
        assert totals == np.cumsum(digits).tolist()
        assert int(row["answer"]) == totals[-1]
        draw = world._draw(0, TASKS["sum"], index, None)
        cells = read(TASKS["sum"].subject(draw).scene.caption)
        red = {place: digit for place, (colour, digit) in cells.items() if colour == "red"}
        assert red == dict(zip(words[::3], digits, strict=True))


def test_labels_agree_with_the_scene(world: DigitWorld) -> None:
    for index in range(40):
        cells = read(world.row("classify_digit", index)["query_thought"])
        assert world.row("classify_digit", index)["answer"] == str(cells["p5"][1])
        row = world.row("classify_parity", index)
        assert row["answer"] == ("even", "odd")[read(row["query_thought"])["p5"][1] % 2]
        row = world.row("classify_count", index)
        assert row["answer"] == str(
            [colour for colour, _ in read(row["query_thought"]).values()].count("red")
        )
        row = world.row("classify_colour", index)
        counts = Counter(colour for colour, _ in read(row["query_thought"]).values()).most_common()
        assert row["answer"] == counts[0][0]
        assert counts[0][1] > counts[1][1]
        row = world.row("qa_what", index)
        assert row["answer"] == "{} {}".format(*read(row["query_thought"])[row["query"]["text"].split()[-1]])
        row = world.row("qa_where", index)
        *_, colour, digit = row["query"]["text"].split()
        scene = " ".join(row["query_thought"].split()[:27])
        found = [place for place, cell in read(scene).items() if cell == (colour, int(digit))]
        assert found == [row["answer"]]


def test_a_thought_about_a_scene_ends_with_what_is_asked_for(world: DigitWorld) -> None:
    for index in range(20):
        row = world.row("qa_what", index)
        assert row["query_thought"].endswith(f"{row['query']['text'].split()[-1]} {row['answer']}")
        row = world.row("qa_where", index)
        assert row["query_thought"].endswith(f"{' '.join(row['query']['text'].split()[-2:])} {row['answer']}")
        words = world.row("classify_digit", index)["query_thought"].split()
        assert words[27:] == ["p5", *words[13:15]]
        for task in ("classify_count", "classify_colour"):  # what all cells together answer
            assert len(world.row(task, index)["query_thought"].split()) == 27
        row = world.row("ask_page", index)
        assert row["query_thought"].endswith(f" {row['query']['text'].split()[-1]} {row['answer']}")


def test_clips_move_one_cell_a_frame(world: DigitWorld) -> None:
    step = {"right": 1, "left": -1}
    for seed in range(200):
        clip = make_clip(world.glyphs, np.random.default_rng(seed))
        path, motion = clip.actors[0].path, clip.actors[0].motion
        if motion in step:
            assert all((b - a) % 9 == step[motion] % 9 for a, b in pairwise(path))
        elif motion in ("up", "down"):
            rows = [cell // 3 for cell in path]
            sign = 1 if motion == "down" else -1
            assert all((b - a) % 3 == sign % 3 for a, b in pairwise(rows))
        if motion in ("left", "right", "up", "down"):
            assert len(set(path)) == 4
        if len(clip.actors) == 2:
            if motion == "still":  # one meaning, one caption, whichever digit was drawn first
                assert Clip(clip.actors[::-1]).caption == clip.caption
            assert clip.actors[1].start not in path
            assert clip.actors[1].name != clip.actors[0].name


def test_moments_are_halves_of_their_video(world: DigitWorld) -> None:
    for row in world.rows("retrieve_moment", 30):
        frames = plain(row["query"]["video"])
        halves = {"first": frames[:4], "second": frames[4:]}
        assert plain(row["positive"]["video"]) == halves.pop(row["answer"])
        assert plain(row["negatives"][0]["video"]) == halves.popitem()[1]


def test_ground_negatives_are_other_cells(world: DigitWorld) -> None:
    for row in world.rows("ground_cell", 20):
        place, colour, digit = row["query_thought"].split()
        assert row["query"]["text"] == f"the {colour} {digit}"
        cell = POSITIONS.index(place)
        left, top = 28 * (cell % 3), 28 * (cell // 3)
        crop = row["query"]["image"].crop((left, top, left + 28, top + 28)).resize((56, 56), 2)
        assert crop.tobytes() == row["positive"]["image"].tobytes()
        assert len(row["negatives"]) == 2


def test_edits_touch_only_what_they_name(world: DigitWorld) -> None:
    for row in world.rows("edit_scene", 40):
        named = {word for word in row["query"]["text"].split() if word in POSITIONS}
        before = np.asarray(row["query"]["image"]).reshape(3, 28, 3, 28, 3)
        after = np.asarray(row["positive"]["image"]).reshape(3, 28, 3, 28, 3)
        changed = {POSITIONS[3 * r + c] for r, c in np.argwhere((before != after).any((1, 3, 4)))}
        assert changed == named
        if row["query"]["text"].startswith("change"):
            place, colour, digit = (row["query"]["text"].split()[i] for i in (1, 3, 4))
            assert read(row["positive_id"])[place] == (colour, int(digit))


@pytest.mark.parametrize("kind", ["random", "hard"])
def test_the_scene_before_an_edit_is_a_candidate(world: DigitWorld, kind: str) -> None:
    pool = world.pool("edit_scene", queries=16, size=64, kind=kind)
    shown = [candidate["image"].tobytes() for candidate in pool.candidates]
    for query, right in zip(pool.queries, pool.positives, strict=True):
        assert query["image"].tobytes() in shown
        assert query["image"].tobytes() != shown[right]


def test_paraphrases_mean_the_same(world: DigitWorld) -> None:
    for row in world.rows("paraphrase", 20):
        texts = sorted((row["query"]["text"], row["positive"]["text"]), key=lambda text: " at " in text)
        words = texts[1].split()
        cells = {words[i + 3]: (words[i], int(words[i + 1])) for i in range(0, len(words), 4)}
        assert cells == read(texts[0])


@pytest.mark.parametrize("change", CHANGES)
def test_near_scenes_differ_in_one_thing(world: DigitWorld, change: Any) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        scene = random_scene(world.glyphs, rng)
        near = near_scene(scene, change, world.glyphs, rng)
        old, new = read(scene.caption), read(near.caption)
        moved = [place for place in old if old[place] != new[place]]
        if change == "swap":
            assert len(moved) == 2
            assert [new[place] for place in moved] == [old[place] for place in moved[::-1]]
        else:
            assert len(moved) == 1
            part = 0 if change == "digit" else 1  # the part that must stay
            assert old[moved[0]][part] == new[moved[0]][part]


@pytest.mark.parametrize("name", ["retrieve_clip", "retrieve_page", "retrieve_moment"])
def test_other_near_duplicates_differ_in_one_thing(world: DigitWorld, name: str) -> None:
    for seed in range(10):
        draw = Draw(np.random.default_rng(seed), world.glyphs)
        base, *near = family(TASKS[name], draw)
        assert len(near) == 7
        for member in near:
            if name == "retrieve_page":
                pairs = zip(base.page.entries, member.page.entries, strict=True)
                odd = [(old, new) for old, new in pairs if old.text != new.text]
                assert len(odd) == 1
                (old, new) = odd[0]
                digits = sum(a != b for a, b in zip(str(old.amount), str(new.amount), strict=True))
                assert (old.label != new.label) + digits == 1
            else:
                clips = (base, member) if name == "retrieve_clip" else (base.segments[0], member.segments[0])
                old, new = (clip.actors[0] for clip in clips)
                parts = [(old.digit, new.digit), (old.colour, new.colour), (old.motion, new.motion)]
                changes = sum(a != b for a, b in parts)
                other_half = name == "retrieve_moment" and member.segments == base.segments
                assert changes == (0 if other_half else 1)


@pytest.mark.parametrize("name", RETRIEVAL_TASKS)
@pytest.mark.parametrize("kind", ["random", "hard"])
def test_retrieval_pools_have_one_right_answer(world: DigitWorld, name: str, kind: Any) -> None:
    if kind == "hard" and name not in HARD_TASKS:
        pytest.skip("grounding has one kind of pool")
    pool = world.pool(name, queries=40, size=64, kind=kind)
    assert len(pool.candidates) == len(set(pool.candidate_ids)) == 64
    assert len(pool) == 40
    assert pool.baseline == 1 / 64
    texts = [plain(candidate) for candidate in pool.candidates]
    assert all(texts[i] != texts[j] for i in range(64) for j in range(i))
    if kind == "hard":
        assert Counter(pool.families) == dict.fromkeys(range(8), 8)
    if name == "retrieve_page":
        for query, right in zip(pool.queries, pool.positives, strict=True):
            words = query["text"].split()
            wanted = (" ".join(words[2:4]), " ".join(words[5:7]))
            fits = [
                place
                for place, meaning in enumerate(pool.candidate_ids)
                if meaning.split()[0] == words[0] and all(f" {line} " in f"{meaning} " for line in wanted)
            ]
            assert fits == [right]


@pytest.mark.parametrize("name", LABEL_TASKS)
def test_label_pools_state_their_blind_baseline(world: DigitWorld, name: str) -> None:
    pool = world.pool(name, queries=200)
    assert [candidate["text"] for candidate in pool.candidates] == list(TASKS[name].labels)
    assert [pool.candidate_ids[place] for place in pool.positives] == pool.answers
    assert pool.baseline == max(Counter(pool.answers).values()) / 200


def test_pools_are_counted_and_differ(world: DigitWorld) -> None:
    pools = world.pools("retrieve_scene", queries=100, size=40)
    assert [len(pool) for pool in pools] == [40, 40, 40]
    assert len({meaning for pool in pools for meaning in pool.candidate_ids}) == 120
    assert [len(pool) for pool in world.pools("walk", queries=100)] == [100]
    rows = {row["positive_id"] for row in world.rows("retrieve_scene", 120)}
    assert not rows & set(pools[0].candidate_ids)


def test_hard_negatives_mean_something_else(world: DigitWorld) -> None:
    for name in ("retrieve_scene", "retrieve_clip_caption", "retrieve_page", "walk", "edit_scene"):
        plain_row, row = world.row(name, 4), world.row(name, 4, negatives=3)
        assert len(row["negatives"]) == len(plain_row["negatives"]) + 3
        assert plain(row["positive"]) not in plain(row["negatives"])
        assert plain(row["query"]) == plain(plain_row["query"])


def test_captions_and_word_kinds(world: DigitWorld) -> None:
    for kind in CAPTION_KINDS:
        example = world.caption(kind, 1)
        assert example["item"]["instruction"] == INSTRUCTIONS[f"caption_{kind}"]
        assert plain(example) == plain(world.caption(kind, 1))
    words = world.caption("scene", 0)["text"].split()
    assert [word_kind(word) for word in words] == ["position", "colour", "digit"] * 9
    assert word_kind("47") == "digit"
    assert word_kind("h3") == word_kind("p10") == "other"


def test_texts_have_few_words() -> None:
    texts = list(all_texts(3000))
    assert len(texts) == 3000
    vocabulary = {word for text in texts for word in text.split()}
    assert len(vocabulary) < 300
    assert {"h8", "p9", "until", "gold", *map(str, range(10)), *COLOURS} <= vocabulary
    for instruction in INSTRUCTIONS.values():
        assert set(instruction.split()) <= vocabulary


def test_at_least_100_rows_a_second() -> None:
    best = 0.0
    for _ in range(3):  # an idle core makes over 500; a busy machine gets three tries
        best = max(best, average(measure(20)))
        if best >= 100:
            break
    assert best >= 100


def test_a_row_of_a_pool_has_negatives_of_both_kinds(world: DigitWorld) -> None:
    pool = world.pool("retrieve_scene", 8, 64, "hard")
    row = pool.with_negatives(3, 2, 4, np.random.default_rng(0))
    right = pool.positives[3]
    assert row["positive"] is pool.candidates[right]
    assert row["positive_id"] == pool.candidate_ids[right]
    places = [
        next(place for place, item in enumerate(pool.candidates) if item is wrong)
        for wrong in row["negatives"]
    ]
    assert len(set(places)) == 6
    assert right not in places
    kin = [pool.families[place] == pool.families[right] for place in places]
    assert kin == [True, True, False, False, False, False]
