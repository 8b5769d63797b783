"""Encoder: order, batches, faults, search, fingerprints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import umekit
from umekit.encoding import loading, prefetching
from umekit.encoding.fingerprint import IndexMismatchError
from umekit.encoding.index.exact import Index
from umekit.encoding.loading import ProcessorMismatchError
from umekit.encoding.prefetching import prepare_ahead
from umekit.modeling.backbone import LoadAuditError
from umekit.modeling.pooling import DegenerateVectorError
from umekit.modeling.settings import UmeSettingsError
from umekit.processing.items import ItemError, ItemTypeError


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Callable[..., Path]) -> umekit.Encoder:
    return umekit.load(tiny_checkpoint("qwen2_vl"))


@pytest.mark.parametrize("workers", [0, 3])
def test_preparing_ahead_keeps_order_and_hands_over_errors(workers: int) -> None:
    def prepare(index: int) -> Any:
        if index == 5:
            raise ValueError("bad")
        return index * 10

    windows = list(prepare_ahead(range(11), prepare, 4, workers))
    assert [len(window) for window in windows] == [4, 4, 3]
    flat = [pair for window in windows for pair in window]
    assert [index for index, _ in flat] == list(range(11))
    assert isinstance(flat[5][1], ValueError)
    assert flat[10][1] == 100


def test_a_window_is_prepared_while_the_last_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetching, "FIRST_WINDOW", 2)
    begun: set[int] = set()
    seen, sizes = [], []
    for window in prepare_ahead(range(100), lambda index: begun.add(index) or index, 10, 2):
        sizes.append(len(window))
        wanted = window[-1][0] + 1 + (2, 4, 8, 10)[min(len(sizes) - 1, 3)]
        for _ in range(500):
            if len(begun) >= min(wanted, 100):
                break
            time.sleep(0.01)
        seen.append(len(begun) - wanted)
    assert set(seen[:-2]) <= {0, 1}
    assert sizes[:5] == [2, 2, 4, 8, 10]


def test_heavy_items_make_windows_that_do_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetching, "FIRST_WINDOW", 4)
    monkeypatch.setattr(prefetching, "WINDOW_TOKENS", 30)
    monkeypatch.setattr(prefetching, "Prepared", SimpleNamespace)
    windows = prepare_ahead(range(40), lambda index: SimpleNamespace(length=10), 32, 2)
    assert [len(window) for window in windows] == [3] * 13 + [1]


def test_batched_shuffled_and_small_budgets_equal_alone(
    encoder: umekit.Encoder, mixed_items: list[Any]
) -> None:
    together = encoder.encode(mixed_items)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    alone = np.concatenate([encoder.encode([item]) for item in mixed_items])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    order = [3, 0, 6, 1, 5, 2, 4]
    np.testing.assert_allclose(encoder.encode([mixed_items[i] for i in order]), together[order], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(mixed_items, batch_tokens=1), together, atol=1e-5)


def test_equals_the_model_alone(encoder: umekit.Encoder, mixed_items: list[Any]) -> None:
    direct = encoder.model.encode(mixed_items, processor=encoder.processor, role="query")
    np.testing.assert_allclose(encoder.encode_query(mixed_items), direct.numpy(), atol=1e-6)


def test_windows_keep_the_order(encoder: umekit.Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {'word ' * (i % 7)}{i}" for i in range(23)]
    whole = encoder.encode(texts)
    monkeypatch.setattr("umekit.encoding.encoder.WINDOW", 4)
    np.testing.assert_allclose(encoder.encode(texts), whole, atol=1e-5)


def test_one_item_an_iterator_and_nothing(encoder: umekit.Encoder) -> None:
    one = encoder.encode("a text")
    assert one.shape == (1, encoder.dim)
    np.testing.assert_allclose(encoder.encode(iter(["a text"])), one, atol=1e-6)
    assert encoder.encode([]).shape == (0, encoder.dim)
    with pytest.raises(TypeError, match="in a list"):
        encoder.encode(3)


def test_dim_is_the_first_numbers_normalised(encoder: umekit.Encoder) -> None:
    whole = encoder.encode(["a", "b"])
    short = encoder.encode(["a", "b"], dim=16)
    expected = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(short, expected, atol=1e-6)
    with pytest.raises(ValueError, match="dim"):
        encoder.encode(["a"], dim=10_000)


def test_a_bad_item_is_named_or_skipped(encoder: umekit.Encoder) -> None:
    items = ["good", {"image": "/does/not/exist.png"}, 7, "also good"]
    with pytest.raises(ItemError, match=r"item 1: no such file"):
        encoder.encode(items)
    with pytest.raises(ItemTypeError, match=r"item 0"):
        encoder.encode([7])
    details = encoder.encode(items, on_error="skip", return_details=True)
    assert [index for index, _ in details.errors] == [1, 2]
    assert np.isnan(details.embeddings[[1, 2]]).all()
    np.testing.assert_allclose(details.embeddings[[0, 3]], encoder.encode(["good", "also good"]), atol=1e-5)
    with pytest.warns(UserWarning, match="2 of 4 items"):
        encoder.encode(items, on_error="skip")


def test_a_broken_model_raises(tiny_checkpoint: Callable[..., Path]) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"))
    with torch.no_grad():
        encoder.model.backbone.model.language_model.norm.weight.fill_(float("nan"))
    with pytest.raises(DegenerateVectorError):
        encoder.encode(["a"])
    details = encoder.encode(["a", "b"], on_error="skip", return_details=True)
    assert np.isnan(details.embeddings).all()
    assert [index for index, _ in details.errors] == [0, 1]


@pytest.mark.parametrize("mode", ["generative", "adaptive", "both"])
def test_other_modes_are_refused(encoder: umekit.Encoder, mode: str) -> None:
    with pytest.raises(ValueError, match="needs a generative checkpoint"):
        encoder.encode(["a"], mode=mode)


def test_instructions_change_vectors_and_the_items_own_wins(encoder: umekit.Encoder) -> None:
    plain, told = encoder.encode(["a cat"]), encoder.encode(["a cat"], instruction="find a picture")
    assert np.abs(plain - told).max() > 1e-3
    own = encoder.encode([{"text": "a cat", "instruction": "find a picture"}], instruction="another")
    np.testing.assert_allclose(own, told, atol=1e-6)


def test_search_finds_itself_and_refuses_another_models_index(
    encoder: umekit.Encoder, tiny_checkpoint: Callable[..., Path]
) -> None:
    texts = ["one", "two and more", "three"]
    index = Index(dim=encoder.dim, fingerprint=encoder.fingerprint())
    index.add(texts, encoder.encode(texts), [{} for _ in texts])
    ids, scores = encoder.search(["two and more"], index, k=5)
    assert ids[0][0] == "two and more"
    assert ids[0][3:] == [None, None]
    assert scores[0, 0] == pytest.approx(1, abs=1e-5)
    assert np.isneginf(scores[0, 3:]).all()
    other = umekit.load(tiny_checkpoint("qwen2_vl", attention="bidirectional"))
    with pytest.raises(IndexMismatchError):
        other.search(["two"], index)


def test_fingerprint_survives_dtype_and_sees_weights(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("qwen2_vl")
    encoder = umekit.load(folder)
    encoder.model.backbone.to(torch.bfloat16)
    encoder.model.save_pretrained(tmp_path / "half")
    encoder.processor.save_pretrained(tmp_path / "half")
    half, whole = umekit.load(tmp_path / "half", dtype="bfloat16"), umekit.load(tmp_path / "half")
    assert half.model.dtype == torch.bfloat16
    assert whole.model.dtype == torch.float32
    assert half.fingerprint() == whole.fingerprint() == umekit.load(folder).fingerprint()
    trained = umekit.load(folder)
    with torch.no_grad():
        trained.model.backbone.model.language_model.layers[0].mlp.up_proj.weight.mul_(1.5)
    assert trained.fingerprint()["model"] != whole.fingerprint()["model"]


def test_export_of_a_backbone_and_reload(
    tiny_backbone: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    out = umekit.export(tiny_backbone(family), tmp_path / "out")
    before, after = umekit.load(tiny_backbone(family)), umekit.load(out)
    assert before.fingerprint() == after.fingerprint()
    np.testing.assert_array_equal(before.encode(["a text"]), after.encode(["a text"]))
    with pytest.raises(FileExistsError):
        umekit.export(tiny_backbone(family), out)


def test_quantised_weights_go_where_they_are_wanted(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cannot be moved once they are there, and without a map they all go to the first device."""
    asked: dict[str, Any] = {}

    class Asked(Exception):
        pass

    def open_(*_: Any, **options: Any) -> None:
        asked.update(options)
        raise Asked

    folder = tiny_checkpoint("qwen2_vl")
    monkeypatch.setattr(loading.CLASSES["discriminative"], "from_pretrained", open_)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(Asked):
        umekit.load(folder, device="cuda:1", quantization_config=object())
    assert asked["device_map"] == {"": torch.device("cuda:1")}


def test_load_refuses(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    import json
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tiny_checkpoint("qwen2_vl")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    with pytest.raises(ValueError, match="give one of them"):
        umekit.load(folder, device="cpu", device_map="auto")
    with pytest.raises(ValueError, match="leaves weights outside"):
        umekit.load(folder, device_map={"": "meta"})

    newer = copy("newer")
    config = json.loads((newer / "config.json").read_text())
    config["ume"]["schema"] = 99
    (newer / "config.json").write_text(json.dumps(config))
    with pytest.raises(UmeSettingsError, match="update umekit"):
        umekit.load(newer)

    lacking = copy("lacking")
    weights = load_file(lacking / "model.safetensors")
    weights.pop(next(name for name in weights if "q_proj.weight" in name))
    save_file(weights, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadAuditError, match="1 weights are missing"):
        umekit.load(lacking)

    foreign = copy("foreign")
    mean = tiny_checkpoint("qwen2_vl", pooling="mean")
    shutil.copy(mean / "processor_config.json", foreign / "processor_config.json")
    with pytest.raises(ProcessorMismatchError, match="mean"):
        umekit.load(foreign)
    with pytest.raises(ValueError, match="dtype"):
        umekit.load(folder, dtype="int8")


def test_adapter_must_match_and_change(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from umekit.modeling.adapters import AdapterError

    folder = tiny_checkpoint("qwen2_vl")
    encoder = umekit.load(folder)
    config = peft.LoraConfig(
        r=2, target_modules=r".*language_model.*(q_proj|v_proj)", init_lora_weights=False
    )
    encoder.model.backbone.add_adapter(config)
    encoder.model.backbone.save_pretrained(tmp_path / "lora")
    told = encoder.encode(["a"])
    again = umekit.load(folder, adapter=tmp_path / "lora").encode(["a"])
    np.testing.assert_allclose(again, told, atol=1e-6)
    assert np.abs(again - umekit.load(folder).encode(["a"])).max() > 1e-4

    zero = umekit.load(folder)
    zero.model.backbone.add_adapter(peft.LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    zero.model.backbone.save_pretrained(tmp_path / "zero")
    with pytest.raises(AdapterError, match="changes nothing"):
        umekit.load(folder, adapter=tmp_path / "zero")
