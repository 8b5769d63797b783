"""``umekit evaluate --rerank``: a bare reranker or a cascade, with each task's own alpha."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import umekit
from umekit.cli.cascades import fusing_of
from umekit.cli.common import UsageError
from umekit.encoding.cascade_folder import CascadeMismatchError
from umekit.evaluation.fusing import Fusing
from umekit.testing import save_tiny_reranker


def args_of(rerank: object, **given: Any) -> Namespace:
    named = {"rerank_preset": None, "depth": None, "alpha": None, "device": "cpu", **given}
    return Namespace(rerank=None if rerank is None else str(rerank), **named)


def test_a_cascade_gives_a_benchmark_its_reranker_depth_and_alphas(
    tmp_path: Path, tiny_backbone: Callable[[str], Path], tiny_checkpoint: Callable[..., Path]
) -> None:
    reranker = save_tiny_reranker(tmp_path / "reranker", tiny_backbone("qwen2_vl"))
    folder = tiny_checkpoint("qwen2_vl")
    umekit.Cascade.of(folder, reranker, umekit.Fusion(0.3, {"sum": 0.9}, 7), device="cpu").save(
        tmp_path / "pair"
    )
    encoder = umekit.load(folder, device="cpu")
    assert fusing_of(args_of(None), encoder) is None
    bare = fusing_of(args_of(reranker), encoder)
    assert bare is not None
    assert bare.settings() == {"reranker": "reranker", "depth": 50, "alpha": 0.5}
    own = fusing_of(args_of(tmp_path / "pair"), encoder)
    assert own is not None
    assert own.settings() == {"reranker": "reranker", "depth": 7, "alpha": 0.3, "alphas": {"sum": 0.9}}
    assert own.reranker.rerank("a", ["b"]) == pytest.approx(bare.reranker.rerank("a", ["b"]))
    given = fusing_of(args_of(tmp_path / "pair", depth=3, alpha=0.1), encoder)
    assert given is not None
    assert given.settings() == {"reranker": "reranker", "depth": 3, "alpha": 0.1}
    with pytest.raises(UsageError, match="has its own"):
        fusing_of(args_of(tmp_path / "pair", rerank_preset="qwen3-vl-reranker"), encoder)
    other = umekit.load(tiny_checkpoint("qwen3_vl"), device="cpu")
    with pytest.raises(CascadeMismatchError, match="another embedder"):
        fusing_of(args_of(tmp_path / "pair"), other)


def test_a_task_ranks_by_its_own_alpha() -> None:
    how = Fusing(None, "r", depth=2, alpha=0.5, alphas={"near": 1.0})
    cosines, scores = np.float32([0.9, 0.8, 0.1]), [0.1, 0.9]
    reach = np.array([0, 1])
    assert how.of_task("near").levels(cosines, reach, scores).argmax() == 0
    assert how.of_task("other").levels(cosines, reach, scores).argmax() == 1
    assert how.of_task("near").settings() == {"reranker": "r", "depth": 2, "alpha": 1.0}
    for wrong in ({"alpha": 1.5}, {"alphas": {"a": -1.0}}):
        with pytest.raises(ValueError, match="from 0 to 1"):
            Fusing(None, "r", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depth is 0"):
        Fusing(None, "r", depth=0)
