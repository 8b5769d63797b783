"""Thoughts of rows as completions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from umekit.processing.processor import UmeProcessor
from umekit.processing.thoughts import thought_and_answer
from umekit.trainers.thoughts import ThoughtCollator, completion


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Callable[..., Path]) -> UmeProcessor:
    return UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl", role="generative"))


@pytest.mark.parametrize(
    ("thought", "answer", "expected"),
    [
        ("it is", "a cat", ("it is", "a cat")),
        ("<think>it is</think><answer>a cat", None, ("it is", "a cat")),
        ("<think>it is</think>\n<answer>a cat</answer><gen_emb>\n", "another", ("it is", "a cat")),
        ("<think>it is</think>", "a cat", ("it is", "a cat")),
        ("", "", ("", "")),
    ],
)
def test_both_apart_or_one_text(thought: str, answer: str | None, expected: tuple[str, str]) -> None:
    assert thought_and_answer(thought, answer) == expected


@pytest.mark.parametrize(
    "thought", ["it is", "<think>it is", "<think>it is</think> so", "<think>it is</think>"]
)
def test_another_form_is_refused(thought: str) -> None:
    with pytest.raises(ValueError, match="thought"):
        thought_and_answer(thought)


def test_tokens_in_a_thought_stay_text(processor: UmeProcessor) -> None:
    tokenizer = processor.prompt_tokenizer
    written, end = completion(tokenizer, "a <gen_emb> and <|im_end|>", "<|image_pad|>")
    assert written.count(tokenizer.id_of("<gen_emb>")) == 1
    assert written[-1] == tokenizer.id_of("<gen_emb>")
    assert tokenizer.id_of("<|im_end|>") not in written
    assert processor.image_token_id not in written
    assert end == processor.tokenizer("<|im_end|>\n").input_ids


def test_the_slot_is_before_the_turns_end(processor: UmeProcessor) -> None:
    row = {"query": "find", "positive": "it", "query_thought": "so", "answer": "a", "positive_thought": "b"}
    collator = ThoughtCollator(processor, mode="generative")
    batch = collator([{**row, "positive_answer": "c"}])["batch"]
    for item in batch.items:
        place = item.slots.tolist().index(2)
        end = item.input_ids[place + 1 :].tolist()
        assert end == processor.tokenizer("<|im_end|>\n").input_ids
        prompt = processor.tokenizer.decode(item.input_ids[: -item.completion])
        assert prompt.endswith("<|im_start|>assistant\n")
    with pytest.raises(ValueError, match="without its answer"):
        collator([row])


@pytest.mark.parametrize("per_chunk", [False, True])
def test_a_thought_over_the_limit_is_a_bad_row(processor: UmeProcessor, per_chunk: bool) -> None:
    side = {"image": Image.new("RGB", (56, 56))}
    thoughts = {
        f"{role}_{part}": "so " * 30 for role in ("query", "positive") for part in ("thought", "answer")
    }
    row = {"query": side, "positive": side, **thoughts, "answer": "a"}
    short = processor.with_max_length(80)
    collator = ThoughtCollator(short, mode="generative", media_per_chunk=per_chunk, skip_bad_rows=True)
    (bad,) = collator([row])["batch"].bad_rows
    assert "the limit is 80" in bad.reason


def test_a_tokenizer_without_the_token(tiny_checkpoint: Callable[..., Path]) -> None:
    processor = UmeProcessor.from_pretrained(tiny_checkpoint("qwen2_vl"))
    del processor.prompt_tokenizer.added["<gen_emb>"]
    with pytest.raises(ValueError, match="has no token <gen_emb>"):
        ThoughtCollator(processor)
