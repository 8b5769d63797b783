"""UME-R1: the vectors of its published code, in both modes and by every door."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import umekit
from umekit.encoding.presets import PRESETS, find_preset
from umekit.encoding.presets.ume_r1 import WORDINGS, with_enlarged_frames, with_wording
from umekit.modeling.settings import UmeSettingsError
from umekit.processing.vision import frame_size
from umekit.trainers.lora import add_lora

FIXTURE = Path(__file__).parent.parent / "golden" / "ume_r1"
RECORDS: list[dict[str, Any]] = json.loads((FIXTURE / "manifest.json").read_text(encoding="utf-8"))["items"]
TOLERANCE = 1e-5
MODES = {"discriminative": "disc", "generative": "gen"}


def _item(record: dict[str, Any]) -> dict[str, Any]:
    item: dict[str, Any] = {}
    pictures = [_picture(part["image"]) for part in record["content"] if part["type"] == "image"]
    if pictures:
        item["images"] = pictures
    for part in record["content"]:
        if part["type"] == "video":
            item["video"] = [_picture(name) for name in part["video"]]
        if part["type"] == "text":
            item["text"] = part["text"]
    return item


def _picture(name: str) -> Image.Image:
    return Image.open(FIXTURE / "inputs" / name)


ITEMS = [_item(record) for record in RECORDS]


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    with np.load(FIXTURE / "vectors.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def encoder() -> umekit.Encoder:
    return umekit.load(FIXTURE / "checkpoint", preset="ume-r1")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return umekit.export(FIXTURE / "checkpoint", tmp_path_factory.mktemp("ume_r1") / "out", preset="ume-r1")


def _close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, atol=TOLERANCE, rtol=0)


def test_the_preset_is_found_by_repository() -> None:
    for repo in ("zhibinlan/UME-R1-2B", "zhibinlan/UME-R1-7B"):
        preset = find_preset(repo)
        assert preset is not None
        assert preset.name == "ume-r1"


@pytest.mark.parametrize("mode", MODES)
def test_prompts_ids_and_grids(mode: str, encoder: umekit.Encoder) -> None:
    key = MODES[mode]
    for record, item in zip(RECORDS, ITEMS, strict=True):
        row = encoder.processor.prepare(item, mode=mode)
        assert row.rendered == record[f"prompt_text_{key}"], record["id"]
        assert row.input_ids.tolist() == record[f"input_ids_{key}"], record["id"]
        assert np.flatnonzero(row.slots).tolist() == [record["disc_position"]]
        grids = [list(one.grid) for one in (*row.images, *row.videos)]
        assert grids == (record["image_grid_thw"] or record["video_grid_thw"] or [])


@pytest.mark.parametrize("batch_tokens", [1, None], ids=["alone", "batch"])
def test_vectors_through_load(
    batch_tokens: int | None, encoder: umekit.Encoder, official: dict[str, np.ndarray]
) -> None:
    array = "alone" if batch_tokens else "batch"
    both = encoder.encode(ITEMS, mode="both", batch_tokens=batch_tokens)
    for mode, key in MODES.items():
        expected = official[f"{key}_{array}"]
        _close(both[mode], expected)
        _close(encoder.encode(ITEMS, mode=mode, batch_tokens=batch_tokens), expected)
    _close(encoder.encode(ITEMS, batch_tokens=batch_tokens), official[f"gen_{array}"])  # it thinks by default


def test_thoughts(encoder: umekit.Encoder) -> None:
    details = encoder.encode(ITEMS, return_details=True)
    for record, thought, length in zip(RECORDS, details.thoughts, details.thought_tokens, strict=True):
        assert record["generated_text"] == f"{thought}<gen_emb><|im_end|>"
        assert length == record["gen_emb_index_in_generated"]
    assert details.forced == [False] * len(ITEMS)


def test_a_thought_that_is_cut(encoder: umekit.Encoder, official: dict[str, np.ndarray]) -> None:
    items, expected = [ITEMS[0], ITEMS[3]], official["gen_cut_at_5_new_tokens_rows_0_3"]
    options: dict[str, Any] = {"max_new_tokens": 5, "return_details": True}
    forced = encoder.encode(items, **options)
    assert forced.forced == [True, True]
    assert np.abs(forced.embeddings - expected).max() > 0.1
    # By default it is <gen_emb>'s own state after the five tokens, as a forward over the whole text has it.
    processor = encoder.processor
    for item, vector, thought in zip(items, forced.embeddings, forced.thoughts, strict=True):
        row = processor.prepare(item, mode="generative")
        text = processor.tokenizer.encode(f"{thought}<gen_emb>", add_special_tokens=False)
        assert len(text) == 6
        row.input_ids = np.concatenate([row.input_ids, text])
        row.token_types = np.concatenate([row.token_types, np.zeros(6, dtype=np.int64)])
        row.slots = np.concatenate([row.slots, np.array([0, 0, 0, 0, 0, 2], dtype=np.int8)])
        with torch.no_grad():
            _close(encoder.model(**processor.collate([row])).generated_embeddings[0], vector)
    compatible = umekit.load(FIXTURE / "checkpoint", preset="ume-r1", compat="official")
    _close(compatible.encode(items, **options).embeddings, expected)
    assert compatible.encode(items, **options).forced == [True, True]
    _close(compatible.encode(ITEMS), official["gen_batch"])


@pytest.mark.parametrize("array", ["disc_alone", "gen_alone", None])
def test_verify(array: str | None, exported: Path) -> None:
    for source, options in ((FIXTURE / "checkpoint", {"preset": "ume-r1"}), (exported, {})):
        result = umekit.verify(source, FIXTURE, array=array, **options)
        assert [str(problem) for problem in result.problems] == []
        assert result.items == len(ITEMS)
    assert umekit.verify(exported).ok


def test_auto_model_after_export(exported: Path, official: dict[str, np.ndarray]) -> None:
    model = AutoModel.from_pretrained(exported, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(exported, trust_remote_code=True)
    for batch_size, array in ((1, "alone"), (len(ITEMS), "batch")):
        both = model.encode(ITEMS, processor=processor, mode="both", batch_size=batch_size)
        for mode, key in MODES.items():
            _close(both[mode], official[f"{key}_{array}"])
    _close(umekit.load(exported).encode(ITEMS), official["gen_batch"])


def test_sentence_transformer_after_export(exported: Path, official: dict[str, np.ndarray]) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    st = sentence_transformers.SentenceTransformer(str(exported), trust_remote_code=True, device="cpu")
    for mode, key in MODES.items():
        _close(st.encode(ITEMS, mode=mode), official[f"{key}_batch"])
        _close(st.encode(ITEMS, mode=mode, batch_size=1), official[f"{key}_alone"])
    _close(st.encode(ITEMS, max_new_tokens=64), official["gen_batch"])
    with pytest.raises(ValueError, match="needs a mode that thinks"):
        st.encode(ITEMS[:1], mode="discriminative", max_new_tokens=4)


def enlarged(encoder: umekit.Encoder) -> umekit.Encoder:
    """The same checkpoint with frames of lists as qwen_vl_utils 0.0.14 sizes them."""
    budget = with_enlarged_frames(encoder.processor.settings).budget
    return umekit.Encoder(encoder.model, encoder.processor.with_settings(budget=budget))


def test_frames_as_qwen_vl_utils_0014_sizes_them(
    encoder: umekit.Encoder, official: dict[str, np.ndarray]
) -> None:
    about = json.loads((FIXTURE / "manifest.json").read_text(encoding="utf-8"))["qwen_vl_utils_0014_video"]
    items, other = [ITEMS[row] for row in about["rows"]], enlarged(encoder)
    rows = [other.processor.prepare(item) for item in items]
    assert [[list(video.grid) for video in row.videos] for row in rows] == about["video_grid_thw"]
    assert [row.length for row in rows] == about["n_tokens"]
    both = other.encode(items, mode="both")
    for mode, key in MODES.items():
        expected = official[f"{key}_video_rows_qwen_vl_utils_0014"]
        _close(both[mode], expected)
        assert np.abs(both[mode] - official[f"{key}_alone"][about["rows"]]).max() > 0.1
    # Pictures and texts do not know of it.
    others = [item for item in ITEMS if "video" not in item]
    assert np.array_equal(other.encode(others), encoder.encode(others))


def test_enlarged_frames_are_saved_with_the_checkpoint(encoder: umekit.Encoder, tmp_path: Path) -> None:
    other = enlarged(encoder)
    other.model.save_pretrained(tmp_path / "out")
    other.processor.save_pretrained(tmp_path / "out")
    again = umekit.load(tmp_path / "out")
    assert again.processor.settings == other.processor.settings
    assert again.fingerprint() == other.fingerprint() != encoder.fingerprint()
    video = next(item for item in ITEMS if "video" in item)
    assert np.array_equal(again.encode([video]), other.encode([video]))


def test_frames_of_a_long_film_share_the_tokens_of_qwen_vl_utils_0011(encoder: umekit.Encoder) -> None:
    processor = encoder.processor
    layout, budget = processor.layout, processor.settings.budget
    # max(min(768 * 784, 128000 * 784 * 0.9 / frames * 2), 128 * 784 * 1.05), then the grid of 28 pixels
    for frames, wanted in ((64, (756, 756)), (768, (476, 476))):
        assert frame_size(frames, 1000, 1000, layout, budget) == wanted


QUIRKS = [
    ("\\n<disc_emb>\\n", "<disc_emb>\\n"),
    ("embeddings. \\n", "embeddings.\\n"),
    ("sentence. \\n", "sentence.\\n"),
    ("<|im_start|>assistant\\n", ""),
]


@pytest.mark.parametrize(("old", "new"), QUIRKS)
def test_verify_sees_a_changed_prompt(
    old: str, new: str, official: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = PRESETS["ume-r1"]

    def processor(model_type: str, image_processor: Any) -> Any:
        settings = preset.processor(model_type, image_processor)
        template = settings.prompt.template
        assert old in template
        return replace(settings, prompt=replace(settings.prompt, template=template.replace(old, new, 1)))

    model = replace(preset.model, max_new_tokens=32)  # a changed prompt may lead a thought astray
    monkeypatch.setitem(PRESETS, "ume-r1", replace(preset, processor=processor, model=model))
    result = umekit.verify(FIXTURE / "checkpoint", FIXTURE, preset="ume-r1")
    assert {problem.prop for problem in result.problems} >= {"vector"}
    vectors = umekit.load(FIXTURE / "checkpoint", preset="ume-r1").encode(ITEMS)
    assert np.abs(vectors - official["gen_batch"]).max() > 10 * TOLERANCE


@pytest.mark.parametrize("change", [{"positions": "1d"}, {"tokens": "swapped"}])
def test_verify_sees_a_changed_model(change: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    preset = PRESETS["ume-r1"]
    model = replace(preset.model, max_new_tokens=32)
    if "tokens" in change:
        names = {"disc_emb": "<gen_emb>", "gen_emb": "<disc_emb>", "im_end": "<|im_end|>"}
        flipped = replace(preset, model_tokens=names, model=model)
    else:
        flipped = replace(preset, model=replace(model, positions="1d"))
    monkeypatch.setitem(PRESETS, "ume-r1", flipped)
    assert not umekit.verify(FIXTURE / "checkpoint", FIXTURE, preset="ume-r1").ok


# ---- wordings and new tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wording", WORDINGS)
def test_wordings(wording: str) -> None:
    name = "ume-r1" if wording == "readme" else f"ume-r1-{wording}"
    processor = umekit.load(FIXTURE / "checkpoint", preset=name, device="cpu").processor
    text = processor.prepare("a cat", mode="generative").rendered
    space = " \n" if wording in ("readme", "training") else " "
    assert f"as embeddings.{space}First output" in text
    assert f"or sentence.{space}Finally, use" in text
    assert ("a cat \n<disc_emb>\nRepresent" if wording == "rl" else "a cat\n<disc_emb>\nRepresent") in text
    assert ("<|im_start|>user\na cat" in text) == (wording == "readme")


def test_the_blank_picture(encoder: umekit.Encoder, tmp_path: Path) -> None:
    """White, 28 x 28, before a text alone: one token in the cold start, four in evaluation and RL, none by default."""
    picture = Image.new("RGB", (28, 28), "white")
    for wording, grid in {
        "readme": None,
        "training": (1, 2, 2),
        "evaluation": (1, 4, 4),
        "rl": (1, 4, 4),
    }.items():
        settings = with_wording(encoder.processor.settings, wording)
        changes = {name: getattr(settings, name) for name in ("prompt", "blank_image", "budget")}
        processor = encoder.processor.with_settings(**changes)
        row = processor.prepare("a cat")
        assert [one.grid for one in row.images] == ([] if grid is None else [grid])
        with_media = processor.prepare({"image": picture, "text": "a cat"})
        assert len(with_media.images) == 1
        if grid is not None:
            assert row.input_ids.tolist() == with_media.input_ids.tolist()
            np.testing.assert_array_equal(row.images[0].values, with_media.images[0].values)
            assert processor.prepare({"instruction": "find", "text": "a cat"}).images
        processor.save_pretrained(tmp_path / wording)
        saved = json.loads((tmp_path / wording / "processor_config.json").read_text())["ume"]
        assert saved.get("blank_image") == (None if wording == "readme" else 28)
        again = AutoProcessor.from_pretrained(tmp_path / wording, trust_remote_code=True)
        assert again.prepare("a cat").input_ids.tolist() == row.input_ids.tolist()
    assert with_wording(encoder.processor.settings, "rl", blank_image=0).blank_image == 0
    with pytest.raises(ValueError, match="known are readme, training, evaluation, rl"):
        with_wording(encoder.processor.settings, "mteb")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as it was before the cold start: its tokenizer without the two tokens."""
    folder = tmp_path_factory.mktemp("ume_r1") / "backbone"
    shutil.copytree(FIXTURE / "checkpoint", folder, copy_function=shutil.copyfile)
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(_without(content, ("<gen_emb>", "<disc_emb>"))))
    return folder


def _without(content: Any, tokens: tuple[str, ...]) -> Any:
    def named(one: Any) -> bool:
        return (
            one in tokens if isinstance(one, str) else isinstance(one, dict) and one.get("content") in tokens
        )

    if isinstance(content, dict):
        return {k: _without(one, tokens) for k, one in content.items() if k not in tokens and not named(one)}
    return (
        [_without(one, tokens) for one in content if not named(one)] if isinstance(content, list) else content
    )


def test_a_backbone_without_the_tokens_gets_copies_of_rows(backbone: Path, tmp_path: Path) -> None:
    plain = AutoModelForImageTextToText.from_pretrained(backbone)
    opened = umekit.load(backbone, preset="ume-r1", device="cpu")
    tokenizer, model = opened.processor.tokenizer, opened.model.backbone
    assert tokenizer.convert_tokens_to_ids(["<gen_emb>", "<disc_emb>"]) == [656, 657]  # in this order
    assert "<gen_emb>" not in tokenizer.all_special_tokens
    assert opened.model.settings.tokens["gen_emb"] == 656
    for found, published in (
        (model.get_input_embeddings().weight, plain.get_input_embeddings().weight),
        (model.get_output_embeddings().weight, plain.get_output_embeddings().weight),
    ):
        expected = published.detach().clone()
        for new, old in ((656, "<|object_ref_end|>"), (657, "<|object_ref_start|>")):
            expected[new] = expected[tokenizer.convert_tokens_to_ids(old)]
        assert torch.equal(found, expected)  # as long as it was, too
    opened.model.save_pretrained(tmp_path)
    opened.processor.save_pretrained(tmp_path)
    again = umekit.load(tmp_path, device="cpu")
    _close(*(one.encode("a cat", max_new_tokens=4) for one in (again, opened)))


def test_an_adapter_over_copied_rows_records_them(backbone: Path, tmp_path: Path) -> None:
    opened = umekit.load(backbone, preset="ume-r1", device="cpu")
    add_lora(opened.model, rank=2, alpha=4, init_lora_weights=False)
    opened.model.eval()
    opened.model.save_pretrained(tmp_path)
    opened.processor.save_pretrained(tmp_path)
    rows = json.loads((tmp_path / "config.json").read_text())["ume"]["filled_rows"]
    assert {token: row[0] for token, row in rows.items()} == {"<gen_emb>": 656, "<disc_emb>": 657}
    again = umekit.load(tmp_path, device="cpu")
    _close(*(one.encode("a cat", max_new_tokens=4) for one in (again, opened)))


def test_a_matrix_without_spare_rows_is_not_resized(backbone: Path) -> None:
    model = umekit.load(backbone, preset="ume-r1", device="cpu").model
    length = model.get_input_embeddings().weight.shape[0]
    with pytest.raises(UmeSettingsError, match="must not grow"):
        model.fill_rows({"<new>": [length, 3]})
