"""A checkpoint's own code: complete, self-contained, and loadable where umekit is not installed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umekit.modeling import saving_ume
from umekit.modeling.modeling_ume import UmeForDiscriminativeEmbedding
from umekit.processing import checkpoint_ume
from umekit.processing.processing_ume import UmeProcessor

PROBE = Path(__file__).parent / "remote_probe.py"
ROOMS = [Path(module.__file__ or "").parent for module in (saving_ume, checkpoint_ume)]
SHIPPED = [
    room / name
    for room, names in zip(ROOMS, (saving_ume.CODE_FILES, checkpoint_ume.CODE_FILES), strict=True)
    for name in names
]
ALLOWED = {"torch", "transformers", "numpy", "PIL", "tokenizers", "huggingface_hub", "safetensors"}
SENTENCE_TRANSFORMERS_FILE = "sentence_transformer_ume.py"


@pytest.mark.parametrize(
    ("family", "settings"),
    [("qwen2_vl", {}), ("qwen3_vl", {"positions": "1d", "pooling": "mean", "deepstack": False})],
)
def test_a_checkpoint_works_where_umekit_is_not(
    family: str, settings: dict[str, Any], tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    source = tiny_checkpoint(family, **settings)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROBE), str(source), str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    vectors = np.load(tmp_path / "vectors.npz")
    namespace: dict[str, Any] = {"__name__": "probe"}
    source_text = PROBE.read_text(encoding="utf-8").replace("sys.meta_path.insert(0, _Blocked())", "")
    exec(compile(source_text, str(PROBE), "exec"), namespace)
    items = namespace["items"]()
    for folder in (source, tmp_path / "from-model", tmp_path / "from-st"):
        model = UmeForDiscriminativeEmbedding.from_pretrained(folder)
        processor = UmeProcessor.from_pretrained(folder)
        expected = model.encode(items, processor=processor).numpy()
        for name in ("model", "from-model", "from-st"):
            np.testing.assert_allclose(vectors[name], expected, atol=1e-6, rtol=0)
        np.testing.assert_allclose(vectors["st"], expected[[0, 1, 3]], atol=1e-6, rtol=0)
    for name in ("from-model", "from-st"):
        missing = [path.name for path in SHIPPED if not (tmp_path / name / path.name).is_file()]
        assert not missing


def test_every_file_of_the_rooms_ships_once() -> None:
    assert all(path.is_file() for path in SHIPPED)
    names = [path.name for path in SHIPPED]
    assert len(names) == len(set(names))
    there = {path.name for room in ROOMS for path in room.glob("*.py")} - {"__init__.py"}
    assert there == set(names)
    assert all(name.endswith("_ume.py") for name in names)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_imports_are_what_remote_code_can_have(path: Path) -> None:
    names = {other.stem for other in SHIPPED if other.parent == path.parent}
    text = path.read_text(encoding="utf-8")
    for node in _imports(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{path.name}: only siblings"
            assert node.module in names, f"{path.name}: from . import x is not copied"
            continue
        modules = (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
        )
        for module in modules:
            top = module.partition(".")[0]
            known = top in ALLOWED or top in sys.stdlib_module_names or top == "__future__"
            allowed = known or (top == "sentence_transformers" and path.name == SENTENCE_TRANSFORMERS_FILE)
            assert allowed, f"{path.name} imports {module} outside try"
    # The finder of relative imports is a regular expression over lines: docstrings count, too.
    real = {
        node.module for node in _imports(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level
    }
    found = set(re.findall(r"^\s*(?:import\s+\.(\S+)|from\s+\.(\S+)\s+import)", text, flags=re.MULTILINE))
    assert {left or right for left, right in found} == real


def test_automodel_never_reaches_sentence_transformers() -> None:
    graph = {
        path.stem: {
            node.module
            for node in _imports(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.level
        }
        for path in SHIPPED
    }
    reached: set[str] = set()
    todo = ["modeling_ume", "processing_ume"]
    while todo:
        name = todo.pop()
        reached.add(name)
        todo.extend(str(other) for other in graph[name] if other not in reached)
    assert Path(SENTENCE_TRANSFORMERS_FILE).stem not in reached
    # A processor loaded as remote code saves what lies beside it: every file must be reached.
    assert {path.stem for path in SHIPPED if path.parent == ROOMS[1]} <= reached


def _imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements outside ``try:`` and ``if TYPE_CHECKING:``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, ast.Try):
            yield from _imports(node)
