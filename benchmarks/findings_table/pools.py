"""What arms are scored on: queries, candidates, and which candidates are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umekit.evaluation.digit_world import Item
from umekit.evaluation.digit_world.glyphs import Split
from umekit.evaluation.digit_world.pools import PoolKind
from umekit.evaluation.metrics import candidate_ranks, similarity

from .instructions import PARTS, wording
from .rows import FAMILIES, LABEL_TASKS, MEANINGS, WORDINGS, meant, picture_of
from .strips import random_strip
from .world import World

SIZE = 400
Values = NDArray[np.uint8]


@dataclass(frozen=True)
class Ask:
    """One candidate set. A candidate of group g is right for the queries that want g.

    ``part``: what it tries; ``wanted``: int64 [queries]; ``groups``: int64 [candidates].
    """

    part: str
    queries: list[Item]
    candidates: list[Item]
    wanted: NDArray[np.int64]
    groups: NDArray[np.int64]

    @property
    def chance(self) -> float:
        """Of a query's value, as a share of the best: with r right ones of c candidates, r / c."""
        return float((self.wanted[:, None] == self.groups[None, :]).mean())

    def values(self, queries: NDArray[np.float32], candidates: NDArray[np.float32]) -> Values:
        """How many of its r right candidates each query finds among the first r; ties count against the model.

        With one right candidate that is the hit at 1.
        """
        right = self.wanted[:, None] == self.groups[None, :]
        places = candidate_ranks(similarity(queries, candidates), right)
        return ((places <= right.sum(axis=1, keepdims=True)) & right).sum(axis=1).astype(np.uint8)


@dataclass(frozen=True)
class PoolSet:
    """``make(split, queries)`` gives candidate sets with that many queries or a few more.

    ``best``: the highest value of a query.
    """

    make: Callable[[Split, int], list[Ask]]
    best: int = 1


def of_tasks(*parts: tuple[str, PoolKind]) -> PoolSet:
    """Pools of DigitWorld, the queries shared out evenly over the tasks."""

    def make(split: Split, queries: int) -> list[Ask]:
        world, share = World(split), -(-queries // len(parts))
        found = []
        for task, kind in parts:
            asked = share if world.has_labels(task) else min(share, SIZE)  # by one pool
            for index in range(-(-share // asked)):
                pool = world.pool(task, asked, SIZE, kind, index)
                wanted = np.array(pool.positives)
                found.append(
                    Ask(task, pool.queries, pool.candidates, wanted, np.arange(len(pool.candidates)))
                )
        return found

    return PoolSet(make)


def _instructed(split: Split, queries: int) -> list[Ask]:
    """A quarter as many strips as candidates; each is asked for its four texts, in unseen words."""
    world, rng = World(split), np.random.default_rng(11)
    found = []
    for _ in range(-(-queries // SIZE)):
        texts: list[str] = []
        asked: list[Any] = []
        while len(texts) < SIZE:
            strip = random_strip(world.glyphs, rng)
            answers = [answer(strip) for answer in PARTS.values()]
            if set(answers) & set(texts):
                continue  # another strip has the same colours or the same digits
            image = strip.render(world.glyphs)
            words = [wording(int(rng.integers(1000)), part, unseen=True) for part in PARTS]
            asked += [{"image": image, "instruction": instruction} for instruction in words]
            texts += answers
        places = np.arange(SIZE)
        found.append(Ask("instructed", asked, [{"text": text} for text in texts], places, places))
    return found


def _worded(split: Split, queries: int) -> list[Ask]:
    """Every meaning in all its wordings as candidates."""
    world, rng = World(split), np.random.default_rng(12)
    wanted = rng.integers(len(MEANINGS), size=queries)
    asked = [picture_of(world, MEANINGS[which], rng) for which in wanted.tolist()]
    texts = [{"text": meant(meaning, form)} for meaning in MEANINGS for form in range(len(WORDINGS))]
    return [Ask("worded", asked, texts, wanted, np.repeat(np.arange(len(MEANINGS)), len(WORDINGS)))]


POOLS: dict[str, PoolSet] = {
    "pictures_hard": of_tasks(("pictures", "hard")),
    "captions_hard": of_tasks(("captions", "hard")),
    "edits_hard": of_tasks(("edits", "hard")),
    "labels_and_pictures": of_tasks(("digits", "random"), ("pictures", "random")),
    "modalities": of_tasks(("pictures", "hard"), ("captions", "hard"), ("retrieve_clip", "hard")),
    "labels": of_tasks(*((task, "random") for task in LABEL_TASKS)),
    "fast_and_slow": of_tasks(("pictures", "random"), ("retrieve_clip", "random")),
    "families": of_tasks(*((task, "random") for task in FAMILIES.values())),
    "instructed": PoolSet(_instructed),
    "worded": PoolSet(_worded, best=len(WORDINGS)),
}


@lru_cache(maxsize=6)
def pools_of(name: str, split: Split, queries: int) -> tuple[Ask, ...]:
    """The pools of a name, made once in a process."""
    return tuple(POOLS[name].make(split, queries))


def score(encoder: Any, name: str, split: Split, queries: int) -> Values:
    """The value of every query, uint8 [n], in the pools' order."""
    parts: Sequence[Ask] = pools_of(name, split, queries)
    return np.concatenate(
        [
            ask.values(
                encoder.encode(ask.queries, role="query", show_progress=False),
                encoder.encode(ask.candidates, role="document", show_progress=False),
            )
            for ask in parts
        ]
    )


def by_part(name: str, split: Split, queries: int, values: Values) -> dict[str, dict[str, float]]:
    """Mean of each part of a pool's values, as a share of the best, beside what guessing would give.

    A claim over several tasks can hang on one of them while another stands at chance.
    """
    found: dict[str, list[tuple[Values, float]]] = {}
    start = 0
    for ask in pools_of(name, split, queries):
        found.setdefault(ask.part, []).append((values[start : start + len(ask.queries)], ask.chance))
        start += len(ask.queries)
    return {
        part: {
            "mean": round(float(np.concatenate([own for own, _ in asked]).mean()) / POOLS[name].best, 4),
            "chance": round(float(np.mean([chance for _, chance in asked])), 4),
        }
        for part, asked in found.items()
    }
