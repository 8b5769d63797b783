"""Records by number: lines, elements of an array, tables; errors name file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from umekit.encoding.inputs import json_records as module
from umekit.trainers.formats import FormatError, FormatRows, MediaRoot, open_records

RECORDS: list[dict[str, Any]] = [{"n": i, "text": f'naïve {i} \u2028 {{[,]}} \\"'} for i in range(7)]


def read(where: Any) -> list[Any]:
    records = open_records(where)
    return [dict(records[index]) for index in range(len(records))]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_an_array_is_read_whatever_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, chunk: int, mark: bytes
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_bytes(mark + json.dumps(RECORDS, indent=indent, ensure_ascii=False).encode() + b"\r\n")
    assert read(path) == RECORDS


def test_lines_several_files_tables_and_lists(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lines = [json.dumps(record) for record in RECORDS]
    first.write_text("\n\n".join(lines[:3]) + "\n")
    second.write_text("\n".join(lines[3:]))
    assert read([first, second]) == RECORDS
    records = open_records([first, second])
    assert (records.place(1), records.place(3)) == ("a.jsonl:3", "b.jsonl:1")
    assert records.root == tmp_path
    assert read(Dataset.from_list(RECORDS)) == read(RECORDS) == RECORDS
    Dataset.from_list(RECORDS).to_parquet(tmp_path / "c.parquet")
    table = open_records(tmp_path / "c.parquet", cache_dir=tmp_path / "cache", columns=["n"])
    assert dict(table[6]) == {"n": 6}
    assert table.place(6) == "c.parquet row 6"
    (tmp_path / "d.csv").write_text("sent0,sent1\na,b\n")
    assert dict(open_records(tmp_path / "d.csv", cache_dir=tmp_path / "cache")[0]) == {
        "sent0": "a",
        "sent1": "b",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": }]', r"x\.json: element 1 is not JSON"),
        ('[{"a": 1}', r"x\.json: the file ends within the array"),
        ('[{"a": 1} {"a": 2}]', r"x\.json: expected ',' at byte 10"),
        ('{"a": 1}', r"x\.json: expected '\[' at byte 0"),
        ("", r"x\.json: the file ends"),
        ("[]", "holds no record"),
        ("[" + "[" * 100_000, "element 0 is"),
    ],
)
def test_arrays_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        open_records(tmp_path / "x.json")


def test_bad_lines_are_named_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": NaN}\nnot json\n[1]\n')
    records = open_records(path)
    assert dict(records[0]) == {"a": 1}
    for index, message in (
        (1, r"x\.jsonl:2: not JSON: NaN"),
        (2, r"x\.jsonl:3: not JSON"),
        (3, r"x\.jsonl:4: a rec"),
    ):
        with pytest.raises(FormatError, match=message):
            records[index]


def test_files_that_cannot_be_records(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl.gz", "b.jsonl"):
        (tmp_path / name).write_text("x")
    with pytest.raises(FormatError, match=r"can't read a\.txt"):
        open_records(tmp_path / "a.txt")
    with pytest.raises(FormatError, match=r"unpacked, if it is a \.gz"):
        open_records(tmp_path / "a.jsonl.gz")
    with pytest.raises(FormatError, match="not of one kind"):
        open_records([tmp_path / "a.txt", tmp_path / "b.jsonl"])
    with pytest.raises(FileNotFoundError):
        open_records(tmp_path / "c.jsonl")
    with pytest.raises(TypeError, match="not a int"):
        open_records(7)
    with pytest.raises(FormatError, match="holds no record"):
        open_records([])


def test_rows_name_their_place_once() -> None:
    def convert(media: MediaRoot, record: Any, number: int) -> dict[str, Any]:
        return {"value": 10 // record["n"], "missing": record["other"]}

    rows = FormatRows(open_records(RECORDS), MediaRoot(None), convert)
    with pytest.raises(FormatError, match=r"^row 3: no 'other'$"):
        rows[3]
    with pytest.raises(IndexError):
        rows[7]
