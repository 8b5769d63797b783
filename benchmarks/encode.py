"""Items per second of ``umekit.load(...).encode`` against sentence-transformers on the same folder.

    python benchmarks/encode.py --folders pictures/emoji pages/papers --out benchmarks/results/encode.json

512 items, pinned by a seed and no two of them equal (see ``encode_items.py``), once as files and once as PIL images in
memory. The baseline is sentence-transformers' native multimodal ``encode`` in its own batches, with the same weights,
dtype and threads; the arms take turns. Where torchvision is not installed, the preprocessing that it calls is ours, so
the difference is in planning, padding and what runs beside the model. It cannot read PDFs: its pages are rendered,
within its time, by the renderer that ours uses. Vectors of both arms must be equal.

``--folders`` adds folders of real pictures, read by path: the first 512 of each. A time is the median of the repeats,
and ``times_faster`` the median of the ratios of each round.

``padding`` is the share of padding among the tokens of our forwards. ``packed`` is what as many tokens of each kind
cost in forwards without padding: rows of that kind's mean length, as many as our budget holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from encode_items import Work, make_items
from measuring import machine, rounds, stock_ume_tiny, take_turns
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText
from transformers.utils import is_torchvision_available

import umekit
from umekit.modeling.batching import Collator, plan_batches
from umekit.modeling.encode_loop import EncodeOptions, Planned, encode_batch
from umekit.processing.collating import Prepared
from umekit.processing.documents import load_document
from umekit.processing.kinds import media_kind
from umekit.testing import save_tiny_checkpoint, train_tokenizer

TARGETS = {
    "mix_by_path": 1.5,
    "mix_in_memory": 1.15,
    "part": 1.0,
    "padding": 0.05,
    "forward_per_packed": 1.25,
}
WIDE_TEXT = {
    "vocab_size": 32768,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": True,
}
WIDE_VISION = {"depth": 2, "embed_dim": 1280, "num_heads": 16, "hidden_size": 1536, "patch_size": 14}
WIDE_PIXELS = (4 * 28**2, 256 * 28**2)


def save_wide(folder: Path) -> Path:
    """A checkpoint of ours with random weights of Qwen2-VL-2B's widths: two text and two vision layers."""
    words = "a small red kitten rests on the wooden bench near the old harbor lantern system user assistant"
    tokenizer = train_tokenizer([words] * 20, 600)
    ids = tokenizer.convert_tokens_to_ids
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(
        "qwen2_vl",
        text_config={**WIDE_TEXT, **ends},
        vision_config=WIDE_VISION,
        tie_word_embeddings=True,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(0)
    source = folder / "backbone"
    AutoModelForImageTextToText.from_config(config).eval().save_pretrained(source)
    tokenizer.save_pretrained(source)
    block: dict[str, Any] = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14}
    block |= {"merge_size": 2, "temporal_patch_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    block |= {"size": {"shortest_edge": WIDE_PIXELS[0], "longest_edge": WIDE_PIXELS[1]}}
    (source / "preprocessor_config.json").write_text(json.dumps(block), encoding="utf-8")
    AutoImageProcessor.from_pretrained(source).save_pretrained(source)
    return save_tiny_checkpoint(folder / "checkpoint", source)


class Arms:
    """Both encoders of one folder."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.ours: umekit.Encoder = umekit.load(folder, device="cpu", dtype=dtype)
        self.theirs = SentenceTransformer(
            str(folder), trust_remote_code=True, device="cpu", model_kwargs={"dtype": dtype}
        )
        assert {weight.dtype for weight in self.theirs.parameters()} == {dtype}

    def _readable(self, item: Any) -> Any:
        """An item for sentence-transformers, which knows no documents."""
        if not isinstance(item, dict) or "document" not in item:
            return item
        processor = self.ours.processor
        pixels = processor.settings.budget.image[1]
        return {"image": load_document(item["document"], 1, pixels, processor.limits)[0]}

    def measure(self, items: list[Any], repeats: int) -> dict[str, Any]:
        """Items per second of both."""
        found: dict[str, Any] = {}

        def ours() -> None:
            found["ours"] = self.ours.encode(items, show_progress=False)

        def theirs() -> None:
            readable = [self._readable(item) for item in items]
            found["theirs"] = self.theirs.encode(readable, show_progress_bar=False)

        times = rounds({"ours": ours, "sentence_transformers": theirs}, repeats)
        ratios = np.array(times["sentence_transformers"]) / np.array(times["ours"])
        return {
            "items": len(items),
            "items_per_second": {name: round(len(items) / median(taken), 2) for name, taken in times.items()},
            "times_faster": round(float(np.median(ratios)), 3),
            "largest_difference": float(np.abs(found["ours"] - found["theirs"]).max()),
        }

    def forwards(self, works: dict[str, Work], repeats: int) -> dict[str, Any]:
        """Preprocessing, padding, and our forwards against perfectly packed ones."""
        start = time.perf_counter()
        rows = {
            kind: self.ours.processor.prepare_all(work.by_path)
            for kind, work in works.items()
            if kind != "mix"
        }
        preparing = time.perf_counter() - start
        every = [row for kind in rows.values() for row in kind]
        batches = plan_batches([row.length for row in every], self.ours.batch_tokens)
        planned = [[every[place] for place in batch] for batch in batches]
        padded = sum(len(batch) * max(row.length for row in batch) for batch in planned)
        packed = {kind: self._packed(found) for kind, found in rows.items()}

        def run() -> None:
            for batch in planned:
                self._forward(batch)

        arms: dict[str, Any] = {"mix": run}
        for kind, (batch, _) in packed.items():
            arms[kind] = lambda batch=batch: self._forward(batch)
        times = take_turns(arms, repeats)
        bound = sum(times[kind] * share for kind, (_, share) in packed.items())
        tokens = sum(row.length for row in every)
        return {
            "tokens": {
                kind: sum(row.length for row in found) for kind, found in {**rows, "mix": every}.items()
            },
            "padding": round(1 - tokens / padded, 4),
            "batches": len(batches),
            "seconds_of_preprocessing_in_one_thread": round(preparing, 3),
            "seconds_of_forwards": round(times["mix"], 3),
            "seconds_of_packed_forwards": round(bound, 3),
            "forward_per_packed": round(times["mix"] / bound, 3),
        }

    def _packed(self, rows: list[Prepared]) -> tuple[list[Prepared], float]:
        """A batch without padding, and how many of it are the rows' tokens."""
        mean = sum(row.length for row in rows) / len(rows)
        one = min(rows, key=lambda row: abs(row.length - mean))
        batch = [one] * max(1, self.ours.batch_tokens // one.length)
        return batch, sum(row.length for row in rows) / (len(batch) * one.length)

    def _forward(self, batch: Sequence[Prepared]) -> None:
        model, processor = self.ours.model, self.ours.processor
        options = EncodeOptions.of(model)
        with torch.inference_mode():
            planned = Planned.of(model, list(enumerate(batch)))
            encode_batch(model, planned, options, Collator(processor, model.device))


def measure(
    folder: Path, media: Path, real: Sequence[Path], count: int, repeats: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Everything about one checkpoint."""
    arms = Arms(folder, dtype)
    media.mkdir()
    works = make_items(media, count, arms.ours.processor)
    warm = [work.by_path[0] for work in works.values()]
    arms.measure(warm, 1)
    result: dict[str, Any] = {
        kind: {
            "by_path": arms.measure(work.by_path, repeats),
            "in_memory": arms.measure(work.in_memory, repeats),
        }
        for kind, work in works.items()
    }
    result["folders"] = {
        f"{place.resolve().parent.name}/{place.name}": arms.measure(pictures_of(place, count), repeats)
        for place in real
    }
    result["forwards"] = arms.forwards(works, repeats)
    result["batch_tokens"] = arms.ours.batch_tokens
    result["workers"] = arms.ours.workers
    result["met"] = verdict(result)
    return result


def pictures_of(folder: Path, count: int) -> list[Any]:
    """The first pictures of a folder, by name."""
    paths = [path for path in sorted(folder.iterdir()) if media_kind(path) == "image"]
    return [{"image": str(path)} for path in paths[:count]]


def verdict(result: dict[str, Any]) -> dict[str, bool]:
    """Which targets a checkpoint's result meets."""
    parts = [
        result[kind][form]["times_faster"]
        for kind in ("texts", "images", "clips", "pages")
        for form in ("by_path", "in_memory")
    ]
    parts += [found["times_faster"] for found in result["folders"].values()]
    return {
        "mix_by_path": result["mix"]["by_path"]["times_faster"] >= TARGETS["mix_by_path"],
        "mix_in_memory": result["mix"]["in_memory"]["times_faster"] >= TARGETS["mix_in_memory"],
        "part": min(parts) >= TARGETS["part"],
        "padding": result["forwards"]["padding"] < TARGETS["padding"],
        "forward_per_packed": result["forwards"]["forward_per_packed"] <= TARGETS["forward_per_packed"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="ume-tiny and 24 items: does it run?")
    parser.add_argument(
        "--models", nargs="+", choices=("ume-tiny", "2b-wide"), default=["ume-tiny", "2b-wide"]
    )
    parser.add_argument("--items", type=int, default=512, help="of the mix")
    parser.add_argument("--repeats", type=int, default=5, help="of every arm")
    parser.add_argument(
        "--folders",
        type=Path,
        nargs="*",
        default=[],
        metavar="FOLDER",
        help="of real pictures, measured by path",
    )
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    count, repeats, models = args.items, args.repeats, args.models
    if args.quick:
        count, repeats, models = 24, 1, ["ume-tiny"]
    result: dict[str, Any] = {
        "benchmark": "encode",
        "machine": machine(),
        "quick": args.quick,
        "dtype": args.dtype,
        "preprocessing_of_baseline": "its own" if is_torchvision_available() else "umekit's (no torchvision)",
        "targets": TARGETS,
        "models": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in models:
            source = stock_ume_tiny(folder) if model == "ume-tiny" else save_wide(folder)
            media = folder / f"media-{model}"
            result["models"][model] = measure(
                source, media, args.folders, count, repeats, getattr(torch, args.dtype)
            )
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    met = all(all(found["met"].values()) for found in result["models"].values())
    return 0 if met or args.quick else 1


if __name__ == "__main__":
    sys.exit(main())
