"""ume-tiny, and made-up benchmarks in published layouts, once per session."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import umekit

sys.path.insert(0, str(Path(__file__).parent))

import layouts


@pytest.fixture(scope="session")
def tiny() -> Any:
    """ume-tiny."""
    return umekit.load()


@pytest.fixture(scope="session")
def mmeb(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, layouts.Case]]:
    """Some tasks of every meta-task of MMEB-V2."""
    root = tmp_path_factory.mktemp("mmeb")
    return root, {name: make(root) for name, make in layouts.MMEB_V2.items()}


@pytest.fixture(scope="session")
def mmeb_v1(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, layouts.Case]]:
    root = tmp_path_factory.mktemp("mmeb-v1")
    return root, {name: make(root) for name, make in layouts.MMEB_V1.items()}


@pytest.fixture(scope="session")
def mbeir(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, layouts.Case]]]:
    root = tmp_path_factory.mktemp("mbeir")
    return root, layouts.mbeir(root)


@pytest.fixture(scope="session")
def zero_shot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, layouts.Case]]:
    root = tmp_path_factory.mktemp("zero")
    return root, layouts.zero_shot(root)
