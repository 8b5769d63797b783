"""Items as keys: equal content has an equal key, whatever object it came as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from ...processing.items import KEYS
from ..hashing import content_hash, text_hash

KINDS = {"text": "text", "image": "image", "images": "image", "video": "video", "document": "document"}


def as_mapping(item: Any) -> dict[str, Any]:
    """An item as a dict without None values, a text as ``{"text": ...}``.

    Raises:
        TypeError: not an item.
    """
    if isinstance(item, str):
        return {"text": item}
    if isinstance(item, Image.Image):
        return {"image": item}
    if isinstance(item, Mapping):
        found = {key: value for key, value in item.items() if value is not None}
        if found:
            return found
    raise TypeError(f"an item is a text, a picture or an object with content, not {item!r:.80}")


def content_key(item: Any, *, instruction: bool = False) -> int:
    """A stable signed 64-bit hash of an item's content; of media that are files, of their paths."""
    found = as_mapping(item)
    kept = {key: _plain(value) for key, value in found.items() if instruction or key != "instruction"}
    return content_hash(kept)


def columns_key(row: Mapping[str, Any]) -> int:
    """A hash of what a row holds beside its items: a changed label or ``positive_ids`` is another run."""
    return content_hash(
        {name: _plain(value) for name, value in row.items() if name not in ("query", "positive")}
    )


def id_key(name: Any) -> int:
    """The hash by which ids are compared."""
    return text_hash(str(name))


def modality(item: Any) -> str:
    """Kinds of content in an item, such as ``image+text``."""
    return "+".join(sorted({KINDS[key] for key in as_mapping(item) if key in KINDS}))


def pool_item(record: Any) -> Any:
    """The item of a record of a pool: a text or picture itself, its ``item``, or its columns of an item."""
    if not isinstance(record, Mapping):
        return record
    if record.get("item") is not None:
        return record["item"]
    return {key: value for key, value in record.items() if key in KEYS and value is not None}


def _plain(value: Any) -> Any:
    """What :func:`content_hash` can tell apart by content; records of media become what they hold."""
    if isinstance(value, Image.Image):
        return {"mode": value.mode, "size": list(value.size), "data": value.tobytes()}
    if isinstance(value, Mapping) and ("bytes" in value or "path" in value):
        return value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
