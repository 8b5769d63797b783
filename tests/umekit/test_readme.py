"""What stands in README.md and docs/ is so: the Python runs, the output is what comes, the commands parse."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.cli.main import VERBS, build_parser, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
README = PAGES["README.md"].read_text(encoding="utf-8")
FIXTURE = ROOT / "tests" / "golden" / "qwen3vl_embedding" / "checkpoint"
SIDES = {
    f"{role}_{part}": "red, and so it is" for role in ("query", "positive") for part in ("thought", "answer")
}
ROWS = [{"query": f"p{i} red", "positive": f"red at p{i}"} for i in range(1, 9)]


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """Code blocks of a language, each with the output that stands below it ("" where there is none)."""
    text = PAGES[page].read_text(encoding="utf-8")
    found = re.findall(rf"```{language}\n(.*?)```\n(?:\n```\n(.*?)```)?", text, re.DOTALL)
    return [(code, output) for code, output in found]


def commands(page: str) -> Iterator[list[str]]:
    """Every call of ``umekit`` in a page's shell blocks, and of ``umekit verb`` in its prose."""
    shell = "\n".join(code for code, _ in blocks(page, "bash"))
    for line in shell.splitlines():
        words = shlex.split(line, comments=True)
        if "umekit" in words:
            yield words[words.index("umekit") + 1 :]


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder after ``make demo``, without its index."""
    pytest.importorskip("sklearn")
    pytest.importorskip("av")
    pytest.importorskip("pypdfium2")
    from umekit.demo.gallery import write_gallery
    from umekit.demo.queries import make_queries

    monkeypatch.chdir(tmp_path)
    make_queries(write_gallery(Path("umekit-demo/gallery")), Path("umekit-demo/queries"))
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_the_readme_runs_as_it_stands(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one scope. The published checkpoint is a small one in its layout; only its width is another."""
    real = umekit.load
    sizes = {2048: 64}

    def load(source: Any = None, **options: Any) -> Any:
        if source == "Qwen/Qwen3-VL-Embedding-2B":
            return real(FIXTURE, preset="qwen3-vl-embedding", **options)
        assert source is None
        return real(**options)

    monkeypatch.setattr(umekit, "load", load)
    Image.fromarray(np.zeros((84, 84, 3), dtype=np.uint8)).save("bicycle.png")
    scope: dict[str, Any] = {"rows": ROWS}
    found = blocks("README.md", "python")
    assert [bool(output) for _, output in found] == [True, True, False]
    for number, (code, output) in enumerate(found):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"README block {number}", "exec"), scope)
        for published, small in sizes.items():
            output = output.replace(str(published), str(small))
        assert not output or printed.getvalue() == output
    assert (demo / "runs" / "mine" / "merged" / "model.safetensors").is_file()


def test_the_output_of_the_search_is_what_comes(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "umekit-demo/gallery", "--quiet"]) == 0
    capsys.readouterr()
    shown = [(code, output) for code, output in blocks("README.md", "bash") if output]
    assert len(shown) == 1
    code, output = shown[0]
    assert main(shlex.split(code)[1:]) == 0
    assert capsys.readouterr().out == output


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", ["docs/checkpoints.md", "docs/training.md"])
def test_the_python_of_the_pages_runs(
    page: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"folder": str(tiny_checkpoint("qwen2_vl")), "rows": ROWS}
    scope["thinker"] = str(tiny_checkpoint("qwen2_vl", role="generative"))
    scope["thoughts"] = [{**row, **SIDES, "answer": "red"} for row in ROWS]
    found = blocks(page, "python")
    assert found
    for number, (code, _) in enumerate(found):
        exec(compile(code, f"{page} block {number}", "exec"), scope)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_parse(page: str) -> None:
    parser = build_parser(VERBS)
    for words in commands(page):
        parser.parse_args(words)
    prose = set(re.findall(r"`umekit ([a-z]+)", PAGES[page].read_text(encoding="utf-8")))
    assert prose <= set(VERBS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = PAGES[page].read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert (PAGES[page].parent / target).exists(), target


def test_a_newcomer_reads_it_in_one_go() -> None:
    assert len(README.encode()) < 9500
    assert {"index", "search", "explain", "rerank", "encode"} <= {words[0] for words in commands("README.md")}


def test_three_doors_give_the_same_vectors(tiny_checkpoint: Callable[..., Path]) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoProcessor

    folder = str(tiny_checkpoint("qwen2_vl"))
    query = ["find the red 4"]
    ours = umekit.load(folder).encode_query(query)
    theirs = SentenceTransformer(folder, trust_remote_code=True, device="cpu").encode_query(query)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    plain = model.encode(query, processor=processor, role="query").numpy()
    np.testing.assert_allclose(plain, ours, atol=1e-5)
