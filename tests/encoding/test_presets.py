"""Published systems: every item of every fixture, by every door, and what ``compat="official"`` reproduces."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoProcessor

import umekit
import umekit.encoding.presets
from umekit.encoding.golden.folder import read_golden
from umekit.encoding.golden.items import Case, Golden
from umekit.encoding.presets import PRESETS, PresetError, differences_table, find_preset
from umekit.encoding.presets.u_marvel import U_MARVEL_COMPRESSION
from umekit.processing.items import ItemError
from umekit.trainers import add_lora

GOLDEN = Path(__file__).parent.parent / "golden"
SYSTEMS = {
    "rzenembed": "rzenembed",
    "umarvel_qwen2vl": "u-marvel",
    "umarvel_qwen3vl": "u-marvel-qwen3vl",
    "qwen3vl_embedding": "qwen3-vl-embedding",
    "lamra_ret": "lamra-ret",
    "vlm2vec_v2": "vlm2vec-v2",
}
# Official code cuts this one's end off, <|endoftext|> included; see the preset's differences.
OVER_LIMIT = "long_text_over_limit"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def load_system() -> Callable[..., umekit.Encoder]:
    """``load_system(name, compat)``: the fixture's checkpoint through its preset."""
    loaded: dict[Any, umekit.Encoder] = {}

    def get(name: str, compat: str | None = None) -> umekit.Encoder:
        if (name, compat) not in loaded:
            source = GOLDEN / name / "checkpoint"
            loaded[name, compat] = umekit.load(source, preset=SYSTEMS[name], compat=compat)
        return loaded[name, compat]

    return get


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a fixture's checkpoint after ``umekit.export``."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            out = tmp_path_factory.mktemp(name) / "exported"
            made[name] = umekit.export(GOLDEN / name / "checkpoint", out, preset=SYSTEMS[name])
        return made[name]

    return get


def sides(golden: Golden) -> dict[str | None, list[Case]]:
    """Cases by role, without those that official code cuts."""
    found: dict[str | None, list[Case]] = {}
    for case in golden.cases:
        if case.name != OVER_LIMIT:
            found.setdefault(case.role, []).append(case)
    return found


def assert_close(cases: list[Case], vectors: Any, golden: Golden) -> None:
    for case, vector in zip(cases, np.asarray(vectors), strict=True):
        limit = golden.loose.get(case.name, golden.tolerance)
        assert np.abs(vector - case.vector).max() <= limit, case.name


# ---- every item, by every door ------------------------------------------------------------------------------------


def test_ids_grids_pooled_positions_and_vectors_are_the_official_ones(system: str) -> None:
    result = umekit.verify(GOLDEN / system / "checkpoint", GOLDEN / system)
    assert [str(problem) for problem in result.problems] == []
    assert result.items == len(read_golden(GOLDEN / system).cases)
    assert len(result.notes) == (system == "rzenembed")  # the text that official code cuts


def test_rendered_prompts_are_the_official_ones(
    system: str, load_system: Callable[..., umekit.Encoder]
) -> None:
    golden = read_golden(GOLDEN / system)
    records = json.loads((GOLDEN / system / "manifest.json").read_text())["items"]
    processor = load_system(system).processor
    for case, record in zip(golden.cases, records, strict=True):
        if "prompt_text" in record:
            assert processor.prepare(case.item, role=case.role).rendered == record["prompt_text"]


def test_an_exported_folder_gives_the_same_without_a_preset(
    system: str, exported: Callable[[str], Path]
) -> None:
    folder = exported(system)
    assert umekit.verify(folder, GOLDEN / system).ok
    assert umekit.verify(folder).ok  # by the golden folder that it carries
    assert sum(file.stat().st_size for file in (folder / "golden").iterdir()) < 200_000


def test_the_same_through_auto_model(system: str, exported: Callable[[str], Path]) -> None:
    folder = exported(system)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    golden = read_golden(GOLDEN / system)
    for role, cases in sides(golden).items():
        vectors = model.encode([case.item for case in cases], processor=processor, role=role)
        assert_close(cases, vectors, golden)


def test_the_same_through_sentence_transformers(system: str, exported: Callable[[str], Path]) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(exported(system)), trust_remote_code=True, device="cpu")
    golden = read_golden(GOLDEN / system)
    doors = {None: model.encode, "query": model.encode_query, "document": model.encode_document}
    stock = "UmeTransformer" not in type(model[0]).__name__
    for role, cases in sides(golden).items():
        assert_close(cases, doors[role]([chat(c.item) if stock else c.item for c in cases]), golden)


def test_qwen3_vl_embedding_needs_no_remote_code(exported: Callable[[str], Path]) -> None:
    pytest.importorskip("torchvision")  # the stock processor has a video part that needs it
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(exported("qwen3vl_embedding")), device="cpu")
    golden = read_golden(GOLDEN / "qwen3vl_embedding")
    cases = [case for case in golden.cases if "video" not in case.item]  # stock videos need torchvision
    for case in cases:
        assert_close([case], model.encode([chat(case.item)]), golden)


def chat(item: dict[str, Any]) -> list[dict[str, Any]]:
    """An item as chat messages, which stock sentence-transformers takes."""
    content: list[dict[str, Any]] = []
    for key, value in item.items():
        if key == "images":
            content += [{"type": "image", "image": one} for one in value]
        elif key != "instruction":
            content.append({"type": key, key: value})
    turns = [{"role": "user", "content": content or [{"type": "text", "text": ""}]}]
    if "instruction" in item:
        system = {"role": "system", "content": [{"type": "text", "text": item["instruction"]}]}
        return [system, *turns]
    return turns


def test_padding_side_and_order_do_not_change_vectors(
    system: str, load_system: Callable[..., umekit.Encoder]
) -> None:
    encoder = load_system(system)
    golden = read_golden(GOLDEN / system)
    cases = [case for case in golden.cases if case.length < 500][::-1]
    rows = [encoder.processor.prepare(case.item, role=case.role) for case in cases]
    for side in ("left", "right"):
        batch = encoder.processor.collate(rows, padding_side=side)
        assert_close(cases, encoder.model(**batch).embeddings.detach(), golden)


# ---- what official code gets wrong ----------------------------------------------------------------------------------


def test_u_marvel_is_causal_without_padding_in_official_mode(
    load_system: Callable[..., umekit.Encoder],
) -> None:
    encoder = load_system("umarvel_qwen2vl", "official")
    alone = read_golden(GOLDEN / "umarvel_qwen2vl", "alone_sdpa")
    for case in alone.cases:
        assert_close([case], encoder.encode([case.item], role=case.role), alone)
    batched = read_golden(GOLDEN / "umarvel_qwen2vl", "batch_sdpa")
    for role in ("query", "document"):
        cases = [case for case in batched.cases if case.role == role]
        # One padded batch: the encoder would cut it where that saves padding, and here the cut shows.
        batch = encoder.processor.encode_items([case.item for case in cases], role=role)
        with torch.inference_mode():
            vectors = encoder.model(**batch).embeddings.numpy()
        assert_close(cases, vectors, batched)


def test_u_marvel_compression_prompt(load_system: Callable[..., umekit.Encoder]) -> None:
    encoder = load_system("umarvel_qwen2vl")
    model, processor = U_MARVEL_COMPRESSION.put_on(encoder.model, encoder.processor)
    other = umekit.Encoder(model, processor)
    golden = read_golden(GOLDEN / "umarvel_qwen2vl", "compression_prompt_alone_eager")
    records = json.loads((GOLDEN / "umarvel_qwen2vl" / "manifest.json").read_text())["items"]
    for case, record in zip(golden.cases, records, strict=False):
        ids = processor.prepare(case.item, role=case.role).input_ids.tolist()
        assert ids == record["compression_prompt_input_ids"], case.name
        assert_close([case], other.encode([case.item], role=case.role), golden)


def test_an_adapter_under_another_prompt_brings_its_filled_rows(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    encoder = umekit.load(GOLDEN / "umarvel_qwen2vl" / "checkpoint", preset="u-marvel", device="cpu")
    model, processor = U_MARVEL_COMPRESSION.put_on(encoder.model, encoder.processor)
    assert model.filled_rows
    add_lora(model, rank=2, alpha=8, dropout=0.0, init_lora_weights=False)
    item = {"text": "a kitten", "instruction": "Find it."}
    wanted = umekit.Encoder(model.eval(), processor).encode([item], role="query")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    np.testing.assert_allclose(
        umekit.load(tmp_path, device="cpu").encode([item], role="query"), wanted, atol=1e-5
    )


def test_rzenembed_official_truncation(load_system: Callable[..., umekit.Encoder]) -> None:
    golden = read_golden(GOLDEN / "rzenembed")
    case = next(case for case in golden.cases if case.name == OVER_LIMIT)
    official = load_system("rzenembed", "official")
    assert tuple(official.processor.prepare(case.item).input_ids) == case.input_ids
    assert_close([case], official.encode([case.item]), golden)
    ours = load_system("rzenembed").processor.prepare(case.item)
    assert ours.length <= 2000
    assert ours.rendered.endswith("<|endoftext|>")


def test_rzenembed_official_budget_of_a_whole_call(load_system: Callable[..., umekit.Encoder]) -> None:
    golden = read_golden(GOLDEN / "rzenembed", "batch_mixed")
    items = [case.item for case in golden.cases]
    assert_close(golden.cases, load_system("rzenembed", "official").encode(items), golden)


def test_rzenembed_a_video_is_a_list_of_pictures(load_system: Callable[..., umekit.Encoder]) -> None:
    encoder = load_system("rzenembed")
    golden = read_golden(GOLDEN / "rzenembed")
    case = next(case for case in golden.cases if case.name == "video_frames")
    item = {"video": case.item["images"], "instruction": case.item["instruction"]}
    assert_close([case], encoder.encode([item]), golden)


def test_qwen3_vl_embedding_official_truncation(load_system: Callable[..., umekit.Encoder]) -> None:
    folder = GOLDEN / "qwen3vl_embedding"
    wanted = json.loads((folder / "manifest.json").read_text())["long_text_max_length_200"]["input_ids"]
    vector = np.load(folder / "vectors.npz")["long_text_max_length_200"][0]
    item = read_golden(folder).cases[-1].item
    official = load_system("qwen3vl_embedding", "official")
    short = umekit.Encoder(official.model, official.processor.with_max_length(200))
    assert short.processor.prepare(item).input_ids.tolist() == wanted
    assert np.abs(short.encode([item])[0] - vector).max() <= 1e-5
    ours = load_system("qwen3vl_embedding").processor.with_max_length(200).prepare(item)
    assert ours.length <= 200
    assert ours.rendered.endswith("<|im_start|>assistant\n")


def test_lamra_demo_with_true_positions(load_system: Callable[..., umekit.Encoder]) -> None:
    encoder = load_system("lamra_ret")
    golden = read_golden(GOLDEN / "lamra_ret", "demo_alone_transformers_4471_first_call")
    before = encoder.model.settings
    try:
        encoder.model.settings = replace(before, positions="mrope")
        for case in golden.cases:
            assert_close([case], encoder.encode([case.item], role=case.role), golden)
    finally:
        encoder.model.settings = before


@pytest.mark.parametrize("array", ["batch", "batch_all", "alone_first_call", "batch_first_call"])
def test_vlm2vec_arrays_agree(array: str, load_system: Callable[..., umekit.Encoder]) -> None:
    golden = read_golden(GOLDEN / "vlm2vec_v2", array)
    assert_close(golden.cases, load_system("vlm2vec_v2").encode([c.item for c in golden.cases]), golden)


# ---- rules of single systems ----------------------------------------------------------------------------------------


def test_vlm2vec_takes_texts_with_or_without_placeholders(load_system: Callable[..., umekit.Encoder]) -> None:
    processor = load_system("vlm2vec_v2").processor
    image = str(GOLDEN / "vlm2vec_v2" / "inputs" / "photo.png")
    plain = processor.prepare({"image": image, "text": "Represent it."})
    assert plain.rendered == "<|image_pad|> Represent it."
    marked = processor.prepare({"image": image, "text": "<|image_pad|> Represent it."})
    assert marked.input_ids.tolist() == plain.input_ids.tolist()
    apart = processor.prepare({"image": image, "text": "it.", "instruction": "Represent"})
    assert apart.input_ids.tolist() == plain.input_ids.tolist()
    # One more placeholder than pictures is text like any other.
    typed = processor.prepare({"image": image, "text": "<|image_pad|><|image_pad|> x"})
    assert (typed.input_ids == processor.image_token_id).sum() == (plain.token_types == 1).sum()


def test_u_marvel_sentence_form(load_system: Callable[..., umekit.Encoder]) -> None:
    processor = load_system("umarvel_qwen2vl").processor

    def user_turn(item: Any) -> str:
        return processor.prepare(item).rendered.split("user\n")[1].split("<|im_end|>")[0]

    assert user_turn(' "quoted"\r\n') == "Quoted."
    assert user_turn("why?") == "Why?"
    assert user_turn("") == ""
    assert user_turn("ends with <") == "Ends with <."
    start, end = "<instruction_start>", "<instruction_end>"
    assert user_turn({"text": "x", "instruction": "find it"}) == f"{start}Find it.{end} x."
    # What a user types is data: no token, no span.
    row = processor.prepare(f"typed {start} a {end} b")
    assert row.slots.all()


def test_qwen3_vl_embedding_instruction_and_empty_input(load_system: Callable[..., umekit.Encoder]) -> None:
    processor = load_system("qwen3vl_embedding").processor

    def turns(item: Any) -> list[str]:
        text = processor.prepare(item).rendered
        return [turn.split("\n", 1)[1].split("<|im_end|>")[0] for turn in text.split("<|im_start|>")[1:3]]

    assert turns("a") == ["Represent the user's input.", "a"]
    assert turns({"text": "a", "instruction": " find "}) == ["find.", "a"]
    for mark in ("?", "。", "」", "'", "\\"):
        assert turns({"text": "a", "instruction": f"find{mark}"})[0] == f"find{mark}"
    for sign in ("$", "+", "<", "a"):
        assert turns({"text": "a", "instruction": f"find{sign}"})[0] == f"find{sign}."
    assert turns({"text": ""})[1] == turns({})[1] == "NULL"


def test_media_limits_are_never_met_by_cutting_a_picture(load_system: Callable[..., umekit.Encoder]) -> None:
    image = str(GOLDEN / "umarvel_qwen2vl" / "inputs" / "large.png")
    official = load_system("rzenembed", "official").processor.with_max_length(100)
    with pytest.raises(ItemError, match="cut would go through a picture"):
        official.prepare({"image": image})


def format_string(text: str) -> str:
    """Sentence form, as the specification words it."""
    text = text.replace("\r", "").strip().strip('"')
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


ANY_TEXT = st.text(st.sampled_from(list("ab Zß.?!\"\r\n\t<>|'\\{}%#é猫\u00a0\u3000。")), max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANY_TEXT, ANY_TEXT)
def test_sentence_form_of_any_text(
    load_system: Callable[..., umekit.Encoder], text: str, instruction: str
) -> None:
    answer = "<|im_end|>\n<|im_start|>assistant\n<emb>.<|im_end|>\n<|im_start|>assistant\n"
    processor = load_system("umarvel_qwen3vl").processor
    rendered = processor.prepare({"text": text}).rendered
    assert rendered == f"<|im_start|>user\n{format_string(text)}{answer}"
    if instruction:
        rendered = processor.prepare({"text": text, "instruction": instruction}).rendered
        wrapped = f"<instruction_start>{format_string(instruction)}<instruction_end> {text}"
        assert rendered == f"<|im_start|>user\n{format_string(wrapped)}{answer}"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=6))
def test_punctuation_of_any_instruction(load_system: Callable[..., umekit.Encoder], instruction: str) -> None:
    wanted = (instruction or "Represent the user's input.").strip()
    if wanted and not unicodedata.category(wanted[-1]).startswith("P"):
        wanted += "."
    row = load_system("qwen3vl_embedding").processor.prepare({"text": "a", "instruction": instruction})
    assert row.rendered.startswith(f"<|im_start|>system\n{wanted}<|im_end|>\n")


# ---- finding and refusing -------------------------------------------------------------------------------------------


def test_the_readme_has_the_table_of_differences() -> None:
    folder = Path(umekit.encoding.presets.__file__).parent
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert differences_table() in text
    for preset in PRESETS.values():
        row = next(
            line for line in text.splitlines() if line.startswith(f"| `{preset.name}` | {preset.families[0]}")
        )
        repositories = ", ".join(preset.repos) or f'none by name: give `preset="{preset.name}"`'
        assert row.endswith(f"| {preset.model.kind} | {repositories} |")


def test_presets_are_found_by_repository() -> None:
    for preset in PRESETS.values():
        assert preset.sources, f"{preset.name} does not say where its settings are from"
        for repo in preset.repos:
            assert find_preset(repo) is preset
            cached = f"/cache/hub/models--{repo.replace('/', '--')}/snapshots/0123abcd"
            assert find_preset(cached.lower()) is preset
    assert find_preset("someone/else") is None
    assert find_preset("some/folder/rzenembed") is None


def test_a_copy_is_found_by_the_name_in_its_config(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(GOLDEN / "rzenembed" / "checkpoint", copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "_name_or_path": "qihoo360/RzenEmbed"}))
    assert umekit.load(copy).model.settings.positions == "1d"


def test_settings_survive_a_save(system: str, exported: Callable[[str], Path]) -> None:
    published = umekit.load(GOLDEN / system / "checkpoint", preset=SYSTEMS[system])
    saved = umekit.load(exported(system))
    assert saved.processor.settings == published.processor.settings
    assert saved.model.settings == published.model.settings
    assert saved.processor.chat_template == published.processor.chat_template
    changed = saved.processor.with_settings(max_length=77)
    assert changed.chat_template == published.processor.chat_template


def test_a_preset_on_a_checkpoint_with_settings_warns_and_replaces(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    folder = tiny_checkpoint("qwen2_vl")
    with pytest.warns(UserWarning, match="settings of its own"):
        encoder = umekit.load(folder, preset="rzenembed")
    assert encoder.model.settings.positions == "1d"


def test_what_cannot_be_is_refused(
    tiny_backbone: Callable[[str], Path], tiny_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(PresetError, match="known are"):
        umekit.load(tiny_backbone("qwen2_vl"), preset="nonsense")
    with pytest.raises(PresetError, match="is for qwen3_vl"):
        umekit.load(tiny_backbone("qwen2_vl"), preset="qwen3-vl-embedding")
    with pytest.raises(PresetError, match="name one"):
        umekit.load(tiny_backbone("qwen2_vl"), compat="official")
    with pytest.raises(PresetError, match="use None or 'official'"):
        umekit.load(GOLDEN / "rzenembed" / "checkpoint", preset="rzenembed", compat="strict")
