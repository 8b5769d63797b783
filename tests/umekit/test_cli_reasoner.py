"""--reasoner: encode, index, search and think with a stock model that thinks, as from Python; and what is refused."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import umekit
from umekit import Reasoner
from umekit.cli.main import main
from umekit.encoding.index.exact import Index

QWEN = runpy.run_path(str(Path(__file__).parents[1] / "encoding" / "test_reasoner.py"))["QWEN"]
TEXTS = ["the text", "a picture of it", "compare the video"]


@pytest.fixture(scope="module")
def stock(tiny_backbone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = Path(shutil.copytree(tiny_backbone("qwen2_vl"), tmp_path_factory.mktemp("stock") / "reasoner"))
    (folder / "chat_template.jinja").write_text(QWEN)
    return str(folder)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)
    return folder


def options(model: Path, stock: str, tokens: int = 6) -> list[str]:
    reasoner = ["--reasoner", stock, "--reasoner-tokens", str(tokens), "--reasoner-prompt", "Why?"]
    return ["--model", str(model), "--device", "cpu", *reasoner]


def test_encode_in_one_file_and_in_parts(
    tiny_checkpoint: Callable[..., Path],
    stock: str,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tiny_checkpoint("qwen2_vl")
    reasoner = Reasoner.from_pretrained(stock, device="cpu", max_new_tokens=6, prompt="Why?")
    expected = umekit.load(model, device="cpu", reasoner=reasoner).encode(TEXTS, role="document")
    assert np.abs(expected - umekit.load(model, device="cpu").encode(TEXTS, role="document")).max() > 1e-3
    command = ["encode", str(texts), "--role", "document", "--quiet"]
    asked = options(model, stock)
    assert main([*command, "--out", str(tmp_path / "v.npz"), *asked]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "v.npz")["embeddings"], expected, atol=1e-5)
    parts = [*command, "--out", str(tmp_path / "out"), "--shard-size", "2"]
    assert main([*parts, "--processes", "2", *asked]) == 0
    index = Index.from_shards(tmp_path / "out")
    assert index.ids == ["0.txt", "1.txt", "2.txt"]
    np.testing.assert_allclose(index.vectors, expected, atol=1e-5)
    assert index.fingerprint["reasoner"] == reasoner.fingerprint()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "part-00001-of-00002.npy").unlink()
    assert main([*parts, "--resume", *asked]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    capsys.readouterr()
    assert main([*parts, "--resume", *options(model, stock, tokens=5)]) == 2
    assert "was begun with the reasoner" in capsys.readouterr().err


def test_an_index_is_searched_with_its_reasoner(
    tiny_checkpoint: Callable[..., Path], stock: str, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(tiny_checkpoint("qwen2_vl"), stock)
    bare = asked[:4]
    assert main(["index", str(texts), "--quiet", *asked]) == 0
    capsys.readouterr()
    search = ["search", "a page", "--index", str(texts), "--json"]
    assert main([*search, *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["thought"]
    reasoner = Reasoner.from_pretrained(stock, device="cpu", max_new_tokens=6, prompt="Why?")
    encoder = umekit.load(asked[1], device="cpu", reasoner=reasoner)
    scores = encoder.encode_query(["a page"]) @ encoder.encode_document(TEXTS).T
    np.testing.assert_allclose([row["score"] for row in told["results"]], np.sort(scores[0])[::-1], atol=1e-5)
    assert main([*search, *bare]) == 2
    assert "the encoder has none: give that one (--reasoner), or index anew" in capsys.readouterr().err
    assert main([*search, *asked, "--reasoner-side", "query"]) == 2
    assert "with its side, prompt and tokens (--reasoner-...), or index anew" in capsys.readouterr().err
    assert main(["index", str(texts), "--quiet", *bare]) == 2
    assert main(["index", str(texts), "--quiet", "--rebuild", *bare]) == 0
    capsys.readouterr()
    assert main([*search, *asked]) == 2
    assert "was made without a reasoner" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["discriminative", "generative"])
def test_it_writes_the_thoughts_of_a_data_set(
    kind: str,
    tiny_checkpoint: Callable[..., Path],
    stock: str,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = options(tiny_checkpoint("qwen2_vl", role=kind), stock)
    out = tmp_path / "thoughts"
    think = ["think", str(texts), "--out", str(out), "--shard-size", "2", "--role", "document"]
    assert main([*think, *asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["made"], told["failed"]) == (3, 2, 0)
    rows = [
        json.loads(line) for file in sorted(out.glob("*.jsonl")) for line in file.read_text().splitlines()
    ]
    encoder = umekit.load(asked[1], device="cpu")
    reasoner = Reasoner.from_pretrained(stock, device="cpu", max_new_tokens=6, prompt="Why?")
    written = reasoner.write(TEXTS, role="document", processor=encoder.processor)
    assert [row["text"] for row in rows] == [thought.text for thought in written]
    assert [(row["thought"], row["answer"]) for row in rows] == [thought.as_given() for thought in written]
    assert [row["forced"] for row in rows] == [thought.cut for thought in written]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "thoughts-00001.jsonl").unlink()
    assert main([*think, *asked]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    capsys.readouterr()
    assert main([*think, *options(Path(asked[1]), stock, tokens=5)]) == 2
    assert "was begun with another fingerprint" in capsys.readouterr().err
    refused = ["--num-samples", "2"], ["--reasoner-side", "query"], ["--max-new-tokens", "9"]
    for more, said in zip(
        refused, ("num_samples is of", "nothing would", "max_new_tokens is of"), strict=True
    ):
        assert main([*think, *asked, *more]) == 2
        assert said in capsys.readouterr().err
    if kind == "discriminative":
        assert main([*think, *asked[:4]]) == 2
        assert "it writes no thoughts; give a reasoner" in capsys.readouterr().err
        return
    # For an embedder that thinks, to be given them is to have the reasoner beside it.
    command = ["encode", str(texts), "--shard-size", "2", "--max-new-tokens", "99", "--quiet", "--out"]
    assert main([*command, str(tmp_path / "given"), "--thoughts", str(out), *asked[:4]]) == 0
    assert main([*command, str(tmp_path / "beside"), *asked]) == 0
    given, beside = (Index.from_shards(tmp_path / name).vectors for name in ("given", "beside"))
    np.testing.assert_allclose(given, beside, atol=1e-5)


def test_what_is_no_reasoner_is_named(
    tiny_checkpoint: Callable[..., Path], stock: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = str(tiny_checkpoint("qwen2_vl"))
    reranker = str(shutil.copytree(embedder, tmp_path / "reranker"))
    config = json.loads((Path(reranker) / "config.json").read_text())
    config["ume"]["role"] = "reranker"
    (Path(reranker) / "config.json").write_text(json.dumps(config))
    thinker = str(tiny_checkpoint("qwen2_vl", role="generative"))
    command = ["encode", "--text", "a", "--out", str(tmp_path / "v.npz"), "--device", "cpu"]
    for more, said in (
        (["--model", embedder, "--reasoner", reranker], f"{reranker} is a reranker: it scores pairs"),
        (["--model", embedder, "--reasoner", thinker], f"{thinker} is an embedder: write its thoughts"),
        (["--model", embedder, "--reasoner", "not/there/at/all"], "not/there/at/all"),
        (
            ["--model", reranker, "--reasoner", stock],
            "a reasoner thinks for an embedder, and this is a reranker",
        ),
        (["--model", embedder, "--reasoner-side", "query"], "--reasoner-side needs --reasoner PATH"),
    ):
        assert main([*command, *more]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "v.npz").exists()
