"""RerankerTrainer: U-MARVEL's labels and losses, and every loss against the stock class, in chunks and whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration

import umekit
from umekit.modeling.reranker import UmeForReranking
from umekit.processing.processor import UmeProcessor
from umekit.testing import save_tiny_reranker
from umekit.trainers import RerankerTrainer, RerankerTrainingArguments, add_lora
from umekit.trainers.pair_rows import PairBatch, PairCollator
from umekit.trainers.reranker import positive_is_best
from umekit.trainers.tokens import completion_labels

GOLDEN = Path(__file__).parent / "golden"
CHECKPOINT = Path(__file__).parent.parent / "golden" / "umarvel_reranker" / "checkpoint"
QUERY_PROJECTION = "layers.{}.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "umarvel_reranker.npz") as arrays:
        return {name: arrays[name] for name in arrays}


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "umarvel_reranker.json").read_text())
    return found


@pytest.fixture(scope="module")
def rows(published: dict[str, Any]) -> list[dict[str, Any]]:
    """Their pairs as rows of a mined list."""
    with np.load(GOLDEN / "pictures.npz") as arrays:
        pictures = {name: Image.fromarray(arrays[name]) for name in arrays}

    def item(entry: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in entry.items() if value}
        return {**given, "image": pictures[given["image"]]} if "image" in given else given

    return [
        {"query": item(row["query"]), "positive": item(row["positive"]), "negatives": [item(row["negative"])]}
        for row in published["rows"]
    ]


# ---- the published form ------------------------------------------------------------------------------------------


def test_labels_and_both_means_are_theirs(stored: dict[str, np.ndarray]) -> None:
    """On their ids and the losses that their model had of each token."""
    ids, mask = torch.tensor(stored["input_ids"]), torch.tensor(stored["attention_mask"])
    items = [SimpleNamespace(completion=8)] * len(
        ids
    )  # 5 tokens of header here, the answer, its end, a line break
    labels = completion_labels(items, ids, mask)
    assert torch.equal(labels[:, :-1], torch.tensor(stored["labels"])[:, 1:])
    losses = torch.tensor(stored["loss_per_token"])
    assert losses[labels[:, :-1] >= 0].mean().item() == pytest.approx(float(stored["loss"]), rel=1e-6)
    answers = losses[torch.arange(len(ids)), torch.tensor(stored["answer_position"]) - 1]
    assert answers.mean().item() == pytest.approx(float(stored["loss_answer_token_only"]), rel=1e-6)


def test_pairs_are_rendered_and_labelled_as_theirs(
    published: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    reranker = umekit.load(CHECKPOINT, preset="u-marvel-reranker")
    tokenizer = reranker.processor.tokenizer
    collator = PairCollator(reranker.processor, answers=reranker.model.answer_ids, loss_span="turn")
    batch = collator(rows)["batch"]
    assert batch.columns["relevant"].tolist() == [[True, False]] * 3
    for theirs, item in zip(published["rendered"], [*batch.items[::2], *batch.items[1::2]], strict=True):
        assert item.completion == theirs["n_label_tokens"]
        labelled = tokenizer.decode(item.input_ids[-item.completion :])
        assert theirs["text"].endswith(labelled)
        answer = labelled.removeprefix("<|im_start|>assistant\n")
        assert item.rendered + answer == theirs["text"]


# ---- every loss, by the stock class --------------------------------------------------------------------------------


def reference(rows: list[dict[str, Any]], span: str, positions: str, listwise: float) -> tuple[float, Any]:
    """Loss and gradients of a plain loop on the stock class, with the stock class's logits of all tokens."""
    processor = umekit.load(CHECKPOINT, preset="u-marvel-reranker").processor
    model = Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
    yes, no = (processor.tokenizer.encode(text)[0] for text in ("Yes", "No"))
    tail = processor.tokenizer.encode("<|im_end|>\n")
    header = len(processor.tokenizer.encode("<|im_start|>assistant\n"))
    losses, lists = [], []
    for row in rows:
        differences = []
        for number, candidate in enumerate([row["positive"], *row["negatives"]]):
            pair = processor.prepare_pair(row["query"], candidate).continued([no if number else yes, *tail])
            inputs = dict(processor.collate([pair]))
            del inputs["pooling_slots"], inputs["attention_mask"]
            ids, length = inputs["input_ids"], pair.length
            if positions == "1d":
                inputs["position_ids"] = torch.arange(length).expand(3, 1, -1)
            logits = model(**inputs).logits[0]
            each = F.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
            answer = length - 2 - len(tail)
            losses.append(each[answer : answer + 1] if span == "answer" else each[answer - header :])
            differences.append(logits[answer, yes] - logits[answer, no])
        lists.append(torch.stack(differences).log_softmax(0)[0])
    loss = torch.cat(losses).mean() - listwise * torch.stack(lists).mean()
    loss.backward()
    return loss.item(), (model, (yes, no))


def trainer_of(folder: Path, rows: Any, model: Any, processor: Any, **settings: Any) -> RerankerTrainer:
    given = {"train_lm_head": True, "report_to": "none", "use_cpu": True, "disable_tqdm": True, **settings}
    args = RerankerTrainingArguments(output_dir=str(folder), **given)
    return RerankerTrainer(model, args, processing_class=processor, train_dataset=rows, eval_dataset=rows)


def gradients(trainer: RerankerTrainer, rows: Any) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    loss = trainer.training_step(trainer.model, trainer.data_collator(rows)).item()
    named = trainer.native_model.backbone.named_parameters()
    return loss, {name: one.grad for name, one in named if one.grad is not None}


@pytest.mark.parametrize(
    ("span", "positions", "listwise"),
    [("turn", "1d", 0.0), ("turn", None, 0.0), ("answer", "1d", 0.0), ("answer", None, 0.7)],
)
def test_losses_and_gradients_are_those_of_the_stock_class(
    tmp_path: Path, rows: list[dict[str, Any]], span: str, positions: str | None, listwise: float
) -> None:
    expected, (stock, answers) = reference(rows, span, positions or "mrope", listwise)
    wanted = {name: one.grad for name, one in stock.named_parameters() if one.grad is not None}
    last = stock.config.get_text_config().num_hidden_layers - 1
    for chunk_tokens, share in ((None, False), (None, True), (1, True), (400, False), (400, True)):
        if share and span == "turn" and chunk_tokens is None:
            continue
        reranker = umekit.load(CHECKPOINT, preset="u-marvel-reranker")
        trainer = trainer_of(
            tmp_path,
            rows,
            reranker.model,
            reranker.processor,
            loss_span=span,
            positions=positions,
            listwise_weight=listwise,
            chunk_tokens=chunk_tokens,
            share_beginnings=share,
        )
        assert trainer._shares(trainer.data_collator(rows)["batch"]) == (share and span == "answer")
        loss, found = gradients(trainer, rows)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert (found[name] - value).abs().max() <= 1e-4 * value.abs().max(), name
        assert any(name.endswith(QUERY_PROJECTION.format(last)) for name in found)
        assert found["lm_head.weight"][list(answers)].abs().max() > 0
        assert reranker.model.settings.positions == "mrope"


# ---- rows ------------------------------------------------------------------------------------------------------


def texts(collator: PairCollator, row: dict[str, Any]) -> list[str]:
    """The last word of each pair's candidate."""
    items = collator([row])["batch"].items
    return [item.rendered.partition("Candidate:")[2].partition(".")[0] for item in items]


def test_ratio_depth_and_what_is_no_negative() -> None:
    processor = umekit.load(CHECKPOINT, preset="u-marvel-reranker").processor
    row = {"query": "which", "positive": "right", "positive_id": "p", "__row__": 3}
    row |= {
        "negatives": ["right", "same", *(f"wrong {i}" for i in range(8))],
        "negative_ids": ["q", "p", *map(str, range(8))],
    }

    def kept(**settings: Any) -> list[str]:
        return texts(PairCollator(processor, answers=[1, 2], **settings), row)

    assert kept() == ["Right", *(f"Wrong {i}" for i in range(8))]
    row["positive_id"] = 7  # a number, whose text is the last one's id
    assert kept() == ["Right", "Same", *(f"Wrong {i}" for i in range(7))]
    row["positive_id"] = "p"
    del row["negatives"][:2], row["negative_ids"][:2]
    assert kept(max_negatives=2) == ["Right", "Wrong 0", "Wrong 1"]
    drawn = {seed: kept(max_negatives=2, negative_depth=5, seed=seed) for seed in range(8)}
    assert len({tuple(one) for one in drawn.values()}) > 3
    assert set().union(*map(set, drawn.values())) <= {"Right", *(f"Wrong {i}" for i in range(5))}
    assert drawn[0] == kept(max_negatives=2, negative_depth=5)  # the same in every epoch


def test_a_negative_that_is_the_positive_takes_no_place() -> None:
    processor = umekit.load(CHECKPOINT, preset="u-marvel-reranker").processor
    row = {"query": "which", "positive": "right", "__row__": 3}
    row["negatives"] = ["right", "wrong 0", "right", "wrong 0", *(f"wrong {i}" for i in range(1, 8))]

    def kept(**settings: Any) -> list[str]:
        return texts(PairCollator(processor, answers=[1, 2], **settings), row)

    assert kept() == ["Right", *(f"Wrong {i}" for i in range(8))]
    assert kept(max_negatives=1) == ["Right", "Wrong 0"]
    assert kept(max_negatives=3) == ["Right", "Wrong 0", "Wrong 1", "Wrong 2"]
    for seed in range(8):
        assert len(kept(max_negatives=2, negative_depth=4, seed=seed)) == 3
    assert kept(negative_depth=3) == ["Right", "Wrong 0", "Wrong 1", "Wrong 2"]


def test_an_item_that_cannot_be_read_is_named_by_its_place() -> None:
    processor = umekit.load(CHECKPOINT, preset="u-marvel-reranker").processor
    collator = PairCollator(processor, answers=[1, 2])
    row = {"query": "which", "positive": "right", "positives": ["true"], "positive_id": "p"}
    row |= {"negatives": ["same", "wrong", "other"], "negative_ids": ["p", "q", "r"]}
    for change, message in (
        ({"positive": {"image": "nowhere.png"}}, "the positive: no such file"),
        ({"positives": [{"image": "nowhere.png"}]}, "positives 0: no such file"),
        ({"negatives": ["same", "wrong", 3]}, "negative 2: cannot embed a int"),
    ):
        with pytest.raises(ValueError, match=f"row 0 .*: {message}"):
            collator([{**row, **change}])


def test_a_batch_that_teaches_yes_alone_is_told_once(
    tmp_path: Path, rows: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    reranker = umekit.load(CHECKPOINT, preset="u-marvel-reranker")
    trainer = trainer_of(tmp_path, rows, reranker.model, reranker.processor)
    lonely = [{**row, "negatives": []} for row in rows]
    for given, said in ((rows, 0), ([rows[1], lonely[0]], 0), (lonely[1:2], 1), (lonely[1:2], 1)):
        trainer.training_step(trainer.model, trainer.data_collator(given))
        assert caplog.text.count("teaches yes alone") == said


def test_a_row_without_negatives_is_no_hit() -> None:
    scores = torch.tensor([[2.0, 1.0], [1.0, 2.0], [3.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    relevant = torch.tensor([[True, False]] * 3)
    assert positive_is_best(PairBatch(scores, mask, relevant)).tolist() == [True, False]


def test_what_cannot_be_trained_is_refused(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    for wrong in (
        {"loss_span": "all"},
        {"positions": "2d"},
        {"pointwise_weight": 0.0},
        {"max_negatives": 0},
        {"media_per_chunk": True, "chunk_tokens": 10},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RerankerTrainingArguments(output_dir=str(tmp_path), **wrong)  # type: ignore[arg-type]
    embedder = umekit.load(tiny_checkpoint("qwen2_vl"))
    with pytest.raises(TypeError, match="scores no pairs"):
        trainer_of(tmp_path, [], embedder.model, embedder.processor)


# ---- a whole training, on any backbone -----------------------------------------------------------------------------


@pytest.mark.parametrize("listwise", [0.0, 1.0])
def test_a_lora_learns_saves_and_scores_as_it_was_evaluated(
    tmp_path: Path, rows: list[dict[str, Any]], listwise: float
) -> None:
    reranker = umekit.load(CHECKPOINT, preset="u-marvel-reranker")
    torch.manual_seed(0)
    add_lora(reranker.model, rank=4, alpha=8, dropout=0.0)
    trainer = trainer_of(
        tmp_path / "run",
        rows,
        reranker.model,
        reranker.processor,
        train_lm_head=False,
        listwise_weight=listwise,
        pointwise_weight=1.0 - listwise,
        per_device_train_batch_size=3,
        max_steps=6,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        chunk_tokens=400,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    logged = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    assert logged[-1] < logged[0]
    assert after["eval_auc"] >= before["eval_auc"]
    if listwise:
        assert after["eval_recall@1"] == 1.0
        assert "accuracy" in trainer.state.log_history[1]
    lists = [[row["positive"], *row["negatives"]] for row in rows]
    scores = np.concatenate(reranker.rerank_many([row["query"] for row in rows], lists))
    truth = np.tile([1.0, 0.0], len(rows))
    assert np.mean((scores - truth) ** 2) == pytest.approx(after["eval_brier"], rel=1e-4)
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_any_backbone(tmp_path: Path, family: str, tiny_backbone: Callable[[str], Path]) -> None:
    folder = save_tiny_reranker(tmp_path, tiny_backbone(family))
    reranker = UmeForReranking.from_pretrained(folder), UmeProcessor.from_pretrained(folder)
    rows = [
        {"query": f"which is {i}", "positive": f"the {i}", "negatives": [f"a {i + 1}", {"image": grey()}]}
        for i in range(2)
    ]
    found = []
    for chunk_tokens, share in ((None, False), (60, False), (None, True), (60, True)):
        trainer = trainer_of(
            tmp_path,
            rows,
            *reranker,
            listwise_weight=1.0,
            chunk_tokens=chunk_tokens,
            share_beginnings=share,
        )
        reranker[0].zero_grad()
        loss, gradient = gradients(trainer, rows)
        found.append((loss, {name: value.clone() for name, value in gradient.items()}))
    whole, expected = found[0]
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(whole, rel=1e-5)
        assert gradient.keys() == expected.keys()
        for name, value in expected.items():
            assert (gradient[name] - value).abs().max() <= 1e-4 * value.abs().max() + 1e-7, name


def grey() -> Image.Image:
    return Image.new("RGB", (60, 60), "grey")
