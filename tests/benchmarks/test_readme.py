"""The README says what the committed results say."""

from __future__ import annotations

from pathlib import Path

import pytest
import readme

README = Path(readme.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_in_step_with_the_results() -> None:
    assert readme.filled(README) == README, "run python benchmarks/readme.py"


def test_every_number_of_a_block_is_from_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other results make another README."""
    real = readme.read

    def doubled(name: str) -> readme.Result:
        result = real(name)
        for found in result.get("workloads", {}).values():
            found["times_faster_than"] = dict.fromkeys(found["times_faster_than"], 1234.5)
        return result

    monkeypatch.setattr(readme, "read", doubled)
    assert readme.speed_block().count("1234.50") == sum(
        len(found["times_faster_than"]) for found in real("rerank")["workloads"].values()
    )


def test_check_tells_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "README.md"
    file.write_text(README.replace("| **reproduced**", "| **quite true**", 1), encoding="utf-8")
    before = file.read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["readme.py", "--readme", str(file), "--check"])
    assert readme.main() == 1
    assert "run python benchmarks/readme.py" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == before
    monkeypatch.setattr("sys.argv", ["readme.py", "--readme", str(file)])
    assert readme.main() == 0
    assert file.read_text(encoding="utf-8") == README
