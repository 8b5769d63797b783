"""Results that are kept as they come: a run that was stopped goes on, and one of other conditions begins anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HEAD: dict[str, Any] = {
    "benchmark": "b", "command": "python b.py", "machine": {"cores": 2, "load_at_start": 0.1}, "targets": {"a": (1, 2)},
}  # fmt: skip


def jobs(done: list[str], broken: str = "") -> dict[str, Callable[[], dict[str, Any]]]:
    def job(name: str) -> dict[str, Any]:
        if name == broken:
            raise RuntimeError("stopped")
        done.append(name)
        return {"value": name}

    return {name: lambda name=name: job(name) for name in ("one", "two", "three")}


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    from measuring import measure_parts

    out, done = tmp_path / "r" / "out.json", list[str]()
    with pytest.raises(RuntimeError, match="stopped"):
        measure_parts(out, HEAD, "parts", jobs(done, broken="two"))
    assert list(json.loads(out.read_text())["parts"]) == ["one"]
    later = {**HEAD, "command": "python b.py --more", "machine": {"cores": 2, "load_at_start": 3.0}}
    found = measure_parts(out, later, "parts", jobs(done))
    assert done == ["one", "two", "three"]
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    assert {part["value"] for part in found["parts"].values()} == set(done)
    assert all("load_at_start" in part for part in found["parts"].values())


@pytest.mark.parametrize("change", [{"machine": {"cores": 4}}, {"repeats": 3}, {"targets": {"a": [1, 3]}}])
def test_of_other_conditions_nothing_is_kept(tmp_path: Path, change: dict[str, Any]) -> None:
    from measuring import measure_parts

    done: list[str] = []
    measure_parts(tmp_path / "out.json", HEAD, "parts", jobs(done))
    measure_parts(tmp_path / "out.json", {**HEAD, **change}, "parts", jobs(done))
    assert done == ["one", "two", "three"] * 2
    measure_parts(None, HEAD, "parts", jobs(done))
    assert len(done) == 9
