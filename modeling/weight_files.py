"""What is looked at before a model is built: a checkpoint's weight files, and whether its config can be theirs.

The files of a checkpoint are not trusted. Weights are safetensors inside of its folder and nothing else, and a config
that asks for more layers or numbers than the files hold is refused before anything of that size is made.
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
MOST_LAYERS = 10_000
PACKED = 16  # numbers that a stored one can stand for: 2 bits each in an int32

_HUB = ("cache_dir", "token", "revision", "subfolder", "local_files_only", "force_download", "proxies")
# Fields of a config (or of its text and vision part) that are counts of layers, and that are sizes of a matrix.
_LAYERS = ("num_hidden_layers", "depth")
_SIZES = (
    *(
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ),
    *(
        "embed_dim",
        "num_heads",
        "out_hidden_size",
        "num_position_embeddings",
        "patch_size",
        "temporal_patch_size",
    ),
    *("spatial_merge_size", "spatial_patch_size", "in_channels", "in_chans", "mlp_ratio", "window_size"),
    *("max_position_embeddings", "linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim"),
    *("linear_value_head_dim", "moe_intermediate_size", "num_experts"),
)
# Products of them that are (parts of) weights; the first name that a section has counts, those in brackets are 1
# where it has none.
_PRODUCTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("vocab_size",), ("hidden_size",)),
    (("num_hidden_layers", "depth"), ("embed_dim", "hidden_size"), ("intermediate_size",)),
    (("num_hidden_layers", "depth"), ("embed_dim", "hidden_size"), ("num_attention_heads",), ("head_dim",)),
    (("depth",), ("embed_dim", "hidden_size"), ("embed_dim", "hidden_size")),
    (("depth",), ("embed_dim", "hidden_size"), ("embed_dim", "hidden_size"), ("mlp_ratio",)),
    (
        ("embed_dim", "hidden_size"),
        ("patch_size",),
        ("patch_size",),
        ("temporal_patch_size",),
        ("in_channels",),
    ),
    (("embed_dim", "hidden_size"), ("out_hidden_size",)),
    (("embed_dim", "hidden_size"), ("num_position_embeddings",)),
)


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


def check_config(raw: Any, name: str, tensors: Mapping[str, Any] | None = None) -> None:
    """Raise where a config's numbers are none, or more than its weights could hold.

    Before transformers reads the config, which itself makes lists as long as there are layers.

    Args:
        raw: content of ``config.json``.
        name: of the file, for messages.
        tensors: names and shapes of the weights, where there are any.

    Raises:
        CheckpointFilesError: names the field.
    """
    if not isinstance(raw, dict):
        raise CheckpointFilesError(f"{name} is no JSON object")
    held = _count(tensors) if tensors is not None else 0
    for prefix, section in (
        ("", raw),
        *((f"{key}.", raw.get(key)) for key in ("text_config", "vision_config")),
    ):
        if section is None:
            continue
        if not isinstance(section, dict):
            raise CheckpointFilesError(f"{name}: {prefix[:-1]} is no JSON object")
        for field in (*_LAYERS, *_SIZES):
            if section.get(field) is not None:
                _check_number(section[field], f"{name}: {prefix}{field}", field)
        for field in _LAYERS:
            layers = section.get(field)
            if layers is None:
                continue
            if layers > (MOST_LAYERS if tensors is None else len(tensors)):
                has = (
                    f"the files hold {len(tensors)} weights"
                    if tensors is not None
                    else "no model has so many"
                )
                raise CheckpointFilesError(f"{name}: {prefix}{field} is {layers}, and {has}")
        for field in _SIZES:
            size = section.get(field)
            if (
                size is not None
                and tensors is not None
                and field != "max_position_embeddings"
                and size > PACKED * held
            ):
                raise CheckpointFilesError(
                    f"{name}: {prefix}{field} is {size}, and the files hold {held:,} numbers in all"
                )


def check_size(config: Any, name: str, tensors: Mapping[str, Any]) -> None:
    """Raise where a config, its defaults included, asks for a model far larger than its files.

    Raises:
        CheckpointFilesError: names the fields whose product is too large.
    """
    most = PACKED * max(_count(tensors), 1024)
    for section in (config.get_text_config(), getattr(config, "vision_config", None)):
        if section is None:
            continue
        for product in _PRODUCTS:
            factors = {}
            for names in product:
                found = next(
                    (one for one in names if isinstance(getattr(section, one, None), (int, float))), None
                )
                if found is None:
                    break
                factors[found] = getattr(section, found)
            else:
                if math.prod(factors.values()) > most:
                    asked = ", ".join(f"{field}={value}" for field, value in factors.items())
                    raise CheckpointFilesError(
                        f"{name}: {type(section).__name__} with {asked} is far larger than the weights in the files"
                    )


def check_before_building(source: str, config: Any, arguments: Mapping[str, Any]) -> None:
    """Look at a checkpoint's files before ``from_pretrained`` does.

    Raises:
        CheckpointFilesError: weights outside of the folder or pickled, or a config that is not these files'.
    """
    if arguments.get("use_safetensors") is False:
        raise CheckpointFilesError(
            f"{source}: only safetensors are read; a .bin is a pickle, which can run code"
        )
    if arguments.get("gguf_file") is not None:
        return
    tensors = stored_tensors(source, arguments)
    if tensors is None:
        return  # from_pretrained says what is missing
    path = cached_file(
        source, "config.json", _raise_exceptions_for_missing_entries=False, **hub_arguments(arguments)
    )
    if path is not None:
        check_config(read_json(str(path), name=f"{source}/config.json"), f"{source}/config.json", tensors)
    if config is not None:
        check_size(config, f"{source}/config.json", tensors)


def hub_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments of a ``from_pretrained`` those that say where the files are."""
    return {name: arguments[name] for name in _HUB if arguments.get(name) not in (None, "", False)}


def _check_number(value: Any, name: str, field: str) -> None:
    whole = type(value) is int or (field == "mlp_ratio" and type(value) is float and math.isfinite(value))
    if not whole or value <= 0:
        raise CheckpointFilesError(f"{name} is {repr(value)[:40]}: a positive whole number is needed")


def _count(tensors: Mapping[str, list[int]]) -> int:
    return sum(math.prod(shape) for shape in tensors.values())


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
