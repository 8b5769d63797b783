"""Who writes candidate thoughts: our reasoner, or any image-text-to-text model, each at a temperature of its own.

A worker is handed the items of one side and nothing else (:class:`OneSide`): a thought that was written with its target
in sight would leak it. Only the evaluator sees both.
"""

from __future__ import annotations

import copy
import gc
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...encoding.checkpoint_files import read_config
from ...encoding.inputs.media_root import MediaRoot
from ...encoding.loading import load
from ...encoding.reasoner import Reasoner, Thought
from ...encoding.shards.thoughts import read_part, write_thoughts
from ...modeling.pooling import whole_number
from ..mining.entries import Items
from .pools import COLUMN
from .settings import SIDES

ROLES = {"query": "query", "positive": "document"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,79}")


@dataclass(frozen=True)
class Worker:
    """A model that writes thoughts, and how.

    Attributes:
        name: by which its thoughts are known; a part of a folder's name.
        model: an :class:`Encoder` of a checkpoint that thinks, or a :class:`Reasoner`; or a function that opens one, so
            that memory holds it only while it thinks.
        temperature, top_p, max_new_tokens: None for the model's own; without a temperature one thought is greedy.
        samples: thoughts of an item.
        sides: whose items it thinks of.

    Raises:
        ValueError: a name that is none, or a side.
        TypeError: a model that writes no thoughts.
    """

    name: str
    model: Any
    temperature: float | None = None
    samples: int = 1
    top_p: float | None = None
    max_new_tokens: int | None = None
    sides: tuple[str, ...] = SIDES

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == COLUMN:
            raise ValueError(f"a worker's name is of letters, digits and . _ @ -, and not {self.name!r}")
        whole_number("samples", self.samples)
        if not self.sides or not set(self.sides) <= set(SIDES):
            raise ValueError(f"worker {self.name!r}: sides is {self.sides}; use {', '.join(SIDES)}")
        if callable(self.model):
            return
        thinks = isinstance(self.model, Reasoner) or "generative" in getattr(self.thinker.model, "modes", ())
        if not thinks:
            raise TypeError(
                f"worker {self.name!r} writes no thoughts: give a reasoner, or a checkpoint that thinks"
            )

    def hired(self) -> Worker:
        """The same with its model opened.

        Raises:
            TypeError: the model writes no thoughts.
        """
        return replace(self, model=self.model()) if callable(self.model) else self

    @property
    def thinker(self) -> Any:
        """As :func:`write_thoughts` asks for it."""
        return StockThinker(self.model) if isinstance(self.model, Reasoner) else self.model

    def options(self, side: str, seed: int) -> dict[str, Any]:
        """How it thinks of a side's items; they have their own instructions."""
        return {
            "role": ROLES[side],
            "num_samples": self.samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
            "seed": seed,
        }

    def identity(self) -> dict[str, Any]:
        """What its thoughts depend on."""
        told = self.options("query", 0)
        return {
            "model": self.thinker.fingerprint(),
            "sides": list(self.sides),
            **{name: told[name] for name in ("num_samples", "temperature", "top_p", "max_new_tokens")},
        }


def open_thinker(
    path: str | os.PathLike[str],
    *,
    preset: str | None = None,
    device: Any = None,
    dtype: Any = None,
    revision: str | None = None,
    **model_kwargs: Any,
) -> Any:
    """A model for a worker: an encoder of a checkpoint that is ours or has a preset, else a :class:`Reasoner`.

    Raises:
        As ``umekit.load`` and :meth:`Reasoner.from_pretrained`.
    """
    hub: dict[str, Any] = {} if revision is None else {"revision": revision}
    told = {"device": device, "dtype": dtype, "revision": revision}
    if preset is not None or getattr(read_config(os.fspath(path), hub), "ume", None):
        return load(path, preset=preset, **told, **model_kwargs)
    return Reasoner.from_pretrained(path, **told, model_kwargs=model_kwargs)


def free_memory() -> None:
    """Give back what a model took that nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class OneSide(Items):
    """The queries of rows, or their positives: what a worker is handed, item by item, and nothing else of a row."""

    def __init__(
        self, rows: Sequence[Any], side: str, keys: NDArray[np.int64], media: MediaRoot | None
    ) -> None:
        super().__init__(lambda number: rows[number][side], [keys], media)


def let_think(
    worker: Worker,
    source: OneSide,
    side: str,
    folder: Path,
    *,
    shard_size: int,
    seed: int,
    rank: int,
    world: int,
) -> None:
    """Write a worker's thoughts of a side; what is there already is not made again."""
    options = worker.options(side, seed)
    write_thoughts(worker.thinker, source, folder, shard_size, rank=rank, world=world, **options)


class WrittenThoughts:
    """Number of a row -> what a worker wrote of one of its sides; parts are read as they are asked for.

    Args:
        folder: of :func:`let_think`; only the parts that are asked for need be there.
        shard_size: rows of a part.
    """

    def __init__(self, folder: Path, shard_size: int) -> None:
        self.shard_size = shard_size
        self._part = lru_cache(maxsize=2)(lambda number: read_part(folder, number))

    def __call__(self, row: int) -> Sequence[str]:
        number, place = divmod(row, self.shard_size)
        thought = self._part(number)[place].get("thought")  # none where it could not be read
        if thought is None:
            return []
        return thought if isinstance(thought, list) else [thought]


class StockThinker:
    """A :class:`Reasoner` as :func:`write_thoughts` asks an encoder: seeds, samples and a temperature of the call."""

    model = SimpleNamespace(modes=("generative",))

    def __init__(self, reasoner: Reasoner) -> None:
        self._stock = reasoner

    def fingerprint(self) -> str:
        """Of the reasoner."""
        return self._stock.fingerprint()

    def encode(
        self,
        items: Sequence[Any],
        *,
        role: str | None,
        instruction: str | None = None,
        num_samples: int,
        temperature: float | None,
        top_p: float | None,
        max_new_tokens: int | None,
        seed: int,
        **_: Any,
    ) -> Any:
        """``thoughts``, ``thought_tokens``, ``forced`` and ``errors`` of items, as of a generative encoding."""
        reasoner = copy.copy(self._stock)
        reasoner.max_new_tokens = max_new_tokens or reasoner.max_new_tokens
        if temperature is None and num_samples > 1:
            temperature = 1.0
        if temperature:
            drawn = {"do_sample": True, "temperature": temperature, "top_p": 1.0 if top_p is None else top_p}
            reasoner.generation = {**reasoner.generation, **drawn}
        with torch.random.fork_rng(devices=_cuda(reasoner.model)):
            torch.manual_seed(seed)
            written = [reasoner.write(items, role=role, instruction=instruction) for _ in range(num_samples)]
        thoughts, tokens, forced, errors = [], [], [], []
        for place, found in enumerate(zip(*written, strict=True)):
            good = [one for one in found if isinstance(one, Thought)]
            if len(good) < num_samples:
                errors.append((place, next(one for one in found if not isinstance(one, Thought))))
            thoughts.append(_one_or_all([_tagged(one) for one in good], num_samples))
            tokens.append(_one_or_all([one.tokens for one in good], num_samples))
            forced.append(_one_or_all([one.cut for one in good], num_samples))
        return SimpleNamespace(thoughts=thoughts, thought_tokens=tokens, forced=forced, errors=errors)


def _tagged(thought: Thought) -> str:
    """In the form of our own models' thoughts."""
    text, answer = thought.as_given()
    return f"<think>{text}</think><answer>{answer}"


def _one_or_all(values: list[Any], samples: int) -> Any:
    return values if samples > 1 else next(iter(values), None)


def _cuda(model: Any) -> list[int]:
    device = torch.device(model.device)
    return [] if device.type != "cuda" else [device.index or 0]
