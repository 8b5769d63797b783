"""Which versions of other packages go together, in one place: asked for at use, and shown by ``umekit doctor``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import metadata

# (from this transformers on, the peft that its adapters ask for), newest first
PEFT_OF_TRANSFORMERS = (("5.24", "0.22"), ("5.18", "0.20"))


def number(version: str) -> tuple[int, ...]:
    """The first three numbers of a version.

    >>> number("2.13.0+cpu")
    (2, 13, 0)
    """
    parts = version.split("+")[0].split(".")[:3]
    return tuple(int("".join(letter for letter in part if letter.isdigit()) or 0) for part in parts)


def transformers_problem(versions: Mapping[str, str]) -> str | None:
    """What is wrong with the installed transformers, and what to do; None where it is one that umekit runs on."""
    found = versions.get("transformers")
    # 5.17 ignores mm_encoder_outputs, silently; with 5.18 AutoModel fails on remote code of native configs.
    if found is None or (5, 23) <= number(found) < (6,):
        return None
    return f"transformers must be >=5.23,<6, not {found}: pip install 'transformers>=5.23,<6'"


def peft_problem(versions: Mapping[str, str]) -> str | None:
    """What is wrong with the pair of transformers and peft, and what to do; None where adapters work."""
    transformers, peft = versions.get("transformers"), versions.get("peft")
    if transformers is None or peft is None:
        return None
    for since, needed in PEFT_OF_TRANSFORMERS:
        if number(transformers) >= number(since):
            if number(peft) >= number(needed):
                return None
            return (
                f"transformers {transformers} takes adapters only with peft>={needed}, not {peft}: pip install "
                "'umekit[train]' gives a pair that works, as does pip install 'transformers==5.23.0' 'peft==0.21.2'"
            )
    return None


@functools.cache
def installed(*names: str) -> Mapping[str, str]:
    """Versions of those of ``names`` that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def need_transformers() -> None:
    """Raises ImportError, in one line, for a transformers that umekit does not run on."""
    problem = transformers_problem(installed("transformers"))
    if problem:
        raise ImportError(problem)


def need_peft() -> None:
    """Raises ImportError, in one line, for a pair of transformers and peft whose adapters do not work."""
    problem = peft_problem(installed("transformers", "peft"))
    if problem:
        raise ImportError(problem)
