"""What a contrastive step costs: memory by batch, caching against one forward, and sentence-transformers' cached loss.

    python benchmarks/train.py --out benchmarks/results/train.json

Every arm trains ume-tiny's weights in float32 with AdamW on the same rows in the same run: preparing the items, the
step and the optimiser all count. Arms take turns and the shortest time counts. Memory is that of a fresh process: the
peak of one step above what it holds when model and optimiser are loaded. It is measured with ume-tiny, and with random
weights of hidden size 512 in eight layers: what a batch holds beside its chunk (pixels as bytes, the similarity matrix)
does not grow with the model, a chunk's activations do. Its media are kept as pixels, or prepared again per chunk
(``media_per_chunk``); and glibc's allocator is as it is by default, where it splits the space that chunks of changing
sizes leave, and with ``MALLOC_MMAP_THRESHOLD_=131072``, where large tensors go back to the system.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, stock_ume_tiny, take_turns
from PIL import Image
from transformers import AutoModelForImageTextToText

import umekit
from umekit.examples.ume_tiny_model import build_model
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.modeling.settings import UmeSettings
from umekit.trainers import ContrastiveTrainer, ContrastiveTrainingArguments
from umekit.trainers.indexed_rows import IndexedRows

CHUNK_TOKENS = 1024  # what a batch of 32 rows fills
MEMORY_BATCHES = (32, 1024)
MEMORY_MODELS = ("ume-tiny", "wide")
MEDIA = ("kept", "per chunk")
ALLOCATORS = {"default": {}, "large blocks returned": {"MALLOC_MMAP_THRESHOLD_": "131072"}}
WORDS = [
    "p1",
    "red",
    "4",
    "p2",
    "gold",
    "7",
    "p3",
    "blue",
    "1",
    "p4",
    "pink",
    "9",
    "receipt",
    "with",
    "tea",
    "and",
    "rice",
    "the",
    "walk",
    "of",
    "a",
    "cyan",
    "digit",
    "to",
    "the",
    "right",
]
TARGETS = {
    "memory_1024_over_32": 1.25,
    "cached_over_uncached": 1.45,
    "mixed_over_defaults": 1.3,
    "mixed_over_best": 1.1,
    "equal_over_best": 0.97,
}


def text_of(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, size=words))


def picture_of(rng: np.random.Generator, side: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))


def rows_of(kind: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs: ``equal`` texts of 32 words, ``mixed`` texts of 4-256 words log-uniform, ``pictures`` of 56-112 px."""
    rng = np.random.default_rng([seed, len(kind)])
    rows = []
    for _ in range(count):
        if kind == "equal":
            pair: tuple[Any, Any] = text_of(rng, 32), text_of(rng, 32)
        elif kind == "mixed":
            long = int(2 ** rng.uniform(2, 8))
            pair = text_of(rng, max(4, long // 4)), text_of(rng, long)
        else:
            pair = text_of(rng, 16), {"image": picture_of(rng, int(rng.integers(56, 113)))}
        rows.append({"query": pair[0], "positive": pair[1]})
    return rows


def wide_model(processor: Any) -> UmeForDiscriminativeEmbedding:
    """Random weights of ume-tiny's architecture at hidden size 512 and eight layers, 26 million parameters."""
    config = build_model(processor.tokenizer).config
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 512, 1536, 8
    text.num_attention_heads, text.num_key_value_heads = 8, 4
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [8, 12, 12]}
    vision.embed_dim, vision.depth, vision.num_heads, vision.hidden_size = 256, 4, 8, 512
    backbone = AutoModelForImageTextToText.from_config(config)
    return UmeForDiscriminativeEmbedding(backbone.config, backbone, UmeSettings())


def make_trainer(
    chunk_tokens: int | None, batch: int, model: str = "ume-tiny", media: str = "kept"
) -> ContrastiveTrainer:
    """A trainer whose steps are called by hand, with its optimiser made."""
    encoder = umekit.load(device="cpu")
    args = ContrastiveTrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        chunk_tokens=chunk_tokens,
        media_per_chunk=media == "per chunk",
        max_steps=1000,
        report_to="none",
        use_cpu=True,
        temperature=0.05,
    )
    trainer = ContrastiveTrainer(
        wide_model(encoder.processor) if model == "wide" else encoder.model,
        args,
        processing_class=encoder.processor,
        train_dataset=rows_of("equal", 2),
    )
    trainer.create_optimizer_and_scheduler(1000)
    return trainer


def step_of(trainer: ContrastiveTrainer, rows: list[dict[str, Any]]) -> Callable[[], float]:
    """One whole step: collate, forward, backward, optimiser."""
    indexed = IndexedRows(rows)
    assert trainer.model is not None
    assert trainer.optimizer is not None
    model, optimizer = trainer.model, trainer.optimizer

    def step() -> float:
        inputs = trainer.data_collator([indexed[index] for index in range(len(indexed))])
        loss = trainer.training_step(model, inputs)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def sentence_transformers_step(rows: list[dict[str, Any]], **settings: Any) -> Callable[[], float]:
    """The same with sentence-transformers' own module, preprocessing and cached loss."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss

    with tempfile.TemporaryDirectory() as folder:
        stock = stock_ume_tiny(Path(folder))
        model = SentenceTransformer(str(stock), device="cpu", trust_remote_code=True)
    model.to(torch.float32).train()
    loss_module = CachedMultipleNegativesRankingLoss(model, scale=20.0, **settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    columns = [[row["query"] for row in rows], [_native(row["positive"]) for row in rows]]

    def step() -> float:
        features = [model.preprocess(column) for column in columns]
        loss = loss_module(features, None)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def _native(item: Any) -> Any:
    return item["image"] if isinstance(item, dict) else item


def memory_of(batch: int, model: str, media: str) -> dict[str, float]:
    """Megabytes: idle, and the peak of a step of ``batch`` picture pairs above it, in this process."""
    trainer = make_trainer(CHUNK_TOKENS, batch, model, media)
    first = step_of(trainer, rows_of("pictures", 8, seed=1))
    first()  # gradients and the optimiser's state exist from here on
    rows = rows_of("pictures", batch)
    idle = _megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    step_of(trainer, rows)()
    return {"batch": batch, "idle": idle, "above_idle": _megabytes("VmHWM") - idle}


def _megabytes(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def fresh_memory(batch: int, model: str, media: str, allocator: str) -> dict[str, float]:
    """``memory_of`` in a process of its own."""
    line = [sys.executable, __file__, "--memory-of", str(batch), model, media]
    line += ["--threads", str(torch.get_num_threads())]
    env = {**os.environ, **ALLOCATORS[allocator]}
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=env)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure_memory() -> list[dict[str, Any]]:
    """Peaks of fresh processes by model, keeping of media, allocator and batch."""
    result = []
    for model, media, allocator in itertools.product(MEMORY_MODELS, MEDIA, ALLOCATORS):
        memory = [fresh_memory(size, model, media, allocator) for size in MEMORY_BATCHES]
        ratio = memory[1]["above_idle"] / memory[0]["above_idle"]
        setting = {"model": model, "media": media, "allocator": allocator}
        result.append({**setting, "megabytes": memory, "memory_1024_over_32": ratio})
    return result


def measure_speed(batch: int, repeats: int) -> dict[str, Any]:
    """All comparisons; ratios are theirs over ours for speed, ours over the reference for cost."""
    result: dict[str, Any] = {}
    cached, uncached = make_trainer(CHUNK_TOKENS, batch), make_trainer(None, batch)
    pictures = rows_of("pictures", batch)
    arms = {"cached": step_of(cached, pictures), "uncached": step_of(uncached, pictures)}
    times = take_turns(arms, repeats)
    result["caching"] = {"seconds": times, "cached_over_uncached": times["cached"] / times["uncached"]}
    for kind in ("mixed", "equal", "pictures"):
        rows = rows_of(kind, batch)
        arms = {
            "umekit": step_of(cached, rows),
            "defaults": sentence_transformers_step(rows),
            "batch_64": sentence_transformers_step(rows, mini_batch_size=64),
        }
        if kind != "pictures":  # its token budget counts text only
            arms["tokens"] = sentence_transformers_step(rows, mini_batch_num_tokens=CHUNK_TOKENS)
        times = take_turns(arms, repeats)
        best = min(seconds for name, seconds in times.items() if name != "umekit")
        result[kind] = {
            "seconds": times,
            f"{kind}_over_defaults": times["defaults"] / times["umekit"],
            f"{kind}_over_best": best / times["umekit"],
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the JSON here, too")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("memory", "speed"), help="one half of it")
    parser.add_argument("--memory-of", nargs=3, metavar=("BATCH", "MODEL", "MEDIA"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        batch, model, media = args.memory_of
        print(json.dumps(memory_of(int(batch), model, media)))
        return 0
    result = {
        "command": "python " + " ".join(sys.argv),
        "machine": machine(),
        "batch": args.batch,
        "chunk_tokens": CHUNK_TOKENS,
        "targets": TARGETS,
        **({"memory": measure_memory()} if args.only != "speed" else {}),
        **(measure_speed(args.batch, args.repeats) if args.only != "memory" else {}),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
