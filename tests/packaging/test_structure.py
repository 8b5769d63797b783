"""Imports point down, and the rooms that ship with checkpoints stay self-contained."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("modeling", "processing", "encoding", "evaluation", "trainers", "hub_cards")


def test_import_contracts(tmp_path: Path) -> None:
    """import-linter reads a package from one folder, so the rooms are laid out as they are installed."""
    package = tmp_path / "umekit"
    shutil.copytree(ROOT / "umekit", package, ignore=shutil.ignore_patterns("__pycache__"))
    for room in ROOMS:
        shutil.copytree(ROOT / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    command += ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_is_mapped() -> None:
    """A folder with modules that setup.cfg does not name would be missing from the wheel."""
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = config["options"]["packages"].split()
    places = dict(line.split(" = ") for line in config["options"]["package_dir"].strip().splitlines())
    assert sorted(packages) == sorted(places)
    named = {(ROOT / place).resolve() for place in places.values()}
    found = {
        path.parent.resolve()
        for room in (*ROOMS, "umekit")
        for path in (ROOT / room).rglob("__init__.py")
        if "__pycache__" not in path.parts
    }
    assert found <= named


def test_mypy_reads_every_file(tmp_path: Path) -> None:
    """``make types`` lays the rooms out as they are imported; every module of theirs is in that tree."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make")
    tree = tmp_path / "types"
    subprocess.run([make, "-C", str(ROOT), "types", f"TYPES={tree}", "MYPY=true"], check=True, timeout=60)
    for room in ROOMS:
        assert (tree / "umekit" / room).resolve() == ROOT / room
    for path in (ROOT / "umekit").iterdir():
        assert (tree / "umekit" / path.name).resolve() == path
    assert (tree / "benchmarks").resolve() == ROOT / "benchmarks"
