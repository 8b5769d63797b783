"""What is looked at before a model is built: a checkpoint's weight files.

The files of a checkpoint are not trusted. Weights are safetensors inside of its folder and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from transformers.utils import cached_file
from transformers.utils.hub import cached_files

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
JSON_BYTES = 2**23
INDEX_BYTES = 2**26
HEADER_BYTES = 100_000_000  # as in safetensors
JSON_DEPTH = 64

_HUB = ("cache_dir", "token", "revision", "subfolder", "local_files_only", "force_download", "proxies")


class CheckpointFilesError(ValueError):
    """A file of a checkpoint cannot be used as it stands; the message names the file and what is wrong."""


def read_json(path: str | Path, most_bytes: int = JSON_BYTES, name: str = "") -> Any:
    """A JSON file that may be hostile.

    Raises:
        CheckpointFilesError: larger than ``most_bytes``, nested deeper than 64, or not JSON.
    """
    path = Path(path)
    name = name or str(path)
    if path.stat().st_size > most_bytes:
        raise CheckpointFilesError(
            f"{name} has {path.stat().st_size:,} bytes, more than {most_bytes:,} are not read"
        )
    return parse_json(path.read_bytes(), name)


def parse_json(text: bytes, name: str) -> Any:
    """Bounded :func:`json.loads` of a file's bytes; see :func:`read_json`."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise CheckpointFilesError(f"{name} is nested too deeply: more than {JSON_DEPTH} levels") from None
    except ValueError as error:
        raise CheckpointFilesError(f"{name} is not JSON: {error}") from None
    level, depth = [content], 0
    while level:  # by levels and not by recursion, which is what runs out
        depth += 1
        if depth > JSON_DEPTH:
            raise CheckpointFilesError(f"{name} is nested too deeply: more than {JSON_DEPTH} levels")
        nested = [
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))
        ]
        level = [value for values in nested for value in values if isinstance(value, (dict, list))]
    return content


def stored_tensors(source: str, arguments: Mapping[str, Any] | None = None) -> dict[str, list[int]] | None:
    """Names and shapes of a checkpoint's weights, from the files' headers.

    Args:
        source: folder or Hub repository; the files of the latter are fetched.
        arguments: of ``from_pretrained``: ``revision``, ``subfolder``, ``variant`` and so on.

    Returns:
        None where there are no safetensors.

    Raises:
        CheckpointFilesError: an index names a file outside of its folder, or a header cannot be read.
    """
    arguments = arguments or {}
    paths = weight_files(source, arguments)
    if paths is None:
        return None
    found: dict[str, list[int]] = {}
    for path in paths:
        for name, tensor in read_header(Path(path)).items():
            if name != "__metadata__":
                found[name] = tensor["shape"]
    return found


def read_header(path: Path) -> dict[str, Any]:
    """Head of a safetensors file: ``dtype``, ``shape`` and place of each tensor by its name, and ``__metadata__``.

    Raises:
        CheckpointFilesError: it is not safetensors, or was cut off.
    """
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(HEADER_BYTES, path.stat().st_size):
            raise CheckpointFilesError(f"{path} is not a safetensors file, or was cut off")
        header = parse_json(handle.read(length), str(path))
    named = isinstance(header, dict) and all(
        name == "__metadata__" or (isinstance(tensor, dict) and _is_shape(tensor.get("shape")))
        for name, tensor in header.items()
    )
    if not named:
        raise CheckpointFilesError(f"{path} is not a safetensors file")
    return dict(header)


def weight_files(source: str, arguments: Mapping[str, Any] | None = None) -> list[str] | None:
    """The safetensors files of a checkpoint: one, or those that its index names.

    Raises:
        CheckpointFilesError: the index names a file outside of its folder, or one that is not safetensors.
    """
    arguments = arguments or {}
    hub = hub_arguments(arguments)
    quiet: dict[str, Any] = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    variant = arguments.get("variant")
    names = [WEIGHTS, INDEX]
    if variant:
        names = [f"model.{variant}.safetensors", f"model.safetensors.index.{variant}.json"]
    single = cached_file(source, names[0], **hub, **quiet)
    if single is not None:
        return [str(single)]
    index = cached_file(source, names[1], **hub, **quiet)
    if index is None:
        return None
    shards = shard_names(read_json(str(index), INDEX_BYTES, f"{source}/{names[1]}"), f"{source}/{names[1]}")
    return [str(path) for path in cached_files(source, shards, **hub) or ()]


def shard_names(index: Any, name: str) -> list[str]:
    """The weight files that an index names, sorted.

    Raises:
        CheckpointFilesError: a file outside of the index's folder, or none of safetensors.
    """
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(one, str) for one in places.values()):
        raise CheckpointFilesError(f"{name}: weight_map must say in which file each weight is")
    for file in sorted(set(places.values())):
        plain = Path(file).name == file and PureWindowsPath(file).name == file and file.isprintable()
        if not plain:
            raise CheckpointFilesError(f"{name} names {file!r}, which is not a file of its folder")
        if not file.endswith(".safetensors"):
            raise CheckpointFilesError(f"{name} names {file!r}; only safetensors are read, nothing pickled")
    return sorted(set(places.values()))


def hub_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments of a ``from_pretrained`` those that say where the files are."""
    return {name: arguments[name] for name in _HUB if arguments.get(name) not in (None, "", False)}


def count_numbers(tensors: Mapping[str, list[int]]) -> int:
    """How many numbers the weights of these shapes have."""
    return sum(math.prod(shape) for shape in tensors.values())


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
