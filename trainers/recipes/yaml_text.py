"""YAML of a recipe: safe tags only, bounded in size, depth and what its aliases grow to, no key twice."""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_CHARACTERS = 1_000_000
MOST_NODES = 100_000  # with every alias counted as what it stands for
MOST_DEPTH = 60
MERGE = "tag:yaml.org,2002:merge"


class YamlError(ValueError):
    """A text is not YAML, or not one that is read here; the message says why and where."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads ``2e-4`` as a number, as YAML 1.2 does; 1.1 makes it a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """Parse YAML; what an alias stands for is a copy of its own.

    Raises:
        YamlError: it cannot be parsed, is too large or too deep, its aliases grow beyond bounds or hold themselves, or
            a key stands twice in a mapping.
    """
    if len(text) > MOST_CHARACTERS:
        raise YamlError(f"{len(text)} characters are more than the {MOST_CHARACTERS} of a recipe")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _Measure().of(node, 1)
            return _unshared(loader.construct_document(node))  # type: ignore[no-untyped-call]
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except RecursionError:
        raise YamlError(f"it is nested deeper than {MOST_DEPTH} levels") from None
    except yaml.YAMLError as error:
        raise YamlError(str(error)) from None
    except (ValueError, OverflowError) as error:  # a date or a number that is none
        raise YamlError(str(error)) from None


class _Measure:
    """Nodes and levels under a node, those of an alias as often as it stands there; each node is walked once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def of(self, node: Any, depth: int) -> tuple[int, int]:
        if id(node) in self._open:
            raise YamlError(f"an alias holds itself{_place(node)}")
        if id(node) not in self._known:
            self._open.add(id(node))
            count, levels = 1, 0
            for child in _children(node) if depth <= MOST_DEPTH else ():
                more, below = self.of(child, depth + 1)
                count, levels = count + more, max(levels, below)
                if count > MOST_NODES:
                    raise YamlError(f"its aliases grow to more than {MOST_NODES} entries{_place(node)}")
            self._open.discard(id(node))
            self._known[id(node)] = (count, levels + 1)
        if depth + self._known[id(node)][1] > MOST_DEPTH + 1:
            raise YamlError(f"it is nested deeper than {MOST_DEPTH} levels{_place(node)}")
        return self._known[id(node)]


def _children(node: Any) -> list[Any]:
    """Of a mapping its keys and values, of which no key may stand there twice."""
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
            if (key.tag, key.value) in seen:
                raise YamlError(f"the key {key.value!r} stands twice{_place(key)}")
            seen.add((key.tag, key.value))
    return [part for pair in node.value for part in pair]


def _place(node: Any) -> str:
    mark = getattr(node, "start_mark", None)
    return "" if mark is None else f" (line {mark.line + 1})"


def _unshared(value: Any) -> Any:
    """A copy in which no list or mapping stands in two places, so that a change of one is not one of the other."""
    if isinstance(value, dict):
        return {key: _unshared(one) for key, one in value.items()}
    return [_unshared(one) for one in value] if isinstance(value, list) else value
