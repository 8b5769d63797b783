"""A trained reranker's adapter: its scores through every door, and merged through sentence-transformers'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import umekit
from umekit.testing import save_tiny_reranker
from umekit.trainers import RerankerTrainer, RerankerTrainingArguments, add_lora


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_scores_of_a_trained_adapter_are_equal_through_every_door(
    family: str, tmp_path: Path, tiny_backbone: Callable[[str], Path], pictures: list[Image.Image]
) -> None:
    library = pytest.importorskip("sentence_transformers")
    query = "what is there"
    candidates: list[Any] = [
        "a short text",
        {"image": pictures[0]},
        {"image": pictures[1], "text": "and words"},
    ]
    base = save_tiny_reranker(tmp_path / "base", tiny_backbone(family))
    plain = umekit.load(base, device="cpu").rerank(query, candidates)

    reranker = umekit.load(base, device="cpu")
    torch.manual_seed(0)
    add_lora(reranker.model, rank=4, alpha=16, dropout=0.0)
    rows = [
        {"query": query, "positive": candidates[1], "positives": candidates[2:], "negatives": candidates[:1]}
    ]
    args = RerankerTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=4, learning_rate=3e-2, listwise_weight=1.0, use_cpu=True,
        save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = RerankerTrainer(reranker.model, args, processing_class=reranker.processor, train_dataset=rows)
    trainer.train()
    reranker.model.eval()
    wanted = reranker.rerank(query, candidates)
    assert np.abs(wanted - plain).max() > 0.01  # a thousand times what is allowed below
    adapter = tmp_path / "adapter"
    trainer.save_model(str(adapter))
    assert not (adapter / "model.safetensors").exists()

    def check(found: Any) -> None:
        np.testing.assert_allclose(np.asarray(found, dtype=np.float32), wanted, atol=1e-5)

    check(umekit.load(adapter, role="reranker", device="cpu").rerank(query, candidates))
    check(umekit.load(base, role="reranker", adapter=adapter, device="cpu").rerank(query, candidates))
    model = AutoModel.from_pretrained(adapter, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(adapter, trust_remote_code=True)
    check(model.rerank(query, candidates, processor=processor))
    # Stock modules know no adapter folder of ours, and say so; merged it is theirs as well.
    with pytest.raises(ValueError, match="its adapter is not merged"):
        library.CrossEncoder(str(adapter), trust_remote_code=True, device="cpu")
    merged = umekit.export(adapter, tmp_path / "merged")
    cross = library.CrossEncoder(str(merged), trust_remote_code=True, device="cpu")
    check(cross.predict([(query, one) for one in candidates]))
    check(np.concatenate([cross.predict([(query, one)]) for one in candidates]))
    model = AutoModel.from_pretrained(merged, trust_remote_code=True)
    check(model.rerank(query, candidates, processor=processor))
