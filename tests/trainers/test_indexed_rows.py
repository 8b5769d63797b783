"""How rows are named in errors."""

from __future__ import annotations

from umekit.encoding.inputs.records import ListRecords
from umekit.trainers.indexed_rows import ROW_PLACE, IndexedRows, row_name


def test_records_are_named_in_their_words() -> None:
    rows = IndexedRows(ListRecords([{"query": "a"}, {"query": "b"}]))
    assert row_name(rows[1], 0) == "row 1"


def test_planned_rows_are_named_by_their_source() -> None:
    assert row_name({ROW_PLACE: ("photos", 7)}, 0) == "row 7 of source 'photos'"
    assert row_name({"__row__": 3, "positive_id": "a\0b"}, 0) == "row 3 (positive_id 'b')"
    assert row_name({}, 2) == "row 2 of the batch"
