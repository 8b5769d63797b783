"""What comes with the package, by name: ume-tiny, the reranker of ume-tiny, and the cascade of both.

Where one of them is named, a folder of that name in the working directory wins; where nothing is named, it is always
the package's.
"""

from __future__ import annotations

import os
from pathlib import Path

EMBEDDER, RERANKER, CASCADE = "ume-tiny", "ume-tiny-reranker", "ume-tiny-cascade"
FILES = {EMBEDDER: "config.json", RERANKER: "adapter_config.json", CASCADE: "cascade.json"}


def packaged_model(name: str = EMBEDDER) -> Path:
    """Folder of ume-tiny, of its reranker, or of their cascade.

    Raises:
        FileNotFoundError: this installation lacks it.
    """
    import umekit.examples

    for base in umekit.examples.__path__:
        folder = Path(base) / name
        if (folder / FILES[name]).is_file():
            return folder
    raise FileNotFoundError(
        f"{name} is not in this installation: name a model, or install umekit from a wheel"
    )


def is_packaged(name: str | os.PathLike[str]) -> bool:
    """Whether this is the name of something that comes with the package, and of no folder here."""
    return os.fspath(name) in FILES and not os.path.isdir(name)


def folder_or_name(name: str | os.PathLike[str]) -> str:
    """The folder of what comes with the package under this name; any other name as it is.

    Raises:
        FileNotFoundError: see :func:`packaged_model`.
    """
    return str(packaged_model(os.fspath(name))) if is_packaged(name) else os.fspath(name)
