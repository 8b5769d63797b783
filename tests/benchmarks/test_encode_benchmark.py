"""The benchmarks of encoding: pinned items without duplicates, a run that ends, and no GPU is no error."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import umekit
from umekit.encoding.deduplication import first_occurrences
from umekit.modeling.batching import plan_batches

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(umekit.__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, *command],
        cwd=FOLDER,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def items() -> Any:
    pytest.importorskip("av")
    pytest.importorskip("pypdfium2")
    spec = importlib.util.spec_from_file_location("encode_items", FOLDER / "encode_items.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["encode_items"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["encode_items"]


def test_items_are_pinned_and_none_is_there_twice(items: Any, tmp_path: Path) -> None:
    encoder = umekit.load(device="cpu")
    works = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        works.append(items.make_items(tmp_path / name, 20, encoder.processor))
    assert {kind: len(work.by_path) for kind, work in works[0].items()} == {
        "texts": 10,
        "images": 6,
        "clips": 2,
        "pages": 2,
        "mix": 20,
    }
    for form in ("by_path", "in_memory"):
        mix = getattr(works[0]["mix"], form)
        assert first_occurrences(mix) == list(range(20))
    texts = [work["texts"].by_path for work in works]
    assert texts[0] == texts[1]
    assert all(8 <= encoder.processor.prompt_tokenizer.count(text) <= 512 for text in texts[0])
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_mix_of_lengths_is_hardly_padded(items: Any) -> None:
    rng = items.np.random.default_rng(0)
    for count in (256, 1024):
        lengths = [items.log_uniform(rng, items.TOKENS) for _ in range(count)]
        for budget in (1024, 2048, 32768):
            batches = plan_batches(lengths, budget)
            assert sorted(place for batch in batches for place in batch) == list(range(count))
            padded = [len(batch) * max(lengths[place] for place in batch) for batch in batches]
            assert max(padded) <= budget
            assert 1 - sum(lengths) / sum(padded) < 0.05


@pytest.mark.slow
def test_the_quick_benchmark_runs(items: Any, tmp_path: Path) -> None:
    folder = tmp_path / "squares" / "images"
    folder.mkdir(parents=True)
    for number in range(8):
        items.Image.new("RGB", (72, 72), (number * 30, 0, 0)).save(folder / f"{number}.png")
    written = str(tmp_path / "encode.json")
    done = run("encode.py", "--quick", "--threads", "1", "--folders", str(folder), "--out", written)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "encode.json").read_text())["models"]["ume-tiny"]
    for kind in ("texts", "images", "clips", "pages", "mix"):
        for form in ("by_path", "in_memory"):
            assert found[kind][form]["largest_difference"] < 1e-4
    assert found["folders"]["squares/images"]["items"] == 8
    assert set(found["met"]) == {"mix_by_path", "mix_in_memory", "part", "padding", "forward_per_packed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured_and_that_is_said() -> None:
    done = run("gpu.py")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("no CUDA device here, nothing was measured")
