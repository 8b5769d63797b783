"""Golden folders: what a checkpoint must give for known items, to be compared after a move, an update or an export.

Ours has ``golden.json`` (settings, versions, and per item of ``golden_items`` the hashes of token ids and pooled
positions, the grids and the pixels' mean) and ``vectors.npz``. Folders in the layout of published fixtures
(``manifest.json``, ``inputs/``) are read by ``published.py``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from ...processing.collating import Prepared
from ..storage.contents import library_versions
from .items import Case, Golden, GoldenError, digest, golden_items, golden_pairs
from .published import read_published

SCHEMA = 1
GOLDEN_FOLDER = "golden"  # inside a checkpoint
NUMBERS = 2048  # of every vector that are kept: any change shows in them, and a folder stays under 200 kB
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 3e-3}


def measured(row: Prepared) -> dict[str, Any]:
    """What a golden folder keeps of a prepared item."""
    media = [*row.images, *row.videos]
    return {
        "length": row.length,
        "ids": digest(row.input_ids),
        "slots": digest(np.flatnonzero(row.slots)),
        "grids": [list(one.grid) for one in media],
        "pixels": round(float(np.mean([one.values.mean() for one in media])), 4) if media else None,
    }


def flat_settings(model: Any, processor: Any) -> dict[str, Any]:
    """Settings of both halves as flat JSON values; a template is told by its hash."""
    found = _flat("model", json.loads(json.dumps(model.settings.to_dict())))
    block = json.loads(json.dumps(processor.settings.to_dict()))
    block["prompt"]["template"] = hashlib.sha256(processor.chat_template.encode()).hexdigest()[:16]
    return {**found, **_flat("processor", block)}


def prepare_one(
    processor: Any, item: Any, role: str | None, candidate: Any = None, mode: str | None = None
) -> Prepared:
    """An item, or where there is a candidate a pair, ready for the model."""
    if candidate is not None:
        return processor.prepare_pair(item, candidate)
    return processor.prepare(item, role=role, mode=mode)


def vector_of(
    encoder: Any, item: Any, role: str | None, candidate: Any = None, mode: str | None = None
) -> NDArray[np.float32]:
    """Vector of one item alone, or the score of one pair, float32 ``[d]`` or ``[1]``."""
    if candidate is not None:
        return encoder.rerank(item, [candidate])
    return encoder.encode([item], role=role, **options_of(encoder.model, mode))[0]


def options_of(model: Any, mode: str | None = None) -> dict[str, Any]:
    """Arguments of ``encode``; our own golden vectors are direct ones, since a thought may differ by device."""
    return {} if model.settings.kind == "discriminative" else {"mode": mode or "discriminative"}


def make_golden(encoder: Any, folder: str | Path) -> Path:
    """Write a golden folder of an encoder or a reranker."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    inputs = _inputs(pairs=encoder.model.settings.kind == "reranker")
    vectors = np.stack([vector_of(encoder, *one) for one in inputs.values()])
    cases = [
        {"name": name, "role": one[1], **measured(prepare_one(encoder.processor, *one))}
        for name, one in inputs.items()
    ]
    dtype = str(encoder.model.dtype).removeprefix("torch.")
    content = {
        "schema": SCHEMA,
        "dtype": dtype,
        "tolerance": TOLERANCE.get(dtype, 3e-2),
        "versions": library_versions() | {"tokenizers": tokenizers.__version__},
        "settings": flat_settings(encoder.model, encoder.processor),
        "cases": cases,
    }
    np.savez(target / "vectors.npz", vectors=np.ascontiguousarray(vectors[:, :NUMBERS], dtype=np.float32))
    (target / "golden.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return target


def read_golden(folder: str | Path, array: str | None = None) -> Golden:
    """Read a golden folder, ours or a published fixture.

    Args:
        folder: what to read.
        array: of a published fixture's vectors; the one that its README names when None.

    Raises:
        GoldenError: it is neither.
    """
    source = Path(folder)
    if (source / "manifest.json").is_file():
        return read_published(source, array)
    if not (source / "golden.json").is_file():
        raise GoldenError(f"{source} is no golden folder: it has neither golden.json nor manifest.json")
    content = json.loads((source / "golden.json").read_text(encoding="utf-8"))
    if content["schema"] > SCHEMA:
        raise GoldenError(
            f"{source} has schema {content['schema']}, this code reads up to {SCHEMA}: update umekit"
        )
    with np.load(source / "vectors.npz") as stored:
        vectors = stored["vectors"]
    inputs = _inputs(pairs=content["settings"]["model.role"] == "reranker")
    cases = []
    for record, vector in zip(content["cases"], vectors, strict=True):
        item, _, candidate = inputs[record["name"]]
        cases.append(Case(item=item, candidate=candidate, vector=vector, **record))
    return Golden(cases, content["tolerance"], content["dtype"], content["settings"])


def _inputs(pairs: bool) -> dict[str, tuple[Any, str | None, Any]]:
    """Items, roles and candidates by name."""
    if pairs:
        return {name: (query, None, candidate) for name, query, candidate in golden_pairs()}
    return {name: (item, role, None) for name, role, item in golden_items()}


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: one for part, inner in value.items() for key, one in _flat(f"{name}.{part}", inner).items()}
