"""Tiny random checkpoints of the four backbone families, made once per session."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before anything imports transformers: nothing of a test may touch the user's caches or the network.
_CACHE = tempfile.mkdtemp(prefix="umekit-tests-")
os.environ["HF_HOME"] = _CACHE
os.environ["HF_MODULES_CACHE"] = str(Path(_CACHE) / "modules")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from PIL import Image

from umekit.testing import FAMILIES, save_tiny_backbone, save_tiny_checkpoint

# A busy machine is no reason to fail.
hypothesis_settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("patient")

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random backbone as it would be published: no settings of ours."""
    made: dict[str, Path] = {}

    def folder(family: str = "qwen2_vl") -> Path:
        if family not in made:
            made[family] = save_tiny_backbone(tmp_path_factory.mktemp(family) / "backbone", family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[[str], Path]
) -> Callable[..., Path]:
    """Folder of a tiny random checkpoint saved by umekit; keyword arguments are entries of ``UmeSettings``."""
    made: dict[str, Path] = {}

    def folder(family: str = "qwen2_vl", **settings: object) -> Path:
        key = f"{family}-{sorted(settings.items())}"
        if key not in made:
            target = tmp_path_factory.mktemp(family) / "checkpoint"
            made[key] = save_tiny_checkpoint(target, tiny_backbone(family), **settings)
        return made[key]

    return folder


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Six random pictures of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (128, 64), (84, 84), (200, 57), (33, 47), (150, 150)]
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.fixture
def mixed_items(pictures: list[Image.Image]) -> list[object]:
    """Items of every kind, in an order that mixes lengths and media."""
    return [
        "a short text",
        {"image": pictures[0]},
        {"text": "a text before a picture", "image": pictures[1]},
        {
            "video": pictures[:2] + pictures[:2],
            "text": "what happens here and what comes after that, in full?",
        },
        {"images": pictures[2:5], "instruction": "compare them"},
        "a much longer text " * 6,
        pictures[5],
    ]
