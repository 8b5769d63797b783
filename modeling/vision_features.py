"""Features of pictures and videos, each computed once however many rows show it.

Media are told apart by their content, not by where they came from: the same picture read twice is the same medium.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_KINDS = ("image", "video")
_SAMPLES = 64  # bytes of a medium that its first hash looks at


@dataclass
class MediumFeatures:
    """What the vision tower makes of one medium: ``[tokens, H]``, and one such tensor per DeepStack level."""

    tokens: Tensor
    levels: list[Tensor] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(one.numel() * one.element_size() for one in (self.tokens, *self.levels))


class MediumKey:
    """A prepared medium by its content: equal where patches, grid and rate are.

    The hash looks at a few bytes. All are hashed only where that one agrees: most media are shown once, and are not
    worth it.
    """

    def __init__(self, medium: Any) -> None:
        self._medium = medium
        values = medium.values.reshape(-1)
        some = values[:: max(1, len(values) // _SAMPLES)].tobytes()
        self._facts = (medium.values.shape, medium.grid, medium.seconds, medium.interval)
        self._hash = hash((*self._facts, some))

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.blake2b(self._medium.values.data, digest_size=16).digest()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MediumKey):
            return False
        return self is other or (self._facts == other._facts and self._digest == other._digest)


class VisionFeatureCache:
    """Runs the vision tower on what it has not seen yet.

    Args:
        base: the backbone without its output matrix.
        pixels: media to the tower's input, float32 ``[patches, C*T*P*P]``.
        deepstack: whether DeepStack features are kept.
        keep_bytes: features that nobody waits for any more are kept up to this size, the latest longest.
    """

    def __init__(
        self, base: Any, pixels: Callable[[Sequence[Any]], Tensor], *, deepstack: bool, keep_bytes: int = 0
    ) -> None:
        self.base = base
        self.pixels = pixels
        self.deepstack = deepstack
        self.keep_bytes = keep_bytes
        self.runs = 0  # media that went through the tower
        self._kept: OrderedDict[MediumKey, MediumFeatures] = OrderedDict()
        self._waiting: Counter[MediumKey] = Counter()
        self._keys: dict[int, tuple[Any, MediumKey]] = {}

    def __contains__(self, key: MediumKey) -> bool:
        return key in self._kept

    def key(self, medium: Any) -> MediumKey:
        """What equal media have in common, and no others."""
        known = self._keys.get(id(medium))
        if known is None or known[0] is not medium:
            known = self._keys[id(medium)] = (medium, MediumKey(medium))
        return known[1]

    def reserve(self, media: Sequence[Any]) -> None:
        """Each of these will be asked for once (more): they are kept until then, and no others are."""
        self._waiting.update(self.key(medium) for medium in media)

    def outputs(self, images: Sequence[Any], videos: Sequence[Any]) -> dict[str, Any]:
        """``mm_encoder_outputs`` of a batch's media, in the order of their placeholders."""
        found = {}
        for kind, media in zip(_KINDS, (images, videos), strict=True):
            if media:
                found[kind] = self._joined(self._take(kind, media))
        return found

    def evict(self) -> None:
        """Drop what is kept beyond ``keep_bytes``, and every reservation."""
        self._waiting.clear()
        self._keys.clear()
        self._trim()

    def clear(self) -> bool:
        """Drop everything, also what is waited for; whether there was anything."""
        held = bool(self._kept)
        self._kept.clear()
        self._waiting.clear()
        return held

    def _take(self, kind: str, media: Sequence[Any]) -> list[MediumFeatures]:
        keys = [self.key(medium) for medium in media]
        missing = {key: medium for key, medium in zip(keys, media, strict=True) if key not in self._kept}
        made = dict(zip(missing, self._run(kind, list(missing.values())), strict=True)) if missing else {}
        features = [made[key] if key in made else self._kept[key] for key in keys]
        self._kept.update({key: one for key, one in made.items() if key in self._waiting})
        for key in keys:
            if key in self._waiting:
                self._kept.move_to_end(key)
                self._waiting[key] -= 1
        self._trim()
        return features

    def _run(self, kind: str, media: list[Any]) -> list[MediumFeatures]:
        device = self.base.device
        pixels = self.pixels(media).to(device)
        grids = torch.tensor([medium.grid for medium in media], dtype=torch.long, device=device)
        run = self.base.get_image_features if kind == "image" else self.base.get_video_features
        output = run(pixels, grids, return_dict=True)
        levels = (getattr(output, "deepstack_features", None) or []) if self.deepstack else []
        self.runs += len(media)
        return [
            MediumFeatures(tokens.clone(), [level[number].clone() for level in levels])
            for number, tokens in enumerate(output.pooler_output)
        ]

    def _joined(self, features: Sequence[MediumFeatures]) -> Any:
        levels = range(len(features[0].levels))
        return SimpleNamespace(
            pooler_output=[one.tokens for one in features],
            deepstack_features=[[one.levels[level] for one in features] for level in levels],
        )

    def _trim(self) -> None:
        size = sum(one.nbytes for one in self._kept.values())
        for key in list(self._kept):
            if size <= self.keep_bytes:
                return
            if self._waiting[key] <= 0:
                size -= self._kept.pop(key).nbytes
