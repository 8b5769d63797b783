"""Loading holds the weights once: measured from outside, in fresh processes, on a checkpoint of 200 MB."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc"),
]


@pytest.fixture(scope="module")
def widths() -> Any:
    sys.path.insert(0, str(FOLDER))  # as when it is run as a script
    try:
        spec = importlib.util.spec_from_file_location("widths_benchmark", FOLDER / "widths.py")
        assert spec is not None
        assert spec.loader is not None
        module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


@pytest.fixture(scope="module")
def checkpoint(widths: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("widths") / "quick"
    widths.save_checkpoint(folder, widths.WIDTHS["quick"])
    return folder


LOAD = """encoder = umekit.load(sys.argv[1], {}dtype='bfloat16', device='cpu')
model, encode = encoder.model, encoder.encode"""


@pytest.mark.parametrize("door", ["umekit.load", "AutoModel", "preset"])
def test_weights_are_in_memory_once(
    door: str, widths: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A preset that adds tokens, whose rows are means of all rows before them.
    with_preset = {**widths.DOORS["umekit.load"], "load": LOAD.format("preset='u-marvel', ")}
    monkeypatch.setitem(widths.DOORS, "preset", with_preset)
    found = widths.measure(checkpoint, door, threads=1)
    assert found["dtypes"] == ["torch.bfloat16"]
    assert found["weights_bytes"] > 150e6
    assert found["weights_bytes"] <= found["peak_bytes"]
    # On so small a model what else a forward needs (some 60 MB) counts more than at real widths.
    assert found["peak_per_weight"] < 1.6
    assert found["peak_of_load_per_weight"] < 0.6  # mapped, not read


def test_a_copy_would_be_seen(widths: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = LOAD.format("") + "\nimport copy\nother = copy.deepcopy(model)"
    monkeypatch.setitem(widths.DOORS, "copy", {**widths.DOORS["umekit.load"], "load": copied})
    assert widths.measure(checkpoint, "copy", threads=1)["peak_per_weight"] > 1.9


def test_a_failing_process_is_an_error(widths: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"umekit\.load failed on nothing"):
        widths.measure(tmp_path / "nothing", "umekit.load", threads=1)
