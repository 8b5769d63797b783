"""The verb as users call it, in processes of its own: data from the Hub, several processes by torchrun."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hub import Hub

import umekit
from umekit.evaluation.results import load_report

MAIN, OLD = "a" * 40, "b" * 40
SAME = ("task", "metric", "value", "n", "per_query", "candidates", "official", "optimistic")
pytestmark = pytest.mark.slow


def _environment(**more: str) -> dict[str, str]:
    root = str(Path(umekit.__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


def _evaluate(
    out: Path, *arguments: object, before: tuple[str, ...] = (), **environment: str
) -> list[dict[str, Any]]:
    """Scores of a run of the verb, without what says where the data came from."""
    called = [
        sys.executable,
        "-m",
        *before,
        "umekit.cli.main",
        "evaluate",
        "--benchmark",
        *map(str, arguments),
    ]
    done = subprocess.run(
        [*called, "--out", str(out), "--quiet"],
        env=_environment(**environment),
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scores = json.loads(out.read_text(encoding="utf-8"))["scores"]
    return [{name: score[name] for name in SAME} for score in scores]


def _published(root: Path, to: Path) -> Hub:
    """The repositories of an image task and of a document task, as they are on the Hub."""
    rows = to / "ziyjiang/MMEB_Test_Instruct/main"
    card = "---\nconfigs:\n- config_name: CIRR\n  data_files:\n  - split: test\n    path: CIRR/test-*.parquet\n---\n"
    lines = (root / "image-query/CIRR.jsonl").read_text(encoding="utf-8").splitlines()
    (rows / "CIRR").mkdir(parents=True)
    (rows / "README.md").write_text(card, encoding="utf-8")
    Dataset.from_list([json.loads(line) for line in lines]).to_parquet(
        str(rows / "CIRR/test-00000-of-00001.parquet")
    )
    media = to / "TIGER-Lab/MMEB-V2/main/image-tasks"
    media.mkdir(parents=True)
    with tarfile.open(media / "mmeb_v1.tar.gz", "w:gz") as archive:
        archive.add(root / "image-tasks/MMEB/CIRR", "MMEB/CIRR")
    pages = to / "vidore/shiftproject_test_beir/main"
    shutil.copytree(root / "visdoc-tasks/data/shiftproject_test_beir", pages)
    parts = "".join(
        f"- config_name: {part}\n  data_files:\n  - split: test\n    path: {part}/test-*.parquet\n"
        for part in ("queries", "corpus", "qrels")
    )
    (pages / "README.md").write_text(f"---\nconfigs:\n{parts}---\n", encoding="utf-8")
    old = to / "ziyjiang/MMEB_Test_Instruct/v0"  # an earlier state, with a row less
    shutil.copytree(rows, old)
    Dataset.from_list([json.loads(line) for line in lines[:-1]]).to_parquet(
        str(old / "CIRR/test-00000-of-00001.parquet")
    )
    for repo in ("TIGER-Lab/MMEB-V2/main",):
        shutil.copytree(to / repo, to / repo.replace("main", "v0"))
    every = ("ziyjiang/MMEB_Test_Instruct", "TIGER-Lab/MMEB-V2", "vidore/shiftproject_test_beir")
    return Hub(to, {repo: {"main": MAIN, "v0": OLD} for repo in every})


def test_from_the_hub_as_from_a_folder(mmeb: Any, tmp_path: Path) -> None:
    """Rows are streamed and media taken from their archive, both of a commit, which the result names."""
    root, _ = mmeb
    hub = _published(root, tmp_path / "hub")
    tasks = ["--tasks", "CIRR", "ViDoRe_shiftproject"]
    wanted = _evaluate(tmp_path / "local.json", "mmeb-v2", *tasks, "--data", root)
    with hub.running() as address:
        online = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        found = _evaluate(tmp_path / "hub.json", "mmeb-v2", *tasks, **online)
        old = _evaluate(tmp_path / "old.json", "mmeb-v2", "--tasks", "CIRR", "--revision", "v0", **online)
    assert found == wanted
    report = load_report(tmp_path / "hub.json")
    assert {score.revision for score in report.scores} == {MAIN}
    assert [score["n"] for score in old] == [2]
    assert {score.revision for score in load_report(tmp_path / "old.json").scores} == {OLD}
    # the rows were streamed: nothing of them was prepared on this disk, and no branch was read, only commits
    assert not list((tmp_path / "home").rglob("*.arrow"))
    resolved = [path for path in hub.asked if "/resolve/" in path]
    assert resolved
    assert all(f"/resolve/{MAIN}/" in path or f"/resolve/{OLD}/" in path for path in resolved)
    assert not [path for path in resolved if "visdoc-tasks" in path], "pages are in their rows"


def test_two_processes_report_what_one_does(mmeb: Any, tmp_path: Path) -> None:
    root, _ = mmeb
    call = [
        "mmeb-v2",
        "--tasks",
        "CIRR",
        "QVHighlight",
        "DocVQA",
        "--data",
        root,
        "--shard-size",
        2,
        "--device",
        "cpu",
    ]
    wanted = _evaluate(tmp_path / "one.json", *call)
    two = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    assert _evaluate(tmp_path / "two.json", *call, before=two) == wanted
    ours, theirs = (load_report(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert theirs.fingerprint == ours.fingerprint
    assert {name: cost["items"] for name, cost in theirs.costs.items()} == {
        name: cost["items"] for name, cost in ours.costs.items()
    }
    # both encoded something: each shard is one process's
    logs = {path.name.rsplit("-", 1)[1] for path in (tmp_path / "two.work/vectors").rglob("*.costs-*.jsonl")}
    assert logs == {"0.jsonl", "1.jsonl"}
