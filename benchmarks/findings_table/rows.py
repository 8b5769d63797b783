"""What arms are trained on: a name for each way to fill batch ``number`` of a training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from umekit.evaluation.digit_world.dataset import kept
from umekit.evaluation.digit_world.words import COLOURS
from umekit.trainers.sampling import convergence_weights

from .context import Context, Data, Row
from .instructions import PARTS, wording
from .mined import MinedRows
from .strips import random_strip
from .world import World

GOLDEN = 0.6180339887498949  # its multiples modulo 1 fill the unit interval evenly
LABEL_TASKS = ("digits", "colours", "counts", "parities")
FAMILIES = {"strips": "pictures", "clips": "retrieve_clip", "edits": "edits"}


class BatchRows(Dataset):  # type: ignore[type-arg]
    """Rows of ``steps`` batches in their order, made batch by batch.

    ``sets``: number of a batch, once made -> the data set of its first row.
    """

    def __init__(self, data: Data, context: Context, steps: int, batch: int, first: int = 0) -> None:
        self.data, self.context, self.steps, self.batch, self.first = data, context, steps, batch, first
        self.sets: dict[int, str] = {}
        self._number = -1
        self._rows: list[Row] = []

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, index: int) -> Row:
        number, place = divmod(index, self.batch)
        if number != self._number:
            self._number, self._rows = number, self.data(self.context, self.first + number, self.batch)
            if len(self._rows) != self.batch:
                raise ValueError(f"batch {number} has {len(self._rows)} rows, not {self.batch}")
            self.sets[number] = str(self._rows[0].get("dataset", self._rows[0]["task"]))
        return self._rows[place]


def _kept(row: Row) -> Row:
    """Without explicit negatives: an arm that wants some makes its own."""
    return {key: value for key, value in kept(row).items() if key != "negatives"}


def interleaved(*tasks: str) -> Data:
    """All tasks in every batch, row by row in turn."""

    def rows(context: Context, number: int, size: int) -> list[Row]:
        first = number * size
        return [
            _kept(context.world.row(tasks[index % len(tasks)], index // len(tasks)))
            for index in range(first, first + size)
        ]

    return rows


def in_turn(*ways: Data) -> Data:
    """One way in a batch, the ways in turn."""

    def rows(context: Context, number: int, size: int) -> list[Row]:
        turn, place = divmod(number, len(ways))
        return ways[place](context, turn, size)

    return rows


def by_batch(*tasks: str) -> Data:
    """One task in a batch, the tasks in turn; the same rows as ``interleaved`` over as many batches as tasks."""
    return in_turn(*(interleaved(task) for task in tasks))


def by_convergence(fast: str, slow: str, measured: str) -> Data:
    """One task in a batch, as often as the losses of run ``measured`` say that it has something left to learn."""

    def rows(context: Context, number: int, size: int) -> list[Row]:
        history = [
            (int(step), str(name), float(loss)) for step, name, loss in context.earlier[measured]["history"]
        ]
        weights = convergence_weights(history, strength=1.0, limit=2.0)
        share = weights[fast] / (weights[fast] + weights[slow])
        context.notes["share_of_batches"] = {fast: round(share, 3), slow: round(1 - share, 3)}
        order = (np.arange(number + 1) * GOLDEN) % 1 < share
        task = fast if order[number] else slow
        turn = int((order == order[number]).sum()) - 1
        return [_kept(row) for row in context.world.rows(task, size, start=turn * size)]

    return rows


def near_families(task: str, members: int) -> Data:
    """Batches of families of ``members`` near-duplicates."""

    def rows(context: Context, number: int, size: int) -> list[Row]:
        wide = 8 * size // members  # a hard pool has families of eight
        pool = context.world.pool(task, queries=wide, size=wide, kind="hard", index=number)
        return [
            {
                "query": pool.queries[place],
                "positive": pool.candidates[place],
                "task": task,
                "dataset": task,
                "positive_id": pool.candidate_ids[place],
            }
            for place in range(wide)
            if place % 8 < members
        ]

    return rows


def instructed(context: Context, number: int, size: int) -> list[Row]:
    """Four rows to a picture: the same image, and by instruction one of four different texts."""
    rng = context.rng(1, number)
    found = []
    for _ in range(size // len(PARTS)):
        strip = random_strip(context.world.glyphs, rng)
        image = strip.render(context.world.glyphs)
        for part, answer in PARTS.items():
            text = answer(strip)
            query = {"image": image, "instruction": wording(int(rng.integers(1000)), part, unseen=False)}
            found.append(
                {"query": query, "positive": {"text": text}, "task": "instructed", "positive_id": text}
            )
    return found


# Thirty meanings in four wordings each: the colours of a strip's first two cells. A row's id names the wording, so that
# equal ids miss equal meanings. Digits would not do: they are not learned in these steps, and nothing can be seen then.
MEANINGS = tuple((first, second) for first in range(6) for second in range(6) if first != second)
WORDINGS = ("{0} p1 {1} p2", "{1} at p2 {0} at p1", "p1 p2 are {0} {1}", "the cells {0} and {1}")


def meant(meaning: tuple[int, int], form: int) -> str:
    """One meaning in one of its wordings."""
    return WORDINGS[form].format(*(COLOURS[colour] for colour in meaning))


def picture_of(world: World, meaning: tuple[int, int], rng: np.random.Generator) -> Row:
    """A strip that shows a meaning, with any digits and any third colour, as an item."""
    strip = replace(random_strip(world.glyphs, rng), colours=(*meaning, int(rng.integers(8))))
    return {"image": strip.render(world.glyphs), "instruction": "name the colour at p1 and p2"}


def worded(context: Context, number: int, size: int) -> list[Row]:
    """Strips and one of the four wordings of what they show."""
    rng = context.rng(2, number)
    found = []
    for _ in range(size):
        which, form = int(rng.integers(len(MEANINGS))), int(rng.integers(len(WORDINGS)))
        found.append(
            {
                "query": picture_of(context.world, MEANINGS[which], rng),
                "positive": {"text": meant(MEANINGS[which], form)},
                "task": "worded",
                "positive_id": f"{which}/{form}",
            }
        )
    return found


DATA: dict[str, Data] = {
    "pictures": by_batch("pictures"),
    "captions": by_batch("captions"),
    "paraphrases": by_batch("paraphrases"),
    "edits": by_batch("edits"),
    "text_and_picture": interleaved("pictures", "captions"),
    # Near-duplicates, since digits are never learned where colours alone tell a batch's rows apart. Digits as labels in
    # three turns of ten (the same rows each time): they stay at chance for 160 batches, and are learned in 40 more.
    "first_stage": in_turn(
        interleaved("pictures"),
        near_families("captions", 4),
        interleaved("digits"),
        interleaved("edits"),
        interleaved("paraphrases"),
        near_families("pictures", 4),
        interleaved("digits"),
        interleaved("retrieve_clip"),
        interleaved("colours"),
        interleaved("digits"),
    ),
    "instructed": instructed,
    "worded": worded,
    "near_duplicates": near_families("captions", 4),
    **{f"mined_{kind}": MinedRows(kind) for kind in ("none", "only", "unfiltered", "filtered")},
    "labels_and_retrieval": by_batch("digits", "pictures"),
    "modalities_mixed": interleaved("pictures", "captions", "retrieve_clip"),
    "modalities_apart": by_batch("pictures", "captions", "retrieve_clip"),
    "labels_merged": interleaved(*LABEL_TASKS),
    "labels_apart": by_batch(*LABEL_TASKS),
    "fast_and_slow": by_batch("pictures", "retrieve_clip"),
    "fast_and_slow_weighted": by_convergence("pictures", "retrieve_clip", "resample-even"),
    "families_all": by_batch(*FAMILIES.values()),
    **{
        f"without_{left_out}": by_batch(*(task for name, task in FAMILIES.items() if name != left_out))
        for left_out in FAMILIES
    },
}
