"""Items that are put into a forward only so that the vision tower runs in it, as it does on other ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .distributed import max_over_ranks
from .lazy_media import LazyMedia

PICTURES, VIDEOS = "pixel_values", "pixel_values_videos"


@dataclass(frozen=True)
class DummyMedia:
    """A prepared item for batches that have none of the ``keys``."""

    item: Any
    keys: frozenset[str]


def grey_picture() -> Image.Image:
    """As small as a vision tower can read."""
    return Image.new("RGB", (32, 32), "grey")


def lacking(dummies: Sequence[DummyMedia], batch: Mapping[str, Any]) -> list[Any]:
    """The items that a collated batch needs in addition."""
    return [one.item for one in dummies if not one.keys.intersection(batch)]


def unsharded_dummies(picture: Any) -> list[DummyMedia]:
    """Under DDP one run of the tower is enough, whatever it reads: each of its parameters gets a gradient."""
    return [DummyMedia(picture, frozenset({PICTURES, VIDEOS}))]


def sharded_dummies(
    items: Sequence[Any], picture: Any, make_video: Callable[[], Any], device: torch.device
) -> list[DummyMedia]:
    """With sharded parameters the tower must run equally often on every rank, in every forward of a batch.

    A forward runs it once for all its pictures and once for all its videos. So each forward gets a picture, and
    where a batch of any rank may have a video, a video, too. items: of this rank's batch. A collective: to be called
    once a batch on every rank.
    """
    found = [DummyMedia(picture, frozenset({PICTURES}))]
    if max_over_ranks(int(any(map(may_hold_video, items))), device):
        found.append(DummyMedia(make_video(), frozenset({VIDEOS})))
    return found


def may_hold_video(item: Any) -> bool:
    """Whether a batch with this item can have videos; an item without its media does not tell, so it may."""
    return isinstance(item, LazyMedia) or bool(getattr(item, "videos", None))


class BatchDummies:
    """The dummies of a run's batches; an item is made when it is first needed.

    picture, video: make a prepared item with such a medium. needed: whether a forward without media has to run the
        tower. sharded: whether parameters are.
    """

    def __init__(
        self,
        picture: Callable[[], Any],
        video: Callable[[], Any],
        *,
        needed: bool,
        sharded: bool,
        device: torch.device,
    ) -> None:
        self.picture, self.video = functools.cache(picture), functools.cache(video)
        self.needed, self.sharded, self.device = needed, sharded, device

    def of(self, items: Sequence[Any]) -> list[DummyMedia]:
        """Of a batch of these items; where parameters are sharded, a collective."""
        if not self.needed:
            return []
        if not self.sharded:
            return unsharded_dummies(self.picture())
        return sharded_dummies(items, self.picture(), self.video, self.device)
