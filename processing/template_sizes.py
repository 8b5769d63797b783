"""How much a step of a chat template makes, known before it is made: characters or entries, at most.

Each function takes the ``most`` that may be made, and gives a number over it where that is all there is to know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

INTEGER_BITS = 2**14
# Filters that write out whatever they are given.
_TEXT_FILTERS = {
    *("capitalize", "e", "escape", "forceescape", "lower", "safe", "striptags", "title", "trim", "upper"),
    *("urlencode", "wordcount"),
}


def made_by_operator(operator: str, left: Any, right: Any, most: int) -> int:
    """Characters or entries that an operator makes."""
    if operator == "+":
        return sum(len(side) for side in (left, right) if isinstance(side, (str, list, tuple, bytes)))
    if operator == "%" and isinstance(left, (str, bytes)):
        return _formatted(str(left), right, most)
    if operator in ("*", "**"):
        for one, times in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple, bytes)) and isinstance(times, int):
                return len(one) * max(times, 0)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length()
            if operator == "**":
                bits = left.bit_length() * abs(right)
            return 0 if bits <= INTEGER_BITS else most + 1
    return 0


def _formatted(form: str, values: Any, most: int) -> int:
    """Characters of ``form % values``, at most."""
    if re.search(r"%[^a-zA-Z%]*?(\d{4,}|\*)", form):
        return most + 1
    return len(form) + form.count("%") * (1024 + written_size(values, most))


def made_by_method(name: str, owner: Any, args: Sequence[Any], kwargs: Mapping[str, Any], most: int) -> int:
    """Characters that a method of a string (or number) makes, at most."""
    if isinstance(owner, int):
        return most + 1 if name == "to_bytes" else 0
    given = [*args, *kwargs.values()]
    numbers = [max(one, 0) for one in given if isinstance(one, int)]
    if name in ("ljust", "rjust", "center", "zfill"):
        return len(owner) + sum(numbers)
    if name == "expandtabs":
        return len(owner) * (1 + sum(numbers or [8]))
    if name == "replace" and len(given) > 1 and isinstance(given[0], (str, bytes)):
        old, new = given[0], given[1]
        times = owner.count(old) if old else len(owner) + 1
        return len(owner) + times * written_size(new, most)
    if name == "join" and given:
        return _joined(owner, given[0], most)
    if name in ("format", "format_map"):
        if re.search(r"\d{4,}|\{[^{}]*\{", str(owner)):
            return most + 1
        return len(owner) + str(owner).count("{") * (1024 + written_size(given, most))
    return most + 1 if name == "translate" else len(owner)


def made_by_filter(name: str, value: Any, given: Sequence[Any], most: int) -> int:
    """Characters or entries that a filter makes, at most, where that can be far more than it is given."""
    numbers = [max(one, 0) for one in given if isinstance(one, int)]
    if name in ("center", "wordwrap", "batch", "slice", "truncate"):
        return sum(numbers) + written_size(value, most) * (2 if name == "wordwrap" else 1)
    if name == "indent":
        lines = str(value).count("\n") + 1
        return written_size(value, most) + lines * (
            sum(numbers) + sum(len(x) for x in given if isinstance(x, str))
        )
    if name == "replace" and len(given) > 1:
        return made_by_method("replace", str(value), [str(given[0]), str(given[1])], {}, most)
    if name == "join":
        return _joined(given[0] if given else "", value, most)
    if name == "format":
        return _formatted(str(value), list(given), most)
    if name in ("tojson", "pprint", "xmlattr", "string", "urlize"):
        indents = sum(numbers) if name == "tojson" else 0
        return written_size(value, most) * (1 + indents)
    return written_size(value, most) if name in _TEXT_FILTERS else 0


def _joined(separator: Any, values: Any, most: int) -> int:
    count = len(values) if isinstance(values, (str, list, tuple, dict)) else 0
    return written_size(values, most) + count * written_size(separator, most)


def written_size(value: Any, most: int) -> int:
    """Characters of a value written out, or a number over ``most``."""
    total, todo = 0, [value]
    while todo and total <= most:
        one = todo.pop()
        if isinstance(one, (str, bytes)):
            total += len(one)
        elif isinstance(one, Mapping):
            total += 4
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple)):
            total += 2 + len(one)
            todo += one
        elif isinstance(one, int):
            total += 1 + one.bit_length() // 3
        else:
            total += 32
    return total
