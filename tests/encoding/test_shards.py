"""Sharded runs: the same bytes whatever was killed and however many worked, and nothing mixed from two runs."""

from __future__ import annotations

import json
import os
import pickle
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.cli.main import main
from umekit.encoding.index.exact import Index
from umekit.encoding.inputs import InputError, open_source
from umekit.encoding.inputs import sample as sample_module
from umekit.encoding.shards.files import ShardFormatError, ShardMismatchError
from umekit.encoding.shards.parts import ShardSet
from umekit.encoding.shards.run import encode_shards
from umekit.encoding.storage.ownership import AtomicFolder, place

HERE = Path(__file__).parent
PROBE = HERE / "shard_probe.py"
ProbeEncoder = runpy.run_path(str(PROBE))["ProbeEncoder"]
ROOT = HERE.parents[1]
KILLS = 20


def write_rows(path: Path, count: int) -> Path:
    """A jsonl in which some rows are bad: no JSON, a file that leads out, one that the encoder refuses."""
    lines = []
    for number in range(count):
        row: dict[str, Any] = {"id": f"row-{number}", "text": f"text {number}"}
        if number % 17 == 5:
            row["text"] = f"BROKEN {number}"
        if number % 23 == 7:
            row = {"id": f"row-{number}", "image": "../secret.png"}
        lines.append("{not json" if number % 29 == 11 else json.dumps(row))
    path.write_text("\n".join(lines) + "\n")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def stopping(after: int) -> Any:
    """An encoder that breaks at call number ``after``, as a machine would."""

    class Stops(ProbeEncoder):  # type: ignore[misc, valid-type]
        def encode(self, items: Any, **options: Any) -> Any:
            if len(self.calls) == after:
                raise KeyboardInterrupt
            return super().encode(items, **options)

    return Stops()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", 64)


def run(rows: Path, out: Path, encoder: Any = None, **options: Any) -> Any:
    return encode_shards(encoder or ProbeEncoder(), open_source(rows), out, 10, **options)


def test_parts_ids_errors_and_manifest(rows: Path, tmp_path: Path) -> None:
    report = run(rows, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert report.manifest == manifest
    assert sorted(contents(tmp_path / "out"))[:6] == [
        "errors.jsonl",
        "manifest.json",
        "part-00000-of-00007.done.json",
        "part-00000-of-00007.ids.json",
        "part-00000-of-00007.npy",
        "part-00001-of-00007.done.json",
    ]
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    reasons = {error["id"]: error["reason"] for error in errors}
    assert reasons["row-5"] == "the decoder gave up"
    assert "only name files below" in reasons["row-7"]
    assert "not JSON" in reasons["rows.jsonl:12"]
    assert manifest["units"] == 64
    assert manifest["failed"] == len(errors) == report.failed == 9
    assert manifest["rows"] == report.rows == 64 - 9
    assert manifest["fingerprint"]["model"] == "a" * 64
    assert manifest["shard_size"] == 10
    assert "numpy" in manifest["versions"]
    ids = json.loads((tmp_path / "out" / "part-00000-of-00007.ids.json").read_text())
    vectors = np.load(tmp_path / "out" / "part-00000-of-00007.npy", allow_pickle=False)
    assert ids == [f"row-{number}" for number in range(10) if number not in (5, 7)]
    assert vectors.shape == (8, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("world", [2, 3, 9])
def test_ranks_give_the_bytes_of_one_process(rows: Path, tmp_path: Path, world: int) -> None:
    run(rows, tmp_path / "one")
    order = list(range(world))
    random.Random(world).shuffle(order)
    made = 0
    for rank in order:
        report = run(rows, tmp_path / "many", rank=rank, world=world)
        made += report.made
        assert (report.manifest is not None) == (made == 7)  # the last to come writes it
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_a_finished_part_is_kept_and_a_broken_one_made_again(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(rows, out)
    whole = contents(out)
    encoder = ProbeEncoder()
    report = run(rows, out, encoder)
    assert (report.made, report.kept, encoder.calls) == (0, 7, [])

    part = out / "part-00002-of-00007.npy"
    part.write_bytes(part.read_bytes()[:-100])  # half written
    (out / "part-00003-of-00007.ids.json").write_text("[]")  # damaged
    (out / "part-00004-of-00007.done.json").unlink()  # not recorded
    flipped = bytearray(whole["part-00005-of-00007.npy"])
    flipped[-1] ^= 1
    (out / "part-00005-of-00007.npy").write_bytes(flipped)
    (out / "manifest.json").unlink()
    report = run(rows, out, encoder)
    assert (report.made, report.kept, len(encoder.calls)) == (4, 3, 4)
    assert contents(out) == whole


def test_another_model_source_or_setting_is_refused(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(rows, out, stopping(2))
    with pytest.raises(FileExistsError, match="holds a run"):
        run(rows, out, resume=False)
    with pytest.raises(ShardMismatchError, match="the model"):
        run(rows, out, ProbeEncoder(model="f" * 64))
    for options, word in (
        ({"role": "query"}, "role"),
        ({"format": "parquet"}, "format"),
        ({"dtype": "float16"}, "dtype"),
        ({"batch_tokens": 7}, "batch_tokens"),
    ):
        with pytest.raises(ShardMismatchError, match=word):
            run(rows, out, **options)
    elsewhere = ProbeEncoder()
    elsewhere.arithmetic = "cuda, bfloat16, flash_attention_2"
    with pytest.raises(ShardMismatchError, match="arithmetic None, not 'cuda, bfloat16, flash_attention_2'"):
        run(rows, out, elsewhere)
    with pytest.raises(ShardMismatchError, match="shard_size"):
        encode_shards(ProbeEncoder(), open_source(rows), out, 11)
    with pytest.raises(ShardFormatError, match="not finished"):
        ShardSet(out)
    rows.write_text(rows.read_text().replace("text 1", "text 9"))
    with pytest.raises(ShardMismatchError, match="source"):
        run(rows, out)


def test_a_run_goes_on_with_the_threads_that_it_began_with(rows: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    seen: list[int] = []

    class Sees(ProbeEncoder):  # type: ignore[misc, valid-type]
        batch_tokens = 512

        def encode(self, items: Any, **options: Any) -> Any:
            seen.append(torch.get_num_threads())
            assert options["batch_tokens"] == 512
            return super().encode(items, **options)

    run(rows, tmp_path / "out", Sees(), threads=2, world=2)
    encoder = Sees()
    encoder.batch_tokens = 9999  # another machine's
    run(rows, tmp_path / "out", encoder, world=2, rank=1)
    assert seen == [2] * 7
    assert torch.get_num_threads() == 1
    with pytest.raises(ShardMismatchError, match="threads"):
        run(rows, tmp_path / "out", Sees(), threads=3)


def test_a_part_made_with_less_memory_says_so_and_asks_for_no_more(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(ProbeEncoder):  # type: ignore[misc, valid-type]
        batch_tokens = 512

        def encode(self, items: Any, **options: Any) -> Any:
            found = super().encode(items, **options)
            asked.append(options.get("batch_tokens"))
            found.batch_tokens, found.halved = 128, len(asked) % 2 == 1
            return found

    monkeypatch.setattr(sample_module, "CHUNK_ROWS", 5)  # two calls a part
    asked: list[int | None] = []

    run(rows, tmp_path / "whole")
    run(rows, tmp_path / "halved", Small())
    told = {
        folder: {
            json.loads(file.read_text())["halved_to"] for file in (tmp_path / folder).glob("*.done.json")
        }
        for folder in ("whole", "halved")
    }
    assert told == {"whole": {None}, "halved": {128}}
    assert asked[:4] == [512, 128, 512, 128]  # the next part, which may stand alone, tries for itself


def test_a_source_that_shrinks_meanwhile_is_noticed(rows: Path, tmp_path: Path) -> None:
    source = open_source(rows)
    assert source.count() == 64
    whole = rows.read_text()
    rows.write_text("".join(whole.splitlines(keepends=True)[:47]))
    source.fingerprint = lambda: "as it was"  # type: ignore[method-assign]
    with pytest.raises(InputError, match="changed"):
        encode_shards(ProbeEncoder(), source, tmp_path / "out", 10)
    assert not (tmp_path / "out" / "manifest.json").exists()
    rows.write_text(whole)  # put right, the run goes on: no short part was kept
    report = encode_shards(ProbeEncoder(), source, tmp_path / "out", 10)
    assert (report.made, report.kept) == (3, 4)


@pytest.mark.parametrize("count", [40, 43, 3])
def test_a_stream_has_parts_without_a_total(tmp_path: Path, count: int) -> None:
    import gzip

    plain = write_rows(tmp_path / "rows.jsonl", count)
    stream = tmp_path / "stream.jsonl.gz"
    stream.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    run(stream, tmp_path / "one")
    for rank in (1, 0):
        run(stream, tmp_path / "two", rank=rank, world=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(list((tmp_path / "one").glob("part-*.npy"))) == -(-count // 10)
    assert (tmp_path / "one" / "part-00000.npy").exists()
    assert run(stream, tmp_path / "one").made == 0
    assert json.loads((tmp_path / "one" / "manifest.json").read_text())["units"] == count


@pytest.mark.parametrize(
    ("format", "dtype"), [("npy", "float16"), ("parquet", "float32"), ("parquet", "float16")]
)
def test_formats_hold_the_same_rows(rows: Path, tmp_path: Path, format: Any, dtype: Any) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    run(rows, tmp_path / "plain")
    run(rows, tmp_path / "other", format=format, dtype=dtype)
    for (ids, vectors), (other_ids, others) in zip(
        ShardSet(tmp_path / "plain"), ShardSet(tmp_path / "other"), strict=True
    ):
        assert ids == other_ids
        assert others.dtype == dtype
        np.testing.assert_array_equal(vectors.astype(dtype), others)
    whole, other = Index.from_shards(tmp_path / "plain"), Index.from_shards(tmp_path / "other")
    assert whole.ids == other.ids
    np.testing.assert_allclose(whole.vectors, other.vectors, atol=1e-3)


def test_double_ids(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"i{number % 15}", "text": str(number)}) for number in range(18)]
    lines[1] = lines[0]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    report = run(tmp_path / "rows.jsonl", tmp_path / "out")
    assert "the id is there twice" in (tmp_path / "out" / "errors.jsonl").read_text()
    assert report.manifest["double_ids_named"] == ["i0", "i2"]
    with pytest.raises(ShardFormatError, match="twice"):
        Index.from_shards(tmp_path / "out")


def test_shards_are_checked_before_use(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(rows, out)
    assert len(Index.from_shards(out)) == 55
    part = out / "part-00001-of-00007.npy"
    original = part.read_bytes()
    part.write_bytes(original[:-1] + b"\x07")
    with pytest.raises(ShardFormatError, match="damaged"):
        Index.from_shards(out)
    part.unlink()
    part.symlink_to(tmp_path / "elsewhere.npy")
    (tmp_path / "elsewhere.npy").write_bytes(original)
    with pytest.raises(ShardFormatError, match="plain file"):
        Index.from_shards(out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["parts"][0]["name"] = "../part-00000-of-00007"
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardFormatError, match="name of a part"):
        Index.from_shards(out)


# --- processes, some of which die -----------------------------------------------------------------------


def probe(*arguments: object) -> list[str]:
    return [sys.executable, str(PROBE), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_twenty_kills_and_the_same_bytes(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1200)
    subprocess.run(probe(rows, tmp_path / "unbroken"), env=environment(), check=True, timeout=240)
    chance = random.Random(20)
    out = tmp_path / "killed"
    kills = unfinished = 0
    while kills < KILLS:
        process = subprocess.Popen(probe(rows, out, 1, 0.01), env=environment(), stderr=subprocess.PIPE)
        scratch = f".tmp-*-{process.pid}"
        while process.poll() is None and not list(out.glob(scratch)):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err.decode()
        kills += 1
        unfinished += not (out / "manifest.json").exists()
    assert unfinished == KILLS, "the run was over before it had been killed so often"
    assert list(out.glob(".tmp-*")), "no kill left anything half written"
    subprocess.run(probe(rows, out), env=environment(), check=True, timeout=240)
    assert contents(out) == contents(tmp_path / "unbroken")


def test_a_report_larger_than_a_pipe_is_heard(tmp_path: Path) -> None:
    """The manifest of 400 parts does not fit into a pipe: whoever waits for the process's end waits for ever."""
    rows = write_rows(tmp_path / "rows.jsonl", 4000)
    subprocess.run(probe(rows, tmp_path / "out", 2), env=environment(), check=True, timeout=240)
    assert len(pickle.dumps((tmp_path / "out" / "manifest.json").read_text())) > 2**16
    assert len(list((tmp_path / "out").glob("*.done.json"))) == 400


def test_scratch_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    """A number of a process says nothing in another container, and two runs of one process are two."""
    elsewhere = tmp_path / f".tmp-{'0' * 12}-{'0' * 8}-{2**22 + 1}"
    elsewhere.mkdir()
    dead = tmp_path / f".tmp-{place()}-{'0' * 8}-{2**22 + 1}"
    dead.mkdir()
    old = tmp_path / ".tmp-host-1"  # as earlier versions called them
    old.mkdir()
    os.utime(old, (0, 0))
    with AtomicFolder(tmp_path) as outer:
        with AtomicFolder(tmp_path):
            pass
        outer.write("a", b"a")
    left = {elsewhere.name, dead.name, old.name}  # without a mark of ours, whatever they are called
    assert {path.name for path in tmp_path.iterdir()} == {*left, "a"}


def test_two_processes_one_of_which_dies_once(rows: Path, tmp_path: Path) -> None:
    subprocess.run(probe(rows, tmp_path / "one"), env=environment(), check=True, timeout=240)
    mark = tmp_path / "died"
    subprocess.run(probe(rows, tmp_path / "two", 2, 0, mark), env=environment(), check=True, timeout=240)
    assert mark.exists()
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


# --- the command line -----------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(umekit), "load", lambda *_, **__: ProbeEncoder())
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def encode(*arguments: object) -> int:
    return main(["encode", *map(str, arguments), "--shard-size", "10", "--quiet"])


@pytest.mark.usefixtures("fake")
def test_command_line(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert encode(rows, "--out", out, "--json", "--device", "cpu") == 1  # some items failed
    output = capsys.readouterr()
    assert json.loads(output.out)["rows"] == 55
    assert "could not read row-5: the decoder gave up" in output.err
    assert encode(rows, "--out", out, "--device", "cpu") == 2
    assert "--resume" in capsys.readouterr().err
    assert encode(rows, "--out", out, "--resume", "--role", "query") == 2
    assert "role" in capsys.readouterr().err
    assert encode(rows, "--out", out, "--resume", "--json") == 1
    assert json.loads(capsys.readouterr().out)["kept"] == 7

    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert (
            encode(rows, "--out", tmp_path / "ranks", "--device", "cpu") == 0
        )  # torchrun would end the others
    assert contents(tmp_path / "ranks") == contents(out)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["gone.jsonl", "--out", "o"], "there is no"),
        (["{rows}", "--out", "o.npz"], "folder"),
        (["{rows}", "--out", "o", "--column", "text"], "KEY=NAME"),
        (["{rows}", "--out", "o", "--device", "a,b", "--processes", "3"], "evenly"),
        (["{rows}", "--out", "o", "--text", "x"], "no --text"),
    ],
)
def test_wrong_calls(
    rows: Path, tmp_path: Path, arguments: list[str], word: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert encode(*[argument.format(rows=rows) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert word in error
    assert len(error.strip().splitlines()) == 1


def test_shard_options_need_a_shard_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "x", "--out", "v.npz", "--resume"]) == 2
    assert "--shard-size" in capsys.readouterr().err


# --- a real model ---------------------------------------------------------------------------------------


@pytest.fixture
def media(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(36):
        if number % 3:
            (root / f"{number:02d}.txt").write_text(f"text {number} " * int(rng.integers(1, 30)))
        else:
            size = (int(rng.integers(30, 200)), int(rng.integers(30, 200)), 3)
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(root / f"{number:02d}.png")
    (root / "broken.jpg").write_bytes(b"no picture")
    return root


def command(*arguments: object) -> list[str]:
    code = "import sys; from umekit.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", code, "encode", *map(str, arguments)]


def test_shared_pictures_change_no_byte(
    media: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Questions about the same pictures, in one part and across parts, after a stop and by two processes."""
    shown = sorted(media.glob("*.png"))[:4]
    lines = [
        {"id": f"{number}", "image": str(shown[number % 4]), "text": "why? " * (1 + 5 * (number % 7))}
        for number in range(40)
    ]
    file = media / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    encoder = umekit.load(tiny_checkpoint("qwen2_vl"), device="cpu")
    encoder.batch_tokens = 300

    def run(name: str, rank: int = 0, world: int = 1) -> Path:
        encode_shards(encoder, open_source([str(file)]), tmp_path / name, 16, rank=rank, world=world)
        return tmp_path / name

    whole = contents(run("one"))
    stopped = run("stopped")
    for part in [*stopped.glob("part-00001*"), stopped / "manifest.json"]:
        part.unlink()
    assert contents(run("stopped")) == whole
    run("ranks", 1, 2)
    assert contents(run("ranks", 0, 2)) == whole


def test_a_probe_chooses_once_and_a_resumed_run_keeps_it(
    media: Path,
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    call = ["encode", media, "--out", out, "--model", tiny_checkpoint("qwen2_vl"), "--device", "cpu"]
    call = [*map(str, call), "--shard-size", "12", "--probe", "5"]
    assert main(call) == 1  # broken.jpg
    assert "probed with 5 items: " in capsys.readouterr().err
    chosen = json.loads((out / "run.json").read_text())["options"]
    assert chosen["batch_tokens"] in (1024, 2048, 4096, 8192)
    assert chosen["threads"] >= 1
    first = contents(out)
    for part in out.glob("*00001*"):
        part.unlink()
    (out / "manifest.json").unlink()
    assert main([*call, "--resume"]) == 1
    assert "probed" not in capsys.readouterr().err
    assert contents(out) == first
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*call, "--resume"]) == 2
    assert "--probe is for one process" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_model_killed_shared_and_alone(
    media: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_checkpoint("qwen2_vl")
    common = ["--model", model, "--shard-size", 4, "--device", "cpu", "--quiet"]

    def start(out: str, *more: object, **extra: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command(media, "--out", tmp_path / out, *common, *more),
            env={**environment(), **extra}, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    assert start("one").wait(300) == 1
    assert "broken.jpg" in (tmp_path / "one" / "errors.jsonl").read_text()
    for parts in (1, 3):
        process = start("killed", "--resume")
        while process.poll() is None and len(list((tmp_path / "killed").glob("*.done.json"))) < parts:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert start("killed", "--resume").wait(300) == 1
    assert start("processes", "--processes", 2).wait(300) == 1
    ranks = [start("ranks", RANK=rank, WORLD_SIZE="2") for rank in "01"]
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    whole = contents(tmp_path / "one")
    for other in ("killed", "processes", "ranks"):
        assert contents(tmp_path / other) == whole, other


@pytest.mark.slow
def test_torchrun(media: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    umekit_script = shutil.which("umekit", path=str(Path(sys.executable).parent))
    if umekit_script is None:
        pytest.skip("the command umekit is not installed")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    arguments = [
        "encode",
        media,
        "--model",
        tiny_checkpoint("qwen2_vl"),
        "--shard-size",
        4,
        "--device",
        "cpu",
    ]
    both = [*torchrun, umekit_script, *map(str, [*arguments, "--out", tmp_path / "two", "--quiet"])]
    done = subprocess.run(both, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    alone = subprocess.run(
        command(*arguments[1:], "--out", tmp_path / "one", "--quiet"), env=environment(), timeout=300
    )
    assert alone.returncode == 1
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
