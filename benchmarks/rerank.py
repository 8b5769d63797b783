"""A hundred candidates behind one query: the shared prefix against a forward, or a ``generate``, per pair.

    python benchmarks/rerank.py --out benchmarks/results/rerank.json

The baselines run in the same process on the same exported folder, and must rank the same: sentence-transformers'
``CrossEncoder`` in its own batches, with our processor, and one ``generate`` of a single token per pair (the published
loop of U-MARVEL generates 128 tokens to read the first; that is not held against it). Reading and tokenising counts in
every arm. A workload is in the file as soon as it is measured, and the same command goes on with the next. Models have
random weights: two text layers and three vision layers of a share of Qwen3-VL-2B's widths, with DeepStack and a
vocabulary of 8192.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, measure_parts, take_turns
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import CrossEncoder
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

import umekit
from umekit.encoding.presets.qwen3_vl_reranker import DEFAULT_INSTRUCTION, JUDGE
from umekit.testing import train_tokenizer

SIZES: dict[str, float] = {"2b-wide": 1.0, "half-wide": 0.5, "quick": 0.125}  # share of Qwen3-VL-2B's widths
TEXT_WIDTHS = {"hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16}
VISION_WIDTHS = {"hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
TEXT = "a small red kitten rests on the wooden bench near the old harbor lantern at night and a blue rocket"
WORDS = TEXT.split()
# Per kind of candidates: times faster than CrossEncoder, and than one generate per pair.
TARGETS = {
    "texts": {"cross_encoder": 5.0, "generate": 20.0},
    "pictures_of_a_quarter": {"cross_encoder": 2.5},
    "pictures_of_equal_size": {"cross_encoder": 1.5},
    "mixed": {},
}
TIE = 1e-5  # scores nearer than this may change places


def save_backbone(folder: Path, share: float) -> Path:
    """A random Qwen3-VL with the files that a published one has."""
    prompt = f"{JUDGE}\n<Instruct>: {DEFAULT_INSTRUCTION}<Query>: <Document>: system user assistant"
    tokenizer = train_tokenizer([*[prompt] * 20, *[TEXT] * 20, *["yes", "no"] * 50], 700)
    ids = tokenizer.convert_tokens_to_ids
    text = {name: int(width * share) for name, width in TEXT_WIDTHS.items()}
    text |= {"num_hidden_layers": 2, "num_key_value_heads": text["num_attention_heads"] // 2}
    text |= {"head_dim": 128, "vocab_size": 8192, "max_position_embeddings": 32768}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    rope = {
        "rope_type": "default",
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
        "rope_theta": 5e6,
    }
    vision: dict[str, Any] = {name: int(width * share) for name, width in VISION_WIDTHS.items()}
    vision |= {"depth": 3, "deepstack_visual_indexes": [0, 1], "out_hidden_size": text["hidden_size"]}
    vision |= {"patch_size": 16, "num_position_embeddings": 2304}
    config = AutoConfig.for_model(
        "qwen3_vl",
        text_config={**text, "rope_parameters": rope, "tie_word_embeddings": True},
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    block = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16, "merge_size": 2}
    block |= {"temporal_patch_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    block |= {"size": {"shortest_edge": 65536, "longest_edge": 16777216}}
    (folder / "preprocessor_config.json").write_text(json.dumps(block), encoding="utf-8")
    AutoImageProcessor.from_pretrained(folder).save_pretrained(folder)
    return folder


def picture(side: int, seed: int) -> Image.Image:
    """Smooth noise, ``side`` pixels square."""
    cells = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def words(count: int, seed: int) -> str:
    """A text of so many words."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def workloads(count: int, side: int) -> dict[str, tuple[dict[str, Any], list[Any]]]:
    """Query and candidates by name; the query's picture is ``side`` pixels square."""
    query = {"image": picture(side, 1), "text": words(6, 1)}
    seeds = range(10, 10 + count)
    kinds: dict[str, list[Any]] = {
        "texts": [words(12 + seed % 5, seed) for seed in seeds],
        "pictures_of_a_quarter": [{"image": picture(side // 2, seed)} for seed in seeds],
        "pictures_of_equal_size": [{"image": picture(side, seed)} for seed in seeds],
    }
    kinds["mixed"] = [
        (
            words(16, seed),
            {"image": picture(side // 2, seed)},
            {"image": picture(side // 4, seed), "text": words(8, seed)},
        )[seed % 3]
        for seed in seeds
    ]
    return {name: (query, candidates) for name, candidates in kinds.items()}


def generate_each(reranker: umekit.Reranker, query: Any, candidates: list[Any]) -> NDArray[np.float32]:
    """One ``generate`` per pair, which stops after the first token; the score is read off its logits."""
    scores = []
    for candidate in candidates:
        batch = reranker.processor.collate([reranker.processor.prepare_pair(query, candidate)])
        batch.pop("pooling_slots")
        with torch.no_grad():
            output = reranker.model.backbone.generate(
                **batch, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        scores.append(float(output.logits[0][0, reranker.model.answer_ids].softmax(dim=0)[0]))
    return np.array(scores, dtype=np.float32)


def same_ranking(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Whether no two candidates, ties aside, stand the other way round."""
    by_a, by_b = np.subtract.outer(a, a), np.subtract.outer(b, b)
    return not bool(((by_a > TIE) & (by_b < -TIE)).any())


def measure(
    name: str, reranker: Any, encoder: CrossEncoder, query: Any, candidates: list[Any], repeats: int
) -> Any:
    """Every arm on one workload."""
    found: dict[str, NDArray[np.float32]] = {}
    pairs = [(query, candidate) for candidate in candidates]

    def arm(label: str, run: Any) -> Any:
        def once() -> None:
            found[label] = run()

        return once

    arms = {
        "ours": arm("ours", lambda: reranker.rerank(query, candidates, show_progress=False)),
        "cross_encoder": arm("cross_encoder", lambda: encoder.predict(pairs, show_progress_bar=False)),
    }
    if name == "texts":
        arms["generate"] = arm("generate", lambda: generate_each(reranker, query, candidates))
    reranker.rerank(query, candidates[:2])
    encoder.predict(pairs[:2], show_progress_bar=False)
    times = take_turns(arms, repeats)
    rows = reranker.processor.prepare_pairs(query, candidates)
    faster = {label: round(times[label] / times["ours"], 2) for label in arms if label != "ours"}
    return {
        "candidates": len(candidates),
        "tokens_of_a_pair": [min(row.length for row in rows), max(row.length for row in rows)],
        "pictures_tokens": {
            "query": len(rows[0].images[0].values) // 4,
            "candidate": sorted({len(one.values) // 4 for row in rows for one in row.images[1:]}),
        },
        "seconds": {label: round(value, 3) for label, value in times.items()},
        "times_faster_than": faster,
        "largest_difference": {label: float(np.abs(found[label] - found["ours"]).max()) for label in faster},
        "same_ranking": all(same_ranking(found[label], found["ours"]) for label in faster),
        "spread_of_scores": float(np.ptp(found["ours"])),
        "met": all(faster[label] >= target for label, target in TARGETS[name].items()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model and few candidates: does it run?")
    parser.add_argument(
        "--size", choices=SIZES, default="half-wide", help="share of the 2B checkpoint's widths"
    )
    parser.add_argument(
        "--repeats", type=int, default=2, help="of every arm, taking turns; the shortest counts"
    )
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    size = "quick" if args.quick else args.size
    head: dict[str, Any] = {
        "benchmark": "rerank",
        "machine": machine(),
        "quick": args.quick,
        "repeats": 1 if args.quick else args.repeats,
        "model": {
            "family": "qwen3_vl, random weights, float32, 2 text and 3 vision layers",
            "share_of_2b_widths": SIZES[size],
        },
        "targets": TARGETS,
    }
    with tempfile.TemporaryDirectory() as folder:
        source = save_backbone(Path(folder) / "backbone", SIZES[size])
        exported = umekit.export(source, Path(folder) / "reranker", preset="qwen3-vl-reranker", golden=False)
        reranker = umekit.load(exported, device="cpu")
        encoder = CrossEncoder(str(exported), trust_remote_code=True, device="cpu")
        count, side = (6, 128) if args.quick else (100, 512)
        jobs = {
            name: partial(measure, name, reranker, encoder, query, candidates, head["repeats"])
            for name, (query, candidates) in workloads(count, side).items()
        }
        found = measure_parts(args.out, head, "workloads", jobs)["workloads"].values()
    good = all(one["same_ranking"] for one in found) and (args.quick or all(one["met"] for one in found))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
