"""A reranker's rows with several positives: what is in them, the listwise target against NumPy, and gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import umekit
from umekit.testing import save_tiny_reranker
from umekit.trainers import RerankerTrainer, RerankerTrainingArguments
from umekit.trainers.formats import read_rows
from umekit.trainers.pair_rows import PairCollator

ROWS: list[dict[str, Any]] = [
    {"query": "which is it", "positive": "the first", "negatives": ["a second", "a third one of them"]},
    {
        "query": "and which are these",
        "positive": "the red",
        "positives": ["the green one", "the red", {"text": "the blue"}],
        "negatives": ["a yellow", "the green one", "a white"],
    },
    {
        "query": "all of them",
        "positive": "one",
        "positives": ["two"],
        "negatives": ["x"],
        "negative_ids": ["n"],
    },
]
COUNTS = [(1, 2), (3, 2), (2, 1)]  # positives and negatives, each content once


@pytest.fixture(scope="module")
def checkpoint(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_reranker(tmp_path_factory.mktemp("reranker") / "folder", tiny_backbone("qwen2_vl"))


def trainer_of(folder: Path, checkpoint: Path, **settings: Any) -> RerankerTrainer:
    reranker = umekit.load(checkpoint, device="cpu")
    args = RerankerTrainingArguments(
        output_dir=str(folder),
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        train_lm_head=True,
        **settings,
    )
    return RerankerTrainer(
        reranker.model, args, processing_class=reranker.processor, train_dataset=ROWS, eval_dataset=ROWS
    )


def test_rows_hold_positives_first_and_each_content_once(checkpoint: Path) -> None:
    reranker = umekit.load(checkpoint, device="cpu")

    def relevant(row: dict[str, Any], **settings: Any) -> list[bool]:
        batch = PairCollator(reranker.processor, answers=[1, 2], **settings)([row])["batch"]
        assert len(batch.items) == batch.counts["pairs"][0]
        return batch.columns["relevant"][0].tolist()

    for row, (right, wrong) in zip(ROWS, COUNTS, strict=True):
        assert relevant(row) == [True] * right + [False] * wrong
    # A positive that is not taken is no negative either.
    assert relevant(ROWS[1], max_positives=1) == [True, False, False]
    assert relevant({**ROWS[2], "positive_ids": ["n"]}) == [True, True]  # its negative is right, by its id
    with pytest.raises(ValueError, match="positives must be a list"):
        relevant({**ROWS[2], "positives": "two"})
    with pytest.raises(ValueError, match="max_positives"):
        RerankerTrainingArguments(output_dir="x", max_positives=0)


def test_answers_of_the_published_span(checkpoint: Path) -> None:
    reranker = umekit.load(checkpoint, device="cpu")
    yes, no = reranker.model.answer_ids
    collator = PairCollator(reranker.processor, answers=[yes, no], loss_span="turn")
    items = collator(ROWS[1:2])["batch"].items
    answers = [int(one) for item in items for one in item.input_ids[-item.completion :] if one in (yes, no)]
    assert answers == [yes] * 3 + [no] * 2


def twin(checkpoint: Path) -> tuple[float, float, float]:
    """Listwise loss, pointwise loss and accuracy in NumPy, of scores of one pair at a time."""
    reranker = umekit.load(checkpoint, device="cpu")
    lists, points, first = [], [], []
    for row in ROWS:
        right = list(dict.fromkeys(text_of(item) for item in (row["positive"], *row.get("positives", ()))))
        wrong = [text for text in row["negatives"] if text not in right]
        pairs = [reranker.processor.prepare_pair(row["query"], text) for text in (*right, *wrong)]
        logits = np.concatenate(
            [
                reranker.model.pair_logits([pair], processor=reranker.processor).double().numpy()
                for pair in pairs
            ]
        )
        scores = logits[:, 0] - logits[:, 1]
        target = np.array([1 / len(right)] * len(right) + [0.0] * len(wrong))
        lists.append(-(target * (scores - np.log(np.exp(scores).sum()))).sum())
        whole = all_logits(reranker, pairs)
        wanted = [0] * len(right) + [1] * len(wrong)
        points += [np.log(np.exp(row).sum()) - row[reranker.model.answer_ids[one]]
                   for row, one in zip(whole, wanted, strict=True)]  # fmt: skip
        first.append(scores[: len(right)].max() > scores[len(right) :].max())
    return float(np.mean(lists)), float(np.mean(points)), float(np.mean(first))


def text_of(item: Any) -> str:
    return item if isinstance(item, str) else str(item["text"])


def all_logits(reranker: Any, pairs: list[Any]) -> np.ndarray:
    """Of every token of the vocabulary after a pair, [pairs, vocabulary]."""
    rows = []
    for pair in pairs:
        inputs = dict(reranker.processor.collate([pair]))
        del inputs["pooling_slots"]
        with torch.no_grad():
            rows.append(reranker.model.backbone(**inputs).logits[0, -1].double().numpy())
    return np.stack(rows)


def test_the_listwise_target_is_uniform_over_the_positives(tmp_path: Path, checkpoint: Path) -> None:
    listwise, pointwise, accuracy = twin(checkpoint)
    found: list[dict[str, torch.Tensor]] = []
    for chunk_tokens, share in ((None, False), (None, True), (60, False), (60, True)):
        trainer = trainer_of(
            tmp_path, checkpoint, listwise_weight=0.7, chunk_tokens=chunk_tokens, share_beginnings=share
        )
        trainer.model.zero_grad()
        loss = trainer.training_step(trainer.model, trainer.data_collator(ROWS)).item()
        assert loss == pytest.approx(0.7 * listwise + pointwise, rel=1e-5)
        named = trainer.native_model.backbone.named_parameters()
        found.append({name: one.grad.clone() for name, one in named if one.grad is not None})
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, value in found[0].items():
            assert (other[name] - value).abs().max() <= 1e-4 * value.abs().max() + 1e-7, name
    assert trainer.evaluate()["eval_recall@1"] == pytest.approx(accuracy)


def test_several_positives_share_the_softmax(tmp_path: Path, checkpoint: Path) -> None:
    """Trained to the end, the loss comes near its least, log r, and all positives are above all negatives."""
    trainer = trainer_of(
        tmp_path, checkpoint, listwise_weight=1.0, pointwise_weight=0.0, per_device_train_batch_size=3,
        max_steps=30, learning_rate=3e-3, logging_steps=1, save_strategy="no",
    )  # fmt: skip
    trainer.train()
    logged = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    least = float(np.mean([np.log(right) for right, _ in COUNTS]))
    assert least - 1e-4 <= logged[-1] <= least + 0.25 * (logged[0] - least)
    reranker = umekit.Reranker(trainer.native_model.eval(), trainer.processing_class)
    scores = reranker.rerank(
        ROWS[1]["query"], ["the red", "the green one", "the blue", "a yellow", "a white"]
    )
    assert scores[:3].min() > scores[3:].max()


def test_readers_keep_positives(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows = read_rows(file)
    assert "positives" not in rows[0]
    assert rows[1]["positives"] == ROWS[1]["positives"]
