"""Adapters that others wrote: by PEFT on our AutoModel, by sentence-transformers, by a model without a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import umekit
from umekit.modeling.adapters import AdapterError
from umekit.trainers import ContrastiveTrainer, ContrastiveTrainingArguments

peft = pytest.importorskip("peft")
FILE = "adapter_model.safetensors"
SETTINGS: dict[str, dict[str, Any]] = {
    "stock modules": {},
    "our module": {"positions": "1d", "pooling": "mean"},
}


def _lora(**config: Any) -> Any:
    torch.manual_seed(0)
    config = {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **config}
    return peft.LoraConfig(r=4, **config)


@pytest.fixture
def items() -> list[Any]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    return ["a text", {"image": picture, "text": "and a picture"}]


@pytest.mark.parametrize(
    "targets",
    [["q_proj", "v_proj"], r".*language_model.*q_proj", r"backbone\.model\.language_model\..*q_proj"],
)
def test_peft_on_our_automodel(
    targets: Any, tiny_checkpoint: Callable[..., Path], tmp_path: Path, items: list[Any]
) -> None:
    base = tiny_checkpoint("qwen2_vl", attention="bidirectional")
    processor = AutoProcessor.from_pretrained(base, trust_remote_code=True)
    model = peft.get_peft_model(
        AutoModel.from_pretrained(base, trust_remote_code=True), _lora(target_modules=targets)
    )
    wanted = model.get_base_model().encode(items, processor=processor)
    model.save_pretrained(tmp_path)
    assert all("backbone." in key for key in load_file(tmp_path / FILE))
    for found in (
        umekit.load(base, adapter=tmp_path).encode(items),
        umekit.load(tmp_path).encode(items),
        AutoModel.from_pretrained(tmp_path, trust_remote_code=True).encode(items, processor=processor),
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", SETTINGS)
def test_sentence_transformers(
    kind: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path, items: list[Any]
) -> None:
    library = pytest.importorskip("sentence_transformers")
    base = str(tiny_checkpoint("qwen2_vl", **SETTINGS[kind]))

    def load(folder: str) -> Any:
        return library.SentenceTransformer(folder, trust_remote_code=True, device="cpu")

    model = load(base)
    plain = model.encode(items)
    model.add_adapter(_lora(task_type="FEATURE_EXTRACTION"))
    assert model.active_adapters() == ["default"]
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    wanted = model.encode(items)
    assert np.abs(wanted - plain).max() > 1e-3
    model.disable_adapters()
    np.testing.assert_allclose(model.encode(items), plain, atol=1e-6)
    model.enable_adapters()

    folder = str(tmp_path / "saved")
    model.save_pretrained(folder)
    again = load(base)
    again.load_adapter(folder)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    for found in (
        again.encode(items),
        load(folder).encode(items),
        umekit.load(folder).encode(items),
        umekit.load(base, adapter=folder).encode(items),
        AutoModel.from_pretrained(folder, trust_remote_code=True).encode(items, processor=processor),
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    # On the plain backbone, too: its keys are the backbone's own.
    native = AutoModelForImageTextToText.from_pretrained(base)
    keys = set(peft.get_peft_model(native, _lora()).state_dict())
    assert all(key.replace(".weight", ".default.weight") in keys for key in load_file(Path(folder) / FILE))


def test_saved_by_a_remote_class_whose_source_has_no_module_of_ours(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, items: list[Any]
) -> None:
    """Stock modules read the base's config, which says the same; where it says otherwise, nothing is saved."""
    library = pytest.importorskip("sentence_transformers")
    base = tiny_checkpoint("qwen2_vl")
    processor = AutoProcessor.from_pretrained(base, trust_remote_code=True)
    model = AutoModel.from_pretrained(base, trust_remote_code=True)
    model.backbone.add_adapter(_lora())
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    found = library.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu").encode(
        items
    )
    np.testing.assert_allclose(found, model.encode(items, processor=processor), atol=1e-5)
    np.testing.assert_allclose(found, umekit.load(tmp_path / "saved").encode(items), atol=1e-5)

    other = AutoModel.from_pretrained(base, trust_remote_code=True)
    other.backbone.add_adapter(_lora())
    other.settings = dataclasses.replace(other.settings, normalize=False)
    with pytest.raises(FileNotFoundError, match="cannot save a complete checkpoint"):
        other.save_pretrained(tmp_path / "other")


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_keys_of_a_model_without_a_head(
    family: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path, items: list[Any]
) -> None:
    base = tiny_checkpoint(family)
    model = peft.get_peft_model(AutoModel.from_pretrained(base), _lora())
    model.save_pretrained(tmp_path)
    assert all(key.startswith("base_model.model.language_model.") for key in load_file(tmp_path / FILE))
    found = umekit.load(base, adapter=tmp_path)
    placed = found.model.get_adapter_state_dict()
    for key, value in load_file(tmp_path / FILE).items():
        assert torch.equal(placed[key.replace("base_model.model.", "model.")], value)


def test_keys_of_older_transformers(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_checkpoint("qwen2_vl")
    model = peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(base), _lora())
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / FILE)
    old = {key.replace("model.language_model.", "model."): value for key, value in tensors.items()}
    assert not old.keys() & tensors.keys()
    save_file(old, tmp_path / FILE)
    placed = umekit.load(base, adapter=tmp_path).model.get_adapter_state_dict()
    assert all(torch.equal(placed[key.removeprefix("base_model.model.")], tensors[key]) for key in tensors)


def test_all_of_the_tensors_or_an_error(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_checkpoint("qwen2_vl")
    model = peft.get_peft_model(AutoModel.from_pretrained(base, trust_remote_code=True), _lora())
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / FILE)
    first = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != first}, tmp_path / FILE)
    with pytest.raises(AdapterError, match=r"1 of \d+ adapter tensors are not there"):
        umekit.load(base, adapter=tmp_path)
    save_file(
        {**tensors, "base_model.model.other.q_proj.lora_A.weight": tensors[first].clone()}, tmp_path / FILE
    )
    with pytest.raises(AdapterError, match=r"other\.q_proj"):
        umekit.load(base, adapter=tmp_path)


def test_training_goes_on_from_a_loaded_adapter(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_checkpoint("qwen2_vl")
    first = peft.get_peft_model(AutoModel.from_pretrained(base, trust_remote_code=True), _lora())
    first.save_pretrained(tmp_path / "first")
    encoder = umekit.load(base, adapter=tmp_path / "first")
    backbone = encoder.model.backbone
    assert not any(part.training for part in backbone.modules())
    trained = {name for name, weight in backbone.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in backbone.named_parameters() if "lora_" in name}
    before = {name: value.clone() for name, value in encoder.model.get_adapter_state_dict().items()}
    frozen = {name: value.clone() for name, value in backbone.named_parameters() if name not in trained}
    rows = [{"query": f"query {n}", "positive": f"the answer {n}"} for n in range(4)]
    trainer = ContrastiveTrainer(
        model=encoder.model,
        args=ContrastiveTrainingArguments(
            output_dir=str(tmp_path / "run"),
            per_device_train_batch_size=4,
            max_steps=2,
            learning_rate=1e-2,
            report_to=[],
            use_cpu=True,
        ),
        processing_class=encoder.processor,
        train_dataset=rows,
    )
    trainer.train()
    after = encoder.model.get_adapter_state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in before)
    assert all(torch.equal(dict(backbone.named_parameters())[name], value) for name, value in frozen.items())
    encoder.model.save_pretrained(tmp_path / "second")
    encoder.processor.save_pretrained(tmp_path / "second")
    assert not (tmp_path / "second" / "model.safetensors").exists()
    wanted = encoder.encode(["a text"])
    np.testing.assert_allclose(umekit.load(tmp_path / "second").encode(["a text"]), wanted, atol=1e-5)
