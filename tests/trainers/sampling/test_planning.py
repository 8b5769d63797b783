"""Plans: homogeneous batches, nothing lost, weights and caps, the same plan for the same seed."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from umekit.trainers.sampling import Plan, Source, SourceReport, plan_epochs


def rows(count: int, name: str = "x", targets: int | None = None) -> list[dict[str, Any]]:
    return [
        {"query": f"{name} {i}", "positive": f"{name} target {i % (targets or count)}"} for i in range(count)
    ]


def three() -> list[Source]:
    return [Source("a", rows(100, "a")), Source("b", rows(64, "b")), Source("c", rows(30, "c"))]


def entries(plan: Plan) -> list[tuple[int, int]]:
    return list(zip(plan.source.ravel().tolist(), plan.row.ravel().tolist(), strict=True))


def sources_of(plan: Plan, batch: int) -> list[str]:
    return [plan.names[number] for number in np.unique(plan.source[batch])]


def texts(sources: list[Source], plan: Plan, batch: int) -> list[str]:
    pairs = zip(plan.source[batch], plan.row[batch], strict=True)
    return [sources[source].rows[row]["positive"] for source, row in pairs]


def test_a_batch_is_of_one_source_and_an_epoch_reads_every_row_once() -> None:
    plan = plan_epochs(three(), 8, seed=0)
    assert plan.source.shape == (12 + 8 + 3, 8)
    assert all(len(sources_of(plan, batch)) == 1 for batch in range(len(plan)))
    assert len(set(entries(plan))) == len(entries(plan))
    assert [report.unread for report in plan.reports] == [4, 0, 6]
    assert [report.read for report in plan.reports] == [96, 64, 24]
    order = plan.source[:, 0]
    assert np.count_nonzero(np.diff(order)) > 5, "sources take turns"


def test_a_plan_is_a_function_of_seed_and_epoch() -> None:
    assert plan_epochs(three(), 8, seed=3).fingerprint() == plan_epochs(three(), 8, seed=3).fingerprint()
    assert plan_epochs(three(), 8, seed=3).fingerprint() != plan_epochs(three(), 8, seed=4).fingerprint()
    whole = plan_epochs(three(), 8, seed=3, epochs=3)
    assert whole.epoch_starts == (0, 23, 46)
    for epoch in range(3):
        alone = plan_epochs(three(), 8, seed=3, epoch=epoch)
        assert np.array_equal(whole.row[23 * epoch : 23 * (epoch + 1)], alone.row)
    assert not np.array_equal(whole.row[:23], whole.row[23:46])


def test_over_the_epochs_no_row_is_left_out_for_good() -> None:
    plan = plan_epochs(three(), 8, seed=0, epochs=6)
    assert [report.unread for report in plan.reports] == [0, 0, 0]


def test_duplicate_targets_come_in_later_batches() -> None:
    sources = [Source("labels", rows(120, targets=20))]
    plan = plan_epochs(sources, 12, seed=0)
    assert len(plan) == 10
    assert all(len(set(texts(sources, plan, batch))) == 12 for batch in range(10))
    assert plan.reports[0].unread == 0


def test_crowded_targets_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    crowd = [{"query": str(i), "positive": "yes"} for i in range(50)]
    with caplog.at_level(logging.WARNING):
        plan = plan_epochs([Source("qa", crowd + rows(35))], 8, seed=0)
    assert len(plan) == 5
    report = plan.reports[0]
    assert (report.unread, report.crowded) == (45, 45)
    assert "45 of 85 rows are in no batch" in caplog.text


def test_a_source_without_a_single_batch_raises_and_says_what_to_do() -> None:
    labels = rows(100, targets=10)
    with pytest.raises(
        ValueError, match=r"source 'digits' has 100 rows with 10 different targets.*distinct=False"
    ):
        plan_epochs([Source("digits", labels)], 16, seed=0)
    plan = plan_epochs([Source("digits", labels, distinct=False)], 16, seed=0)
    assert len(plan) == 6
    assert len(plan_epochs([Source("digits", labels)], 16, seed=0, no_duplicate_targets=False)) == 6
    with pytest.raises(ValueError, match="cannot fill a batch of 16"):
        plan_epochs([Source("few", rows(7))], 16, seed=0)


def test_a_group_is_one_data_set_and_equal_labels_are_one_target() -> None:
    digits = [{"query": f"d{i}", "positive": str(i % 10), "positive_id": str(i % 10)} for i in range(60)]
    counts = [
        {"query": f"c{i}", "positive": {"text": str(i % 10)}, "positive_id": f"n{i}"} for i in range(60)
    ]
    words = rows(60, "word", targets=15)
    sources = [
        Source(name, found, group="cls") for name, found in zip("dcw", (digits, counts, words), strict=True)
    ]
    plan = plan_epochs(sources, 20, seed=0)
    assert max(len(sources_of(plan, batch)) for batch in range(len(plan))) > 1
    for batch in range(len(plan)):
        found = [t if isinstance(t, str) else t["text"] for t in texts(sources, plan, batch)]
        assert len(set(found)) == 20
    assert plan.repeated == 0


def test_tasks_and_mixed_batches() -> None:
    sources = [
        Source("a", rows(40, "a"), task="t2i"),
        Source("b", rows(40, "b"), task="t2i"),
        Source("c", rows(40, "c"), task="i2t"),
    ]
    by_task = plan_epochs(sources, 10, seed=0, kind="single_task")
    found = {tuple(sources_of(by_task, batch)) for batch in range(len(by_task))}
    assert ("c",) in found
    assert ("a", "b") in found
    assert all("c" not in names or names == ("c",) for names in found)
    mixed = plan_epochs(sources, 10, seed=0, kind="mixed")
    assert sorted(entries(mixed)) == [(source, row) for source in range(3) for row in range(40)]
    assert any(len(sources_of(mixed, batch)) == 3 for batch in range(len(mixed)))
    with pytest.raises(ValueError, match="c has none"):
        plan_epochs([*sources[:2], Source("c", rows(40))], 10, seed=0, kind="single_task")


def test_interleaved_sub_batches_are_of_one_source_each_and_share_no_target() -> None:
    sources = [Source("a", rows(96, "a", targets=40)), Source("b", rows(96, "b")), Source("c", rows(96, "a"))]
    plan = plan_epochs(sources, 16, seed=0, interleave=4)
    assert plan.source.shape == (18, 16)
    sub = plan.source.reshape(-1, 4)
    assert (sub == sub[:, :1]).all()
    assert any(len(sources_of(plan, batch)) > 1 for batch in range(18))
    assert plan.repeated == 0
    assert all(len(set(texts(sources, plan, batch))) == 16 for batch in range(18))
    with pytest.raises(ValueError, match="do not make up"):
        plan_epochs(sources, 16, seed=0, interleave=5)


def test_what_cannot_be_kept_apart_in_an_interleaved_batch_is_counted() -> None:
    plan = plan_epochs([Source("a", rows(64, targets=4))], 16, seed=0, interleave=4)
    assert plan.repeated == 4 * 12


def test_weights_say_how_often_a_row_is_read() -> None:
    plan = plan_epochs(three(), 4, seed=0, weights={"a": 1.6, "b": 2.0, "c": 0.5})
    counts = [np.bincount(plan.row[plan.source == number]) for number in range(3)]
    assert set(counts[0]) == {1, 2}
    assert counts[0].sum() == 160
    assert set(counts[1]) == {2}
    assert counts[2].sum() == 12  # 15 but for the last batch
    for batch in range(len(plan)):
        assert len(set(plan.row[batch].tolist())) == 4, "never twice in a batch"


def test_drawn_batches_follow_the_weights() -> None:
    sources = [Source("a", rows(40), weight=3.0), Source("b", rows(400, "b"))]
    fixed = plan_epochs(sources, 4, seed=0, stop=2000)
    assert len(fixed) == 2000
    assert 0.72 < np.mean(fixed.source[:, 0] == 0) < 0.78
    counts = np.bincount(fixed.row[fixed.source == 0])
    assert counts.max() - counts.min() <= 1, "passes follow each other"

    first = plan_epochs(sources, 4, seed=0, stop="first_exhausted")
    assert max(np.bincount(first.source[:, 0]) / [10, 100]) == 1.0
    every = plan_epochs(sources, 4, seed=0, stop="all_exhausted")
    assert [report.unread for report in every.reports] == [0, 0]
    assert np.count_nonzero(every.source[:, 0] == 1) == 100


def test_a_cap_takes_the_same_rows_in_every_epoch() -> None:
    plan = plan_epochs(three(), 5, seed=0, epochs=4, caps={"a": 40})
    assert len(set(plan.row[plan.source == 0].tolist())) == 40
    assert (plan.reports[0].capped, plan.reports[1].capped) == (60, 0)
    assert plan.reports[0].read == 160
    everything = plan_epochs(three(), 5, seed=0, caps=20)
    assert [report.capped for report in everything.reports] == [80, 44, 10]


def test_the_report_says_what_became_of_a_source() -> None:
    report = plan_epochs(three(), 8, seed=0).reports[0]
    assert report == SourceReport("a", rows=100, capped=0, read=96, unread=4, crowded=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "random"}, "kind is 'random'"),
        ({"stop": "never"}, "stop is 'never'"),
        ({"stop": 0}, "stop is 0"),
        ({"stop": 5, "epochs": 2}, "epochs is 2"),
        ({"weights": {"z": 2.0}}, "weights or caps for z"),
        ({"weights": {"a": 0.0}}, "source 'a': weight must be positive"),
        ({"caps": {"a": 0}}, "source 'a': cap must be at least 1"),
        ({"targets": [np.arange(3)]}, "one number for each row"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_epochs(three(), 8, seed=0, **options)


def test_sources_need_unique_names_and_rows() -> None:
    with pytest.raises(ValueError, match="unique names"):
        plan_epochs([Source("a", rows(9)), Source("a", rows(9))], 2, seed=0)
    with pytest.raises(ValueError, match="'a' has no rows"):
        Source("a", [])


def test_a_million_rows_take_seconds_and_no_object_each() -> None:
    class Many:
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> dict[str, Any]:
            raise AssertionError("planning reads no row whose target is known")

    rng = np.random.default_rng(0)
    source = Source("many", Many())
    plan = plan_epochs([source], 256, seed=0, targets=[rng.integers(0, 100_000, 1_000_000)])
    assert plan.repeated == 0
    assert plan.source.nbytes + plan.row.nbytes <= 6_000_000
