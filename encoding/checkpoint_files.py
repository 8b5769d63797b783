"""Opening a checkpoint's small files: bounded before anything is made of them, and never by the repository's code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import cached_file

from ..modeling.config_checks import check_config
from ..modeling.weight_files import (
    CheckpointFilesError,
    read_json,
    stored_tensors,
)

# Most bytes of each file that is read whole before the weights; real ones have a tenth of it.
LIMITS = {
    "config.json": 2**23,
    "processor_config.json": 2**23,
    "preprocessor_config.json": 2**23,
    "video_preprocessor_config.json": 2**23,
    "generation_config.json": 2**23,
    "tokenizer_config.json": 2**25,
    "special_tokens_map.json": 2**23,
    "added_tokens.json": 2**24,
    "tokenizer.json": 2**28,
    "vocab.json": 2**27,
    "merges.txt": 2**27,
    "chat_template.json": 2**21,
    "chat_template.jinja": 2**21,
    "modules.json": 2**20,
    "sentence_bert_config.json": 2**20,
    "config_sentence_transformers.json": 2**21,
}
# Too large to be read twice: their size alone is looked at.
_BY_SIZE = ("tokenizer.json", "vocab.json", "merges.txt", "chat_template.jinja")


class RemoteCodeError(ValueError):
    """A checkpoint can only be opened by running code that it brings, which umekit never does."""


@contextmanager
def installed_classes(source: str) -> Iterator[None]:
    """Inside, what transformers says of a repository's code becomes an error that says what to do.

    Raises:
        RemoteCodeError: a config, tokenizer, processor or model of ``source`` has no installed class.
    """
    try:
        yield
    except (ValueError, ImportError) as error:
        text = str(error)
        if "trust_remote_code" not in text and "custom code" not in text:
            raise
        raise RemoteCodeError(
            f"{source} asks for code of its own where no installed class fits ({_auto_maps(source)}): umekit never "
            "runs a repository's code; export the checkpoint to a stock class, or open it with transformers itself"
        ) from None


def read_config(source: str, hub: Mapping[str, Any] | None = None) -> Any:
    """A checkpoint's config by an installed class, after a look at its files.

    Args:
        source: folder or Hub repository.
        hub: ``revision`` and the like.

    Raises:
        CheckpointFilesError: a file is too large, too deep or no JSON, or the config is not that of the weights.
        RemoteCodeError: its ``model_type`` has no installed class.
        OSError: there is no config.
    """
    hub = dict(hub or {})
    check_files(source, hub)
    with installed_classes(source):
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
        except OSError:
            raise
        except ValueError as error:
            if not _is_unknown_model(error):
                raise
            named = _model_type(source, hub)
            raise CheckpointFilesError(
                f"{source}/config.json: model_type is {named}, unknown to transformers {transformers.__version__}"
            ) from None
        except Exception as error:  # validators of transformers have errors of their own
            raise CheckpointFilesError(
                f"{source}/config.json cannot be used: {' '.join(str(error).split())[:300]}"
            ) from error
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise CheckpointFilesError(
            f"{source}/config.json: model_type is {_model_type(source, hub)}, which is no model of pictures and text"
        )
    return config


def _is_unknown_model(error: ValueError) -> bool:
    """Whether transformers says so; of a repository's code it says something else."""
    said = str(error)
    return "trust_remote_code" not in said and (
        "does not recognize" in said or "Unrecognized model in" in said
    )


def _model_type(source: str, hub: Mapping[str, Any]) -> str:
    path = find_file(source, "config.json", hub)
    content = {} if path is None else read_json(path, LIMITS["config.json"], "config.json")
    return repr(content.get("model_type"))[:40]


def _auto_maps(source: str) -> str:
    """Which classes the files of a checkpoint name as its own."""
    found = []
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        path = find_file(source, name, {})
        named = read_json(path, LIMITS[name], name).get("auto_map") if path is not None else None
        if isinstance(named, dict):
            found += [f"{name}: {kind} is {value}" for kind, value in sorted(named.items())]
    return "; ".join(found)[:500] or "auto_map"


def check_files(source: str, hub: Mapping[str, Any]) -> None:
    """Raise :class:`CheckpointFilesError` where a file of a checkpoint is not what it should be; see ``LIMITS``."""
    for name, most in LIMITS.items():
        path = find_file(source, name, hub)
        if path is None:
            continue
        if name in _BY_SIZE:
            if path.stat().st_size > most:
                raise CheckpointFilesError(
                    f"{source}/{name} has {path.stat().st_size:,} bytes, more than {most:,} are not read"
                )
            continue
        content = read_json(path, most, f"{source}/{name}")
        if name == "config.json":
            check_config(content, f"{source}/{name}", stored_tensors(source, hub))
        elif not isinstance(content, list if name == "modules.json" else dict):
            raise CheckpointFilesError(
                f"{source}/{name} is no JSON {'list' if name == 'modules.json' else 'object'}"
            )


def find_file(source: str, name: str, hub: Mapping[str, Any]) -> Path | None:
    """A file of a checkpoint; None where it has none of this name."""
    found = cached_file(
        source,
        name,
        **hub,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def has_settings(source: str) -> bool:
    """Whether ``config.json`` of a checkpoint has our ``ume`` block."""
    path = find_file(source, "config.json", {})
    return path is not None and read_json(path, name=f"{source}/config.json").get("ume") is not None


__all__ = [
    "CheckpointFilesError",
    "RemoteCodeError",
    "check_files",
    "find_file",
    "has_settings",
    "installed_classes",
    "read_config",
    "read_json",
    "stored_tensors",
]
