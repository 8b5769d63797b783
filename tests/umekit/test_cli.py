"""The command line: exit codes, one-line errors, JSON, and no torch before it is needed."""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.cli import common, doctor
from umekit.cli.main import VERBS, build_parser, main

FakeEncoder = runpy.run_path(str(Path(__file__).parents[1] / "encoding" / "fake_encoder.py"))["FakeEncoder"]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = FakeEncoder()
    fake.loaded = []

    def load(path: str | None = None, **options: Any) -> Any:
        fake.loaded.append((path, options))
        if path == "other":
            return FakeEncoder(model="f" * 64)
        return fake

    monkeypatch.setitem(vars(umekit), "load", load)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    root.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number * 80, 0, 0)).save(root / f"p{number}.png")
    pages = [Image.new("RGB", (40, 40), (0, 0, n * 100)) for n in range(2)]
    pages[0].save(root / "report.pdf", save_all=True, append_images=pages[1:])
    (root / "notes.md").write_text("three red sevens")
    return root


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


def one_error_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("ume-tiny knows only")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


# --- the frame ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *[[verb, "--help"] for verb in VERBS]])
def test_help_needs_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from umekit.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "bad = {'torch', 'transformers', 'numpy', 'faiss'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "umekit" in done.stdout


def test_the_package_can_be_run_as_a_module(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["umekit", "--version"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("umekit", run_name="__main__")
    assert capsys.readouterr().out == f"umekit {umekit.__version__}\n"


def test_every_verb_has_a_help_line_and_exit_codes_are_documented() -> None:
    text = build_parser().format_help()
    for verb in VERBS:
        assert f"  {verb} " in text
    assert "Exit codes" in text


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["index"], ["search", "x", "-k", "many"]])
def test_usage_errors_are_one_line_and_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert "--help" in one_error_line(err)


def test_a_failure_inside_is_one_line_and_1(
    encoder: Any, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the model\nbroke")

    monkeypatch.setattr(encoder, "encode", breaks)
    code, _, err = call(capsys, "index", folder, "--quiet")
    assert code == 1
    assert one_error_line(err) == "umekit index: error: the model broke"
    monkeypatch.setenv("UMEKIT_DEBUG", "1")
    with pytest.raises(RuntimeError):
        main(["index", str(folder), "--quiet"])


def test_an_interrupt_is_quiet(
    encoder: Any, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder, "encode", stops)
    code, _, err = call(capsys, "index", folder, "--quiet")
    assert code == 130
    assert one_error_line(err).endswith("interrupted")


# --- index and search -----------------------------------------------------------------------------------


def test_index_then_search(encoder: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "index", folder, "--quiet", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["rows"] == 6
    code, out, _ = call(capsys, "search", "three red sevens", "--index", folder, "-k", 3)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["rank", "score", "id", "what"]
    assert lines[2].split()[:3] == ["1", "1.0000", "notes.md"]
    assert len(lines) == 5


def test_search_as_json_by_image_and_document(
    encoder: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "index", folder, "--quiet")
    where = ("--index", folder / ".umekit-index", "--json")
    code, out, _ = call(capsys, "search", "--image", folder / "p1.png", *where)
    assert code == 0
    assert json.loads(out)["results"][0]["id"] == "p1.png"
    code, out, _ = call(capsys, "search", "--document", folder / "report.pdf", "--page", 2, *where)
    best = json.loads(out)["results"][0]
    assert best["id"] == "report.pdf#page=2"
    assert best["metadata"]["page"] == 2


def test_text_and_image_are_one_composed_query(
    encoder: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "index", folder, "--quiet")
    image = str(folder / "p0.png")
    code, _, _ = call(
        capsys, "search", "in gold", "--image", image, "--instruction", "find", "--index", folder
    )
    assert code == 0
    assert encoder.seen[-1] == {"image": image, "text": "in gold", "instruction": "find"}
    assert list(encoder.seen[-1])[:2] == ["image", "text"]


def test_the_index_remembers_its_model(
    encoder: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "index", folder, "--quiet", "--model", "mine", "--device", "cpu")
    call(capsys, "search", "x", "--index", folder)
    call(capsys, "index", folder, "--quiet")
    assert encoder.loaded == [("mine", {"device": "cpu"}), ("mine", {}), ("mine", {})]


def test_another_models_index_is_refused(
    encoder: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "index", folder, "--quiet")
    code, _, err = call(capsys, "search", "x", "--index", folder, "--model", "other")
    assert code == 2
    line = one_error_line(err)
    assert "model aaaaaaaaaaaa" in line
    assert "model ffffffffffff" in line
    assert call(capsys, "index", folder, "--quiet", "--model", "other")[0] == 2
    assert call(capsys, "index", folder, "--quiet", "--model", "other", "--rebuild")[0] == 0


def test_unreadable_files_give_1_and_the_rest_is_indexed(
    encoder: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.png").write_bytes(b"BROKEN")
    (folder / "bad.pdf").write_bytes(b"nothing")
    code, out, err = call(capsys, "index", folder, "--quiet")
    assert code == 1
    assert "6 rows" in out
    assert "2 not readable" in out
    assert "could not read bad.png: the decoder gave up" in err
    assert call(capsys, "search", "x", "--index", folder)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "nowhere"], "not a folder"),
        (["search", "x", "--index", "nowhere"], "umekit index nowhere"),
        (["search"], "nothing to embed"),
        (["search", "x", "--text", "y"], "once"),
        (["search", " "], "empty"),
        (["search", "x", "-k", "0"], "at least 1"),
        (["search", "--image", "none.png"], "none.png"),
        (["search", "x", "--page", "2"], "--document"),
        (["encode", "--out", "v.npz"], "nothing to encode"),
        (["encode", "--text", "x", "--out", "v.txt"], ".npz"),
        (["encode", "--text", "x", "--out", "nowhere/v.npz"], "no folder"),
        (["encode", "gone.png", "--out", "v.npz", "--quiet"], None),
        (["explain"], "nothing to embed"),
    ],
)
def test_unusable_input_is_2(
    encoder: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    if message is not None:
        assert message in one_error_line(err)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_index_is_one_line(encoder: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "index", folder, "--quiet")
    (folder / ".umekit-index" / "manifest.json").write_text("{}")
    code, _, err = call(capsys, "search", "x", "--index", folder)
    assert code == 2
    assert "manifest" in one_error_line(err)


# --- encode, explain, export, doctor --------------------------------------------------------------------


def test_encode_writes_an_npz_without_pickles(
    encoder: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "vectors.npz"
    (folder / "bad.png").write_bytes(b"BROKEN")
    names = ["p0.png", "report.pdf", "bad.png", "gone.png"]
    files = [folder / name for name in names]
    code, text, err = call(capsys, "encode", *files, "--text", "a text", "--out", out, "--quiet", "--json")
    assert code == 1
    assert json.loads(text)["rows"] == 4
    assert len(err.splitlines()) == 3  # what ume-tiny is, and two files
    with np.load(out, allow_pickle=False) as data:
        assert [Path(name).name for name in data["ids"][:3]] == [
            "p0.png",
            "report.pdf#page=1",
            "report.pdf#page=2",
        ]
        assert data["ids"][3] == "text:0"
        assert data["embeddings"].shape == (4, 16)
        assert data["embeddings"].dtype == np.float32
        assert json.loads(str(data["manifest"]))["fingerprint"] == encoder.fingerprint()
    assert call(capsys, "encode", folder / "p0.png", "--out", out, "--quiet")[0] == 0


def test_kernel_and_compilation_are_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import umekit

    seen: list[dict[str, Any]] = []

    def load(path: Any, **options: Any) -> Any:
        seen.append(options)
        raise ValueError("stop here")

    monkeypatch.setattr(umekit, "load", load)
    line = [
        "encode",
        "--text",
        "a",
        "--out",
        str(tmp_path / "a.npz"),
        "--attention",
        "packed_sdpa",
        "--compile",
    ]
    assert main(line) == 2  # a model that does not open is a wrong call
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    line[1:3] = [str(tmp_path / "rows.jsonl"), "--shard-size", "4"]
    line[line.index("--out") + 1] = str(tmp_path / "out")
    assert main(line) == 2  # a model that does not open is a wrong call
    expected = {"attn_implementation": "packed_sdpa", "compile": True}
    assert [{name: one.get(name) for name in expected} for one in seen] == [expected] * 2


def test_explain_a_text_and_a_file(encoder: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "explain", "hello")
    assert code == 0
    assert "<user>{'text': 'hello'}</user>" in out
    assert "direct" in out
    assert "[1, 4, 4]" in out
    code, out, _ = call(capsys, "explain", folder / "report.pdf", "--page", 2, "--json")
    assert json.loads(out)["item"] == {"document": str(folder / "report.pdf"), "page": 2}
    code, out, _ = call(capsys, "explain", "--text", folder / "p0.png", "--json")
    assert json.loads(out)["item"] == {"text": str(folder / "p0.png")}


def test_export_calls_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(src: str, out: Path, preset: str | None = None, role: str | None = None, **more: str) -> None:
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text(json.dumps([src, preset, role, more]))

    monkeypatch.setitem(vars(umekit), "export", export)
    target = tmp_path / "out"
    code, out, _ = call(capsys, "export", "src", target, "--preset", "ume-r1", "--json")
    assert code == 0
    assert json.loads(out)["files"] == ["config.json"]
    assert json.loads((target / "config.json").read_text()) == ["src", "ume-r1", None, {}]
    assert call(capsys, "export", "src", target)[0] == 2
    assert call(capsys, "export", "src", tmp_path / "thinks", "--mode", "adaptive")[0] == 0
    assert json.loads((tmp_path / "thinks" / "config.json").read_text())[3] == {"mode": "adaptive"}


def test_doctor_reads_this_environment(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor", "--json")
    facts = json.loads(out)
    assert code == (1 if facts["broken"] else 0)
    assert facts["versions"]["torch"]
    assert "sdpa" in facts["kernels"]
    assert call(capsys, "doctor")[1].startswith("python")


GOOD = dict.fromkeys(doctor.CORE, "1.0") | {"transformers": "5.23.0", "torch": "2.13.0+cpu"}


@pytest.mark.parametrize(
    ("change", "broken", "warned"),
    [
        ({}, 0, 0),
        ({"transformers": "5.2.0"}, 1, 0),
        ({"transformers": "6.0.0.dev0"}, 1, 0),
        ({"peft": "0.21.2"}, 0, 0),
        ({"transformers": "5.24.0"}, 0, 0),
        ({"transformers": "5.24.0", "peft": "0.21.2"}, 1, 0),
        ({"transformers": "5.24.0", "peft": "0.22.0"}, 0, 0),
        ({"transformers": "5.23.0", "peft": "0.19.1"}, 1, 0),
        ({"transformers": "5.18.0"}, 1, 0),
        ({"torchvision": "0.28.0+cu130"}, 1, 0),
        ({"torchvision": "0.28.0"}, 1, 0),
        ({"torchvision": "0.28.0+cpu"}, 0, 0),
        ({"torch": "2.13.0", "torchvision": "0.28.0"}, 0, 0),
        ({"torch": "2.1.0"}, 1, 0),
        ({"decord": "0.6"}, 0, 1),
        ({"torchcodec": "0.17"}, 0, 1),
        ({"faiss-cpu": "1.15", "faiss-gpu": "1.7"}, 1, 0),
        ({"pymupdf": "2.0"}, 0, 1),
    ],
)
def test_known_bad_pairs(change: dict[str, str], broken: int, warned: int) -> None:
    found = doctor.findings({**GOOD, **change}, {})
    assert (len(found[0]), len(found[1])) == (broken, warned)


def test_a_missing_or_unimportable_package_is_broken() -> None:
    versions = {name: version for name, version in GOOD.items() if name != "pillow"}
    assert doctor.findings(versions, {"av": "ImportError: libx"})[0] == [
        "pillow is missing",
        "av is installed but can't be imported: ImportError: libx",
    ]


def test_tables_show_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    common.print_table(("n", "name"), [(1, "a\x1b[31m\nb"), (20, "é")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == " n  name"
    assert lines[2:] == [" 1  a\\x1b[31m\\nb", "20  é"]


def test_a_reranker_can_not_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(umekit), "load", lambda *_, **__: object())
    args = argparse.Namespace(model="r", preset=None, device=None, dtype=None)
    with pytest.raises(common.UsageError, match="reranker"):
        common.load_encoder(args)
