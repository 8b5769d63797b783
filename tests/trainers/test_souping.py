"""umekit.trainers.lora.souping: averages of adapters and of checkpoints, against NumPy in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_folders import save_adapter
from peft import LoraConfig
from safetensors.torch import load_file, save_file

import umekit
from umekit.encoding.packaged import packaged_model
from umekit.trainers.lora.checkpoint_souping import soup_checkpoints
from umekit.trainers.lora.folders import SoupError, read_lora_folder
from umekit.trainers.lora.merging import merge
from umekit.trainers.lora.souping import normalised, soup

ITEMS = ["a text", {"text": "the page of a video", "instruction": "compare"}]
WEIGHTS = "model.safetensors"
Q0 = "model.language_model.layers.0.self_attn.q_proj"
MIXED: list[dict[str, object]] = [
    {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    {"r": 2, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]},
    {"r": 3, "rank_pattern": {"layers.0.self_attn.q_proj": 5}, "alpha_pattern": {"q_proj": 7}},
]


@pytest.fixture(scope="module")
def adapters(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Path]]:
    """A base and three adapters of it, of different ranks, scales and modules."""
    root = tmp_path_factory.mktemp("adapters")
    checkpoint = tiny_checkpoint()
    return checkpoint, [save_adapter(checkpoint, root / f"a{n}", n, **one) for n, one in enumerate(MIXED)]


def encode(path: Path, **options: object) -> np.ndarray:
    return umekit.load(path, device="cpu", **options).encode(ITEMS)


def numpy_delta(folder: Path, module: str, rank: int, alpha: float, root: bool) -> np.ndarray | float:
    """scale * B @ A in float64, from the file; 0 where the adapter lacks the module."""
    tensors = load_file(folder / "adapter_model.safetensors")
    if f"base_model.model.{module}.lora_A.weight" not in tensors:
        return 0.0
    a = tensors[f"base_model.model.{module}.lora_A.weight"].double().numpy()
    b = tensors[f"base_model.model.{module}.lora_B.weight"].double().numpy()
    assert a.shape[0] == rank
    return alpha / (math.sqrt(rank) if root else rank) * (b @ a)


def test_delta_is_the_weighted_mean_of_the_changes(adapters: tuple[Path, list[Path]], tmp_path: Path) -> None:
    checkpoint, folders = adapters
    report = soup(folders, tmp_path / "soup", weights=[1, 1, 2])
    assert report.weights == [0.25, 0.25, 0.5]
    base = load_file(checkpoint / WEIGHTS)
    found = load_file(tmp_path / "soup" / WEIGHTS)
    assert base.keys() == found.keys()
    key = next(key for key in base if key.endswith("layers.0.self_attn.q_proj.weight"))
    deltas = [
        numpy_delta(folders[0], Q0, 4, 8, False),
        numpy_delta(folders[1], Q0, 2, 6, True),
        numpy_delta(folders[2], Q0, 5, 7, False),
    ]
    wanted = base[key].double().numpy() + 0.25 * deltas[0] + 0.25 * deltas[1] + 0.5 * deltas[2]
    np.testing.assert_allclose(found[key].numpy(), wanted, atol=1e-6)
    down = next(key for key in base if key.endswith("layers.1.mlp.down_proj.weight"))
    module = "model.language_model.layers.1.mlp.down_proj"  # only the second adapter has it
    wanted = base[down].double().numpy() + 0.25 * np.asarray(numpy_delta(folders[1], module, 2, 6, True))
    np.testing.assert_allclose(found[down].numpy(), wanted, atol=1e-6)
    assert report.difference is not None
    assert report.difference > 1e-4
    assert umekit.verify(tmp_path / "soup").ok
    record = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert record["weights"] == report.weights
    assert [len(one["sha256"]) for one in record["sources"]] == [64] * 3


def test_equal_adapters_give_the_adapter(adapters: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """systems.md 5.2 (11): a soup of identical adapters is the adapter; weights do not matter then."""
    _, folders = adapters
    for number, folder in enumerate(folders):
        soup([folder] * 3, tmp_path / f"soup{number}", weights=[1, 5, 2])
        merge(folder, tmp_path / f"merged{number}")
        ours, theirs = (load_file(tmp_path / f"{kind}{number}" / WEIGHTS) for kind in ("soup", "merged"))
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=0)


def test_scales_are_those_of_peft(adapters: tuple[Path, list[Path]]) -> None:
    checkpoint, folders = adapters
    for folder in folders:
        backbone = umekit.load(checkpoint, adapter=folder, device="cpu").model.backbone
        read = read_lora_folder(folder)
        for name, module in read.modules.items():
            layer = backbone.get_submodule(name)
            assert module.scale == pytest.approx(layer.scaling["default"])
            wanted = layer.get_delta_weight("default").detach()
            torch.testing.assert_close(read.delta(name, wanted.shape), wanted)


def test_convolutions_are_souped(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """The patch embedding is a three-dimensional convolution."""
    checkpoint = tiny_checkpoint()
    folder = save_adapter(checkpoint, tmp_path / "a", target_modules=["patch_embed.proj", "k_proj"])
    soup([folder, folder], tmp_path / "soup")
    merge(folder, tmp_path / "merged")
    ours, theirs = (load_file(tmp_path / kind / WEIGHTS) for kind in ("soup", "merged"))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=0)


def test_bfloat16_bases_are_summed_in_float32(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    encoder = umekit.load(tiny_checkpoint(), device="cpu", dtype="bfloat16")
    encoder.model.save_pretrained(tmp_path / "base")
    encoder.processor.save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "base", tmp_path / "a")
    soup([folder, folder], tmp_path / "soup")
    base, found = load_file(tmp_path / "base" / WEIGHTS), load_file(tmp_path / "soup" / WEIGHTS)
    key = next(key for key in base if key.endswith("layers.0.self_attn.q_proj.weight"))
    delta = read_lora_folder(folder).delta(Q0, base[key].shape)
    assert found[key].dtype == torch.bfloat16
    assert torch.equal(found[key], (base[key].float() + delta).bfloat16())


# ---- refusals ----------------------------------------------------------------------------------------------------


def edited(source: Path, target: Path, **entries: object) -> Path:
    """A copy of an adapter folder with other entries of adapter_config.json."""
    import shutil

    shutil.copytree(source, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return target


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"use_dora": True}, "use_dora: DoRA divides by the norm"),
        ({"modules_to_save": ["sim"]}, "modules_to_save: it holds whole weights"),
        ({"init_lora_weights": "pissa"}, "alters the base"),
        ({"bias": "all"}, "trained biases"),
        ({"peft_type": "IA3"}, "IA3 adapter; only LoRA"),
        ({"r": 9}, "configuration says rank 9"),
        ({"base_model_name_or_path": "/another"}, "was trained on /another"),
    ],
)
def test_what_cannot_be_averaged_is_named(
    entries: dict[str, object], message: str, adapters: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    _, folders = adapters
    other = edited(folders[0], tmp_path / "other", **entries)
    with pytest.raises(SoupError, match=message):
        soup([folders[0], other], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_adapters_that_do_not_belong_together(
    adapters: tuple[Path, list[Path]], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint, folders = adapters
    bidirectional = save_adapter(tiny_checkpoint(attention="bidirectional"), tmp_path / "b")
    with pytest.raises(SoupError, match=r"differ in .*ume.* of config.json"):
        soup([folders[0], bidirectional], tmp_path / "soup", base=checkpoint)
    prompted = edited(folders[0], tmp_path / "prompted")
    (prompted / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(SoupError, match=r"different chat_template\.jinja"):
        soup([folders[0], prompted], tmp_path / "soup")
    shaped = edited(folders[0], tmp_path / "shaped")
    path = shaped / "adapter_model.safetensors"
    tensors = load_file(path)
    key = f"base_model.model.{Q0}.lora_A.weight"
    save_file({**tensors, key: torch.zeros(4, 7)}, path, metadata={"format": "pt"})
    with pytest.raises(SoupError, match="has inputs and outputs"):
        soup([folders[0], shaped], tmp_path / "soup")
    save_file({**tensors, key: torch.full((4, 64), torch.nan)}, path, metadata={"format": "pt"})
    with pytest.raises(SoupError, match="hold NaN or infinity"):
        soup([folders[0], shaped], tmp_path / "soup")
    renamed = {key.replace("layers.0", "layers.9"): value for key, value in tensors.items()}
    save_file(renamed, path, metadata={"format": "pt"})
    with pytest.raises(SoupError, match="the base has no module"):
        soup([folders[0], shaped], tmp_path / "soup")


def test_a_soup_that_changes_nothing_is_refused(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    encoder = umekit.load(tiny_checkpoint(), device="cpu")
    encoder.model.backbone.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))  # B is zero at the start
    encoder.model.save_pretrained(tmp_path / "a")
    encoder.processor.save_pretrained(tmp_path / "a")
    with pytest.raises(SoupError, match="changes no"):
        soup([tmp_path / "a"] * 2, tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_weights_are_normalised_or_refused() -> None:
    assert normalised(None, 4) == [0.25] * 4
    assert normalised([2, 6], 2) == [0.25, 0.75]
    for wrong, message in (([1], "1 weights for 2"), ([1, -1], "none may be negative"), ([0, 0], "above zero"),
                           ([1, math.nan], "above zero")):  # fmt: skip
        with pytest.raises(SoupError, match=message):
            normalised(wrong, 2)


# ---- whole checkpoints -------------------------------------------------------------------------------------------


def moved(checkpoint: Path, folder: Path, seed: int) -> Path:
    """A checkpoint with noise on every weight."""
    encoder = umekit.load(checkpoint, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in encoder.model.backbone.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    return folder


def test_checkpoints_are_averaged_tensor_by_tensor(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [moved(tiny_checkpoint("qwen3_vl"), tmp_path / f"c{seed}", seed) for seed in (1, 2)]
    report = soup_checkpoints(folders, tmp_path / "soup", weights=[3, 1])
    parts = [load_file(folder / WEIGHTS) for folder in folders]
    found = load_file(tmp_path / "soup" / WEIGHTS)
    for key, value in found.items():
        wanted = 0.75 * parts[0][key].double().numpy() + 0.25 * parts[1][key].double().numpy()
        np.testing.assert_allclose(value.numpy(), wanted, atol=1e-6)
    assert report.difference is not None
    assert report.difference > 0
    assert umekit.verify(tmp_path / "soup").ok
    whole = encode(tmp_path / "soup")
    soup_checkpoints(folders, tmp_path / "sharded", weights=[3, 1], shard_bytes=100_000)
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 3
    assert np.array_equal(encode(tmp_path / "sharded"), whole)
    names = {path.name for path in folders[0].iterdir()}
    assert names <= {path.name for path in (tmp_path / "soup").iterdir()}


def test_equal_checkpoints_give_the_checkpoint(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    report = soup_checkpoints([tiny_checkpoint()] * 2, tmp_path / "soup")
    assert report.difference == 0.0
    assert np.array_equal(encode(tmp_path / "soup"), encode(tiny_checkpoint()))


def test_checkpoints_that_do_not_belong_together(
    tiny_backbone: Callable[..., Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint()
    other = moved(checkpoint, tmp_path / "other", 1)
    tensors = load_file(other / WEIGHTS)
    key = sorted(tensors)[0]
    lacking = {name: value for name, value in tensors.items() if name != key}
    save_file(lacking, other / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(SoupError, match=f"1 tensors are not in both: {key}"):
        soup_checkpoints([checkpoint, other], tmp_path / "soup")
    save_file({**tensors, key: torch.zeros(3, 3)}, other / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(SoupError, match=f"{key} is "):
        soup_checkpoints([checkpoint, other], tmp_path / "soup")
    tensors[key].view(-1)[0] = torch.inf
    save_file(tensors, other / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(SoupError, match="would hold NaN or infinity"):
        soup_checkpoints([checkpoint, other], tmp_path / "soup")
    with pytest.raises(SoupError, match="no settings of ours"):
        soup_checkpoints([checkpoint, tiny_backbone()], tmp_path / "soup")
    with pytest.raises(SoupError, match="differ in"):
        soup_checkpoints([checkpoint, tiny_checkpoint("qwen3_vl")], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_a_probe_stays_the_first_ones(tmp_path: Path) -> None:
    folders = [moved(packaged_model(), tmp_path / str(seed), seed) for seed in (1, 2)]
    soup_checkpoints(folders, tmp_path / "soup")
    made = umekit.load(tmp_path / "soup", device="cpu")
    assert made.model.settings.strategy == "probe"
    assert torch.equal(made.model.probe.weight, umekit.load(device="cpu").model.probe.weight)
