"""README.md and docs/ say what the committed results say."""

from __future__ import annotations

from pathlib import Path

import pytest
import readme

PAGES = {page: (readme.ROOT / page).read_text(encoding="utf-8") for page in readme.BLOCKS}


@pytest.mark.parametrize("page", readme.BLOCKS)
def test_the_pages_are_in_step_with_the_results(page: str) -> None:
    assert readme.filled(page, PAGES[page]) == PAGES[page], "run python benchmarks/readme.py"


def test_every_number_of_a_block_is_from_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other results make another page."""
    real = readme.read

    def changed(name: str) -> readme.Result:
        result = real(name)
        if name == "rerank":
            for found in result["workloads"].values():
                found["times_faster_than"] = dict.fromkeys(found["times_faster_than"], 1234.5)
        for found in result.get("systems", {}).values():
            found["items"] = 777 + len(found["set_aside"])
        return result

    monkeypatch.setattr(readme, "read", changed)
    assert readme.speed_block().count("1234.50") == sum(
        len(found["times_faster_than"]) for found in real("rerank")["workloads"].values()
    )
    assert "reranking 100 candidates 1234.5 to 1234.5" in readme.headline_block()
    assert readme.systems_block().count("777 items") == len(real("systems")["systems"])


def test_every_preset_has_a_line() -> None:
    from umekit.encoding.presets import PRESETS

    systems = readme.read("systems")["systems"]
    assert {name: tuple(found["repositories"]) for name, found in systems.items()} == {
        name: preset.repos for name, preset in PRESETS.items()
    }, "run python benchmarks/systems.py --out benchmarks/results/systems.json"


def test_check_tells_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    stale = {page: text.replace("| **reproduced**", "| **quite true**", 1) for page, text in PAGES.items()}
    for page, text in stale.items():
        (tmp_path / page).write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["readme.py", "--root", str(tmp_path), "--check"])
    assert readme.main() == 1
    told = capsys.readouterr().err
    assert "docs/results.md is not what benchmarks/results say" in told.replace("\\", "/")
    assert "README.md" not in told
    assert {page: (tmp_path / page).read_text(encoding="utf-8") for page in PAGES} == stale
    monkeypatch.setattr("sys.argv", ["readme.py", "--root", str(tmp_path)])
    assert readme.main() == 0
    assert {page: (tmp_path / page).read_text(encoding="utf-8") for page in PAGES} == PAGES
