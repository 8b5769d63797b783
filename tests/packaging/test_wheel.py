"""The wheel works from another folder, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import umekit, sys
assert str(umekit.__file__).startswith({site!r}), umekit.__file__
import umekit.modeling.discriminative as m
assert m.__file__.startswith({site!r}), m.__file__
encoder = umekit.load()
vectors = encoder.encode(["p1 red 4", "find the page"])
assert vectors.shape == (2, encoder.dim)
print(umekit.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "umekit"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in files:
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(out),
        ".",
    ]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return next(out.glob("umekit-*.whl"))


def test_wheel_holds_the_small_model(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "umekit/examples/ume-tiny/model.safetensors" in names
    assert "umekit/py.typed" in names
    assert "umekit/modeling/discriminative.py" in names
    assert not any(name.startswith("tests/") for name in names)
    assert wheel.stat().st_size < 8_000_000


def test_wheel_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(site=str(site))],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
