"""A sharded run with given thoughts: found by id in any order of files, and the vectors and bytes of one process."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import umekit
from umekit.cli.main import main
from umekit.encoding.index.exact import Index
from umekit.encoding.inputs import InputError, open_source
from umekit.encoding.shards import given_thoughts
from umekit.encoding.shards.files import ShardMismatchError
from umekit.encoding.shards.given_thoughts import IndexedThoughts, ThoughtsInOrder, open_thoughts
from umekit.encoding.shards.run import encode_shards
from umekit.encoding.shards.thoughts import write_thoughts
from umekit.encoding.storage.contents import IndexFormatError

COUNT = 23


class Reads:
    """Vectors [n, 4] of an item and its thought; keeps what it was given."""

    dim = 4

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.seeds: list[int | None] = []

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "a" * 64, "processor": "b" * 64, "dim": self.dim}

    def encode(self, items: Any, *, thoughts: Any = None, seed: int | None = None, **_: Any) -> Any:
        self.given |= {item["text"]: thought for item, thought in zip(items, thoughts, strict=True)}
        self.seeds.append(seed)
        rows = []
        for item, thought in zip(items, thoughts, strict=True):
            drawn = np.random.default_rng([*f"{item} {thought} {seed}".encode()]).normal(size=self.dim)
            rows.append(drawn / np.linalg.norm(drawn))
        return SimpleNamespace(embeddings=np.array(rows, np.float32), errors=[])


class Thinks:
    """Writes ``about <text>``, or as many as it is asked; of every seventh item nothing."""

    reasoner = None
    model = SimpleNamespace(modes=("discriminative", "generative"))

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "c" * 64}

    def encode(self, items: Any, *, num_samples: int, **_: Any) -> Any:
        found = SimpleNamespace(thoughts=[], thought_tokens=[1] * len(items), forced=[False] * len(items))
        found.errors = [(place, ValueError("no")) for place, one in enumerate(items) if "7" in one["text"]]
        for item in items:
            several = [f"about {item['text']} {draw}" for draw in range(num_samples)]
            found.thoughts.append(several if num_samples > 1 else several[0])
        return found


def write_items(path: Path, count: int = COUNT) -> Path:
    path.write_text("".join(json.dumps({"id": f"n{n}", "text": f"text {n}"}) + "\n" for n in range(count)))
    return path


def shards(folder: Path, items: Path, thoughts: Any, **options: Any) -> tuple[Any, dict[str, bytes], Reads]:
    encoder = Reads()
    report = encode_shards(encoder, open_source(items), folder, 5, thoughts=thoughts, **options)
    return report, {path.name: path.read_bytes() for path in folder.iterdir()}, encoder


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_parts_in_order_and_an_index_find_the_same(tmp_path: Path, samples: int, size: int) -> None:
    """The same thoughts from a folder of the source, in parts of any size, and from a jsonl in another order."""
    items = write_items(tmp_path / "items.jsonl")
    source = open_source(items)
    write_thoughts(Thinks(), source, tmp_path / "thoughts", size, num_samples=samples)
    in_order = open_thoughts(tmp_path / "thoughts", source.fingerprint())
    assert isinstance(in_order, ThoughtsInOrder)
    lines = [line for file in in_order.files for line in file.read_text().splitlines()]
    random.Random(0).shuffle(lines)
    (tmp_path / "any.jsonl").write_text("\n\n".join(lines))
    indexed = open_thoughts(tmp_path / "any.jsonl", source.fingerprint())
    other = open_thoughts(tmp_path / "thoughts", "of another source")
    assert isinstance(indexed, IndexedThoughts)
    assert isinstance(other, IndexedThoughts)
    assert in_order.sha256 == other.sha256 != indexed.sha256
    first, _, encoder = shards(tmp_path / "a", items, in_order)
    assert len(encoder.given) == COUNT
    for text, thought in encoder.given.items():
        several = [f"about {text} {draw}" for draw in range(samples)]
        assert thought == (None if "7" in text else several if samples > 1 else several[0])
    assert first.without_thought == first.manifest["without_thought"] == 2
    assert first.manifest["options"]["thoughts"] == in_order.sha256
    assert first.manifest["options"].get("num_samples", 1) == samples
    assert (encoder.seeds[0] is None) == (samples == 1)  # of the items that think themselves
    assert len({*encoder.seeds}) == (1 if samples == 1 else 5)
    _, again, found = shards(tmp_path / "b", items, indexed)
    assert found.given == encoder.given
    assert again["part-00001-of-00005.npy"] == (tmp_path / "a" / "part-00001-of-00005.npy").read_bytes()


def test_no_more_is_held_than_a_shard_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = write_items(tmp_path / "items.jsonl")
    source = open_source(items)
    write_thoughts(Thinks(), source, tmp_path / "thoughts", 3)
    thoughts = open_thoughts(tmp_path / "thoughts", source.fingerprint())
    read: list[str] = []
    real = given_thoughts._lines
    monkeypatch.setattr(
        given_thoughts, "_lines", lambda file, *more: (read.append(file.name), real(file, *more))[1]
    )
    shards(tmp_path / "out", items, thoughts)
    # Shards of 5 samples and parts of 3: one that two shards share is read once.
    assert read == [f"thoughts-{number:05d}.jsonl" for number in range(8)]
    assert max(map(len, thoughts._held.values())) <= 3  # type: ignore[attr-defined]
    assert len(thoughts._held) <= 3  # type: ignore[attr-defined]
    (tmp_path / "out" / "part-00003-of-00005.npy").unlink()
    read.clear()
    shards(tmp_path / "out", items, open_thoughts(tmp_path / "thoughts", source.fingerprint()))
    assert read == ["thoughts-00005.jsonl", "thoughts-00006.jsonl"]  # a run that goes on reads what it makes


def test_killed_and_shared_it_is_the_same_bytes(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl")
    source = open_source(items)
    write_thoughts(Thinks(), source, tmp_path / "thoughts", 4, num_samples=2)
    thoughts = open_thoughts(tmp_path / "thoughts", source.fingerprint())
    _, whole, _ = shards(tmp_path / "one", items, thoughts)
    for rank in (2, 0, 1):
        shards(tmp_path / "three", items, thoughts, rank=rank, world=3)
    assert {path.name: path.read_bytes() for path in (tmp_path / "three").iterdir()} == whole
    for name in ("part-00001-of-00005.npy", "part-00004-of-00005.done.json", "manifest.json"):
        (tmp_path / "one" / name).unlink()
    report, again, _ = shards(tmp_path / "one", items, thoughts)
    assert (report.made, report.kept, report.without_thought) == (2, 3, 2)
    assert again == whole


def test_other_thoughts_are_refused(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl")
    source = open_source(items)
    write_thoughts(Thinks(), source, tmp_path / "thoughts", 4)
    thoughts = open_thoughts(tmp_path / "thoughts", source.fingerprint())
    shards(tmp_path / "out", items, thoughts)
    part = tmp_path / "thoughts" / "thoughts-00001.jsonl"
    part.write_text(part.read_text().replace("about", "of"))
    changed = open_thoughts(tmp_path / "thoughts", source.fingerprint())
    for other in (changed, None):
        with pytest.raises(ShardMismatchError, match=r"given thoughts of sha256 '\w{64}', not "):
            shards(tmp_path / "out", items, other)
    with pytest.raises(IndexFormatError, match=r"thoughts-00001.jsonl has changed since"):
        shards(tmp_path / "new", items, thoughts)  # changed while they are read
    indexed = open_thoughts(part)
    part.write_text('{"id": "n5", "thought": "other"}\n')
    with pytest.raises(IndexFormatError, match=r"changed since|not JSON"):
        indexed.of_samples(0, 1)("n6")


def test_what_cannot_be_embedded_with(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl")
    lines = tmp_path / "thoughts.jsonl"
    lines.write_text('{"id": "items.jsonl:1", "thought": "a"}')
    with pytest.raises(InputError, match="no thought of any of the first 5 items, of 'n0' for one"):
        shards(tmp_path / "out", items, open_thoughts(lines))
    lines.write_text('{"id": "a", "thought": "a"}\n{"id": "b", "thought": ["a", "b"]}')
    with pytest.raises(IndexFormatError, match=r"line 2: 'b' has 2 thoughts, and those before it 1"):
        open_thoughts(lines)
    write_thoughts(Thinks(), open_source(items), tmp_path / "thoughts", 4)
    run = tmp_path / "thoughts" / "thoughts.json"
    for change in ({"parts": None}, {"kind": "other"}, {"shard_size": 0}, {"options": {"num_samples": "x"}}):
        former = run.read_text()
        run.write_text(json.dumps(json.loads(former) | change))
        with pytest.raises(IndexFormatError, match=r"holds no finished run|shard_size is"):
            open_thoughts(tmp_path / "thoughts")
        run.write_text(former)


def test_ids_with_equal_hashes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_thoughts, "id_hash", len)
    lines = tmp_path / "thoughts.jsonl"
    lines.write_text("".join(json.dumps({"id": one, "thought": f"of {one}"}) + "\n" for one in "abcd"))
    lookup = open_thoughts(lines).of_samples(0, 1)
    assert [lookup(one) for one in "dabcx"] == ["of d", "of a", "of b", "of c", None]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_verb_gives_the_vectors_of_an_npz(
    processes: int,
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ["--model", str(tiny_checkpoint("qwen2_vl", role="generative")), "--device", "cpu"]
    folder, thoughts = tmp_path / "texts", tmp_path / "thoughts"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"the text {number}")
    think = ["think", str(folder), "--out", str(thoughts), "--shard-size", "2", "--role", "document"]
    assert main([*think, *model]) == 0
    for number in range(3):  # a random model writes none of the form; and of 3.txt none at all
        file = thoughts / f"thoughts-{number:05d}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert [row["id"] for row in rows] == [
            f"{one}.txt" for one in (2 * number, 2 * number + 1) if one < 5
        ]
        rows = [row | {"thought": f"so it is {row['id']}", "answer": "a text"} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows if row["id"] != "3.txt"))
    both = ["--thoughts", str(thoughts), "--role", "document", "--quiet", *model, "--max-new-tokens", "40"]
    assert main(["encode", str(folder), "--out", str(tmp_path / "v.npz"), *both]) == 0
    assert "1 of 5 items have no thought there, and think themselves" in capsys.readouterr().err
    out = tmp_path / "out"
    shard = ["encode", str(folder), "--out", str(out), "--shard-size", "2", *both]
    assert main([*shard, "--processes", str(processes), "--json"]) == 0
    said = capsys.readouterr()
    assert "1 of 5 items have no thought there, and think themselves" in said.err
    assert json.loads(said.out)["without_thought"] == 1
    npz = np.load(tmp_path / "v.npz")
    index = Index.from_shards(out)
    vectors = np.array([index.vectors[index.ids.index(Path(name).name)] for name in npz["ids"]])
    np.testing.assert_allclose(vectors, npz["embeddings"], atol=1e-5)
    encoder = umekit.load(model[1], device="cpu")
    by_hand = encoder.encode(
        ["the text 2"], role="document", thoughts=[("so it is 2.txt", "a text")], max_new_tokens=40
    )
    np.testing.assert_allclose(vectors[2:3], by_hand, atol=1e-5)
    bare = [word for word in shard if word not in ("--thoughts", str(thoughts))]
    assert main([*bare, "--resume"]) == 2
    assert "was begun with given thoughts of sha256" in capsys.readouterr().err
    assert main([*shard, "--resume", "--mode", "discriminative"]) == 2
    assert "--thoughts needs a generative checkpoint" in capsys.readouterr().err
