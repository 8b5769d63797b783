"""An adapter folder by every door: with its own settings, with all of its tensors, or with an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import umekit
from umekit.cli.main import main
from umekit.encoding.golden.folder import make_golden
from umekit.modeling.adapters import AdapterError, merge_adapter
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.modeling.weights_hash import weights_hash
from umekit.testing import save_tiny_reranker
from umekit.trainers.lora.merging import merge

peft = pytest.importorskip("peft")

LAYERS = r".*language_model.*(q_proj|v_proj|o_proj)"
KINDS: dict[str, dict[str, Any]] = {
    "last token": {},
    # The base alone says nothing of these: without the adapter folder's own block vectors would be others.
    "bidirectional mean": {"attention": "bidirectional", "positions": "1d", "pooling": "mean"},
    "generative": {"role": "generative"},
}


class Trained:
    """An adapter folder as it is saved, its base, and what it gives."""

    def __init__(self, base: Path, folder: Path, model: Any, run: Callable[[Any], Any]) -> None:
        self.base, self.folder = base, folder
        self.plain = run(model)
        config = peft.LoraConfig(r=4, target_modules=LAYERS, init_lora_weights=False)
        torch.manual_seed(0)  # whatever ran before
        model.model.backbone.add_adapter(config)
        model.model.save_pretrained(folder)
        model.processor.save_pretrained(folder)
        self.run, self.model = run, model
        self.wanted = run(model)
        assert np.abs(self.wanted - self.plain).max() > 1e-3  # a hundred times what is allowed below

    def check(self, found: Any) -> None:
        np.testing.assert_allclose(np.asarray(found), self.wanted, atol=1e-5)


@pytest.fixture(scope="module")
def items() -> list[Any]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    return ["a text", {"image": picture, "text": "and a picture"}]


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest,
    items: list[Any],
    tiny_backbone: Callable[[str], Path],
    tiny_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """Trained on a backbone without settings, so that only the adapter folder has them."""
    settings = KINDS[request.param]
    encoder = umekit.load(tiny_checkpoint("qwen3_vl", **settings))
    encoder.model.backbone.name_or_path = str(tiny_backbone("qwen3_vl"))
    folder = tmp_path_factory.mktemp("adapter") / "folder"
    return Trained(tiny_backbone("qwen3_vl"), folder, encoder, lambda one: one.encode(items))


@pytest.fixture
def plain(trained: Trained, tmp_path: Path) -> Path:
    """The same folder as peft alone would have written it: the adapter and its config."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(trained.folder / name, folder / name)
    return folder


def test_the_folder_has_settings_and_no_weights_of_the_base(trained: Trained) -> None:
    assert not (trained.folder / "model.safetensors").exists()
    named = json.loads((trained.folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(trained.base)
    config = json.loads((trained.folder / "config.json").read_text())
    assert config["ume"] == trained.model.model.settings.to_dict()
    assert "ume" not in json.loads((trained.base / "config.json").read_text())


def test_umekit_load(trained: Trained) -> None:
    encoder = umekit.load(trained.folder)
    assert encoder.model.settings == trained.model.model.settings
    trained.check(trained.run(encoder))


def test_auto_model(trained: Trained, items: list[Any]) -> None:
    for folder in (trained.folder, str(trained.folder)):
        model = AutoModel.from_pretrained(folder, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        trained.check(model.encode(items, processor=processor))


def test_sentence_transformer(trained: Trained, items: list[Any]) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(trained.folder), trust_remote_code=True, device="cpu")
    trained.check(model.encode(items))


def test_peft_on_the_plain_backbone(trained: Trained) -> None:
    backbone = AutoModelForImageTextToText.from_pretrained(trained.base)
    merged = peft.PeftModel.from_pretrained(backbone, trained.folder).merge_and_unload()
    model = type(trained.model.model)(merged.config, merged, trained.model.model.settings).eval()
    trained.check(trained.run(umekit.Encoder(model, trained.model.processor)))


def test_export_merges_it_into_a_folder_for_all_doors(
    trained: Trained, items: list[Any], tmp_path: Path
) -> None:
    out = umekit.export(trained.folder, tmp_path / "out")
    assert not (out / "adapter_config.json").exists()
    trained.check(trained.run(umekit.load(out)))
    assert umekit.verify(out).ok
    AutoModelForImageTextToText.from_pretrained(out)
    model = AutoModel.from_pretrained(out, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(out, trust_remote_code=True)
    trained.check(model.encode(items, processor=processor))


def test_verify_and_its_exit_code(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = make_golden(trained.model, tmp_path / "golden")
    changed = tmp_path / "changed"
    shutil.copytree(trained.folder, changed)
    file = changed / "adapter_model.safetensors"
    weights = load_file(file)
    weights = {name: value * np.float32(1.1) for name, value in weights.items()}
    save_file(weights, file, metadata={"format": "pt"})
    assert main(["verify", str(trained.folder), "--golden", str(golden)]) == 0
    assert main(["verify", str(changed), "--golden", str(golden)]) == 1
    capsys.readouterr()


def test_what_peft_alone_saved_goes_onto_its_base(plain: Path, trained: Trained) -> None:
    """It has no settings: they are the base's, and where the base has none, a preset's or a plain backbone's."""
    encoder = umekit.load(plain)
    assert encoder.model.settings.kind == "discriminative"
    assert np.abs(encoder.encode(["a text"]) - umekit.load(trained.base).encode(["a text"])).max() > 1e-3


def test_a_config_without_settings_is_not_believed(
    plain: Path, trained: Trained, tiny_backbone: Callable[[str], Path], tiny_checkpoint: Callable[..., Path]
) -> None:
    """The base's settings then count, and not those of a plain backbone."""
    base = tiny_checkpoint("qwen3_vl", attention="bidirectional", positions="1d", pooling="mean")
    shutil.copy(tiny_backbone("qwen3_vl") / "config.json", plain / "config.json")
    file = plain / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))
    assert umekit.load(plain).model.settings == umekit.load(base).model.settings
    model = UmeForDiscriminativeEmbedding.from_pretrained(plain)
    assert model.settings.attention == "bidirectional"
    assert model._hf_peft_config_loaded


def test_an_adapter_that_does_not_fit_raises_at_every_door(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    shutil.copytree(trained.folder, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(key for key in weights if "layers.0" in key and "lora_A" in key)
    weights[name.replace("layers.0", "layers.7")] = weights[name]
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match="match no module"):
        umekit.load(folder)
    with pytest.raises(
        RuntimeError, match="match no module"
    ):  # AutoModel's own AdapterError is another class
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert [problem.prop for problem in umekit.verify(folder).problems] == ["load"]


def test_a_base_that_is_gone_is_said(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(trained.folder, folder)
    file = folder / "adapter_config.json"
    content = json.loads(file.read_text())
    for named, message in (("/nowhere/base", "which is not there"), (None, "names no base model")):
        file.write_text(json.dumps({**content, "base_model_name_or_path": named}))
        with pytest.raises(FileNotFoundError, match=message):
            umekit.load(folder)
        with pytest.raises(FileNotFoundError, match=message):
            AutoModel.from_pretrained(folder, trust_remote_code=True)


def test_weights_beside_an_adapter_are_the_checkpoint(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """A full checkpoint is not taken for an adapter because ``adapter_kwargs`` are passed, as AutoModel does."""
    folder = tiny_checkpoint("qwen3_vl")
    model = UmeForDiscriminativeEmbedding.from_pretrained(
        folder, adapter_kwargs={"_adapter_model_path": str(folder)}
    )
    assert not model._hf_peft_config_loaded


def test_a_rerankers_adapter(tiny_backbone: Callable[[str], Path], items: list[Any], tmp_path: Path) -> None:
    reranker = umekit.load(save_tiny_reranker(tmp_path / "base", tiny_backbone("qwen3_vl")))
    trained = Trained(
        tmp_path / "base", tmp_path / "folder", reranker, lambda one: one.rerank("a query", items)
    )
    trained.check(trained.run(umekit.load(trained.folder)))
    model = AutoModel.from_pretrained(trained.folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(trained.folder, trust_remote_code=True)
    trained.check(model.rerank("a query", items, processor=processor))
    library = pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match="its adapter is not merged"):
        library.CrossEncoder(str(trained.folder), trust_remote_code=True, device="cpu")
    out = umekit.export(trained.folder, tmp_path / "out")
    cross = library.CrossEncoder(str(out), trust_remote_code=True, device="cpu")
    trained.check(cross.predict([("a query", one) for one in items]))


def test_saved_over_another_adapter_it_is_of_its_own_base(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    for family in ("qwen2_vl", "qwen3_vl"):
        encoder = umekit.load(tiny_checkpoint(family), device="cpu")
        encoder.model.add_adapter(peft.LoraConfig(r=2, target_modules=LAYERS, init_lora_weights=False))
        wanted = encoder.encode(["a text"])
        encoder.model.save_pretrained(tmp_path)
        encoder.processor.save_pretrained(tmp_path)
        np.testing.assert_allclose(umekit.load(tmp_path, device="cpu").encode(["a text"]), wanted, atol=1e-5)


def test_on_other_weights_it_is_refused_and_in_another_dtype_it_is_not(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_checkpoint("qwen2_vl"), tmp_path / "base")
    encoder = umekit.load(tmp_path / "base", device="cpu")
    encoder.model.add_adapter(peft.LoraConfig(r=2, target_modules=LAYERS, init_lora_weights=False))
    encoder.model.save_pretrained(tmp_path / "adapter")
    encoder.processor.save_pretrained(tmp_path / "adapter")
    for dtype in (torch.bfloat16, torch.float16):
        umekit.load(tmp_path / "adapter", device="cpu", dtype=dtype)
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "down_proj" in name)
    save_file({**weights, name: weights[name] * np.float32(1.1)}, file, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match="was trained on other weights"):
        umekit.load(tmp_path / "adapter", device="cpu")
    with pytest.raises(AdapterError, match="was trained on other weights"):
        merge(tmp_path / "adapter", tmp_path / "out")


@pytest.mark.parametrize("door", ["umekit", "AutoModel", "SentenceTransformer", "merge"])
def test_a_relative_base_is_found_from_anywhere(
    door: str,
    trained: Trained,
    items: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the adapter's folder first, so that both can be moved together."""
    library = pytest.importorskip("sentence_transformers")
    shutil.copytree(trained.base, tmp_path / "moved" / "base")
    folder = tmp_path / "moved" / "adapters" / "one"
    shutil.copytree(trained.folder, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "../../base"}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    if door == "umekit":
        found = trained.run(umekit.load(folder))
    elif door == "AutoModel":
        model = AutoModel.from_pretrained(folder, trust_remote_code=True)
        found = model.encode(items, processor=AutoProcessor.from_pretrained(folder, trust_remote_code=True))
    elif door == "SentenceTransformer":
        found = library.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu").encode(items)
    else:
        found = trained.run(umekit.load(merge(folder, tmp_path / "merged")))
    trained.check(found)


def test_a_base_named_from_the_working_directory_is_saved_whole(
    tiny_backbone: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_backbone("qwen3_vl"), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    encoder = umekit.load("base", preset="none")
    encoder.model.backbone.add_adapter(peft.LoraConfig(r=2, target_modules=LAYERS, init_lora_weights=False))
    encoder.model.save_pretrained("adapter")
    encoder.processor.save_pretrained("adapter")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = umekit.load(tmp_path / "adapter")
    np.testing.assert_allclose(found.encode(["a"]), encoder.encode(["a"]), atol=1e-6)


def saved(model: Any, folder: Path) -> dict[str, Any]:
    """The config of an adapter's folder that was just saved."""
    model.save_pretrained(folder)
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["ume"]
    return found


def test_a_second_adapter_and_one_after_a_merge_are_of_their_own_base(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    config = peft.LoraConfig(r=2, target_modules=LAYERS, init_lora_weights=False)
    model = umekit.load(tiny_checkpoint("qwen3_vl")).model
    base = weights_hash(model.backbone)
    model.add_adapter(config)
    assert saved(model, tmp_path / "one")["base_weights"] == base
    model.add_adapter(config, "second")
    assert saved(model, tmp_path / "two")["base_weights"] == base
    merge_adapter(model.backbone)
    merged = weights_hash(model.backbone)
    assert merged != base
    model.add_adapter(config)
    assert saved(model, tmp_path / "three")["base_weights"] == merged


def test_opening_it_asks_nobody_and_saving_it_elsewhere_names_the_same_base(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_checkpoint("qwen3_vl"), base)
    model = umekit.load(base).model
    model.add_adapter(peft.LoraConfig(r=2, target_modules=LAYERS, init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    umekit.load(base).processor.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "../base"}))
    recwarn.clear()
    opened = umekit.load(tmp_path / "adapter").model
    opened.save_pretrained(tmp_path / "deeper" / "folder")
    told = json.loads((tmp_path / "deeper" / "folder" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == str(base)
    assert not [one for one in recwarn if "Could not find a config file" in str(one.message)]
