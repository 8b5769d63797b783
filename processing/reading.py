"""Settings from JSON that somebody else may have written: every value is checked against the type of its field."""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MOST = 2**53  # beyond it JSON's numbers are not whole


class ProcessorSettingsError(ValueError):
    """The ``ume`` block of ``processor_config.json`` cannot be used; the message names the entry."""


def read_record(kind: type, value: Any, name: str) -> Any:
    """A dataclass from its JSON form.

    Args:
        kind: the dataclass; its fields are numbers, texts, literals, pairs, dicts, or dataclasses again.
        value: what was read.
        name: of the value, for messages.

    Raises:
        ProcessorSettingsError: an entry that is not known, is missing, or is not of its field's type or range.
    """
    if not isinstance(value, dict):
        raise ProcessorSettingsError(f"{name} is {_short(value)}; an object is needed")
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ProcessorSettingsError(f"{name} has entries that this version does not know: {unknown}")
    entries = {key: _read(hints[key], one, f"{name}.{key}") for key, one in value.items()}
    try:
        return kind(**entries)
    except (TypeError, ValueError) as error:
        raise ProcessorSettingsError(f"{name}: {error}") from None


def _read(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return read_record(hint, value, name)  # type: ignore[arg-type]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        rest = [one for one in arguments if one is not type(None)]
        return None if value is None else _read(rest[0], value, name)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ProcessorSettingsError(f"{name} is {_short(value)}; use one of {arguments}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(arguments):
            raise ProcessorSettingsError(f"{name} is {_short(value)}; a list of {len(arguments)} is needed")
        return tuple(_read(one, entry, name) for one, entry in zip(arguments, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise ProcessorSettingsError(f"{name} is {_short(value)}; an object is needed")
        return {str(key): _read(arguments[1], one, f"{name}.{key}") for key, one in value.items()}
    if not _is(hint, value):
        raise ProcessorSettingsError(f"{name} is {_short(value)}; {_WORDS[hint]} is needed")
    return float(value) if hint is float else value


_WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}


def _is(kind: type, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and abs(value) <= MOST
    if kind is int:
        return type(value) is int and abs(value) <= MOST
    return type(value) is kind


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
