"""Train ume-tiny from random weights on CPU: reading lessons first, then contrastive training on every task.

    python examples/train_ume_tiny.py --out runs/ume-tiny            # what is committed; hours on two cores
    python examples/train_ume_tiny.py --out runs/more --start examples/ume-tiny    # go on from trained weights
    python examples/train_ume_tiny.py --out runs/try --quick         # a minute: shows that everything runs

Stage 1 teaches letters, then sentences, then answers; each lesson ends when unseen handwriting
is read, never at a step count. Stage 2 mixes InfoNCE, one task per batch, with captions and answers as a
local loss.
A killed run goes on with ``--resume``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, get_constant_schedule_with_warmup
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from umekit.evaluation.digit_world import DigitWorld
from umekit.evaluation.digit_world.glyphs import Split
from umekit.examples.ume_tiny_captions import (
    ANSWERS,
    BESIDE,
    LESSONS,
    CaptionReader,
    Lesson,
    Readable,
    lesson_rows,
)
from umekit.examples.ume_tiny_curriculum import Curriculum
from umekit.examples.ume_tiny_model import build_model, build_processor, build_tokenizer
from umekit.modeling.discriminative import UmeForDiscriminativeEmbedding
from umekit.processing.processor import UmeProcessor
from umekit.trainers.arguments import ContrastiveTrainingArguments
from umekit.trainers.batches import ItemBatch
from umekit.trainers.collating import ContrastiveCollator
from umekit.trainers.contrastive import ContrastiveTrainer


def float32_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """SDPA in float32 inside bfloat16 autocast: on CPUs its bfloat16 backward is over twenty times slower."""
    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), *args, **kwargs)


def speed_up(model: UmeForDiscriminativeEmbedding) -> None:
    """Leave to bfloat16 only what a CPU does faster in it: matrix products, not attention."""
    AttentionInterface.register("float32_sdpa", float32_attention)
    AttentionMaskInterface.register("float32_sdpa", sdpa_mask)
    model.backbone.set_attn_implementation("float32_sdpa")


def learn_to_read(
    model: UmeForDiscriminativeEmbedding,
    reader: CaptionReader,
    lessons: Sequence[Lesson],
    args: argparse.Namespace,
    open_world: Callable[[Split, int], Readable] = DigitWorld,
) -> None:
    """Stage 1: the lessons, with a slow warm-up, each until unseen handwriting is read.

    open_world: gives what is read, by split and seed.
    """
    world, unseen = open_world("train", args.seed), open_world("validation", args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = get_constant_schedule_with_warmup(optimizer, args.warmup)
    model.train()
    for lesson in lessons:
        for step in range(args.reading_steps):
            batch = reader.batch(lesson_rows(world, lesson.sources, step * lesson.batch, lesson.batch))
            with torch.autocast("cpu", torch.bfloat16):
                loss, accuracy = reader.loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % 25 == 24:
                shown = {name: float(value) for name, value in accuracy.items() if not torch.isnan(value)}
                report(stage=lesson.name, step=step + 1, loss=float(loss.detach()), **shown)
            if step % 50 == 49:
                seen = reader.accuracy(model, unseen, lesson.gate_source)
                report(stage=lesson.name, step=step + 1, unseen=lesson.gate_source, **seen)
                if min(seen.values()) >= lesson.gate:
                    break
        else:
            if not args.quick:
                raise RuntimeError(f"{lesson.name} were not learned in {args.reading_steps} steps")


def report(**values: Any) -> None:
    """One line of the log as JSON."""
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}), flush=True)


class CaptionedCollator(ContrastiveCollator):
    """Adds captions and answers to every contrastive batch."""

    def __init__(self, reader: CaptionReader, count: int, seed: int) -> None:
        super().__init__(reader.processor)
        self.reader, self.count = reader, count
        self.world = DigitWorld("train", seed + 1)

    def __call__(self, rows: Any) -> dict[str, ItemBatch]:
        # The first row's index is the step's: the captions, too, are a function of the step alone.
        start = rows[0].get("__row__", 0) if rows else 0
        beside = lesson_rows(self.world, BESIDE, int(start), self.count)
        found = super().__call__(rows)
        found["batch"].items += self.reader.prepare(beside)  # items, too, that belong to no row
        return found


class TinyTrainer(ContrastiveTrainer):
    """InfoNCE plus captions."""

    reader: CaptionReader

    def local_inputs(
        self, batch: ItemBatch, indices: Sequence[int], inputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        items = [batch.items[index] for index in indices]
        captions = sum(1 for item in batch.items if item.completion)
        return {"labels": self.reader.labels(items, inputs["input_ids"].shape[1]), "count": max(1, captions)}

    def local_loss(self, model: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        labels = inputs["local_labels"]
        loss, accuracy = self.reader.loss_of(model, output.last_hidden_state[: len(labels)], labels)
        self._record({f"read_{name}": value for name, value in accuracy.items() if value.isfinite()})
        return loss / inputs["local_count"]


def learn_tasks(
    model: UmeForDiscriminativeEmbedding, reader: CaptionReader, args: argparse.Namespace
) -> None:
    """Stage 2: every task, with captions beside it."""
    train_args = ContrastiveTrainingArguments(
        output_dir=str(args.out / "trainer"),
        per_device_train_batch_size=args.batch,
        max_steps=args.steps,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(100, args.steps // 10),
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        temperature=0.05,
        learnable_temperature=True,
        directions=["q2p", "p2q"],
        train_sampling_strategy="sequential",
        dataloader_num_workers=1,
        bf16=True,
        use_cpu=True,
        logging_steps=25,
        save_steps=500,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        seed=args.seed,
    )
    trainer = TinyTrainer(
        model=model,
        args=train_args,
        processing_class=reader.processor,
        data_collator=CaptionedCollator(reader, args.captions, args.seed),
        train_dataset=Curriculum(args.steps, args.batch, args.seed),
    )
    trainer.reader = reader
    begun = any((args.out / "trainer").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=True if args.resume and begun else None)


def save_small(model: UmeForDiscriminativeEmbedding, reader: CaptionReader, folder: Path) -> None:
    """The publishable folder, in bfloat16: half the bytes, and what a vector loses by it is measured in its card."""
    model.backbone.set_attn_implementation("sdpa")
    model.backbone.to(torch.bfloat16)
    model.save_pretrained(folder)
    reader.processor.save_pretrained(folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ume-tiny"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--captions", type=int, default=48, help="captions and answers beside every batch")
    parser.add_argument("--reading-steps", type=int, default=1500, help="most steps of a lesson of stage 1")
    parser.add_argument(
        "--warmup", type=int, default=200, help="warm-up of stage 1; a short one never learns digits"
    )
    parser.add_argument("--steps", type=int, default=6000, help="steps of stage 2")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="weights to go on from; their reading is taken as learned")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of stage 2")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    args = parser.parse_args()
    if args.quick:
        args.batch, args.captions, args.reading_steps, args.steps = 16, 8, 4, 6
    torch.set_num_threads(args.threads)
    read = args.out / "read"
    resumed = args.resume and read.is_dir()
    start = read if resumed else args.start
    processor = build_processor(build_tokenizer()) if start is None else UmeProcessor.from_pretrained(start)
    model = build_model(processor.tokenizer, args.seed)
    if start is not None:
        model.load_native_weights(start)
    reader = CaptionReader(processor)
    speed_up(model)
    if not resumed:
        learn_to_read(model, reader, LESSONS if start is None else (ANSWERS,), args)
        model.save_pretrained(read)
        reader.processor.save_pretrained(read)
    learn_tasks(model, reader, args)
    save_small(model, reader, args.out / "ume-tiny")
    print(f"saved {args.out / 'ume-tiny'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
