"""The benchmarks are scripts: their folder, and this one for worker processes, go on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from umekit.examples.ume_tiny_model import build_model, build_processor, build_tokenizer

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "benchmarks"), str(HERE)]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    processor = build_processor(build_tokenizer())
    build_model(processor.tokenizer).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
