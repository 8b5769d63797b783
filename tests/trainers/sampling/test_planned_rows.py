"""Planned rows under accelerate and the Trainer: every global batch is of one source, on any number of ranks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from stub_model import StubModel, StubPrepared, StubProcessor, stub_trainer
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from umekit.evaluation.digit_world.dataset import TaskRows
from umekit.trainers import ContrastiveCollator, ContrastiveTrainer
from umekit.trainers.batches import ContrastiveBatch
from umekit.trainers.indexed_rows import IndexedRows
from umekit.trainers.objectives.cross_entropies import number_targets
from umekit.trainers.recipes.sources import eval_rows
from umekit.trainers.sampling import PlannedRows, Source, plan_epochs, target_codes


def sources() -> list[Source]:
    def rows(name: str, count: int) -> list[dict[str, Any]]:
        return [
            {"query": f"{name} query {i}", "positive": f"{name} {i}", "negatives": [], "dataset": "?"}
            for i in range(count)
        ]

    return [Source("a", rows("a", 40), task="one"), Source("b", rows("b", 27)), Source("c", rows("c", 16))]


def planned(batch: int = 8, **options: Any) -> PlannedRows:
    return PlannedRows(sources(), plan_epochs(sources(), batch, seed=1, **options))


def test_a_row_knows_its_data_set_task_and_target() -> None:
    rows = planned()
    place = next(index for index in range(len(rows)) if rows.place(index)[0] == "a")
    name, number = rows.place(place)
    row = rows[place]
    assert (row["query"], row["dataset"], row["task"]) == (f"a query {number}", "a", "one")
    assert row["positive_id"] == f"target {rows.plan.targets[0][number]}"
    assert name == "a"
    other = next(rows[index] for index in range(len(rows)) if rows.place(index)[0] == "b")
    assert "task" not in other
    assert len({rows[index]["positive_id"] for index in range(8)}) == 8
    for outside in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows[outside]


def test_what_the_plan_keeps_apart_is_what_the_loss_masks() -> None:
    digits = Source("digits", [{"query": str(i), "positive": str(i), "positive_id": i} for i in range(4)])
    counts = Source("counts", [{"query": str(i), "positive": str(i), "positive_id": 9} for i in range(4)])
    plan = plan_epochs([digits, counts], 8, seed=0, kind="mixed", no_duplicate_targets=False)
    rows = PlannedRows([digits, counts], plan)
    batch = ContrastiveCollator(StubProcessor())([rows[index] for index in range(8)])["batch"]
    # counts' rows share an id, so all its texts, and with them those of digits, are one target
    assert set(number_targets(batch.columns["positive_keys"]).tolist()) == {0}


def in_order(sources: list[Source], targets: str) -> list[dict[str, Any]]:
    """All rows, source after source: of a plan that knows their targets, of one that does not, or for evaluation."""
    count = sum(len(source) for source in sources)
    if targets == "eval":
        rows = eval_rows(sources)
        return [rows[index] for index in range(count)]
    codes = target_codes(sources)
    unknown = [np.full(len(source), -1, dtype=np.int64) for source in sources]
    plan = plan_epochs(
        sources, count, seed=0, kind="mixed", no_duplicate_targets=False,
        targets=codes if targets == "known" else unknown,
    )  # fmt: skip
    planned = PlannedRows(sources, plan)
    return [planned[index] for index in np.lexsort((plan.row[0], plan.source[0]))]


WAYS = pytest.mark.parametrize("targets", ["known", "unknown", "eval"])


class Letters(StubProcessor):
    """Tells all texts apart, which checksums do not."""

    def prepare(self, item: Any, role: str | None = None, instruction: str | None = None) -> StubPrepared:
        prepared = super().prepare(item, role)
        text = item if isinstance(item, str) else item.get("text", "")
        return StubPrepared(np.frombuffer(text.encode(), dtype=np.uint8), prepared.patches)


def masks(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = ContrastiveCollator(Letters())(rows)["batch"]
    tasks = torch.zeros(len(rows), dtype=torch.int64)
    found = batch.split(torch.zeros(len(batch.items), 1), ContrastiveBatch, tasks=tasks).masks()
    return found["positive_ids"], found["negative_ids"]


def picture(number: int) -> dict[str, Any]:
    return {"image": np.full((1, 4), float(number), dtype=np.float32)}


@WAYS
def test_equal_ids_are_one_target_inside_a_source_only(targets: str) -> None:
    one = [{"query": "q", "positive": picture(n), "positive_id": n // 2} for n in range(4)]
    two = [{"query": "q", "positive": picture(9 + n), "positive_id": n} for n in range(2)]
    two[0] |= {"negatives": [picture(20), picture(21), picture(0)], "negative_ids": ["1", None, "8"]}
    sources = [Source("one", one, group="g"), Source("two", two, group="g")]
    positive, negative = masks(in_order(sources, targets))
    assert positive.tolist() == [0, 0, 2, 2, 4, 5]
    assert negative is not None
    assert negative[4, 0] == positive[5], "the id 1 of its own source, not that of the other"
    assert negative[4, 1] not in positive
    assert negative[4, 2] == positive[0], "the same picture"


@WAYS
def test_equal_texts_are_one_target_over_sources(targets: str) -> None:
    digits = [{"query": "q", "positive": str(n), "positive_id": n} for n in (6, 7)]
    counts = [{"query": "q", "positive": {"text": t}, "positive_id": i} for t, i in (("7", 6), ("seven", 6))]
    sources = [Source("digits", digits, group="g"), Source("counts", counts, group="g")]
    assert masks(in_order(sources, targets))[0].tolist() == [0, 1, 1, 1]


@WAYS
def test_label_spaces_of_digit_world(targets: str) -> None:
    names = ("classify_digit", "classify_count")
    sources = [Source(name, TaskRows(name, 20, negatives=2), group="labels") for name in names]
    rows = in_order(sources, targets)
    labels = [row["positive"]["text"] for row in rows]
    positive, negative = masks(rows)
    assert len(set(labels)) < len(labels)
    assert positive.tolist() == [labels.index(label) for label in labels]
    assert negative is not None
    for i, row in enumerate(rows):
        for j, item in enumerate(row["negatives"]):
            same = [other for other, label in enumerate(labels) if label == item["text"]]
            assert (negative[i, j] == positive).nonzero().flatten().tolist() == same


def test_a_key_of_the_source_is_its_only_id() -> None:
    rows = [
        {"query": "q", "positive": picture(n), "positive_id": "all", "negatives": [picture(9)]}
        for n in range(3)
    ]
    rows[0]["negative_ids"] = ["all"]
    positive, negative = masks(in_order([Source("keyed", rows, key=[0, 1, 1])], "known"))
    assert positive.tolist() == [0, 1, 1]
    assert negative is not None
    assert not torch.isin(negative, positive).any()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_ranks_together_read_the_plan_and_every_step_is_of_one_source(ranks: int) -> None:
    rows = planned()
    sampler = BatchSampler(SequentialSampler(rows), 8 // ranks, drop_last=False)
    shards = [list(BatchSamplerShard(sampler, ranks, rank)) for rank in range(ranks)]
    assert all(len(shard) == len(rows.plan) for shard in shards)
    for step in range(len(rows.plan)):
        read = [index for shard in shards for index in shard[step]]
        assert read == list(range(8 * step, 8 * step + 8))
        assert len({rows[index]["dataset"] for index in read}) == 1


def test_skipping_the_first_batches_goes_on_exactly_and_reads_no_row() -> None:
    rows = planned()
    read: list[int] = []

    class Counted(PlannedRows):
        def __getitem__(self, index: int) -> dict[str, Any]:
            read.append(index)
            return super().__getitem__(index)

    loader = DataLoader(Counted(rows.sources, rows.plan), batch_size=4, collate_fn=list)
    rest = list(skip_first_batches(loader, 5))
    assert read == list(range(20, len(rows)))
    assert rest[0][0] == rows[20]


class Recorder(ContrastiveCollator):
    """Notes the data sets of each batch."""

    def __init__(self, seen: list[list[str]]) -> None:
        super().__init__(StubProcessor())
        self.seen = seen

    def __call__(self, rows: Any) -> dict[str, Any]:
        self.seen.append([row["dataset"] for row in rows])
        return super().__call__(rows)


def trainer(folder: Path, seen: list[list[str]], **options: Any) -> ContrastiveTrainer:
    rows = planned(epochs=2)
    settings = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "accelerator_config": {"dispatch_batches": False},
        **options,
    }
    args = stub_trainer(folder, rows=rows, **settings).args
    processor = StubProcessor()
    return ContrastiveTrainer(
        StubModel(), args, processing_class=processor, train_dataset=rows, data_collator=Recorder(seen)
    )


def test_the_trainer_reads_the_plan_and_resumes_in_it(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    whole = trainer(tmp_path, seen, save_strategy="steps", save_steps=7)
    whole.train()
    plan = planned(epochs=2).plan
    assert seen == [[plan.names[number] for number in batch] for batch in plan.source]
    assert whole.state.global_step == len(plan)

    rest: list[list[str]] = []
    again = trainer(tmp_path, rest, save_strategy="steps", save_steps=7)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert rest == seen[7:]
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_workers_get_the_rows_by_pickle() -> None:
    rows = planned()
    copy = pickle.loads(pickle.dumps(rows))
    assert copy[11] == rows[11]
    assert np.array_equal(copy.plan.row, rows.plan.row)


def test_a_row_that_cannot_be_read_is_named() -> None:
    class Broken(list):  # type: ignore[type-arg]
        def __getitem__(self, index: Any) -> Any:
            if index == 3:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    broken = [Source("broken", Broken({"query": str(i), "positive": str(i)} for i in range(4)), key=range(4))]
    rows = PlannedRows(broken, plan_epochs(broken, 4, seed=0))
    with pytest.raises(ValueError, match="source 'broken', row 3: the disk is gone"):
        [rows[index] for index in range(4)]


def test_a_row_that_cannot_be_prepared_has_one_name_in_all_epochs() -> None:
    bad = Source("bad", [{"query": 3, "positive": str(n), "positive_id": n} for n in range(4)])
    rows = IndexedRows(PlannedRows([bad], plan_epochs([bad], 4, seed=0, epochs=3)))
    collator = ContrastiveCollator(StubProcessor(), skip_bad_rows=True)
    batch = collator([rows[index] for index in range(12)])["batch"]
    assert len(batch) == 0
    assert batch.columns["positive_keys"].shape == (0, 3)
    assert len(batch.bad_rows) == 12
    assert {row.name for row in batch.bad_rows} == {f"row {n} of source 'bad'" for n in range(4)}
    assert all(row.known and row.reason == "not an item: int" for row in batch.bad_rows)


def test_the_sources_must_be_those_of_the_plan() -> None:
    plan = planned().plan
    with pytest.raises(ValueError, match="the sources a, b, c"):
        PlannedRows(sources()[::-1], plan)
    a, b, _ = sources()
    with pytest.raises(ValueError, match="'c' has 27 rows; the plan was made for 16"):
        PlannedRows([a, b, Source("c", b.rows)], plan)
