"""What arms begin from: a warm-up per seed, and what is made of it.

* ``read``: random weights that learned to read cells, strips and clips out; no contrastive step. It ends when
  unseen handwriting is read, not at a step count, because digits can stay unlearned while everything else looks well.
* ``causal``, ``bidirectional``: ``read``, after equally many further reading steps under the prompt of U-MARVEL with
  one attention or the other. A bidirectional model cannot be given the next word as its task, since it sees it; words
  of the caption are blanked and filled in (LLM2Vec, arXiv 2404.05961).
* ``paired``: ``bidirectional``, after a first contrastive stage on pictures, texts, two label sets, edits and clips,
  one task a batch: what claims about a second stage need. Without it arms learn what is easy (which task, which
  instruction) and nothing of the content in the steps that they have. It is saved under its prompt, so that it can be
  loaded to mine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BatchFeature

from umekit.examples.train_ume_tiny import learn_to_read, speed_up
from umekit.examples.ume_tiny_captions import IGNORED, LETTERS, CaptionReader, Lesson, lesson_rows
from umekit.examples.ume_tiny_model import build_model, build_processor, build_tokenizer
from umekit.processing.processor import UmeProcessor

from .context import Context
from .prompts import put_on
from .records import Arm, Phase, Start
from .store import VERSION, digest, weights_hash
from .training import open_start, train_arm
from .world import World

DONE = "start.json"
PROMPT_OF = {"causal": "causal-last", "bidirectional": "bidirectional-mean"}
# Strips in place of ume-tiny's whole scenes and pages: what the arms see, at fewer tokens.
STRIPS_ALOUD = Lesson("strips", ("strip", "strip", "clip", "cell"), "strip", 0.95, batch=64)
CONVERSION_STEPS = 200
CONVERSION_ROWS = 64  # of a step
UNSEEN = 192  # strips that a start is asked to read
CONVERSION_RATE = 5e-4
BLANK = "<reason>"  # a reserved token that nothing else here uses
# 200 steps, in the middle of what there is to learn: twice as many leave the arms little.
PAIRED = Arm(
    name="paired",
    what="a first contrastive stage",
    pool="captions_hard",
    start="bidirectional",
    prompt="bidirectional-mean",
    phases=(Phase("first_stage"),),
    rows=12800,
)
PAIRED_RATE = 1e-3


def before(start: Start) -> Start | None:
    """The start that a start is made from."""
    earlier: dict[Start, Start] = {"causal": "read", "bidirectional": "read", "paired": "bidirectional"}
    return earlier.get(start)


def fingerprint(start: Start, seed: int, given: Path | None) -> str:
    """Of everything that decides a start. ``given``: a folder in place of the warm-up; its weights count."""
    if given is not None:
        read = weights_hash(given)
    else:
        read = f"own warm-up {seed}"
    parts: dict[str, Any] = {"version": VERSION, "read": read}
    if start != "read":
        parts |= {"start": start, "steps": CONVERSION_STEPS, "rate": CONVERSION_RATE}
    if start == "paired":
        parts |= {"arm": PAIRED.to_dict(), "rate": PAIRED_RATE}
    return digest(parts)


def make_start(start: Start, seed: int, folder: Path, source: Path | None) -> dict[str, Any]:
    """Make a start in ``folder``, from the start in ``source`` (None for ``read``); what is worth keeping about it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DONE).unlink(missing_ok=True)
    with open(folder / "log.jsonl", "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        if source is None:
            model, processor, found = _warm_up(seed)
        elif start == "paired":
            trained = train_arm(PAIRED, Context(1000 + seed, source), PAIRED_RATE)
            model, processor = trained.model, trained.processor
            found = {"steps": trained.steps, "last_loss": trained.history[-1][2]}
        else:
            model, processor, found = _convert(start, seed, source)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return {"start": start, "seed": seed, **found}


def _warm_up(seed: int) -> tuple[Any, UmeProcessor, dict[str, Any]]:
    processor = build_processor(build_tokenizer())
    model = build_model(processor.tokenizer, seed)
    speed_up(model)
    reader = CaptionReader(processor)
    options = argparse.Namespace(seed=seed, warmup=200, reading_steps=1500, quick=False)
    learn_to_read(model, reader, (LETTERS, STRIPS_ALOUD), options, World)
    return model, processor, {"unseen": _accuracy(reader, model, seed)}


def _convert(start: str, seed: int, source: Path) -> tuple[Any, UmeProcessor, dict[str, Any]]:
    """Further reading under one attention; saved under the settings of ``source``, since arms bring their prompt."""
    plain, processor = open_start(source, seed)
    model, prompted = put_on(plain, processor, PROMPT_OF[start])
    reader = BlankReader(prompted, seed) if start == "bidirectional" else CaptionReader(prompted)
    world = World("train", 2000 + seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=CONVERSION_RATE, betas=(0.9, 0.98), weight_decay=0.05
    )
    model.train()
    for step in range(CONVERSION_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = CONVERSION_RATE * min(1.0, (step + 1) / 20)
        batch = reader.batch(lesson_rows(world, ("strip",), step * CONVERSION_ROWS, CONVERSION_ROWS))
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = reader.loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            print(
                json.dumps({"start": start, "step": step + 1, "loss": round(float(loss.detach()), 4)}),
                flush=True,
            )
    return plain, processor, {"steps": CONVERSION_STEPS, "unseen": _accuracy(reader, model, seed)}


def _accuracy(reader: CaptionReader, model: Any, seed: int) -> dict[str, float]:
    """Of digits, colours and positions apart, on strips of unseen handwriting."""
    found = reader.accuracy(model, World("validation", seed), "strip", UNSEEN)
    return {name: round(value, 4) for name, value in found.items()}


class BlankReader(CaptionReader):
    """Captions of which words are blanked; each is told from the place before it, as in ordinary reading."""

    def __init__(self, processor: UmeProcessor, seed: int) -> None:
        super().__init__(processor)
        self.blank = processor.tokenizer.convert_tokens_to_ids(BLANK)
        self.generator = torch.Generator().manual_seed(seed)

    def batch(self, rows: Sequence[dict[str, Any]]) -> BatchFeature:
        """As in the parent; 30 to 100 % of a row's words are blanks, and only they are labelled."""
        batch = super().batch(rows)
        asked = batch["labels"] != IGNORED
        share = 0.3 + 0.7 * torch.rand(len(rows), 1, generator=self.generator)
        hidden = asked & (torch.rand(asked.shape, generator=self.generator) < share)
        first = asked & (asked.cumsum(-1) == 1)  # at least one word of every row
        hidden |= first
        batch["labels"][~hidden] = IGNORED
        batch["input_ids"][:, 1:][hidden[:, :-1]] = self.blank  # the label of a place is the word after it
        return batch
