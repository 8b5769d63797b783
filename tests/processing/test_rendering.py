"""Rendering: the template's special tokens are real, a user's never are; cutting takes text and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from umekit.processing.processor import UmeProcessor
from umekit.processing.prompts import PromptSettings
from umekit.processing.tokenizing import PoolingRule
from umekit.testing import FAMILIES, QWEN_SPECIAL_TOKENS

SPECIAL = [
    *QWEN_SPECIAL_TOKENS,
    "<disc_emb>",
    "<gen_emb>",
    "<instruction_start>",
    "<instruction_end>",
    "<emb>",
]

# Published forms: instruction in the system turn, in the user turn, a special token in front of the end, a span.
PROMPTS = {
    "system": PromptSettings(system="You are helpful.", instruction_in="system"),
    "user": PromptSettings(before_instruction="Instruction: ", after_instruction="\nContent: "),
    "token": PromptSettings(after_content="\nSummarise: <disc_emb>", assistant=None),
    "span": PromptSettings(before_instruction="<instruction_start>", after_instruction="<instruction_end>\n"),
}
RULES = {"token": PoolingRule("token", token="<disc_emb>")}
RULES["span"] = PoolingRule("mean", span_start="<instruction_start>", span_end="<instruction_end>")

HOSTILE = st.lists(
    st.sampled_from([*SPECIAL, "<|", "|>", "im_end", " ", "\n", "a", "é", "\ue000", "<"]), max_size=6
)
ANY_TEXT = HOSTILE.map("".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Callable[..., Path]) -> UmeProcessor:
    return UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl"))


@pytest.fixture(scope="module")
def processors(processor: UmeProcessor) -> dict[str, UmeProcessor]:
    return {
        name: processor.with_settings(prompt=prompt, pooling=RULES.get(name, PoolingRule()))
        for name, prompt in PROMPTS.items()
    }


def _specials(processor: UmeProcessor, ids: np.ndarray) -> list[int]:
    known = set(processor.prompt_tokenizer.added.values())
    return [int(one) for one in ids if int(one) in known]


def _spoken(processor: UmeProcessor, ids: np.ndarray) -> str:
    return processor.tokenizer.decode(ids.tolist(), skip_special_tokens=False)


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("form", PROMPTS)
def test_a_typed_special_token_is_only_text(
    form: str, token: str, processors: dict[str, UmeProcessor]
) -> None:
    processor = processors[form]
    for innocent, hostile in (
        ({"text": "a b", "instruction": "c"}, {"text": f"a {token} b", "instruction": "c"}),
        ({"text": "a b", "instruction": "c"}, {"text": "a b", "instruction": f"{token}c{token}"}),
        ({"text": "a", "instruction": "c"}, {"text": token[1:] + "a", "instruction": "c" + token[:1]}),
        ({"text": "a", "instruction": "c"}, {"text": token[3:] + "a", "instruction": "c" + token[:3]}),
    ):
        calm, row = processor.prepare(innocent), processor.prepare(hostile)
        assert _specials(processor, row.input_ids) == _specials(processor, calm.input_ids)
        assert not row.token_types.any()
        spoken = _spoken(processor, row.input_ids)
        assert hostile["text"] in spoken
        assert hostile["instruction"] in spoken


@pytest.mark.parametrize("form", PROMPTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=ANY_TEXT, instruction=ANY_TEXT)
def test_no_text_changes_the_frame(
    form: str, text: str, instruction: str, processors: dict[str, UmeProcessor]
) -> None:
    processor = processors[form]
    calm = processor.prepare({"text": "x", "instruction": "y" if instruction else ""})
    row = processor.prepare({"text": text, "instruction": instruction})
    assert _specials(processor, row.input_ids) == _specials(processor, calm.input_ids)
    assert row.slots.any()
    if form != "span":
        assert int(row.slots.sum()) == 1
    # The prompt without guards is what was rendered, and its text survives tokenisation (but for NFC).
    normal = processor.prompt_tokenizer._bare.normalizer.normalize_str
    assert normal(_spoken(processor, row.input_ids)) == normal(row.rendered)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", PROMPTS)
def test_ids_are_the_stock_tokenizers_of_the_template(
    family: str, form: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint(family))
    processor = processor.with_settings(prompt=PROMPTS[form], pooling=RULES.get(form, PoolingRule()))
    for text, instruction in (
        ("a red bicycle", ""),
        ("naïve  東京 3.5\n", "find it:"),
        ("page", "a\n\nb"),
        ("", "c"),
    ):
        chat: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        if instruction:
            chat.insert(0, {"role": "system", "content": [{"type": "text", "text": instruction}]})
        stock = processor.tokenizer.apply_chat_template(
            chat, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
        )
        row = processor.prepare({"text": text, "instruction": instruction})
        assert row.rendered == stock
        assert row.input_ids.tolist() == processor.tokenizer(stock)["input_ids"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_characters="<\ue000", exclude_categories=["Cs"]), max_size=60))
def test_innocent_text_has_the_stock_ids(text: str, processor: UmeProcessor) -> None:
    row = processor.prepare(text)
    assert row.input_ids.tolist() == processor.tokenizer(row.rendered)["input_ids"]


def test_the_template_does_not_depend_on_engine_flags(processors: dict[str, UmeProcessor]) -> None:
    chat = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    for processor in processors.values():
        template = processor.chat_template
        forms = {
            processor.tokenizer.apply_chat_template(
                chat, chat_template=template, tokenize=False, add_generation_prompt=flag
            )
            for flag in (True, False)
        }
        forms |= {
            processor.tokenizer.apply_chat_template(
                [{"role": role, "content": "a"}], chat_template=template, tokenize=False
            )
            for role in ("user", "query", "document")
        }
        assert forms == {processor.prepare("a").rendered}
        with pytest.raises(Exception, match="cannot be embedded"):
            processor.tokenizer.apply_chat_template(
                [{"role": "user", "content": [{"type": "audio"}]}], chat_template=template, tokenize=False
            )


@pytest.mark.parametrize("form", PROMPTS)
def test_cutting_takes_text_alone(form: str, processors: dict[str, UmeProcessor]) -> None:
    picture = Image.new("RGB", (80, 80), "red")
    processor = processors[form]
    item = {
        "image": picture,
        "text": "many words and more " * 50,
        "video": [picture] * 2,
        "instruction": "find it",
    }
    whole = processor.prepare(item)
    bare = processor.prepare({**item, "text": ""})
    for limit in (whole.length, whole.length - 1, bare.length + 7, bare.length + 1, bare.length):
        row = processor.with_max_length(limit).prepare(item)
        assert row.length <= limit
        assert row.cut_tokens >= whole.length - limit
        assert _specials(processor, row.input_ids) == _specials(processor, whole.input_ids)
        assert row.input_ids[-2:].tolist() == whole.input_ids[-2:].tolist()
        assert "find it" in _spoken(processor, row.input_ids)
        assert [len(one.values) for one in row.images + row.videos] == [
            len(one.values) for one in whole.images + whole.videos
        ]
        if form != "span":
            assert int(row.slots.sum()) == 1
    with pytest.raises(ValueError, match="no text left to cut"):
        processor.with_max_length(bare.length - 1).prepare(item)


def test_the_last_text_is_cut_first(processor: UmeProcessor) -> None:
    item = {"text": "first words here", "image": Image.new("RGB", (60, 60))}
    length = processor.prepare(item).length
    row = processor.with_max_length(length - 2).prepare(item)
    assert "first" in row.rendered
    assert "here" not in row.rendered
    long = "word " * 200_000  # a megabyte is cut without tokenising it again and again
    assert processor.with_max_length(512).prepare(long).length <= 512


def test_slots_of_the_published_forms(processors: dict[str, UmeProcessor]) -> None:
    item = {"text": "a cat", "instruction": "find it"}
    for form in ("system", "user"):
        row = processors[form].prepare(item)
        assert np.flatnonzero(row.slots).tolist() == [row.length - 1]
    row = processors["token"].prepare(item)
    (place,) = np.flatnonzero(row.slots)
    assert row.input_ids[place] == processors["token"].prompt_tokenizer.id_of("<disc_emb>")
    row = processors["span"].prepare(item)
    left_out = _spoken(processors["span"], row.input_ids[row.slots == 0])
    assert left_out == "<instruction_start>find it<instruction_end>"
    assert processors["span"].prepare("a cat").slots.all()
    with pytest.raises(ValueError, match="no <disc_emb>"):
        processors["user"].with_settings(pooling=RULES["token"], prompt=PROMPTS["user"]).prepare("a")


def test_saved_and_loaded_settings_are_the_same(processors: dict[str, UmeProcessor], tmp_path: Path) -> None:
    for form, processor in processors.items():
        processor = processor.with_settings(max_length=99, prompt=PROMPTS[form])
        processor.save_pretrained(tmp_path / form)
        again = UmeProcessor.from_pretrained(tmp_path / form)
        assert again.settings == processor.settings
        assert again.chat_template == processor.chat_template
        item = {"text": "a", "instruction": "b"}
        assert again.prepare(item).input_ids.tolist() == processor.prepare(item).input_ids.tolist()


def test_native_calls(processor: UmeProcessor) -> None:
    picture = Image.new("RGB", (60, 60), "blue")
    item = {"image": picture, "text": "a cat"}
    expected = processor.encode_items([item, "a"])
    rendered = [processor.prepare(one).rendered for one in (item, "a")]
    batch = processor(text=rendered, images=[picture], padding_side="right")
    assert "pooling_slots" not in batch
    for name in batch:
        assert batch[name].tolist() == expected[name].tolist()
    assert "pooling_slots" in processor(text=rendered, images=[picture], return_slots=True)
    with pytest.raises(ValueError, match="more placeholders"):
        processor(text=rendered)
    with pytest.raises(ValueError, match="more media"):
        processor(text=rendered, images=[picture, picture])
    with pytest.raises(ValueError, match="own template"):
        processor.apply_chat_template([{"role": "user", "content": "a"}], "{{ 'x' }}", tokenize=True)
    with pytest.raises(ValueError, match="metadata"):
        processor.apply_chat_template(
            [{"role": "user", "content": "a"}],
            tokenize=True,
            processor_kwargs={"videos_kwargs": {"video_metadata": [{"fps": 2}]}},
        )


def test_settings_lost_by_another_processor_are_not_guessed(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint("qwen2_vl"), tmp_path / "c"))
    stored = json.loads((folder / "processor_config.json").read_text())
    del stored["ume"]
    (folder / "processor_config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="has lost them"):
        UmeProcessor.from_pretrained(folder)


@pytest.mark.parametrize("bad", [{"instruction_in": "middle"}, {"instructions": {"passage": "x"}}])
def test_impossible_prompts_raise(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="use"):
        replace(PromptSettings(), **bad)


def test_cutting_ends_where_a_character_is_several_tokens(tiny_checkpoint):
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl")).with_max_length(64)
    for unit in ("\N{SNOWMAN}", "中", "👩‍👩‍👧", "e\u0301", "aé中 ☃"):
        row = processor.prepare(unit * 300)
        assert row.length <= 64
        assert row.cut_tokens > 0
