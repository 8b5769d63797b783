"""The row function: pure, picklable, one model per process, in datasets.map and on a local Ray cluster."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import umekit
from umekit.encoding import encode_rows as rows_module
from umekit.encoding.encode_rows import EncodeRows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("qwen2_vl")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    rows_module._LOADED.clear()
    yield
    rows_module._LOADED.clear()


def test_gpus_are_shared_out_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("umekit.encoding.loading.load", lambda model, **options: asked.append(options))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    encode = EncodeRows("m")
    for rank in (None, 0, 1, 2, 3):
        encode.encoder(rank)
    EncodeRows("m", load_options={"device": "cpu"}).encoder(1)
    assert asked == [{}, {"device": "cuda:0"}, {"device": "cuda:1"}, {"device": "cpu"}]


def test_a_forked_process_loads_its_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    rows_module._LOADED["a key"] = "an encoder on a GPU"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(len(rows_module._LOADED)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"0"
    os.close(reader)
    os.close(writer)
    assert rows_module._LOADED
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match="set_start_method"):
        EncodeRows("m").encoder()


def test_columns_in_and_out(model: Path, pictures: list[Image.Image]) -> None:
    encode = EncodeRows(model, role="document", load_options={"device": "cpu"})
    batch = {
        "id": ["a", 5, "c", "d"],
        "text": ["one", "two", None, None],
        "image": [None, pictures[0], "/does/not/exist.png", None],
        "label": [0, 1, 2, 3],
    }
    done = encode(batch)
    assert done["id"] == ["a", "5", "c", "d"]
    assert done["embedding"].dtype == np.float32
    expected = umekit.load(model).encode(["one", {"text": "two", "image": pictures[0]}], role="document")
    np.testing.assert_allclose(done["embedding"][:2], expected, atol=1e-5)
    assert np.isnan(done["embedding"][2:]).all()
    assert done["embedding_error"][:2] == ["", ""]
    assert "no such file" in done["embedding_error"][2]
    assert "nothing to embed" in done["embedding_error"][3]
    assert set(batch) == {"id", "text", "image", "label"}


def test_pickled_before_and_after_use_and_loaded_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    from umekit.encoding import loading

    really_load = loading.load

    def load(*arguments: Any, **options: Any) -> Any:
        loads.append(arguments)
        return really_load(*arguments, **options)

    monkeypatch.setattr(loading, "load", load)
    encode = EncodeRows(model, column="caption")
    before = pickle.dumps(encode)
    first = encode({"caption": ["a", "b"]})
    assert pickle.dumps(encode) == before
    again = pickle.loads(before)({"caption": ["a", "b"]})
    np.testing.assert_array_equal(first["embedding"], again["embedding"])
    assert first["id"] == again["id"]
    assert len(loads) == 1


def test_ids_by_content_do_not_depend_on_the_batch(model: Path, pictures: list[Image.Image]) -> None:
    encode = EncodeRows(model, column="item")
    items = ["a", {"text": "a"}, pictures[0], pictures[1], b"x", np.zeros((2, 2), np.uint8)]
    together = [row.id for row in encode.rows({"item": items})]
    assert len(set(together)) == len(items)
    assert together == [encode.rows({"item": [item]})[0].id for item in items]


def test_media_root_confines(model: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    (tmp_path / "root").mkdir()
    pictures[0].save(tmp_path / "root" / "in.png")
    pictures[0].save(tmp_path / "out.png")
    encode = EncodeRows(model, columns={"image": "file"}, media_root=tmp_path / "root")
    done = encode({"file": ["in.png", "../out.png", str(tmp_path / "out.png")]})
    assert done["embedding_error"][0] == ""
    assert all("only name files below" in error for error in done["embedding_error"][1:])


def test_columns_may_name_the_item_and_the_id(model: Path) -> None:
    batch = {"key": ["k", ""], "caption": ["c", {"text": "d"}], "text": ["not this"] * 2, "id": [1, 2]}
    rows = EncodeRows(model, columns={"item": "caption", "id": "key"}).rows(batch)
    assert [row.item for row in rows] == ["c", {"text": "d"}]
    assert rows[0].id == "k"
    assert len(rows[1].id) == 32
    assert EncodeRows(model, id_column="key").rows(batch)[0].item == {"text": "not this"}


def test_missing_columns_are_named(model: Path) -> None:
    with pytest.raises(KeyError, match="no column caption; the batch has text"):
        EncodeRows(model, column="caption")({"text": ["x"]})
    with pytest.raises(KeyError, match="no column of an item"):
        EncodeRows(model)({"label": ["x"], "id": ["y"]})
    with pytest.raises(ValueError, match="not both"):
        EncodeRows(model, column="a", columns={"text": "b"})


@pytest.mark.parametrize("processes", [None, 2])
def test_datasets_map(model: Path, processes: int | None, pictures: list[Image.Image]) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {
        "id": list("abcde"),
        "text": ["one", "two", "three", "four", ""],
        "image": [*pictures[:3], None, None],
    }
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    encode = EncodeRows(model, batch_tokens=4096)
    done = dataset.map(encode, batched=True, batch_size=2, num_proc=processes)
    assert done["id"] == rows["id"]
    assert done.column_names == ["id", "text", "image", "embedding", "embedding_error"]
    items = [{"text": t, "image": i} for t, i in zip(rows["text"][:3], pictures[:3], strict=True)]
    expected = umekit.load(model).encode([*items, "four"])
    np.testing.assert_allclose(np.array(done["embedding"][:4], np.float32), expected, atol=1e-5)
    assert list(done["embedding_error"][:4]) == [""] * 4


PROGRAM = """
import sys
import numpy as np
import pyarrow.parquet as pq
import ray
import umekit
from umekit.encoding.encode_rows import EncodeRows
from umekit.examples.ray_encode import embed

model, out = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
texts = [f"text {n}" for n in range(12)] + [None]
data = ray.data.from_items([{"id": f"i{n}", "text": text} for n, text in enumerate(texts)])
embed(data, EncodeRows(model, batch_tokens=4096), batch_size=5).write_parquet(out)
rows = sorted(pq.read_table(out).to_pylist(), key=lambda row: int(row["id"][1:]))
assert [row["id"] for row in rows] == [f"i{n}" for n in range(13)]
assert [row["text"] for row in rows] == texts
vectors = np.array([row["embedding"] for row in rows[:12]], np.float32).reshape(12, -1)
np.testing.assert_allclose(vectors, umekit.load(model).encode(texts[:12]), atol=1e-5)
assert [bool(row["embedding_error"]) for row in rows] == [False] * 12 + [True]
ray.shutdown()
print("the same vectors")
"""


@pytest.mark.slow
def test_the_example_on_a_local_ray_cluster(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(tmp_path / "out")],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same vectors" in done.stdout
