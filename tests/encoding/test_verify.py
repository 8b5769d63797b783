"""``verify``: any quirk of a published system that is off by one thing is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import umekit
from umekit.cli.main import main
from umekit.encoding.golden.folder import make_golden, read_golden
from umekit.encoding.golden.items import GoldenError

GOLDEN = Path(__file__).parent.parent / "golden"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    made: dict[str, Path] = {}

    def get(system: str, preset: str) -> Path:
        if system not in made:
            out = tmp_path_factory.mktemp(system) / "exported"
            made[system] = umekit.export(GOLDEN / system / "checkpoint", out, preset=preset)
        return made[system]

    return get


@pytest.fixture
def u_marvel(exported: Callable[[str, str], Path]) -> Path:
    return exported("umarvel_qwen2vl", "u-marvel")


def edit_json(path: Path, keys: str, value: Any) -> None:
    content = json.loads(path.read_text())
    place = content
    *parents, last = keys.split(".")
    for key in parents:
        place = place[key]
    assert last in place, f"{keys} is no entry of {path.name}"
    place[last] = value
    path.write_text(json.dumps(content))


def model_entry(name: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", f"ume.{name}", value)


def processor_entry(name: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "processor_config.json", f"ume.{name}", value)


def template_edit(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        text = path.read_text()
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new))

    return change


U_MARVEL_FLIPS: dict[str, tuple[Callable[[Path], None], str]] = {
    "positions": (model_entry("positions", "mrope"), "vector"),
    "attention": (model_entry("attention", "causal"), "vector"),
    "one space in the prompt": (template_edit("<instruction_end> ' ~", "<instruction_end>' ~"), "token ids"),
    "no final full stop": (template_edit("else '.')", "else '')"), "token ids"),
    "generation prompt": (
        template_edit("<emb>.<|im_end|>\\n<|im_start|>assistant\\n", "<emb>.<|im_end|>\\n"),
        "token ids",
    ),
    "system turn": (template_edit("You are a helpful assistant.", "You are helpful."), "token ids"),
    "pooled span": (
        lambda folder: (
            processor_entry("pooling.span_start", "")(folder),
            processor_entry("pooling.span_end", "")(folder),
        )[0],
        "pooled positions",
    ),
    "pixel budget": (processor_entry("budget.first_image.most", 200 * 28**2), "grids"),
    "candidates' limit": (processor_entry("limits", {}), "token ids"),
    "what is cut": (processor_entry("truncation", "text"), "token ids"),
}

RZENEMBED_FLIPS: dict[str, tuple[Callable[[Path], None], str]] = {
    "positions": (model_entry("positions", "mrope"), "vector"),
    "attention": (model_entry("attention", "bidirectional"), "vector"),
    "separator": (template_edit("ns.instruction ~ ns.text", "ns.instruction ~ ' ' ~ ns.text"), "token ids"),
    "appended token": (template_edit("<|endoftext|>", ""), "token ids"),
    "pixel budget": (processor_entry("budget.image", [4 * 28**2, 1280 * 28**2]), "grids"),
    "budget of lists": (processor_entry("budget.listed", None), "grids"),
    "first resize": (processor_entry("budget.first_image", None), "vector"),
}


U_MARVEL_QWEN3_FLIPS: dict[str, tuple[Callable[[Path], None], str]] = {
    "DeepStack": (model_entry("deepstack", True), "vector"),
    "positions": (model_entry("positions", "mrope"), "vector"),
    "first resize": (processor_entry("budget.first_image", None), "grids"),
    "second resize": (processor_entry("budget.image", [1024, 16777216]), "grids"),
}
QWEN3_VL_EMBEDDING_FLIPS: dict[str, tuple[Callable[[Path], None], str]] = {
    "DeepStack": (model_entry("deepstack", False), "vector"),
    "positions": (model_entry("positions", "1d"), "vector"),
    "attention": (model_entry("attention", "bidirectional"), "vector"),
    "generation prompt": (
        template_edit("<|im_end|>\\n<|im_start|>assistant\\n", "<|im_end|>\\n"),
        "token ids",
    ),
    "punctuation rule": (template_edit("instruction ~ '.'", "instruction"), "token ids"),
    "NULL": (template_edit("'NULL'", "''"), "token ids"),
    "pixel budget": (processor_entry("budget.image", [16 * 1024, 1800 * 1024]), "grids"),
    "frames' first resize": (processor_entry("budget.first_frame", None), "vector"),
    "times of listed frames": (processor_entry("sampling.list_fps", 1.0), "token ids"),
    "last frame again": (processor_entry("sampling.list_pad", False), "token ids"),
}
LAMRA_FLIPS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pooled token": (processor_entry("pooling.offset", 0), "pooled positions"),
    "positions": (model_entry("positions", "mrope"), "vector"),
    "last space": (template_edit("in one word: ", "in one word:"), "token ids"),
}
VLM2VEC_FLIPS: dict[str, tuple[Callable[[Path], None], str]] = {
    "positions": (model_entry("positions", "mrope"), "vector"),
    "separator": (template_edit("else '') ~ body -", "else '') ~ ' ' ~ body -"), "token ids"),
    "small pictures": (processor_entry("budget.first_image", None), "grids"),
    "limit of texts": (processor_entry("limits", {}), "token ids"),
}
SYSTEMS = {
    "u-marvel": ("umarvel_qwen2vl", U_MARVEL_FLIPS),
    "rzenembed": ("rzenembed", RZENEMBED_FLIPS),
    "u-marvel-qwen3vl": ("umarvel_qwen3vl", U_MARVEL_QWEN3_FLIPS),
    "qwen3-vl-embedding": ("qwen3vl_embedding", QWEN3_VL_EMBEDDING_FLIPS),
    "lamra-ret": ("lamra_ret", LAMRA_FLIPS),
    "vlm2vec-v2": ("vlm2vec_v2", VLM2VEC_FLIPS),
}


@pytest.mark.parametrize(
    ("preset", "flip"), [(preset, flip) for preset, (_, flips) in SYSTEMS.items() for flip in flips]
)
def test_a_flipped_quirk_is_found(
    preset: str, flip: str, exported: Callable[[str, str], Path], tmp_path: Path
) -> None:
    system, flips = SYSTEMS[preset]
    change, prop = flips[flip]
    check_flip(exported(system, preset), GOLDEN / system, change, prop, tmp_path)


def check_flip(
    exported: Path, published: Path, change: Callable[[Path], None], prop: str, tmp_path: Path
) -> None:
    folder = tmp_path / "flipped"
    shutil.copytree(exported, folder)
    change(folder)
    # A published fixture knows nothing of our settings: ids, grids and vectors alone must show it.
    outcome = umekit.verify(folder, published)
    assert prop in {problem.prop for problem in outcome.problems if problem.item}
    # And so must the folder that was exported along.
    assert not umekit.verify(folder).ok


def test_settings_that_changed_are_named(u_marvel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flipped"
    shutil.copytree(u_marvel, folder)
    edit_json(folder / "config.json", "ume.positions", "mrope")
    found = {problem.prop: problem.message for problem in umekit.verify(folder).problems if not problem.item}
    assert found == {"settings model.positions": "'mrope', golden has '1d'"}


def test_changed_weights_are_found(u_marvel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(u_marvel, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if "layers.0.mlp.up_proj" in key)
    weights[name] = weights[name] * np.float32(1.05)
    save_file(weights, file, metadata={"format": "pt"})
    outcome = umekit.verify(folder)
    assert {problem.prop for problem in outcome.problems} == {"vector", "vector in a batch"}
    assert outcome.items == 20


def test_missing_and_leftover_weights_are_found(u_marvel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(u_marvel, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if "layers.0.mlp.up_proj" in key)
    kept = {key: value for key, value in weights.items() if key != name}
    save_file(kept, file, metadata={"format": "pt"})
    missing = umekit.verify(folder)
    assert [problem.prop for problem in missing.problems] == ["load"]
    assert "missing" in missing.problems[0].message
    extra = {**weights, name.replace("up_proj", "up_proj.lora_A"): weights[name]}
    save_file(extra, file, metadata={"format": "pt"})
    assert [problem.prop for problem in umekit.verify(folder).problems] == ["weights"]


def test_the_verb(u_marvel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, fixture = str(GOLDEN / "umarvel_qwen2vl" / "checkpoint"), str(GOLDEN / "umarvel_qwen2vl")
    assert main(["verify", source, "--golden", fixture]) == 0
    assert "19 golden items" in capsys.readouterr().out
    assert main(["verify", source, "--golden", fixture, "--preset", "lamra-ret"]) == 1
    assert "wrong: q_text: token ids" in capsys.readouterr().out
    made = tmp_path / "made"
    assert main(["verify", source, "--preset", "u-marvel", "--make", str(made)]) == 0
    assert main(["verify", str(u_marvel), "--golden", str(made)]) == 0
    capsys.readouterr()
    assert main(["verify", str(u_marvel), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"]
    assert shown["items"] == 20
    assert shown["facts"]["dtype"] == "float32"
    assert main(["verify", str(u_marvel), "--golden", str(tmp_path / "none")]) == 2
    assert main(["verify", str(u_marvel), "--golden", str(made), "--make", str(made)]) == 2


def test_official_defects_can_be_exported(tmp_path: Path) -> None:
    source = GOLDEN / "umarvel_qwen2vl" / "checkpoint"
    folder = umekit.export(source, tmp_path / "official", preset="u-marvel", compat="official")
    assert umekit.load(folder).model.settings.attention == "bidirectional_if_padded"
    assert umekit.verify(folder).ok
    assert not umekit.verify(folder, GOLDEN / "umarvel_qwen2vl").ok


def test_without_a_golden_folder_only_the_audit_runs(tiny_checkpoint: Callable[..., Path]) -> None:
    outcome = umekit.verify(tiny_checkpoint("qwen2_vl"))
    assert outcome.ok
    assert outcome.golden is None
    assert outcome.items == 0
    assert outcome.facts["family"] == "qwen2_vl"


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_a_golden_folder_remembers_the_dtype(
    dtype: str, family: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint(family)
    make_golden(umekit.load(folder, dtype=dtype), tmp_path / "golden")
    outcome = umekit.verify(folder, tmp_path / "golden")
    assert [str(problem) for problem in outcome.problems] == []
    assert outcome.facts["dtype"] == dtype


def test_what_is_no_golden_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match="neither"):
        read_golden(tmp_path)
    with pytest.raises(GoldenError, match="it has"):
        read_golden(GOLDEN / "rzenembed", "nonsense")
