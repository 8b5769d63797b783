"""Tiny random checkpoints for tests, of every backbone family and in the published layout.

For the tests of umekit and of those who build on it: a few hundred kilobytes, made in a second, no download.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from .encoding.presets import qwen3_vl_reranker
from .modeling.adaptive import UmeForAdaptiveEmbedding
from .modeling.discriminative import UmeForDiscriminativeEmbedding
from .modeling.generative import UmeForGenerativeEmbedding
from .modeling.reranker import UmeForReranking
from .modeling.settings import UmeSettings
from .processing.processor import UmeProcessor
from .processing.prompts import PromptSettings
from .processing.tokenizing import PoolingRule

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")

QWEN_SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen2's pre-tokenisation: words with their leading space, digits one by one.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(
    texts: Sequence[str],
    vocab_size: int,
    extra_tokens: Sequence[str] = (),
    pattern: str = QWEN_PATTERN,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens.

    Args:
        texts: training corpus.
        vocab_size: ordinary entries, before special tokens.
        extra_tokens: more special tokens, appended after Qwen's.
        pattern: pre-tokenisation regex.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[*QWEN_SPECIAL_TOKENS[1:], *extra_tokens],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )


def tiny_config(family: str, tokenizer: Any, hidden: int = 64, layers: int = 2) -> Any:
    """Config of a random backbone: ``layers`` text layers of width ``hidden``, a vision tower of two layers."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    common: dict[str, Any] = {
        "vocab_size": (len(tokenizer) + 63) // 64 * 64,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    tower: dict[str, Any] = {"depth": 2, "num_heads": 2, "temporal_patch_size": 2, "spatial_merge_size": 2}
    half = hidden // 4 // 2
    sections = [half - 2 * (half // 3), half // 3, half // 3]
    if family == "qwen2_vl":
        tower |= {"embed_dim": 32, "hidden_size": hidden, "mlp_ratio": 2, "patch_size": 14}
        common["rope_scaling"] = {"type": "mrope", "rope_type": "default", "mrope_section": sections}
    elif family == "qwen2_5_vl":
        tower |= {"hidden_size": 32, "out_hidden_size": hidden, "intermediate_size": 64, "patch_size": 14}
        tower |= {"fullatt_block_indexes": [1], "window_size": 56}
        common["rope_scaling"] = {"type": "mrope", "rope_type": "default", "mrope_section": sections}
    else:
        tower |= {"hidden_size": 32, "out_hidden_size": hidden, "intermediate_size": 64, "patch_size": 16}
        tower |= {"num_position_embeddings": 256}
        common["head_dim"] = hidden // 4
        common["rope_parameters"] = {
            "rope_type": "default",
            "mrope_interleaved": True,
            "mrope_section": sections,
        }
        common["rope_parameters"]["rope_theta"] = 1e6
        if family == "qwen3_vl":
            tower["deepstack_visual_indexes"] = [0, 1]
        else:
            common["layer_types"] = ["linear_attention", "full_attention"] * (layers // 2)
            common |= {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
            common |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
            common["rope_parameters"]["partial_rotary_factor"] = 1.0
    return AutoConfig.for_model(
        family,
        text_config=common,
        vision_config=tower,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=False,
    )


def save_tiny_backbone(folder: Path, family: str = "qwen2_vl", *, hidden: int = 64, layers: int = 2) -> Path:
    """Save a random backbone with tokenizer and image processor, as a published checkpoint would be."""
    words = (
        "the a of and to in is it that compare picture text video page user assistant system seconds query"
    )
    extra = [
        "<disc_emb>",
        "<gen_emb>",
        "<instruction_start>",
        "<instruction_end>",
        "<emb>",
        "<direct>",
        "<reason>",
    ]
    tokenizer = train_tokenizer([words] * 4, 400, extra)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(tiny_config(family, tokenizer, hidden, layers))
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patch = model.config.vision_config.patch_size
    image_processor = AutoImageProcessor.from_pretrained(_image_processor_config(folder, patch))
    image_processor.save_pretrained(folder)
    return folder


def save_tiny_checkpoint(folder: Path, backbone: Path, role: Any = "discriminative", **settings: Any) -> Path:
    """Save a checkpoint with our settings and processor from a backbone's folder.

    With ``role="generative"`` it has UME-R1's form: ``<disc_emb>`` in the user turn, then a request to think that
    quotes ``<gen_emb>``; its thoughts are at most 12 tokens of random text. ``role="adaptive"`` is the same with the
    tokens ``<direct>`` and ``<reason>``.
    """
    processor = UmeProcessor.from_pretrained(backbone)
    model_class: Any = UmeForDiscriminativeEmbedding
    if role in ("generative", "adaptive"):
        model_class = UmeForGenerativeEmbedding
        names = {"disc_emb": "<disc_emb>", "gen_emb": "<gen_emb>", "im_end": "<|im_end|>"}
        if role == "adaptive":
            model_class = UmeForAdaptiveEmbedding
            names |= {"direct": "<direct>", "reason": "<reason>"}
        tokens = {name: processor.tokenizer.convert_tokens_to_ids(text) for name, text in names.items()}
        settings = {"pooling": "token", "tokens": tokens, "max_new_tokens": 12, **settings}
        prompt = PromptSettings(
            after_content="\n<disc_emb>\n", thinking="compare it, and then <gen_emb> of text.", assistant=""
        )
        processor = processor.with_settings(prompt=prompt, pooling=PoolingRule("token", token="<disc_emb>"))
    model = model_class.from_pretrained(backbone, settings=UmeSettings(kind=role, **settings))
    if model.settings.pooling == "mean":
        rule = PoolingRule("mean", span_start="<instruction_start>", span_end="<instruction_end>")
        processor = processor.with_settings(pooling=rule)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_tiny_reranker(folder: Path, backbone: Path, **settings: Any) -> Path:
    """Save a reranker from a backbone's folder: Qwen3-VL-Reranker's prompt, two letters as the answers."""
    processor = UmeProcessor.from_pretrained(backbone)
    prompt = PromptSettings(template=qwen3_vl_reranker.template())
    processor = processor.with_settings(prompt=prompt, pairs=True, empty_items=True)
    settings = {"kind": "reranker", "tokens": processor.answer_tokens("y", "n"), **settings}
    UmeForReranking.from_pretrained(backbone, settings=UmeSettings(**settings)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _image_processor_config(folder: Path, patch: int) -> Path:
    half = [0.5, 0.5, 0.5]
    config = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 64 * (2 * patch) ** 2},
        "image_mean": half,
        "image_std": half,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder
