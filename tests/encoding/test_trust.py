"""Nothing that is read can run code: no pickle on any path, and no folder is believed before it was checked."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umekit.encoding.golden.folder import read_golden
from umekit.encoding.index.exact import Index
from umekit.encoding.index.manifest import IndexFormatError
from umekit.encoding.storage.contents import file_sha256

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("umekit", "hub_cards", "trainers", "evaluation", "encoding", "processing", "modeling")
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
EXECUTE = {"eval", "exec", "compile", "__import__"}


def sources() -> list[Path]:
    return [file for room in ROOMS for file in (ROOT / room).rglob("*.py") if "build" not in file.parts]


def wrong(tree: ast.AST) -> list[str]:
    """What in a module could run something that was read."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            found += [f"imports {name}" for name in names if name.split(".")[0] in UNPICKLERS]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in EXECUTE:
            found.append(f"calls {name}")
        if name.endswith("torch.load") and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if given.get("allow_pickle", "False") != "False":
            found.append("allow_pickle")
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            found.append(name)
        if given.get("trust_remote_code", "False") == "True":
            found.append("trust_remote_code=True")
    return found


def test_the_check_sees_what_it_looks_for() -> None:
    bad = ["import pickle", "np.load(x, allow_pickle=True)", "torch.load(x)", "eval(x)", "yaml.load(x)"]
    bad += ["f(trust_remote_code=True)", "from dill import loads"]
    assert all(len(wrong(ast.parse(line))) == 1 for line in bad)
    assert (
        wrong(ast.parse("np.load(x, allow_pickle=False)\nmodel.eval()\nre.compile(x)\nyaml.safe_load(x)"))
        == []
    )


def test_nothing_is_unpickled_or_executed() -> None:
    files = sources()
    assert len(files) > 80
    found = {file.relative_to(ROOT).as_posix(): wrong(ast.parse(file.read_text())) for file in files}
    assert {name: faults for name, faults in found.items() if faults} == {}


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_pickles_in_an_index_stay_closed(tmp_path: Path) -> None:
    """Also where every hash is right."""
    mark = tmp_path / "ran"
    index = Index(dim=2, fingerprint={"model": "m"})
    index.add(["a"], np.array([[1.0, 0.0]], dtype=np.float32), [{}])
    index.save(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    data = tmp_path / "index" / manifest["generation"]
    bombs = np.empty(1, dtype=object)
    bombs[0] = Bomb(mark)
    for content in ("object array", "bare pickle"):
        if content == "object array":
            np.save(data / "vectors.npy", bombs, allow_pickle=True)
        else:
            (data / "vectors.npy").write_bytes(pickle.dumps(Bomb(mark)))
        manifest["files"]["vectors.npy"] = file_sha256(data / "vectors.npy")
        (tmp_path / "index" / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(IndexFormatError, match="damaged"):
            Index.load(tmp_path / "index")
    assert not mark.exists()


def test_pickles_in_golden_vectors_stay_closed(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    bombs = np.empty(1, dtype=object)
    bombs[0] = Bomb(mark)
    np.savez(tmp_path / "vectors.npz", vectors=bombs)
    (tmp_path / "golden.json").write_text(
        json.dumps({"schema": 1, "settings": {"model.role": "discriminative"}})
    )
    with pytest.raises(ValueError, match="allow_pickle"):
        read_golden(tmp_path)
    assert not mark.exists()
