"""ume-tiny from nothing: its tokenizer, its random weights, its processor.

Qwen2-VL's architecture at about 3.3 million parameters. The vocabulary reserves rows from the start for everything
that later training stages need (embedding, thought and action tokens, instruction marks), so that no stage ever has
to resize it; positions (``p1``), digits, colours and ``Yes``/``No`` are single tokens.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, PreTrainedTokenizerFast

from umekit.evaluation.digit_world import COLOURS, POSITIONS, all_texts
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.modeling.settings import UmeSettings
from umekit.processing.processor import UmeProcessor
from umekit.processing.prompts import PromptSettings
from umekit.processing.settings import ProcessorSettings
from umekit.processing.video import Sampling
from umekit.processing.vision import PixelBudget
from umekit.testing import train_tokenizer

RESERVED = (
    "<disc_emb>",
    "<gen_emb>",
    "<direct>",
    "<reason>",
    "<instruction_start>",
    "<instruction_end>",
    "<emb>",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
)
VOCABULARY = 1024
TOKEN_PIXELS = 28 * 28

# A letter with a number (p3, h5) is one word; other digits stand alone.
PATTERN = r" ?[a-z]\d(?![\p{L}\d])| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE on DigitWorld's texts; any other text falls back to bytes."""
    corpus = [*all_texts(20_000), *(["Yes", "No", " Yes", " No", "user", "assistant", "system", "\n"] * 100)]
    tokenizer = train_tokenizer(corpus, 900, RESERVED, PATTERN)
    if len(tokenizer) > VOCABULARY:
        raise ValueError(f"the vocabulary has {len(tokenizer)} entries, more than {VOCABULARY}")
    single = [*POSITIONS, *COLOURS, *"0123456789", "Yes", "No"]
    for word in [*single, *(f" {word}" for word in single)]:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(f"{word!r} is {len(ids)} tokens, it must be one")
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> UmeForDiscriminativeEmbedding:
    """Random weights: hidden 192, five text layers, a vision tower of three layers of width 128."""
    ids = tokenizer.convert_tokens_to_ids
    rope: dict[str, Any] = {"type": "mrope", "rope_type": "default", "mrope_section": [4, 6, 6]}
    config = AutoConfig.for_model(
        "qwen2_vl",
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_scaling": rope,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 3,
            "embed_dim": 128,
            "num_heads": 4,
            "hidden_size": 192,
            "mlp_ratio": 4,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
        },
        tie_word_embeddings=True,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(seed)
    backbone = AutoModelForImageTextToText.from_config(config)
    tokens = {name.strip("<>/") + ("_end" if "/" in name else ""): ids(name) for name in RESERVED}
    tokens |= {"yes": ids("Yes"), "no": ids("No")}
    return UmeForDiscriminativeEmbedding(backbone.config, backbone, UmeSettings(tokens=tokens))


def build_processor(tokenizer: PreTrainedTokenizerFast) -> UmeProcessor:
    """At most 20 visual tokens a picture: a page of DigitWorld at its own size."""
    half = [0.5, 0.5, 0.5]
    vision = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": TOKEN_PIXELS, "longest_edge": 20 * TOKEN_PIXELS},
        "image_mean": half,
        "image_std": half,
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(vision), encoding="utf-8")
        image_processor = AutoImageProcessor.from_pretrained(folder)
    settings = ProcessorSettings(
        family="qwen2_vl",
        # The direct embedding is the last token of the prompt; a thought, if any, goes on from there.
        prompt=PromptSettings(assistant="<disc_emb>"),
        budget=PixelBudget(
            image=(TOKEN_PIXELS, 20 * TOKEN_PIXELS),
            frame=(TOKEN_PIXELS, 20 * TOKEN_PIXELS),
            video=(TOKEN_PIXELS, 320 * TOKEN_PIXELS),
        ),
        sampling=Sampling(fps=2.0, min_frames=4, max_frames=16),
        max_length=2048,
    )
    return UmeProcessor(image_processor, tokenizer, settings=settings)
