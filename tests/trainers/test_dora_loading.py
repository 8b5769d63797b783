"""An adapter that is loaded has every value of its file: DoRA's magnitudes too, which transformers alone leaves out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import umekit
from umekit.trainers.lora import add_lora


def test_dora_gives_the_vectors_that_were_trained(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    add_lora(encoder.model, rank=4, alpha=8, dropout=0.0, dora=True)
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    wanted = encoder.encode(["red boat", "lamp"])
    encoder.model.save_pretrained(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    np.testing.assert_allclose(
        umekit.load(tmp_path, device="cpu").encode(["red boat", "lamp"]), wanted, atol=1e-5
    )
