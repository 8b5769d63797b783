"""Thinking before embedding: our loop against the published one, and one prefill for several thoughts.

    python benchmarks/generate.py --out benchmarks/results/generate.json

The baseline is the loop of UME-R1's README, ``generate(..., output_hidden_states=True)``, item by item as it is
published and in one left-padded batch; it runs in the same process on the same tensors. Every row of every arm gets
exactly as many new tokens. Models have random weights, in two sizes: ume-tiny's, for which the targets are, and two
text and two vision layers of the 2B checkpoint's widths, with a vocabulary of 32768 (with all 151,936 rows two layers
would be nearly all output matrix). One token of a wide model costs matrix products and little else, so there the
batched loops are level by nature.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, take_turns
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

from umekit.encoding.presets import get_preset
from umekit.encoding.presets.ume_r1 import THINK
from umekit.modeling.decoding import Decoding
from umekit.modeling.generative import UmeForGenerativeEmbedding
from umekit.modeling.settings import UmeSettings
from umekit.processing.processor import UmeProcessor
from umekit.testing import train_tokenizer

# The widths of ume-tiny, which comes with the package, and those of the 2B checkpoint in two layers.
SIZES: dict[str, Any] = {
    "ume-tiny": {
        "text": {
            "vocab_size": 1024,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "rope_scaling": {"rope_type": "default", "mrope_section": [4, 6, 6]},
        },
        "vision": {"depth": 3, "embed_dim": 128, "num_heads": 4},
    },
    "2b-wide": {
        "text": {
            "vocab_size": 32768,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 2,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
        },
        "vision": {"depth": 2, "embed_dim": 1280, "num_heads": 16},
    },
}
TARGETS = {"one_by_one": 6.0, "batched": 1.0, "samples": 0.45}


def build(size: str) -> tuple[UmeForGenerativeEmbedding, UmeProcessor]:
    """A random model with the prompts of the ``ume-r1`` preset."""
    prompt = THINK.replace("\\n", "\n") + " system\nYou are a helpful assistant. user picture and the text"
    tokenizer = train_tokenizer([prompt] * 20, 600, ("<disc_emb>", "<gen_emb>"))
    ids = tokenizer.convert_tokens_to_ids
    text = {
        **SIZES[size]["text"],
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**SIZES[size]["vision"], "hidden_size": text["hidden_size"], "mlp_ratio": 4}
    config = AutoConfig.for_model(
        "qwen2_vl",
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(0)
    backbone = AutoModelForImageTextToText.from_config(config).eval()
    tokens = {name: ids(f"<{name}>") for name in ("disc_emb", "gen_emb")}
    # The turn must not end early in our arms either.
    settings = UmeSettings(
        kind="generative", pooling="token", tokens={**tokens, "never": [tokenizer.eos_token_id]}
    )
    model = UmeForGenerativeEmbedding(backbone.config, backbone, settings).eval()
    plain = model.logits_of

    def logits_of(states: Tensor) -> Tensor:
        logits = plain(states)
        logits[:, tokens["gen_emb"]] = -1e4  # nor may a thought: the last token is a forced <gen_emb>
        return logits

    model.logits_of = logits_of  # type: ignore[method-assign]
    preset = get_preset("ume-r1")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "Qwen2VLImageProcessor"}), encoding="utf-8"
        )
        image_processor = AutoImageProcessor.from_pretrained(folder)
    processor = UmeProcessor(
        image_processor, tokenizer, settings=preset.processor("qwen2_vl", image_processor)
    )
    return model, processor


def collated(processor: UmeProcessor, count: int, least_tokens: int = 0) -> tuple[Any, list[Any]]:
    """Image items of at least so many tokens: one left-padded batch, and each by itself."""
    random = np.random.default_rng(0)
    items: list[dict[str, Any]] = []
    for number in range(count):
        picture = Image.fromarray(random.integers(0, 255, (112, 112 + 28 * (number % 3), 3), dtype=np.uint8))
        text = "represent the picture"
        while processor.prepare({"image": picture, "text": text}, mode="generative").length < least_tokens:
            text += " and the text"
        items.append({"image": picture, "text": text})
    rows = processor.prepare_all(items, mode="generative")
    return processor.collate(rows, padding_side="left"), [processor.collate([row]) for row in rows]


def published(model: UmeForGenerativeEmbedding, batch: Any, new_tokens: int) -> tuple[Tensor, int]:
    """The README's loop: vectors ``[B, d]``, and the bytes of hidden states that it holds at the end."""
    inputs = {name: value for name, value in batch.items() if name != "pooling_slots"}
    with torch.no_grad():
        output = model.backbone.generate(
            **inputs,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            use_cache=True,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    length = batch["input_ids"].shape[1]
    assert output.sequences.shape[1] == length + new_tokens
    # Its finder gives -1 where no <gen_emb> was written: the last step.
    states = output.hidden_states[-1][-1][:, -1]
    held = sum(layer.nbytes for step in output.hidden_states for layer in step)
    return torch.nn.functional.normalize(states.float(), dim=-1), held


def ours(model: UmeForGenerativeEmbedding, batch: Any, new_tokens: int, samples: int = 1) -> Any:
    """The same number of new tokens; the last is <gen_emb>, and it is read, too: one step more."""
    temperature = None if samples == 1 else 1.0
    found = model.embed(batch, decoding=Decoding(new_tokens - 1, temperature), num_samples=samples)
    assert all(len(one.tokens) + one.forced == new_tokens for row in found.rollouts for one in row)
    return found


def repeated(batch: Any, times: int) -> dict[str, Tensor]:
    """Every row of a batch several times, its picture, too."""
    patches = batch["image_grid_thw"].prod(dim=1).tolist()
    pictures = torch.split(batch["pixel_values"], patches)
    several = {
        name: value.repeat_interleave(times, dim=0) for name, value in batch.items() if name != "pixel_values"
    }
    return {**several, "pixel_values": torch.cat([one for one in pictures for _ in range(times)])}


def span(batch: Any) -> list[int]:
    """Tokens of the shortest and the longest prompt."""
    lengths = batch["attention_mask"].sum(dim=1)
    return [int(lengths.min()), int(lengths.max())]


def loops(model: Any, processor: Any, items: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    batch, singles = collated(processor, items)
    _, held = published(model, batch, new_tokens)
    found = ours(model, batch, new_tokens)  # both are warm now
    kept = sum(one.state.nbytes for row in found.rollouts for one in row)
    times = take_turns(
        {
            "ours": lambda: ours(model, batch, new_tokens),
            "published_batched": lambda: published(model, batch, new_tokens),
        },
        repeats,
    )
    times |= take_turns(
        {"published_one_by_one": lambda: [published(model, one, new_tokens) for one in singles]}, 1
    )
    return {
        "items": items,
        "prompt_tokens": span(batch),
        "new_tokens": new_tokens,
        "seconds": {name: round(value, 3) for name, value in times.items()},
        "times_faster_than_one_by_one": round(times["published_one_by_one"] / times["ours"], 2),
        "times_faster_than_batched": round(times["published_batched"] / times["ours"], 2),
        "bytes_of_states": {"ours": kept, "published_batched": held},
    }


def samples(
    model: Any, processor: Any, items: int, length: int, new_tokens: int, repeats: int
) -> dict[str, Any]:
    batch, _ = collated(processor, items, length)
    many = repeated(batch, 8)
    arms = {
        "num_samples": lambda: ours(model, batch, new_tokens, samples=8),
        "repeated_rows": lambda: model.embed(many, decoding=Decoding(new_tokens - 1, 1.0)),
    }
    ours(model, batch, new_tokens, samples=8)
    times = take_turns(arms, repeats)
    return {
        "items": items,
        "num_samples": 8,
        "prompt_tokens": span(batch),
        "new_tokens": new_tokens,
        "seconds": {name: round(value, 3) for name, value in times.items()},
        "share_of_repeated_rows": round(times["num_samples"] / times["repeated_rows"], 3),
    }


def measure(size: str, quick: bool) -> dict[str, Any]:
    """All arms on one size of model."""
    model, processor = build(size)
    text, vision = model.config.get_text_config(), model.config.vision_config
    items, new_tokens, repeats = (4, 8, 2) if quick else (32, 64, 5 if size == "ume-tiny" else 4)
    result = {
        "model": {
            "family": "qwen2_vl, random weights, float32",
            **{name: getattr(text, name) for name in ("hidden_size", "num_hidden_layers", "vocab_size")},
            **{f"vision_{name}": getattr(vision, name) for name in ("embed_dim", "depth")},
        },
        "loops": loops(model, processor, items, new_tokens, repeats),
        "samples_239": samples(model, processor, 4, 239, 16, repeats),
        "samples_128": samples(model, processor, 4, 128, 16, repeats),
    }
    result["met"] = {
        "one_by_one": result["loops"]["times_faster_than_one_by_one"] >= TARGETS["one_by_one"],
        "batched": result["loops"]["times_faster_than_batched"] >= TARGETS["batched"],
        "samples": result["samples_239"]["share_of_repeated_rows"] <= TARGETS["samples"],
    }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small model and few tokens: does it run?")
    parser.add_argument("--size", choices=SIZES, action="append", help="one size only (default: both)")
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    names = args.size or (["ume-tiny"] if args.quick else list(SIZES))
    result: dict[str, Any] = {
        "benchmark": "generate",
        "machine": machine(),
        "quick": args.quick,
        "targets": TARGETS,
    }
    result |= {"sizes": {name: measure(name, args.quick) for name in names}}
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    small = result["sizes"].get("ume-tiny", {}).get("met", {})
    return 0 if args.quick or all(small.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
