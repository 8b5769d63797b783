"""umekit.trainers.lora.merging: one adapter into its base, checked by vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_folders import save_adapter
from safetensors.torch import load_file, save_file

import umekit
from umekit.modeling.adapters import AdapterError
from umekit.trainers.lora import merging
from umekit.trainers.lora.merging import MergeError, merge, open_base

ITEMS = ["a text", {"text": "the page of a video", "instruction": "compare"}]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True, "target_modules": ["gate_proj", "down_proj"]},
        {"use_dora": True},
        {"target_modules": ["embed_tokens", "o_proj"]},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    ],
    ids=["plain", "rslora", "dora", "embedding", "patterns"],
)
def test_merged_is_adapter_on_base(
    config: dict[str, object], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint()
    adapter = save_adapter(checkpoint, tmp_path / "adapter", **config)
    wanted = umekit.load(checkpoint, adapter=adapter, device="cpu").encode(ITEMS)
    merged = umekit.load(merge(adapter, tmp_path / "merged"), device="cpu")
    np.testing.assert_allclose(merged.encode(ITEMS), wanted, atol=2e-6)
    assert np.abs(wanted - umekit.load(checkpoint, device="cpu").encode(ITEMS)).max() > 1e-3
    assert not list((tmp_path / "merged").glob("adapter_*"))
    assert umekit.verify(tmp_path / "merged").ok


def test_merged_has_the_keys_and_dtype_of_the_base(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint("qwen3_vl")
    adapter = save_adapter(checkpoint, tmp_path / "adapter")
    merge(adapter, tmp_path / "merged", dtype="bfloat16")
    base = load_file(checkpoint / "model.safetensors")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert {key: value.shape for key, value in base.items()} == {
        key: value.shape for key, value in found.items()
    }
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    changed = {key for key in base if not torch.equal(base[key].bfloat16(), found[key])}
    assert changed == {key for key in base if "language_model" in key and ("q_proj" in key or "v_proj" in key)
                       and key.endswith("weight")}  # fmt: skip


def test_settings_of_the_adapter_win_over_a_bare_base(
    tiny_backbone: Callable[..., Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint(attention="bidirectional")
    adapter = save_adapter(checkpoint, tmp_path / "adapter")
    wanted = umekit.load(checkpoint, adapter=adapter, device="cpu").encode(ITEMS)
    merged = umekit.load(merge(adapter, tmp_path / "merged", base=tiny_backbone()), device="cpu")
    assert merged.model.settings.attention == "bidirectional"
    np.testing.assert_allclose(merged.encode(ITEMS), wanted, atol=2e-6)


def test_a_merge_that_changes_vectors_leaves_nothing(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = save_adapter(tiny_checkpoint(), tmp_path / "adapter")
    real = merging.merge_adapter

    def spoilt(backbone: torch.nn.Module) -> int:
        count = real(backbone)
        with torch.no_grad():
            backbone.get_input_embeddings().weight.mul_(1.3)  # type: ignore[operator]
            backbone.get_input_embeddings().weight[::2].add_(0.3)  # type: ignore[operator]
        return count

    monkeypatch.setattr(merging, "merge_adapter", spoilt)
    with pytest.raises(MergeError, match="differs by"):
        merge(adapter, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_refusals(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    adapter = save_adapter(checkpoint, tmp_path / "adapter")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        merge(adapter, checkpoint)
    with pytest.raises(FileNotFoundError, match="has no adapter_config"):
        merge(checkpoint, tmp_path / "out")
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": "/gone"}))
    with pytest.raises(FileNotFoundError, match="/gone, which is not there: name the base"):
        merge(adapter, tmp_path / "out")
    path.write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(FileNotFoundError, match="names no base model"):
        open_base(adapter)
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({key: torch.zeros_like(value) if "lora_B" in key else value for key, value in tensors.items()},
              adapter / "adapter_model.safetensors", metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(AdapterError, match="changes nothing"):
        merge(adapter, tmp_path / "out", base=checkpoint)
    assert not (tmp_path / "out").exists()
