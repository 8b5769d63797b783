"""Every preset with one quirk flipped fails ``verify``, for the reason that the quirk has."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import umekit
from umekit.cli.main import main
from umekit.encoding.presets import PRESETS, Preset
from umekit.processing.settings import ProcessorSettings
from umekit.processing.tokenizing import PoolingRule

GOLDEN = Path(__file__).parent.parent / "golden"
ASSISTANT = "<|im_start|>assistant\\n"
# Of each fixture: texts and pictures, with and without instruction. All of them are compared elsewhere.
KEPT = {
    "rzenembed": ["text_only", "instr_text", "image_text", "wide_image"],
    "umarvel_qwen2vl": ["q_text", "q_image_text", "c_text", "c_wide_image"],
    "umarvel_qwen3vl": ["q_text", "q_image_text", "c_text", "c_wide_image"],
    "qwen3vl_embedding": ["text_only", "instr_with_punct", "image_text_instr", "wide_image"],
    "lamra_ret": ["q_text", "q_image_text", "c_text", "c_wide_image"],
    "vlm2vec_v2": ["text_only", "image_question", "wide_image"],
    "ume_r1": ["text_only", "image_question", "wide_image"],
    "umarvel_reranker": ["pair0_q0_c1", "pair1_q0_c0", "pair3_q1_c0", "pair6_q2_c2"],
    "qwen3vl_reranker": ["q0_d0", "q0_d1", "q1_d1"],
}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def fixture_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A published fixture with a few of its items."""
    made: dict[str, Path] = {}

    def get(system: str) -> Path:
        if system not in made:
            folder = tmp_path_factory.mktemp(system)
            for name in ("checkpoint", "inputs", "vectors.npz"):
                (folder / name).symlink_to(GOLDEN / system / name)
            manifest = json.loads((GOLDEN / system / "manifest.json").read_text(encoding="utf-8"))
            manifest["items"] = [item for item in manifest["items"] if item["id"] in KEPT[system]]
            assert len(manifest["items"]) == len(KEPT[system])
            (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
            made[system] = folder
        return made[system]

    return get


def of_model(**changes: Any) -> Callable[[Preset], Preset]:
    return lambda preset: replace(preset, model=replace(preset.model, **changes))


def of_processor(change: Callable[[ProcessorSettings], ProcessorSettings]) -> Callable[[Preset], Preset]:
    def flip(preset: Preset) -> Preset:
        before = preset.processor
        return replace(preset, processor=lambda family, images: change(before(family, images)))

    return flip


def of_template(change: Callable[[str], str]) -> Callable[[Preset], Preset]:
    def flip(settings: ProcessorSettings) -> ProcessorSettings:
        template = change(settings.prompt.template)
        assert template != settings.prompt.template
        return replace(settings, prompt=replace(settings.prompt, template=template))

    return of_processor(flip)


def positions(preset: Preset) -> Preset:
    return of_model(positions="1d" if preset.model.positions == "mrope" else "mrope")(preset)


def attention(preset: Preset) -> Preset:
    return of_model(attention="causal" if preset.model.attention == "bidirectional" else "bidirectional")(
        preset
    )


def a_prompt_space(template: str) -> str:
    """One space more before the end of the last turn, or of the prompt where it has no turns."""
    head, end, tail = template.rpartition("<|im_end|>")
    return f"{head} {end}{tail}" if end else template + "{{- ' ' -}}"


def no_generation_prompt(template: str) -> str:
    head, _, tail = template.rpartition(ASSISTANT)
    return head + tail


def pooled_span(preset: Preset) -> Preset:
    """A mean with the instruction in it; the token next to the pooled one; a mean in place of the last token."""

    def rule(settings: ProcessorSettings) -> ProcessorSettings:
        old = settings.pooling
        offset = old.offset + (1 if old.offset < 0 else -1)
        new = replace(old, offset=offset) if old.kind == "token" else PoolingRule("mean")
        return replace(settings, pooling=new)

    changed = of_processor(rule)(preset)
    return changed if preset.model.pooling == "token" else of_model(pooling="mean")(changed)


def pixel_budget(settings: ProcessorSettings) -> ProcessorSettings:
    token = 32**2 if settings.family.startswith("qwen3") else 28**2
    return replace(settings, budget=replace(settings.budget, image=(token, 5 * token)))


QUIRKS: dict[str, tuple[Callable[[Preset], Preset], str]] = {
    "positions": (positions, "vector"),
    "attention": (attention, "vector"),
    "DeepStack": (lambda preset: of_model(deepstack=not preset.model.deepstack)(preset), "vector"),
    "a prompt space": (of_template(a_prompt_space), "token ids"),
    "generation prompt": (of_template(no_generation_prompt), "token ids"),
    "pooled span": (pooled_span, "vector"),
    "pixel budget": (of_processor(pixel_budget), "grids"),
}


def cannot_flip(preset: Preset, quirk: str) -> bool:
    """Qwen2-VL has no DeepStack; VLM2Vec-V2 has no chat template and so no generation prompt."""
    no_deepstack = quirk == "DeepStack" and preset.families == ("qwen2_vl",)
    return no_deepstack or (quirk == "generation prompt" and preset.name == "vlm2vec-v2")


CASES = [(name, quirk) for name in PRESETS for quirk in QUIRKS if not cannot_flip(PRESETS[name], quirk)]


@pytest.mark.parametrize("name", PRESETS)
def test_as_it_is_it_verifies(name: str, fixture_of: Callable[[str], Path]) -> None:
    folder = fixture_of(PRESETS[name].fixture[0])
    result = umekit.verify(folder / "checkpoint", folder)
    assert [str(problem) for problem in result.problems] == []
    assert result.items >= 3
    assert result.notes == []


@pytest.mark.parametrize(("name", "quirk"), CASES)
def test_one_flipped_quirk_fails(
    name: str, quirk: str, fixture_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (flip, prop), preset = QUIRKS[quirk], PRESETS[name]
    if preset.model.kind == "generative":  # another prompt may lead a thought astray: it must end some time
        preset = replace(preset, model=replace(preset.model, max_new_tokens=24))
    monkeypatch.setitem(PRESETS, name, flip(preset))
    folder = fixture_of(preset.fixture[0])
    result = umekit.verify(folder / "checkpoint", folder)
    found = {problem.prop for problem in result.problems}
    if preset.model.kind == "reranker" and prop == "vector":
        prop = "score"
    if quirk == "attention" and preset.model.kind != "discriminative":
        prop = "load"  # what thinks or answers must be causal: it does not even load
    if quirk == "pooled span" and preset.model.kind == "generative":
        prop = "pooled positions"  # the vector is the thought's, and not moved by it
    assert prop in found, [str(problem) for problem in result.problems]


def test_the_verb_says_so_by_its_exit_code(
    fixture_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fixture_of("lamra_ret")
    call = ["verify", str(folder / "checkpoint"), "--golden", str(folder)]
    assert main(call) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ok"
    monkeypatch.setitem(PRESETS, "lamra-ret", positions(PRESETS["lamra-ret"]))
    assert main(call) == 1
    shown = capsys.readouterr().out
    assert "wrong: q_image_text: vector: differs by" in shown
    assert "q_text: vector" not in shown  # a text has the same positions either way
    assert shown.splitlines()[-1].endswith("problem(s)")
