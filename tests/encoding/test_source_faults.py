"""Damaged sources and dying processes: each bad place is one row with a reason, and the run goes on."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from umekit.encoding.inputs import open_source
from umekit.encoding.inputs import tables as tables_module
from umekit.encoding.inputs.sample import Sample
from umekit.encoding.shards.run import encode_shards

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ProbeEncoder: Any = runpy.run_path(str(HERE / "shard_probe.py"))["ProbeEncoder"]


def reasons(out: Path) -> dict[str, str]:
    lines = (out / "errors.jsonl").read_text().splitlines()
    return {error["id"]: error["reason"] for error in map(json.loads, lines)}


@pytest.mark.parametrize(
    "key", ["text", "image", "images", "video", "document", "instruction", "page", "item"]
)
def test_deep_nesting_is_one_bad_row(tmp_path: Path, key: str) -> None:
    depths = (1, 2, 50, 400, 700, 950, 5000, 100_000)
    rows = [f'{{"id": "{depth}", "{key}": ' + "[" * depth + "1" + "]" * depth + "}" for depth in depths]
    objects = '{"path": ' * 900 + "1" + "}" * 900
    rows += ['{"item": {"' + key + '": ' + objects + "}}", '"a good text"']
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    report = encode_shards(ProbeEncoder(), open_source(tmp_path / "rows.jsonl"), tmp_path / "out", 4)
    assert report.rows + report.failed == len(rows)
    assert report.failed >= len(rows) - 3  # a list of one picture may be one, for this encoder
    assert all(reason for reason in reasons(tmp_path / "out").values())
    ids = [
        name
        for path in sorted((tmp_path / "out").glob("*.ids.json"))
        for name in json.loads(path.read_text())
    ]
    assert ids[-1] == f"rows.jsonl:{len(rows)}"


@pytest.mark.parametrize(
    "error", [RecursionError("deep"), IndexError("range"), MemoryError(), StopIteration()]
)
def test_whatever_reading_a_unit_raises_is_its_row(error: Exception) -> None:
    def load() -> Any:
        raise error

    (row,) = Sample("u", load).rows()
    assert row.id == "u"
    assert row.error


@pytest.mark.parametrize("ending", ["jsonl.gz", "tar.gz", "tar.xz", "tar.bz2", "tar"])
def test_damaged_archives_lose_no_good_file(tmp_path: Path, ending: str) -> None:
    chance = random.Random(0)
    texts = [f"{number} " + chance.randbytes(200).hex() for number in range(60)]
    if ending == "jsonl.gz":
        whole = gzip.compress("\n".join(map(json.dumps, texts)).encode())
    else:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=f"w:{ending.partition('.')[2]}") as archive:
            for number, text in enumerate(texts):
                header = tarfile.TarInfo(f"{number:03d}.txt")
                header.size = len(text)
                archive.addfile(header, io.BytesIO(text.encode()))
        whole = stream.getvalue()
    for trial in range(12):
        broken = bytearray(whole)
        place = chance.randrange(10, len(broken) - 20)
        broken[place : place + 16] = chance.randbytes(16)
        (tmp_path / f"{trial:02d}-broken.{ending}").write_bytes(
            broken[: place + 1] if trial % 3 == 0 else broken
        )
    (tmp_path / f"99-good.{ending}").write_bytes(whole)
    found = [row for sample in open_source(tmp_path).samples() for row in sample.rows()]
    good = [row for row in found if row.id.startswith("99-good")]
    assert len(good) == 60
    assert all(row.error is None for row in good)
    assert any(row.error for row in found)


def test_a_damaged_parquet_file_gives_no_row_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    monkeypatch.setattr(tables_module, "BATCH_ROWS", 16)
    texts = [f"text {number}" for number in range(400)]
    pq.write_table(
        pa.table({"text": texts}), tmp_path / "whole.parquet", row_group_size=150, compression="zstd",
        data_page_size=256, use_dictionary=False,
    )  # fmt: skip
    whole = (tmp_path / "whole.parquet").read_bytes()
    chance = random.Random(1)
    failed = 0
    for _ in range(25):
        broken = bytearray(whole)
        place = chance.randrange(4, len(broken) - 8)
        broken[place : place + 4] = chance.randbytes(4)
        (tmp_path / "broken.parquet").write_bytes(broken)
        source = open_source(tmp_path / "broken.parquet")
        rows = [row for sample in source.samples() for row in sample.rows()]
        assert source.count() == len(rows)
        failed += sum(row.error is not None for row in rows)
        for number, row in enumerate(rows):
            if row.error is None and row.item["text"] != texts[number]:
                assert row.item["text"] not in texts, "a row was taken for another"
    assert failed


def test_a_file_of_another_kind_among_tables_is_one_row(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"label": [1, 2, 3]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["x", "y"]}), tmp_path / "b.parquet")
    source = open_source(tmp_path)
    rows = [row for sample in source.samples() for row in sample.rows()]
    assert [row.error is None for row in rows] == [False, True, True]
    assert source.count() == 3


# --- processes ------------------------------------------------------------------------------------------


def test_a_process_that_dies_is_started_once_more_and_then_reported(tmp_path: Path) -> None:
    source, out, marks = tmp_path / "rows.jsonl", tmp_path / "out", tmp_path / "marks"
    marks.mkdir()
    source.write_text("".join(f'{{"id": "row-{number}", "text": "text {number}"}}\n' for number in range(64)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "dying_probe.py"), str(source), str(out), str(marks)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "process 1 of 2 died with exit code -9; finished parts are kept: resume the run" in done.stderr
    assert len(list(marks.iterdir())) == 2, "it is to be tried twice"
    assert len(list(out.glob("*.done.json"))) == 4, "the other process's share is kept"
    assert not (out / "manifest.json").exists()
    report = encode_shards(ProbeEncoder(), open_source(source), out, 10)
    assert (report.made, report.kept, report.rows) == (3, 4, 64)
