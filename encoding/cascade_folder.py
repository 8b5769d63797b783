"""A cascade on disk: ``cascade.json`` names an embedder, a reranker and their fingerprints, and how they are fused.

A folder may come from anywhere. A model that it names is one of the Hub, a folder elsewhere by its absolute path, or
one within the folder by a path relative to it; which of them is written out, so that nothing is guessed. Whether it is
the right model, the fingerprint says, once it is loaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..modeling.pooling import whole_number
from .fingerprint import differences
from .index.opening import HUB_ID
from .index.two_stage import DEPTH, FUSION, fuse
from .inputs.columns import OutsideRootError, resolve_within
from .packaged import EMBEDDER, RERANKER, is_packaged
from .storage.atomic import write_atomically
from .storage.contents import check_types, library_versions, now, read_object
from .storage.ownership import check_own, json_of

FILE = "cascade.json"
KIND = "umekit-cascade"
SCHEMA = 1
PACKAGED = {"embedder": EMBEDDER, "reranker": RERANKER}  # what a model is where none is named
MODELS = tuple(PACKAGED)
MOST_DEPTH = 1 << 20
_REVISION = re.compile(r"[\w./-]{1,200}")


class CascadeFormatError(ValueError):
    """A folder holds no cascade, or one that is damaged."""


class CascadeMismatchError(ValueError):
    """A model is not the one that a cascade was made with."""


@dataclass(frozen=True)
class Fusion:
    """How both scores become one, and how many candidates have both.

    Attributes:
        alpha: share of the recall score, 0..1; the reranker's has the rest.
        tasks: task -> its own share.
        depth: candidates of a query that are scored again.
    """

    alpha: float = FUSION
    tasks: Mapping[str, float] = field(default_factory=dict)
    depth: int = DEPTH

    def __post_init__(self) -> None:
        for share in (self.alpha, *self.tasks.values()):
            fuse([], [], share)
        object.__setattr__(self, "depth", whole_number("depth", self.depth))
        if self.depth > MOST_DEPTH:
            raise ValueError(f"depth is {self.depth}; give {MOST_DEPTH} at most")

    def alpha_of(self, task: str | None) -> float:
        """The share of a task; that of all for one that has none of its own."""
        return self.alpha if task is None else self.tasks.get(task, self.alpha)


@dataclass(frozen=True)
class ModelSource:
    """What to give ``umekit.load`` for a model.

    Attributes:
        name: folder or Hub id; None is ume-tiny, or as the reranker that of ume-tiny.
        preset, revision: as in ``umekit.load``.
    """

    name: str | None = None
    preset: str | None = None
    revision: str | None = None

    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``umekit.load`` beside the name."""
        given = {"preset": self.preset, "revision": self.revision}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class CascadeRecord:
    """The contents of ``cascade.json``; a fingerprint is of the loaded model, as its ``fingerprint()`` gives it."""

    embedder: ModelSource
    reranker: ModelSource
    fingerprints: Mapping[str, Mapping[str, Any]]  # "embedder", "reranker"
    fusion: Fusion

    def check(self, which: str, fingerprint: Mapping[str, Any], where: str | os.PathLike[str]) -> None:
        """Compare a loaded model with the one that the shares were chosen for.

        Args:
            which: ``embedder`` or ``reranker``.
            fingerprint: of the loaded model.
            where: the cascade's folder, for people.

        Raises:
            CascadeMismatchError: naming what differs, and what to do.
        """
        has = self.fingerprints[which]
        different = differences(has, fingerprint)
        if different:
            sides = [
                ", ".join(f"{n} {str(one.get(n))[:14]}" for n in different) for one in (has, fingerprint)
            ]
            raise CascadeMismatchError(
                f"{os.fspath(where)} was made with another {which} ({sides[0]} there, {sides[1]} here): give that "
                f"one, or choose the shares anew for this one with `umekit tune`"
            )


def is_cascade(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a cascade."""
    return (Path(folder) / FILE).is_file()


def write_cascade(folder: str | os.PathLike[str], record: CascadeRecord) -> None:
    """Write ``cascade.json`` in one step; one that is there is replaced.

    Raises:
        ForeignFileError: a file of that name which is not ours.
        ValueError: a model is named by neither a folder that is there nor a Hub id.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    check_own(root / FILE, json_of(KIND), "name another folder for the cascade")
    block = {
        "kind": KIND,
        "schema": SCHEMA,
        **{which: _written(which, record, root) for which in MODELS},
        "alpha": record.fusion.alpha,
        "tasks": dict(record.fusion.tasks),
        "depth": record.fusion.depth,
        "versions": library_versions(),
        "created": now(),
    }
    text = json.dumps(block, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(root / FILE, (text + "\n").encode())


def _written(which: str, record: CascadeRecord, root: Path) -> dict[str, Any]:
    source: ModelSource = getattr(record, which)
    where: dict[str, str]
    if source.name is None or is_packaged(source.name):
        where = {"packaged": source.name or PACKAGED[which]}
    elif os.path.isdir(source.name):
        path = Path(source.name).resolve()
        inside = path.is_relative_to(root.resolve())
        where = {"folder": path.relative_to(root.resolve()).as_posix() if inside else str(path)}
    elif HUB_ID.fullmatch(source.name):
        where = {"hub": source.name}
    else:
        raise ValueError(f"{source.name}: there is no such folder, and it is no Hub id")
    return {**where, **source.options(), "fingerprint": dict(record.fingerprints[which])}


def read_cascade(folder: str | os.PathLike[str]) -> CascadeRecord:
    """Read and check ``cascade.json``; no model is loaded.

    Raises:
        CascadeFormatError: no cascade, another schema, or an entry that is missing or impossible.
    """
    root = Path(folder)
    path = root / FILE
    if not path.is_file():
        raise CascadeFormatError(f"{root} holds no cascade: it has no {FILE}; `umekit tune` writes one")
    raw = read_object(path, CascadeFormatError)
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        raise CascadeFormatError(f"{path} is not umekit's")
    if raw.get("schema") != SCHEMA:
        raise CascadeFormatError(f"{path} has schema {raw.get('schema')!r:.80}; this umekit reads {SCHEMA}")
    kinds: dict[str, Any] = {"embedder": dict, "reranker": dict, "tasks": dict, "depth": int}
    kinds["alpha"] = (int, float)
    check_types(path, raw, kinds, CascadeFormatError)
    for name, share in raw["tasks"].items():
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise CascadeFormatError(f"{path}: the share of {name!r:.80} is no number")
    try:
        fusion = Fusion(float(raw["alpha"]), {n: float(s) for n, s in raw["tasks"].items()}, raw["depth"])
    except (ValueError, OverflowError) as error:
        raise CascadeFormatError(f"{path}: {error}") from None
    sources = {which: _source(path, which, raw[which]) for which in MODELS}
    fingerprints = {which: raw[which]["fingerprint"] for which in MODELS}
    return CascadeRecord(**sources, fingerprints=fingerprints, fusion=fusion)


def _source(path: Path, which: str, block: Mapping[str, Any]) -> ModelSource:
    check_types(path, block, {"fingerprint": dict}, CascadeFormatError)
    named = [kind for kind in ("packaged", "hub", "folder") if kind in block]
    texts = [*named, *(name for name in ("preset", "revision") if name in block)]
    if len(named) != 1 or any(not isinstance(block[name], str) or "\0" in block[name] for name in texts):
        raise CascadeFormatError(f"{path}: {which} is named by one of packaged, hub and folder, as a text")
    if "revision" in block and not _REVISION.fullmatch(block["revision"]):
        raise CascadeFormatError(f"{path}: {which}.revision is {block['revision']!r:.80}")
    options = {name: block[name] for name in ("preset", "revision") if name in block}
    value = block[named[0]]
    if named[0] == "packaged":
        if value != PACKAGED[which]:
            raise CascadeFormatError(f"{path}: no {which} {value!r:.80} comes with umekit")
        return ModelSource(**options)
    if named[0] == "hub":
        if not HUB_ID.fullmatch(value):
            raise CascadeFormatError(f"{path}: {which}.hub is {value!r:.80}, which is no Hub id")
        return ModelSource(value, **options)
    if os.path.isabs(value):
        return ModelSource(value, **options)
    try:
        return ModelSource(str(resolve_within(value, path.parent)), **options)
    except OutsideRootError as error:
        raise CascadeFormatError(f"{path}: {which}.folder: {error}") from None
