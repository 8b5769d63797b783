"""Bundles of a checkpoint's code: all of them join and run, and sources that cannot be joined are named."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from umekit import __version__
from umekit.bundling import KINDS, BundleError, join, model_files, processor_files, sources_of

BUNDLES = [*KINDS, "processor"]
ALLOWED = {"torch", "transformers", "numpy", "PIL", "huggingface_hub", "safetensors"}
ROOMS = Path(__file__).resolve().parents[2]


def _files(kind: str) -> dict[str, str]:
    return dict(processor_files() if kind == "processor" else model_files(kind))


@pytest.mark.parametrize("kind", BUNDLES)
def test_a_bundle_runs_and_has_what_the_checkpoint_names(kind: str, tmp_path: Path) -> None:
    package = tmp_path / f"bundle_{kind}"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, text in _files(kind).items():
        (package / name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    try:
        modules = {
            name: __import__(f"{package.name}.{Path(name).stem}", fromlist=["_"])
            for name in sorted(_files(kind))
        }
    finally:
        sys.path.remove(str(tmp_path))
    if kind == "processor":
        assert modules["processing_ume.py"].UmeProcessor.__module__ == f"{package.name}.processing_ume"
        return
    classes = vars(modules["modeling_ume.py"]).values()
    kinds = {one.kind for one in classes if isinstance(one, type) and hasattr(one, "kind")}
    assert kind in kinds
    assert hasattr(modules["sentence_transformer_ume.py"], "UmeTransformer")


@pytest.mark.parametrize("kind", BUNDLES)
def test_transformers_finds_only_imports_that_a_checkpoint_can_have(kind: str, tmp_path: Path) -> None:
    files = _files(kind)
    assert len(files) == 2
    for name, text in files.items():
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        real = {
            node.module
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom) and node.level and node.module
        }
        # Its finder of siblings is a regular expression over lines: docstrings and comments count, too.
        assert set(get_relative_imports(path)) == real <= {Path(one).stem for one in files}
        outside = {"sentence_transformers"} if name == "sentence_transformer_ume.py" else set()
        # Optional libraries are imported in a try, which it does not look into.
        assert set(get_imports(path)) - set(sys.stdlib_module_names) <= ALLOWED | outside
        assert not re.search(r"^\s*(?:from|import)\s+umekit", text, flags=re.MULTILINE)


def test_every_source_of_the_rooms_is_in_a_bundle() -> None:
    held = {path for kind in KINDS for path in sources_of(ROOMS / "modeling" / f"{kind}.py")}
    held |= set(sources_of(ROOMS / "processing" / "processor.py"))
    held |= set(sources_of(ROOMS / "modeling" / "sentence_transformer.py"))
    there = {path for room in ("modeling", "processing") for path in (ROOMS / room).glob("*.py")}
    assert {path for path in there if path.name != "__init__.py"} == held


def test_a_kind_gets_what_it_needs_and_no_more() -> None:
    assert "class UmeForReranking" not in model_files("generative")["modeling_ume.py"]
    assert "class UmeForGenerativeEmbedding" not in model_files("discriminative")["modeling_ume.py"]
    wrappers = {model_files(kind)["sentence_transformer_ume.py"] for kind in KINDS}
    assert len(wrappers) == 1
    model_files.cache_clear()
    assert model_files("reranker")["modeling_ume.py"].startswith(f"# Made by umekit {__version__} ")
    with pytest.raises(TypeError):
        model_files("reranker")["modeling_ume.py"] = ""  # type: ignore[index]


def _room(folder: Path, **sources: str) -> Path:
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder / "entry.py"


def test_sources_come_in_the_order_of_their_imports(tmp_path: Path) -> None:
    entry = _room(
        tmp_path,
        entry='"""The door."""\nimport os.path\nfrom .b import two\nfrom .a import ONE\n\nvalue = two() + ONE\n',
        a="import os\n\nONE = 1\n",
        b='"""Two.\n\nAnd more.\n"""\n\nfrom .a import ONE\n\n\ndef two() -> int:\n    return 2 * ONE\n',
    )
    sources = sources_of(entry)
    assert [path.stem for path in sources] == ["a", "b", "entry"]
    text = join(sources)
    assert text == join(sources)
    assert "# Sources, in this order: a b entry\n" in text
    assert "# Two.\n#\n# And more.\n" in text
    assert text.count("import os\n") == 1
    space: dict[str, object] = {}
    exec(text, space)
    assert space["value"] == 3


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("def helper() -> None: ...\n", r"'helper' in .*entry\.py is not what it is in .*other\.py"),
        ("from json import loads as helper\n", r"'helper' in .*entry\.py"),
        ("helper = 2\n", "'helper'"),
        ("for helper in (): ...\n", "'helper'"),
        ("try:\n    import helper\nexcept ImportError:\n    helper = None\n", "'helper'"),
        ("def f() -> None:\n    from .entry import helper\n", "below the top"),
        ("from . import entry\n", "a whole module"),
        ("from ..room import entry\n", "outside the room"),
        ("from .third import one as two\n", "under another name"),
        ("from .entry import helper\n", "circle of imports: entry -> other -> entry"),
    ],
)
def test_what_cannot_be_joined_is_named(other: str, message: str, tmp_path: Path) -> None:
    entry = _room(
        tmp_path,
        entry="from .other import x\n\n\ndef helper() -> None: ...\n",
        other=other,
        third="one = 1\n",
    )
    with pytest.raises(BundleError, match=message):
        join(sources_of(entry))


def test_the_same_optional_import_in_two_sources_is_one(tmp_path: Path) -> None:
    optional = "try:\n    import av\nexcept ImportError:\n    av = None\n"
    entry = _room(tmp_path, entry="from .other import x\n" + optional, other=optional + "x = av\n")
    assert join(sources_of(entry)).count("import av") == 2


def test_what_lies_beside_must_be_named(tmp_path: Path) -> None:
    entry = _room(tmp_path, entry="from .other import x, y\n", other="x = y = 1\n")
    with pytest.raises(BundleError, match="other is in no file of the bundle"):
        join([entry])
    assert "from .file import (\n    x,\n    y,\n)" in join([entry], {"other": "file"})
