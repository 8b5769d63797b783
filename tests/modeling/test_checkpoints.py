"""Loading refuses what is not whole; saving keeps everything; quantised loading works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoProcessor, BitsAndBytesConfig

from umekit.modeling.backbone import UNQUANTISED_MODULES, LoadAuditError
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.modeling.settings import UmeSettings, UmeSettingsError, expressible
from umekit.processing.processor import UmeProcessor
from umekit.testing import FAMILIES, save_tiny_backbone, save_tiny_checkpoint


def _open(folder: Path, **kwargs: Any) -> tuple[UmeForDiscriminativeEmbedding, UmeProcessor]:
    return UmeForDiscriminativeEmbedding.from_pretrained(folder, **kwargs), UmeProcessor.from_pretrained(
        folder
    )


def _broken(source: Path, target: Path, how: str) -> Path:
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    name = next(key for key in sorted(weights) if "layers.1" in key and "norm" in key)
    if how == "missing":
        del weights[name]
    else:
        weights[name] = torch.ones(7)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("how", ["missing", "mismatched"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_that_is_not_whole_is_refused(
    family: str, how: str, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    good = tiny_checkpoint(family)
    folder = _broken(good, tmp_path / "broken", how)
    refusals = (LoadAuditError,) if how == "missing" else (LoadAuditError, RuntimeError)
    with pytest.raises(refusals):
        UmeForDiscriminativeEmbedding.from_pretrained(folder)
    with pytest.raises(RuntimeError):  # remote code has an error class of its own
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    model, _ = _open(good)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(refusals):
        model.load_native_weights(folder)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_native_weights_replace_the_models(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2_vl")
    model, processor = _open(folder)
    expected = model.encode(["a text"], processor=processor)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert not torch.allclose(model.encode(["a text"], processor=processor), expected)
    model.load_native_weights(folder)
    assert torch.equal(model.encode(["a text"], processor=processor), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_reload(
    family: str, tmp_path: Path, tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    model, processor = _open(tiny_checkpoint(family, positions="1d"))
    expected = model.encode(mixed_items, processor=processor)
    # Trainer hands over a state dict with the wrapper's prefix.
    prefixed = {f"backbone.{name}": value for name, value in model.backbone.state_dict().items()}
    model.save_pretrained(tmp_path / "c", state_dict=prefixed)
    processor.save_pretrained(tmp_path / "c")
    original = load_file(tiny_checkpoint(family) / "model.safetensors")
    assert load_file(tmp_path / "c" / "model.safetensors").keys() == original.keys()
    again, reader = _open(tmp_path / "c")
    assert again.settings == model.settings
    assert reader.settings == processor.settings
    assert torch.equal(again.encode(mixed_items, processor=reader), expected)
    remote = AutoModel.from_pretrained(tmp_path / "c", trust_remote_code=True)
    reader = AutoProcessor.from_pretrained(tmp_path / "c", trust_remote_code=True)
    assert type(remote) is not UmeForDiscriminativeEmbedding
    assert torch.equal(remote.encode(mixed_items, processor=reader), expected)


def test_config_arguments_reach_the_backbone(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2_vl")
    model, info = UmeForDiscriminativeEmbedding.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="eager", output_loading_info=True
    )
    assert model.dtype == torch.bfloat16
    assert model.backbone.config._attn_implementation == "eager"
    assert not info["missing_keys"]
    config = AutoConfig.from_pretrained(folder)
    assert (
        UmeForDiscriminativeEmbedding.from_pretrained(folder, config=config).settings.kind == "discriminative"
    )


def test_bidirectional_settings_reach_stock_classes(tiny_checkpoint: Callable[..., Path]) -> None:
    config = AutoConfig.from_pretrained(tiny_checkpoint("qwen2_vl", attention="bidirectional"))
    assert config.get_text_config().is_causal is False
    config = AutoConfig.from_pretrained(tiny_checkpoint("qwen2_vl"))
    assert getattr(config.get_text_config(), "is_causal", True) is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "update umekit"),
        ({"attention": "sideways"}, "attention"),
        ({"depth": 3}, "depth"),
        ({"role": "reranker"}, "role"),
        ({"dim": 0}, "dim"),
    ],
)
def test_settings_that_cannot_be_read_raise(
    change: dict[str, Any], message: str, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint("qwen2_vl"), tmp_path / "c"))
    config = json.loads((folder / "config.json").read_text())
    config["ume"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UmeSettingsError, match=message):
        UmeForDiscriminativeEmbedding.from_pretrained(folder)


def test_expressible_names_the_reason() -> None:
    assert expressible(UmeSettings(), "vllm", "qwen2_vl")[0]
    assert expressible(UmeSettings(attention="bidirectional"), "sentence-transformers")[0]
    for family, timed in (("qwen2_vl", False), ("qwen3_vl", True)):
        _, limits = expressible(UmeSettings(), "sentence-transformers", family)
        assert "is not cut" in limits
        assert "torchcodec" in limits
        assert ("24 a second" in limits) == timed
    assert "torchcodec" not in expressible(UmeSettings(), "vllm", "qwen2_vl")[1]
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"positions": "1d"}, "sentence-transformers", "positions"),
        ({"pooling": "mean"}, "sentence-transformers", "span"),
        ({"pooling": "token"}, "vllm", "last"),
        ({"deepstack": False}, "vllm", "DeepStack"),
        ({"attention": "bidirectional"}, "vllm", "causal"),
        ({"normalize": False}, "vllm", "normalises"),
        ({"dim": 8}, "sentence-transformers", "truncate"),
        ({"kind": "generative"}, "transformers", "generative"),
    ]
    for settings, target, reason in cases:
        able, why = expressible(UmeSettings(**settings), target, "qwen3_vl")
        assert not able
        assert reason in why


def test_dim_of_a_checkpoint(tmp_path: Path, tiny_backbone: Callable[[str], Path]) -> None:
    folder = save_tiny_checkpoint(tmp_path / "c", tiny_backbone("qwen2_vl"), dim=16)
    model, processor = _open(folder)
    whole = UmeForDiscriminativeEmbedding.from_pretrained(folder, settings=UmeSettings())
    cut = torch.nn.functional.normalize(whole.encode(["a"], processor=processor)[:, :16], dim=-1)
    torch.testing.assert_close(model.encode(["a"], processor=processor), cut, atol=1e-6, rtol=0)
    assert model.dim == 16
    assert (
        json.loads((folder / "modules.json").read_text())[0]["type"]
        == "sentence_transformer_ume.UmeTransformer"
    )


@pytest.mark.parametrize(("bits", "least"), [(8, 0.99), (4, 0.95)])
def test_quantised_on_a_cpu(bits: int, least: float, tmp_path: Path, pictures: list[Image.Image]) -> None:
    pytest.importorskip("bitsandbytes")
    # Feature sizes must be multiples of bitsandbytes' block of 64; the vision tower is left as it is.
    backbone = save_tiny_backbone(tmp_path / "backbone", "qwen2_vl", hidden=128)
    folder = save_tiny_checkpoint(tmp_path / "checkpoint", backbone)
    full, processor = _open(folder)
    quantised = UmeForDiscriminativeEmbedding.from_pretrained(
        folder,
        quantization_config=BitsAndBytesConfig(
            load_in_8bit=bits == 8,
            load_in_4bit=bits == 4,
            llm_int8_skip_modules=list(UNQUANTISED_MODULES),
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32,
        ),
        dtype=torch.float32,
    )
    assert quantised.is_quantized
    assert quantised.is_loaded_in_8bit == (bits == 8)
    assert quantised.hf_quantizer is not None
    linear = {
        name
        for name, module in quantised.named_modules()
        if type(module).__name__ in ("Linear8bitLt", "Linear4bit")
    }
    assert linear
    assert not any("visual" in name for name in linear)
    items = ["a text", {"image": pictures[0], "text": "a cat"}]
    same = (full.encode(items, processor=processor) * quantised.encode(items, processor=processor)).sum(-1)
    assert float(same.min()) > least
    assert float(same.max()) < 1 - 1e-7


def test_push_to_hub_while_saving_is_refused(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    model, processor = _open(tiny_checkpoint("qwen2_vl"))
    for part in (model, processor):
        with pytest.raises(ValueError, match="save first"):
            part.save_pretrained(tmp_path, push_to_hub=True)
