"""Who made a vector: a hash of the weights and settings, and one of the processor.

Values are sampled from the weights in memory and rounded to bfloat16 first, so that the same checkpoint has the same
hash on a GPU in bfloat16 and on a CPU in float32, however its files are sharded; training moves it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

SAMPLES = 512


def model_hash(model: Any) -> str:
    """sha256 of the settings and of up to 512 evenly spaced values of every weight."""
    digest = hashlib.sha256(json.dumps(model.settings.to_dict(), sort_keys=True).encode())
    for name, weight in sorted(model.backbone.state_dict().items()):
        flat = weight.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLES)
        sample = flat[::step][:SAMPLES].to("cpu")
        values = sample.to(torch.bfloat16).view(torch.int16) if sample.is_floating_point() else sample
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def processor_hash(processor: Any) -> str:
    """sha256 of settings, template, tokenizer and pixel normalisation."""
    digest = hashlib.sha256(json.dumps(processor.settings.to_dict(), sort_keys=True).encode())
    digest.update(processor.chat_template.encode())
    digest.update(processor.tokenizer.backend_tokenizer.to_str().encode())
    digest.update(repr((processor.layout, processor.scale)).encode())
    return digest.hexdigest()
