"""The training script of ume-tiny: its parts, and a whole run of a few steps."""

from __future__ import annotations

import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

import umekit
from umekit.evaluation.digit_world import TASKS, DigitWorld
from umekit.examples.ume_tiny_captions import IGNORED, SENTENCES, CaptionReader, lesson_rows
from umekit.examples.ume_tiny_curriculum import MAX_HOPS, Curriculum
from umekit.examples.ume_tiny_model import build_model, build_processor, build_tokenizer
from umekit.examples.ume_tiny_thoughts import ALWAYS, BATCH, ThinkingMixture

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reader() -> CaptionReader:
    return CaptionReader(build_processor(build_tokenizer()))


def test_model_is_of_the_stated_size(reader: CaptionReader) -> None:
    model = build_model(reader.processor.tokenizer)
    assert 3.0e6 < sum(p.numel() for p in model.parameters()) < 3.6e6
    assert model.settings.tokens["gen_emb"] == reader.processor.tokenizer.convert_tokens_to_ids("<gen_emb>")


def test_captions_are_labelled_one_step_ahead(reader: CaptionReader) -> None:
    rows = lesson_rows(DigitWorld("train"), SENTENCES.sources, 0, 5)
    batch = reader.batch(rows)
    for number, row in enumerate(rows):
        labels = batch["labels"][number]
        asked = torch.nonzero(labels != IGNORED).flatten()
        text = reader.processor.tokenizer.decode(labels[asked[:-1]])
        assert text.split() == row["text"].split()
        assert labels[asked[-1]] == reader.end
        # What is predicted at a place is what stands at the next one.
        assert (batch["input_ids"][number, asked[:-1] + 1] == labels[asked[:-1]]).all()


def test_curriculum_is_deterministic_and_keeps_hops_low_at_first() -> None:
    one, two = Curriculum(200, 8, seed=3), Curriculum(200, 8, seed=3)
    assert one.tasks == two.tasks
    assert set(Curriculum(3000, 8).tasks) == set(TASKS)
    for step in (0, 1, 57, 199):
        rows, again = one.rows_of(step), two.rows_of(step)
        assert [row["positive_id"] for row in rows] == [row["positive_id"] for row in again]
        assert len({row["task"] for row in rows}) == 1
    walk = one.tasks.index("walk")
    hops = [int(row["query"]["text"].rsplit("h", 1)[1]) for row in one.rows_of(walk)]
    assert max(hops) <= MAX_HOPS


@pytest.mark.slow
def test_a_few_steps_of_everything(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "examples" / "train_ume_tiny.py"),
        "--quick",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=_environment())
    assert done.returncode == 0, done.stderr
    encoder = umekit.load(tmp_path / "ume-tiny")
    assert np.isfinite(encoder.encode(["p1 red 4"])).all()
    weights = (tmp_path / "ume-tiny" / "model.safetensors").stat().st_size
    assert weights < 7_000_000


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_thinking_mixture_is_deterministic_and_every_row_has_its_thoughts() -> None:
    one, two = ThinkingMixture(50, seed=3), ThinkingMixture(50, seed=3)
    for step in (0, 1, 49):
        rows, again = ([mixture[step * BATCH + place] for place in range(BATCH)] for mixture in (one, two))
        assert [row["positive_id"] for row in rows] == [row["positive_id"] for row in again]
        tasks = [row["task"] for row in rows]
        assert {name: tasks.count(name) for name in ALWAYS} == ALWAYS
        assert sum(len(list(group)) == 8 for _, group in groupby(tasks[sum(ALWAYS.values()) :])) >= 3
        assert all(
            {"query_thought", "answer", "positive_thought", "positive_answer"} <= set(row) for row in rows
        )
    walks = [[row["steps"] for row in (one[step * BATCH + place] for place in range(20))] for step in (0, 49)]
    assert max(walks[0]) == 0
    assert max(walks[1]) == 8
    assert max(row["steps"] for row in map(ThinkingMixture(50, growth=0).__getitem__, range(20))) > 4


def test_one_query_in_eight_whose_words_ask_for_themselves_has_no_instruction() -> None:
    mixture = ThinkingMixture(24, seed=3)
    rows = [mixture[index] for index in range(len(mixture))]
    bare = [row for row in rows if "instruction" not in row["query"]]
    asking = [row for row in rows if "text" in row["query"]]
    assert all("text" in row["query"] for row in bare)
    assert 0.1 < len(bare) / len(asking) < 0.15
    assert {"walk", "qa_what"} <= {row["task"] for row in bare}
