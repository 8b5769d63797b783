"""When something was made, and by which versions."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata


def library_versions() -> dict[str, str]:
    """Versions of whatever has a say in a vector or in this folder."""
    found = {"python": platform.python_version()}
    for name in ("umekit", "torch", "transformers", "numpy", "pillow", "faiss-cpu", "av", "pypdfium2"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
