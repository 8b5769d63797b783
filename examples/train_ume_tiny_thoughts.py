"""ume-tiny learns to think, on a mixture of DigitWorld's tasks with truthful thoughts; what is embedded at a glance and
what was thought about find each other.

    python examples/train_ume_tiny_thoughts.py --start examples/ume-tiny --out runs/ume-tiny-thoughts

Hours on one core: places and pages are learned last. The result embeds at a glance and after a thought; a killed run
goes on with ``--resume``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import umekit
from umekit.examples.ume_tiny_thoughts import BATCH, GROWTH, ThinkingMixture
from umekit.trainers import JointReasoningTrainer, JointReasoningTrainingArguments

MAX_NEW_TOKENS = 128  # more than any thought of DigitWorld has


def train(args: argparse.Namespace) -> None:
    """The training, and the folder that is published."""
    encoder = umekit.load(args.start, role="adaptive", device="cpu", dtype=torch.float32)
    settings = JointReasoningTrainingArguments(
        output_dir=str(args.out / "trainer"),
        per_device_train_batch_size=BATCH,
        max_steps=args.steps,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(100, args.steps // 10),
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        temperature=0.05,
        learnable_temperature=True,
        action_weight=0.0,  # when to think is a probe's to say, which is fitted afterwards
        trained_parts=None,  # the vision tower, too: digits inside thoughts are what fails first
        train_sampling_strategy="sequential",
        use_cpu=True,
        logging_steps=25,
        save_steps=250,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        seed=args.seed,
    )
    trainer = JointReasoningTrainer(
        encoder.model,
        settings,
        processing_class=encoder.processor,
        train_dataset=ThinkingMixture(args.steps, args.seed, args.growth),
    )
    begun = any((args.out / "trainer").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=True if args.resume and begun else None)
    publish(encoder.model, encoder.processor, args.out / "ume-tiny")


def publish(model: Any, processor: Any, folder: Path) -> None:
    """The folder in bfloat16: half the bytes, and what a vector loses by it is measured in its card."""
    # It can think, and by default does not: what it is asked most is answered at a glance.
    model.settings = replace(model.settings, max_new_tokens=MAX_NEW_TOKENS, default_mode="discriminative")
    model.backbone.to(torch.bfloat16)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", type=Path, default=Path("examples/ume-tiny"))
    parser.add_argument("--out", type=Path, default=Path("runs/ume-tiny-thoughts"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--growth", type=float, default=GROWTH, help="share of the steps over which walks grow"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)
    print(f"saved {args.out / 'ume-tiny'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
