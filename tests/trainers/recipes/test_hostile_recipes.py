"""A recipe cannot leave its folder, and its YAML cannot take the memory."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from umekit.cli.main import main
from umekit.trainers.recipes import FORMATS, RecipeError, YamlError, load_yaml, read_recipe, run_recipe
from umekit.trainers.recipes.run import _open_run


def recipe(*names: str) -> dict[str, Any]:
    data = {"sources": [{"name": "rows", "path": "rows.jsonl"}]}
    steps = [{"kind": "train", "name": name, "source": "here", "data": data} for name in names]
    return {"name": "a recipe", "source": "here", "steps": steps}


def written(folder: Path, content: Any) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


BAD_NAMES = [
    *(
        "",
        " ",
        ".",
        "..",
        "../up",
        "/tmp/x",
        "a/b",
        "a\\b",
        "..\\up",
        "C:",
        "C:x",
        "x.",
        "x ",
        " x",
        ".hidden",
    ),
    *("CON", "nul", "com1", "Lpt9.txt", "aux.model", "model", "Model", "adapter", "trainer", "recipe.json"),
    *("a\nb", "a\x00b", "a*", "a?", 'a"', "a|b", "<a>", "x" * 101, "start", "START"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_no_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=r"step|same folder"):
        read_recipe(written(tmp_path, recipe("one", name)))


@pytest.mark.parametrize("name", ["one", "stage 1", "stage-1.b", "学习", "model-2", "console"])
def test_good_names(tmp_path: Path, name: str) -> None:
    assert read_recipe(written(tmp_path, recipe(name))).steps[0].name == name


@pytest.mark.parametrize("names", [("one", "One"), ("é", "e\u0301"), ("straße", "STRASSE")])
def test_names_that_differ_by_case_only_are_one_folder(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(RecipeError, match="same folder"):
        read_recipe(written(tmp_path, recipe(*names)))


@pytest.mark.parametrize("inner", ["", "trainer", "model"])
def test_links_that_lead_out_are_refused(tmp_path: Path, inner: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    out = tmp_path / "out"
    begun = read_recipe(written(tmp_path, recipe("one")))
    _open_run(out, begun, False)
    (out / "one" if inner else out).mkdir(parents=True, exist_ok=True)
    (out / "one" / inner if inner else out / "one").symlink_to(outside)
    (tmp_path / "rows.jsonl").write_text('{"query": "a", "positive": "b"}\n')
    with pytest.raises(RecipeError, match="leads out of"):
        run_recipe(begun, out, formats=FORMATS, resume=True)
    assert [path.name for path in outside.iterdir()] == ["mine.txt"]


def bomb(levels: int, width: int = 10) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]")
    return "\n".join(lines) + "\n"


def merges(levels: int) -> str:
    lines = ["a0: &a0 {x0: 1}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}], x{level}: 1}}")
    return "\n".join(lines) + "\n"


HOSTILE = {
    "aliases": (bomb(12), "aliases grow"),
    "merges": (merges(40), "aliases grow|nested deeper"),
    "a chain": (
        "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 900))]),
        "nested deeper",
    ),
    "itself": ("a: &a [*a]", "holds itself"),
    "itself in a mapping": ("a: &a {b: *a}", "holds itself"),
    "deep": ("[" * 100 + "]" * 100, "nested deeper"),
    "very deep": ("[" * 50_000, "nested deeper|flow"),
    "deep blocks": ("\n".join(" " * n + "a:" for n in range(200)), "nested deeper"),
    "long": ("# " + "x" * 2_000_000, "characters are more"),
    "a key twice": ("name: a\nsource: b\nname: c\n", "'name' stands twice.*line 3"),
    "a key twice inside": ("steps:\n- {name: a, name: b}\n", "'name' stands twice"),
    "python": ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 2\n", "single document"),
    "no date": ("when: 2001-99-99", "month"),
    "a number": ("n: " + "9" * 5000, "digits"),
    "a list as a key": ("? [a, b]\n: c\n", "unhashable"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_yaml_is_bounded(tmp_path: Path, name: str) -> None:
    text, message = HOSTILE[name]
    started = time.monotonic()
    with pytest.raises(YamlError, match=message):
        load_yaml(text)
    with pytest.raises(RecipeError, match="not YAML"):
        read_recipe(written(tmp_path, text))
    assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert time.monotonic() - started < 60
    assert not (tmp_path / "out").exists()


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"name: \xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        read_recipe(tmp_path / "recipe.yaml")


def test_aliases_and_merges_of_people_are_read_and_are_copies(tmp_path: Path) -> None:
    text = "base: &base {a: 1, b: [2]}\none: *base\ntwo: {<<: *base, a: 3}\n"
    found = load_yaml(text)
    assert found == {"base": {"a": 1, "b": [2]}, "one": {"a": 1, "b": [2]}, "two": {"a": 3, "b": [2]}}
    found["one"]["b"].append(0)
    assert found["base"]["b"] == found["two"]["b"] == [2]


def test_set_and_max_steps_of_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(written(tmp_path, recipe("one")))
    for more, message in (
        (["--set", f"name={bomb(12)}"], "--set name: "),
        (["--set", "name=["], "--set name: "),
        (["--set", "steps.0.name=.."], "begins or ends"),
        (["--max-steps", "0"], "--max-steps is 0"),
        (["--max-steps", "-3"], "--max-steps is -3"),
    ):
        assert main(["train", file, "--out", str(tmp_path / "out"), *more]) == 2
        assert message in capsys.readouterr().err
