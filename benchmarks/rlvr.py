"""A step of reinforcement learning: RLVRTrainer against TRL's GRPOTrainer on the same pictures, and where time goes.

    python benchmarks/rlvr.py --out benchmarks/results/rlvr.json        # needs umekit[trl]

Both train the same weights (ume-tiny's size, random) in float32 with AdamW on the same prompts, token for token, of a
picture and a text, G rollouts of exactly as many new tokens, one side, no KL term, one update a rollout, and a reward
that is a function of the tokens. Ours also reads the rollout's vector, which is what it is for. A step counts from its
first preparation of rows to the optimiser's end. Each arm runs in fresh processes, in turn; of a run the
median step counts, of the runs the fastest: rollout, scoring (rewards and advantages) and the rest, the update.
Memory is the peak of a process above what it holds before its first step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generate import build
from measuring import machine
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin, TrainerCallback

from umekit.encoding.presets.ume_r1 import THINK
from umekit.trainers import RLVRTrainer, RLVRTrainingArguments
from umekit.trainers.rollout_rewards import RolloutGroups

PROMPTS, G, NEW_TOKENS, STEPS = 4, 8, 24, 7
TEXT = "represent the picture"
TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Steps(TrainerCallback):
    """Times of steps, and of parts of them."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = {"step": []}
        self.held = 0
        self.prompt: list[int] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.held, self.last = peak(), time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.perf_counter()
        self.parts["step"].append(now - self.last)
        self.last = now

    def timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.parts.setdefault(name, []).append(time.perf_counter() - start)

        return call

    def medians(self) -> dict[str, float]:
        """Seconds of a step and its parts, the first step left out, which makes the optimiser's state."""
        found = {name: statistics.median(values[1:]) for name, values in self.parts.items()}
        found["update"] = found["step"] - found["rollout"] - found["scoring"]
        return {name: round(value, 4) for name, value in found.items()}


def peak() -> int:
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (112, 112, 3), dtype=np.uint8)) for _ in range(PROMPTS)]


def score(tokens: Any) -> float:
    return float(np.mean([token % 2 for token in tokens]))


def ours(folder: str) -> Steps:
    """Steps of RLVRTrainer."""
    model, processor = build("ume-tiny")
    model.thought_tokens = type(model.thought_tokens)(
        model.thought_tokens.gen_emb, frozenset(), model.thought_tokens.never
    )

    def reward(groups: RolloutGroups) -> Tensor:
        return torch.tensor([[score(one) for one in row] for row in groups.tokens])

    args = RLVRTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=PROMPTS,
        num_generations=G,
        max_completion_length=NEW_TOKENS,
        targets="frozen",
        beta=0.0,
        max_steps=STEPS,
        learning_rate=1e-4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    rows = [
        {
            "query": {"image": one, "text": TEXT},
            "positive": str(number),
            "positive_vectors": np.eye(192)[number],
        }
        for number, one in enumerate(pictures())
    ]
    steps = Steps()
    trainer = RLVRTrainer(
        model,
        args,
        processing_class=processor,
        train_dataset=rows,
        rewards={"odd": (reward, 1.0)},
        callbacks=[steps],
    )
    steps.prompt = trainer.data_collator(rows)["batch"].items[0].input_ids.tolist()
    trainer.own_engine.rollout = steps.timed("rollout", trainer.own_engine.rollout)  # type: ignore[method-assign]
    trainer.rewarded = steps.timed("scoring", trainer.rewarded)  # type: ignore[method-assign]
    trainer.train()
    lengths = {one["query_length"] for one in trainer.state.log_history if "query_length" in one}
    assert lengths <= {NEW_TOKENS}, lengths
    return steps


class PictureProcessor(ProcessorMixin):
    """Qwen2-VL's processor without the part for video, which needs torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        text = [text] if isinstance(text, str) else list(text)
        found: dict[str, Any] = {}
        if images is not None:
            found = dict(self.image_processor(images=images, return_tensors="pt"))
            counts = iter(
                (found["image_grid_thw"].prod(dim=1) // self.image_processor.merge_size**2).tolist()
            )
            for number, one in enumerate(text):
                first, *rest = one.split(self.image_token)
                text[number] = first + "".join(self.image_token * next(counts) + more for more in rest)
        kept: dict[str, Any] = {
            k: kwargs[k] for k in ("padding", "padding_side", "return_tensors") if k in kwargs
        }
        kept |= kwargs.get("text_kwargs", {})
        kept.pop("return_mm_token_type_ids", None)
        tokens = self.tokenizer(text, **kept)
        ids = tokens["input_ids"]
        kinds = (
            (ids == self.image_token_id).long()
            if isinstance(ids, Tensor)
            else [[int(token == self.image_token_id) for token in row] for row in ids]
        )
        return BatchFeature({**tokens, **found, "mm_token_type_ids": kinds})


def theirs(folder: str) -> Steps:
    """Steps of TRL's GRPOTrainer."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, processor = build("ume-tiny")
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    config = model.backbone.config
    banned = [
        config.image_token_id,
        config.video_token_id,
        config.vision_start_token_id,
        config.vision_end_token_id,
    ]
    args = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=PROMPTS * G,
        num_generations=G,
        max_completion_length=NEW_TOKENS,
        beta=0.0,
        loss_type="dr_grpo",
        max_steps=STEPS,
        learning_rate=1e-4,
        bf16=False,
        gradient_checkpointing=False,
        generation_kwargs={"min_new_tokens": NEW_TOKENS, "suppress_tokens": banned},
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    asked = TEXT + "\n<disc_emb>\n" + THINK.replace("\\n", "\n")
    prompt = [{"role": "user", "content": asked}]
    rows = Dataset.from_list([{"prompt": prompt, "image": one} for one in pictures()])
    steps = Steps()
    trainer = GRPOTrainer(
        model.backbone,
        reward_funcs=lambda completion_ids, **_: [score(one) for one in completion_ids],
        args=args,
        train_dataset=rows,
        processing_class=PictureProcessor(processor.image_processor, tokenizer, TEMPLATE),
        callbacks=[steps],
    )
    trainer._generate = steps.timed("rollout", keep_prompts(trainer._generate, steps))
    trainer._calculate_rewards = steps.timed("scoring", trainer._calculate_rewards)
    trainer.train()
    return steps


def keep_prompts(generate: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    """The same, and the first prompt's tokens in ``steps``."""

    def call(prompts: Any) -> Any:
        found = generate(prompts)
        steps.prompt = [int(token) for token in found[0][0]]
        return found

    return call


ARMS = {"umekit": ours, "trl": theirs}


def measured(name: str) -> dict[str, Any]:
    """An arm in this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        steps = ARMS[name](folder)
    return {"seconds": steps.medians(), "peak_bytes_of_steps": peak() - steps.held, "prompt": steps.prompt}


def alone(name: str) -> dict[str, Any]:
    """An arm in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--arm", name], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(measured(args.arm)))
        return
    runs = [{name: alone(name) for name in ARMS} for _ in range(args.rounds)]
    prompts = [run[name].pop("prompt") for run in runs for name in ARMS]
    if any(prompt != prompts[0] for prompt in prompts):
        raise AssertionError("the arms read other prompts")
    best = {name: min((run[name] for run in runs), key=lambda one: one["seconds"]["step"]) for name in ARMS}
    result = {
        "machine": machine(),
        "prompts": PROMPTS,
        "rollouts_of_each": G,
        "prompt_tokens": len(prompts[0]),
        "new_tokens": NEW_TOKENS,
        "steps": STEPS,
        "arms": best,
        "trl_over_umekit": {
            name: round(best["trl"]["seconds"][name] / best["umekit"]["seconds"][name], 2)
            for name in ("step", "rollout", "update")
        },
    }
    text = json.dumps(result, indent=2) + "\n"
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
