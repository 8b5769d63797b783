"""The tested versions fit the ranges that are allowed, everything installs by them, and bad pairs say what they are."""

from __future__ import annotations

import configparser
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import umekit
from umekit.modeling import versions as versions_module
from umekit.modeling.adapters import add_adapter
from umekit.trainers import add_lora

ROOT = Path(__file__).resolve().parents[2]
FILES = ("constraints.txt", "constraints-floor.txt")


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "only exact versions"
    return {canonicalize_name(package): version for package, version in pairs}


def requirements(extra: str | None) -> list[Requirement]:
    """What the package and an extra of it ask for, extras that it names included."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    text = config["options.extras_require"][extra] if extra else config["options"]["install_requires"]
    found: list[Requirement] = []
    for line in text.strip().splitlines():
        if line.startswith("#"):
            continue
        one = Requirement(line)
        found += (
            [each for name in one.extras for each in requirements(name)] if one.name == "umekit" else [one]
        )
    return found


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("extra", [None, "demo", "dev"])
def test_tested_versions_are_allowed_ones(file: str, extra: str | None) -> None:
    tested = pins(file)
    for one in requirements(extra):
        assert one.specifier.contains(tested[canonicalize_name(one.name)]), one


def test_what_is_needed_by_what_is_pinned_is_pinned() -> None:
    """Walks from umekit[dev] through what is installed here: no package on the way is left to chance."""
    tested = pins("constraints.txt")
    if metadata.version("transformers") != tested["transformers"]:
        pytest.skip("another set of versions is installed, which may ask for other packages")
    to_visit = [
        (canonicalize_name(one.name), one.extras) for one in (*requirements(None), *requirements("dev"))
    ]
    seen: set[tuple[str, frozenset[str]]] = set()
    own = {"setuptools", "pip", "wheel"}  # a venv's own; torch of a GPU brings its libraries with it
    while to_visit:
        name, extras = to_visit.pop()
        if (name, frozenset(extras)) in seen or re.match("nvidia-|cuda-|triton", name) or name in own:
            continue
        seen.add((name, frozenset(extras)))
        assert name in tested
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for one in map(Requirement, needed):
            environments = [{"extra": extra} for extra in (*extras, "")]
            if one.marker is None or any(one.marker.evaluate(environment) for environment in environments):
                to_visit.append((canonicalize_name(one.name), one.extras))


@pytest.mark.parametrize("file", FILES)
def test_tested_versions_are_no_bad_pair(file: str) -> None:
    tested = pins(file)
    assert versions_module.transformers_problem(tested) is None
    assert versions_module.peft_problem(tested) is None


def test_the_floor_is_the_floor() -> None:
    floor = pins("constraints-floor.txt")
    for one in (*requirements(None), *requirements("train"), *requirements("demo")):
        lowest = [part.version for part in one.specifier if part.operator == ">="]
        if lowest and one.name != "torch":  # its older builds for the CPU are not on every index
            texts = (floor[canonicalize_name(one.name)], *lowest)
            ours, wanted = (versions_module.number(text + ".0.0") for text in texts)
            assert ours == wanted, one


def test_everything_that_is_installed_goes_by_the_file() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "CONSTRAINTS ?= constraints.txt" in makefile
    for line in re.findall(r"\$\(PIP\) install .*", makefile):
        assert "-c $(TESTED)" in line or "--no-deps" in line, line
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in ci
    assert "pip install" not in ci


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that are taken for the installed ones."""
    versions: dict[str, str] = {}
    monkeypatch.setattr(versions_module, "installed", lambda *_: versions)
    return versions


def test_a_bad_pair_says_so_where_an_adapter_is_used(found: dict[str, str]) -> None:
    pytest.importorskip("peft")
    found |= {"transformers": "5.24.0", "peft": "0.21.2"}
    encoder = umekit.load()  # what needs no adapter works
    assert encoder.encode(["p1 red"]).shape == (1, encoder.dim)
    for use in (
        lambda: add_lora(encoder.model, rank=2, alpha=4),
        lambda: add_adapter(encoder.model.backbone, "no-such-folder"),
    ):
        with pytest.raises(
            ImportError, match=r"5\.24\.0 takes adapters only with peft>=0\.22, not 0\.21\.2: pip"
        ):
            use()


@pytest.mark.parametrize("version", ["4.57.1", "5.18.0", "6.0.0"])
def test_a_transformers_out_of_range_is_one_line(found: dict[str, str], version: str) -> None:
    found["transformers"] = version
    with pytest.raises(ImportError, match=f"must be >=5.23,<6, not {version}") as raised:
        _ = umekit.load
    assert "\n" not in str(raised.value)
