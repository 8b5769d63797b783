"""A checkpoint's own code: few files, complete, and equal to the installed package where umekit is not installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from umekit.bundling import model_files, processor_files
from umekit.encoding.loading import CLASSES
from umekit.modeling.sentence_transformer import UmeTransformer
from umekit.processing.processor import UmeProcessor
from umekit.testing import save_tiny_reranker

PROBE = Path(__file__).parent / "remote_probe.py"
OURS = {"positions": "1d", "pooling": "mean"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "stock": ("qwen2_vl", {}),
    "ours": ("qwen3_vl", {**OURS, "deepstack": False}),
    "generative": ("qwen2_vl", {"role": "generative", "max_new_tokens": 8}),
    "adaptive": ("qwen2_vl", {"role": "adaptive", "max_new_tokens": 8}),
    "reranker": ("qwen3_vl", {"role": "reranker"}),
}


def _probe() -> Any:
    spec = importlib.util.spec_from_file_location("remote_probe", PROBE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_works_where_umekit_is_not(
    case: str,
    tmp_path: Path,
    tiny_checkpoint: Callable[..., Path],
    tiny_backbone: Callable[[str], Path],
) -> None:
    family, settings = CASES[case]
    if case == "reranker":
        source = save_tiny_reranker(tmp_path / "source", tiny_backbone(family))
    else:
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
    probe = _probe()
    model = CLASSES[settings.get("role", "discriminative")].from_pretrained(source)
    processor = UmeProcessor.from_pretrained(source)
    expected = probe.used(model, processor)
    for name in ("model", "model-first", "processor-first", "from-library"):
        np.testing.assert_array_equal(vectors[name], expected, err_msg=name)
    if case in ("ours", "generative", "adaptive"):  # the installed module; of stock modules there is no other
        st = SentenceTransformer(modules=[UmeTransformer(model, processor)], device="cpu")
        from_library = st.encode(probe.plain_items())
    else:
        _, from_library = probe.used_by_library(str(source), model)
    for name in ("library", "library again"):
        np.testing.assert_array_equal(vectors[name], from_library, err_msg=name)

    code = {**processor_files(), **model_files(model.kind)}
    if case in ("stock", "reranker"):
        del code["sentence_transformer_ume.py"]
    for folder in (source, *(tmp_path / name for name in ("model-first", "processor-first", "from-library"))):
        found = {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
        assert found == code
        assert len(found) <= 4


def test_a_model_saved_by_a_module_that_is_not_installed_needs_its_source(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Beside a remote class lies no module for sentence-transformers: it comes from the checkpoint, or it is told."""
    script = (
        "import sys; from transformers import AutoModel\n"
        "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "model.config._name_or_path = sys.argv[2]\n"
        "model.save_pretrained(sys.argv[2] + '/saved')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_checkpoint("qwen2_vl", **OURS)), str(tmp_path)],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "cannot save a complete checkpoint: sentence_transformer_ume.py is neither in" in done.stderr
