"""Folders and wrong calls through the command line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umekit.cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    (root / "sub").mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(root / "a.png")
    Image.new("RGB", (32, 32), "blue").save(root / "sub" / "b.ppm")
    (root / "cut.gif").write_bytes(b"GIF89a\x20")
    (root / "x.zip").write_bytes(b"PK\x03\x04")
    return root


@pytest.mark.parametrize("shards", [False, True])
def test_encode_takes_folders(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shards: bool
) -> None:
    out = tmp_path / ("shards" if shards else "x.npz")
    more = ["--shard-size", "2"] if shards else []
    assert main(["encode", str(folder), "--out", str(out), "--quiet", "--json", *more]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["left_out"] == {".zip": 1}
    assert "left out: 1 .zip" in said.err
    assert "cut.gif" in said.err
    assert said.err.count("ume-tiny knows only DigitWorld") == 1
    if not shards:
        with np.load(out) as found:
            assert [Path(name).name for name in found["ids"]] == ["a.png", "b.ppm"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.JSONL.GZ", "a.tar", "a.tgz", "a.parquet"])
def test_files_of_many_items_are_read_in_parts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (folder / name).write_bytes(b"{}")
    assert main(["encode", str(folder / name), "--out", str(tmp_path / "x.npz")]) == 2
    assert "give --shard-size N" in capsys.readouterr().err


def test_index_counts_and_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", str(folder), "--quiet", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["left_out"], report["failed"][0][0]) == (2, {".zip": 1}, "cut.gif")


def test_passwords(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encrypted_pdf: Callable[[str], bytes]
) -> None:
    root = tmp_path / "letters"
    root.mkdir()
    (root / "a.pdf").write_bytes(encrypted_pdf("sesame"))
    assert main(["index", str(root), "--quiet"]) == 1
    assert "give its password (--password" in capsys.readouterr().err
    assert main(["index", str(root), "--quiet", "--password", "sesame"]) == 0
    written = b"".join(path.read_bytes() for path in (root / ".umekit-index").rglob("*") if path.is_file())
    assert b"sesame" not in written


@pytest.mark.parametrize(
    "words",
    [
        ["encode", "--text", "a", "--out", "OUT/x.npz", "--device", "banana"],
        ["encode", "--text", "a", "--out", "OUT/x.npz", "--device", "cuda:99"],
        ["encode", "--text", "a", "--out", "OUT/x.npz", "--model", "/no/such/model"],
        ["encode", "--text", "a", "--out", "OUT/x.npz", "--preset", "banana"],
        ["encode", "--text", "a", "--out", "OUT/none/x.npz"],
        ["encode", "OUT/files", "--out", "OUT/s", "--shard-size", "2", "--column", "banana=x"],
        ["encode", "OUT/files", "--out", "OUT/s", "--shard-size", "2", "--device", "cuda:98,cuda:99"],
        ["index", "OUT/none"],
        ["index", "OUT/files", "--device", "banana"],
        ["search", "a", "--index", "OUT/none"],
        ["search", "a", "--index", "OUT/files"],
        ["verify", "/no/such/model"],
        ["verify", "OUT/files", "--preset", "banana"],
        ["verify", "OUT/files", "--device", "banana"],
        ["export", "/no/such/model", "OUT/exported"],
        ["explain", "a", "--device", "banana"],
    ],
)
def test_wrong_calls_are_one_line_and_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main([word.replace("OUT", str(tmp_path)) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("ume-tiny knows")]
    assert [line for line in lines if line.startswith("umekit ")] == lines[-1:]
    assert not any("Traceback" in line for line in lines)


def test_a_terminal_of_another_encoding(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cut.gif").unlink()
    (folder / "a.png").rename(folder / "Fläche→.png")
    assert main(["index", str(folder), "--quiet"]) == 0
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["search", "a", "--index", str(folder)]) == 0
    out.flush()
    assert b"Fl\\xe4che\\u2192.png" in out.buffer.getvalue()  # type: ignore[attr-defined]
