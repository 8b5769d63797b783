"""Forwards of several threads at once: what one says of attention is none of another's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_vl import modeling_qwen2_vl

from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding

SECONDS = 20.0


@pytest.mark.parametrize("attention", ["bidirectional", "bidirectional_if_padded"])
def test_one_thread_ends_while_another_makes_its_mask(
    attention: str, tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers keeps the attention of a call in the config while it runs, and removes it at the end."""
    folder = tiny_checkpoint("qwen2_vl", attention=attention, pooling="mean")
    model = UmeForDiscriminativeEmbedding.from_pretrained(folder, attn_implementation="sdpa")
    ids = torch.randint(5, 60, (2, 8))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0

    def run() -> Tensor:
        with torch.inference_mode():
            found: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return found

    wanted = run()
    first_is_inside, second_masks, first_is_done = (threading.Event() for _ in range(3))
    make_mask = modeling_qwen2_vl.create_causal_mask

    def slow(**arguments: Any) -> Any:
        if threading.current_thread().name == "second":
            second_masks.set()
            first_is_done.wait(SECONDS)
        return make_mask(**arguments)

    def pause(*_: Any) -> None:
        if threading.current_thread().name == "first":
            first_is_inside.set()
            second_masks.wait(1.0)  # in vain, where only one may be inside

    monkeypatch.setattr(modeling_qwen2_vl, "create_causal_mask", slow)
    model.backbone.model.language_model.layers[0].register_forward_pre_hook(pause)
    found: dict[str, Tensor] = {}

    def first() -> None:
        found["first"] = run()
        first_is_done.set()

    def second() -> None:
        first_is_inside.wait(SECONDS)
        found["second"] = run()

    threads = [threading.Thread(target=one, name=one.__name__) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(found["first"], wanted)
    torch.testing.assert_close(found["second"], wanted)
