"""Memory of loading and encoding at published widths: how many times the weights it takes at its peak.

    python benchmarks/widths.py --out benchmarks/results/widths.json

A checkpoint of random bfloat16 weights is made in the published layout, for one model after the other (9 GB of free
disk, 10 GB of memory). A fresh process then imports everything, notes its resident memory, loads the checkpoint with
``umekit.load(..., dtype="bfloat16", device="cpu")`` and encodes texts and a picture. Weights are mapped from their
file and read when they are used, so at the end it reads every one: its peak is the kernel's own high-water mark
(``VmHWM``, which counts mapped pages, too) with all weights in memory, less that note. The same is measured through
``AutoModel`` with the code of the saved folder, where umekit can't be imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from transformers import AutoConfig, AutoModelForImageTextToText

import umekit
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.processing.processor import UmeProcessor
from umekit.testing import train_tokenizer

LIMIT = 1.15  # times the bytes of the weights
SOURCE_ROOT = Path(umekit.__file__).resolve().parent.parent

# config.json of Qwen2-VL-2B-Instruct, Qwen2-VL-7B-Instruct (layers cut) and Qwen3-VL-2B-Instruct.
_QWEN2_VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
_QWEN2_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
_QWEN3_ROPE = {
    "rope_type": "default",
    "rope_theta": 5e6,
    "mrope_section": [24, 20, 20],
    "mrope_interleaved": True,
}
WIDTHS: dict[str, dict[str, Any]] = {
    "qwen2-vl-2b": {
        "family": "qwen2_vl",
        "tied": True,
        "text": {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "rope_parameters": _QWEN2_ROPE,
        },
        "vision": {**_QWEN2_VISION, "hidden_size": 1536},
    },
    "qwen2-vl-7b-4-layers": {
        "family": "qwen2_vl",
        "tied": False,
        "text": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 4,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "rope_parameters": _QWEN2_ROPE,
        },
        "vision": {**_QWEN2_VISION, "hidden_size": 3584},
    },
    "qwen3-vl-2b": {
        "family": "qwen3_vl",
        "tied": True,
        "text": {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "rope_parameters": _QWEN3_ROPE,
        },
        "vision": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    },
    "quick": {
        "family": "qwen2_vl",
        "tied": True,
        "text": {
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "rope_parameters": _QWEN2_ROPE,
        },
        "vision": {**_QWEN2_VISION, "depth": 2, "embed_dim": 320, "hidden_size": 512},
    },
}

# What the fresh process runs. Everything is imported before the note is taken, modules that load lazily too.
_PROBE = """
import json, sys
import torch
from PIL import Image
import transformers
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models import qwen2_vl, qwen3_vl
{imports}
torch.set_num_threads({threads})

def memory(entry):
    for line in open("/proc/self/status"):
        if line.startswith(entry + ":"):
            return int(line.split()[1]) * 1024

before = memory("VmRSS")
{load}
loaded, held = memory("VmHWM"), memory("VmRSS")
picture = Image.new("RGB", (448, 336), (120, 80, 200))
vectors = [encode([item]) for item in ("a short text", "a longer text " * 8, {{"image": picture}})]
encoded = memory("VmHWM")
for weights in model.parameters():  # a page of the mapped file counts once it was read: read one number of each
    weights.detach().flatten()[::1024].max()
bytes_of = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps({{
    "weights_bytes": bytes_of,
    "dtypes": sorted({{str(p.dtype) for p in model.parameters()}}),
    "before_bytes": before,
    "peak_of_load_bytes": loaded - before,
    "held_after_load_bytes": held - before,
    "peak_of_load_and_encode_bytes": encoded - before,
    "peak_bytes": memory("VmHWM") - before,
    "anonymous_at_end_bytes": memory("RssAnon"),
    "file_pages_at_end_bytes": memory("RssFile"),
    "dim": vectors[0].shape[1],
}}))
"""
DOORS = {
    "umekit.load": {
        "imports": "import umekit, umekit.encoding.loading, umekit.processing.processor",
        "load": "encoder = umekit.load(sys.argv[1], dtype='bfloat16', device='cpu')\n"
        "model, encode = encoder.model, encoder.encode",
    },
    "AutoModel": {
        "imports": "sys.modules['umekit'] = None  # whoever imports it now gets an ImportError",
        "load": "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.bfloat16)\n"
        "processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "encode = lambda items: model.encode(items, processor=processor)",
    },
}


def save_checkpoint(folder: Path, widths: dict[str, Any]) -> None:
    """A random checkpoint with all files of an exported one; no weight is ever float32."""
    tokenizer = train_tokenizer(["a short longer text system user assistant"] * 4, 300)
    ids = tokenizer.convert_tokens_to_ids
    text = {**widths["text"], "max_position_embeddings": 32768, "tie_word_embeddings": widths["tied"]}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(
        widths["family"],
        text_config=text,
        vision_config=widths["vision"],
        tie_word_embeddings=widths["tied"],
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patch = widths["vision"]["patch_size"]
    block = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": patch, "merge_size": 2}
    block |= {"temporal_patch_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    block["size"] = {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 1280 * (2 * patch) ** 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(block))
    torch.manual_seed(0)
    backbone = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).eval()
    UmeForDiscriminativeEmbedding(config, backbone).save_pretrained(folder)
    UmeProcessor.from_pretrained(folder).save_pretrained(folder)


def measure(folder: Path, door: str, threads: int) -> dict[str, Any]:
    """What a fresh process says of itself that loads a checkpoint through a door.

    Raises:
        RuntimeError: it failed; with what it wrote.
    """
    code = _PROBE.format(threads=threads, **DOORS[door])
    paths = os.pathsep.join(path for path in (str(SOURCE_ROOT), os.environ.get("PYTHONPATH")) if path)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, "HF_MODULES_CACHE": str(folder.parent / "modules")},
    )
    if done.returncode:
        raise RuntimeError(f"{door} failed on {folder.name}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    weights = found["weights_bytes"]
    for name in ("peak_of_load", "peak_of_load_and_encode", "peak"):
        found[f"{name}_per_weight"] = round(found[f"{name}_bytes"] / weights, 3)
    return {**found, "met": found["peak_per_weight"] <= LIMIT}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model: does it run?")
    parser.add_argument("--model", action="append", choices=WIDTHS, help="only this one (may be repeated)")
    parser.add_argument("--folder", type=Path, help="where checkpoints are made and deleted (default: /tmp)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    names = ["quick"] if args.quick else args.model or [name for name in WIDTHS if name != "quick"]
    result: dict[str, Any] = {
        "benchmark": "widths",
        "machine": machine(),
        "quick": args.quick,
        "limit": LIMIT,
    }
    result["models"] = {}
    for name in names:
        with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
            folder = Path(scratch) / name
            save_checkpoint(folder, WIDTHS[name])
            result["models"][name] = {door: measure(folder, door, args.threads) for door in DOORS}
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    met = all(one["met"] for model in result["models"].values() for one in model.values())
    return 0 if met or args.quick else 1


if __name__ == "__main__":
    sys.exit(main())
