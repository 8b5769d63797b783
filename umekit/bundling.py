"""The code that a checkpoint carries: one readable file per entry point, joined from the sources of a room.

transformers runs remote code as single files and announces each of them, so a checkpoint gets few. A bundle is an entry
point and what it imports of its room: all outside imports in front, then each source under its heading, after those
that it needs. Equal sources give equal bytes. Sources that define one name twice, or import different things under one
name, make no bundle: that is an error of the build, and not at the user's.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType

from ._version import __version__

KINDS = (
    "discriminative",
    "generative",
    "adaptive",
    "reranker",
)  # of a checkpoint, and the source that has the class of each
FILES = {  # source that is an entry point -> its file in a checkpoint, where it is not the model's
    "sentence_transformer": "sentence_transformer_ume",
    "processor": "processing_ume",
    "pdfium_worker": "pdfium_ume",  # a program, and so a file of its own
}
MODEL_FILE = "modeling_ume"  # the bundle of any kind
WIDTH = 110  # of a line

_Import = ast.Import | ast.ImportFrom


class BundleError(ValueError):
    """Sources that cannot be joined."""


@cache
def model_files(kind: str) -> Mapping[str, str]:
    """Name -> text of the model's code in a checkpoint of a kind (``"discriminative"``, ``"reranker"`` ...).

    The module for sentence-transformers is the same for every kind; not every checkpoint needs it.
    """
    room = _room("modeling")
    sources = sources_of(room / f"{kind}.py")
    others = [path for path in sources_of(room / "sentence_transformer.py") if path not in sources]
    wrapper = join(others, {path.stem: MODEL_FILE for path in sources})
    return MappingProxyType(
        {f"{MODEL_FILE}.py": join(sources), f"{FILES['sentence_transformer']}.py": wrapper}
    )


@cache
def processor_files() -> Mapping[str, str]:
    """Name -> text of the processor's code in a checkpoint."""
    room = _room("processing")
    worker = room / "pdfium_worker.py"
    bundle = join(sources_of(room / "processor.py", apart=worker), {worker.stem: FILES[worker.stem]})
    return MappingProxyType(
        {
            f"{FILES['processor']}.py": bundle,
            f"{FILES[worker.stem]}.py": worker.read_text(encoding="utf-8"),
        }
    )


def sources_of(entry: Path, apart: Path | None = None) -> list[Path]:
    """A source and those that it imports of its room, each after what it needs; without the one ``apart``.

    Raises:
        BundleError: sources import each other in a circle.
    """
    found: list[Path] = []
    pending: list[Path] = []

    def visit(path: Path) -> None:
        if path in found or path == apart:
            return
        if path in pending:
            circle = " -> ".join(one.stem for one in [*pending, path])
            raise BundleError(f"a circle of imports: {circle}")
        pending.append(path)
        for node in _parsed(path).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                visit(path.with_name(f"{_sibling(node, path)}.py"))
        found.append(pending.pop())

    visit(entry)
    return found


def join(sources: Sequence[Path], beside: Mapping[str, str] | None = None) -> str:
    """Source files as one.

    Args:
        sources: each after those that it imports.
        beside: other modules of the room -> the file beside the bundle that holds them.

    Raises:
        BundleError: a name stands for two things; or a relative import is of a module that is neither a source nor
            ``beside``, of a module as a whole, under another name, or not at the top of its file.
    """
    inside = {path.stem for path in sources}
    names = _Names()
    absolute: set[str] = set()
    relative: dict[str, set[str]] = {}
    sections = []
    for path in sources:
        tree = _parsed(path)
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.level:
                module = _sibling(node, path)
                if module not in inside:
                    if module not in (beside or {}):
                        raise BundleError(f"{path}: {module} is in no file of the bundle")
                    for alias in node.names:
                        names.claim(alias.name, f"{module}.{alias.name}", path)
                        relative.setdefault((beside or {})[module], set()).add(alias.name)
            elif isinstance(node, _Import):
                for line, bound in _single(node):
                    absolute.add(line)
                    names.claim(
                        bound, f"import {bound}" if line.startswith(f"import {bound}.") else line, path
                    )
            else:
                _refuse_relative(node, path)
                for name, origin in _defined(node, path.stem):
                    names.claim(name, origin, path)
        sections.append(_section(path, tree))
    absolute.discard("from __future__ import annotations")
    imports = sorted(absolute, key=lambda line: (line.startswith("from "), line))
    for file, wanted in sorted(relative.items()):
        imports.append(f"from .{file} import (\n    " + ",\n    ".join(sorted(wanted)) + ",\n)")
    head = [_header(sources), "from __future__ import annotations", "\n".join(imports)]
    return "\n\n".join([*head, *sections]) + "\n"


class _Names:
    """What every name at the top of a bundle stands for, and which source said so first."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, Path]] = {}

    def claim(self, name: str, origin: str, path: Path) -> None:
        """Raise BundleError where another source means something else by a name."""
        known, first = self._known.setdefault(name, (origin, path))
        if known != origin:
            raise BundleError(f"{name!r} in {path} is not what it is in {first}: rename one of them")


def _room(name: str) -> Path:
    import importlib

    return Path(next(iter(importlib.import_module(f"umekit.{name}").__path__)))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _sibling(node: ast.ImportFrom, path: Path) -> str:
    """The module of a relative import."""
    if node.level != 1 or not node.module:
        raise BundleError(f"{path}: line {node.lineno} imports from outside the room, or a whole module")
    if any(alias.asname for alias in node.names):
        raise BundleError(f"{path}: line {node.lineno} imports under another name")
    return node.module


def _refuse_relative(statement: ast.stmt, path: Path) -> None:
    """A relative import inside a statement would stay in the bundle, where there is no such file."""
    for node in ast.walk(statement):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise BundleError(f"{path}: line {node.lineno} imports a sibling below the top of the file")


def _single(node: _Import) -> Iterator[tuple[str, str]]:
    """One line for each name that an import binds, and that name."""
    for alias in node.names:
        renamed = f" as {alias.asname}" if alias.asname else ""
        if isinstance(node, ast.ImportFrom):
            yield f"from {node.module} import {alias.name}{renamed}", alias.asname or alias.name
        else:
            yield f"import {alias.name}{renamed}", alias.asname or alias.name.partition(".")[0]


def _defined(node: ast.stmt, source: str) -> Iterator[tuple[str, str]]:
    """Names that a statement at the top of a source binds, and what they stand for.

    A ``try`` or ``if`` is taken as a whole: where two sources have the same one, its names mean the same.
    """
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, f"{source}.{node.name}"
        return
    origin = ast.dump(node) if isinstance(node, ast.If | ast.Try) else source
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id, origin
        elif isinstance(part, _Import):
            yield from ((bound, origin) for _, bound in _single(part))
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part.name, origin


def _section(path: Path, tree: ast.Module) -> str:
    """A source without its docstring, which becomes its heading, and without the imports at its top."""
    docstring = ast.get_docstring(tree)
    dropped: set[int] = set()
    for node in tree.body:
        if isinstance(node, _Import) or (docstring is not None and node is tree.body[0]):
            dropped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = "\n".join(line for number, line in enumerate(lines, 1) if number not in dropped).strip("\n")
    title = f"# ---- {path.stem} ".ljust(WIDTH, "-")
    return "\n".join(["", title, *_commented((docstring or "").splitlines()), "", "", kept])


def _header(sources: Sequence[Path]) -> str:
    said = [
        f"Made by umekit {__version__} when this checkpoint was saved. Do not edit: change the sources and save again.",
        "Sources, in this order:",
    ]
    for path in sources:
        if len(said[-1]) + len(path.stem) + 4 > WIDTH:
            said.append(" ")
        said[-1] += f" {path.stem}"
    return "\n".join(_commented(said))


def _commented(lines: Sequence[str]) -> list[str]:
    return [f"# {line}".rstrip() for line in lines]
