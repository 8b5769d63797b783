"""Hard negatives of which a fifth are positives in disguise, and the filter that is to find those.

A picture is matched with a text, its caption or its paraphrase. Mined candidates are texts of strips that differ in
one cell; one in five is the *other* wording of the very same strip under another id, so that ids do not tell it. The
filter is U-MARVEL's: a candidate too similar to the query, as the stage-1 model sees it, is dropped, and the next ones
move up. Their bound, 0.7, was chosen for their model; ours is chosen in the same way, on validation rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import umekit
from umekit.evaluation.digit_world import INSTRUCTIONS

from .context import Context, Row
from .strips import Strip, near_strip, random_strip
from .world import World

SECRET = 0.2
NEGATIVES = 2
CANDIDATES = 4
CALIBRATION = 128
Kind = Literal["none", "only", "unfiltered", "filtered"]


@dataclass(frozen=True)
class Mined:
    """One row before any filter. ``secret``: whether a candidate means the same as the positive."""

    query: Row
    positive: str
    identity: str
    candidates: tuple[str, ...]
    secret: tuple[bool, ...]


@dataclass(frozen=True)
class MinedRows:
    """A way to fill batches (``rows.DATA``): one picture-text pair a row, with the negatives of its kind."""

    kind: Kind

    def __call__(self, context: Context, number: int, size: int) -> list[Row]:
        rng = context.rng(3, number)
        mined = [mine_row(context.world, rng) for _ in range(size)]
        if self.kind == "none":
            chosen: list[list[str]] = [[] for _ in mined]
        elif self.kind == "filtered":
            chosen = self._filtered(context, mined)
        else:
            chosen = [list(row.candidates[:NEGATIVES]) for row in mined]
        return [
            {
                "query": row.query,
                "positive": {"text": row.positive},
                "negatives": [{"text": text} for text in negatives],
                "task": "mined",
                # One id for all strikes every other row's positive out: hard negatives only.
                "positive_id": "all" if self.kind == "only" else row.identity,
            }
            for row, negatives in zip(mined, chosen, strict=True)
        ]

    def _filtered(self, context: Context, mined: list[Mined]) -> list[list[str]]:
        bound = similarity_bound(context.start)
        scores = similarities(context.start, mined)
        secret = np.array([row.secret for row in mined])
        seen = context.notes.setdefault(
            "filter", {"bound": round(bound, 4), "secret": [0, 0], "other": [0, 0]}
        )
        for name, which in (("secret", secret), ("other", ~secret)):
            seen[name][0] += int((scores[which] > bound).sum())
            seen[name][1] += int(which.sum())
        return [
            [text for text, score in zip(row.candidates, own, strict=True) if score <= bound][:NEGATIVES]
            for row, own in zip(mined, scores, strict=True)
        ]


def mine_row(world: World, rng: np.random.Generator) -> Mined:
    """A strip, its text, and candidates that differ in one cell, or (one in five) not at all."""
    strip = random_strip(world.glyphs, rng)
    form = int(rng.integers(2))
    candidates: list[str] = []
    secret: list[bool] = []
    for turn in rng.permutation(CANDIDATES).tolist():
        hidden = bool(rng.random() < SECRET) and not any(secret)  # there is only one other wording
        near = near_strip(strip, turn, world.glyphs, rng)
        candidates.append(_text(strip, 1 - form) if hidden else _text(near, int(rng.integers(2))))
        secret.append(hidden)
    query = {"image": strip.render(world.glyphs), "instruction": INSTRUCTIONS["retrieve_caption"]}
    return Mined(query, _text(strip, form), f"{strip.caption}/{form}", tuple(candidates), tuple(secret))


def _text(strip: Strip, form: int) -> str:
    return strip.caption if form == 0 else strip.paraphrase


def similarities(start: Path, mined: list[Mined]) -> NDArray[np.float32]:
    """Cosines of each query and its candidates as the model in ``start`` sees them, float32 [rows, candidates]."""
    encoder = _miner(start)
    queries = encoder.encode([row.query for row in mined], role="query", show_progress=False)
    texts = [text for row in mined for text in row.candidates]
    found = encoder.encode(texts, role="document", show_progress=False)
    return np.einsum("nd,nkd->nk", queries, found.reshape(len(mined), CANDIDATES, -1))  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def similarity_bound(start: Path) -> float:
    """The similarity that tells validation rows' secret positives from their near-duplicates best."""
    rng, world = np.random.default_rng(5), World("validation")
    mined = [mine_row(world, rng) for _ in range(CALIBRATION)]
    return best_bound(similarities(start, mined).ravel(), np.array([row.secret for row in mined]).ravel())


def best_bound(scores: NDArray[np.float32], above: NDArray[np.bool_]) -> float:
    """The bound with the highest balanced accuracy: share of ``above`` above it plus share of the rest not above it."""
    bounds = np.unique(scores)
    right = [(scores[above] > bound).mean() + (scores[~above] <= bound).mean() for bound in bounds]
    return float(bounds[int(np.argmax(right))])


@lru_cache(maxsize=1)
def _miner(start: Path) -> umekit.Encoder:
    return umekit.load(start, device="cpu")
