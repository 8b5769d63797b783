"""Names of a recipe's steps, each of which becomes a folder of the run, and of nothing else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

MOST_CHARACTERS = 100
_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')
# What Windows takes for devices, whatever the ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
# What a run, or a step, calls its own files and folders.
_OURS = {"model", "adapter", "rows", "trainer", "recipe.json", "recipe.partial", "done.json", "plan.json"}


def check_step_names(names: Iterable[str], taken: Iterable[str] = ()) -> None:
    """Raise ValueError, naming the first, for names that cannot all be folders beside each other on every system.

    taken: names that steps may not have.
    """
    seen = {_folded(name): name for name in taken}
    for name in names:
        if reason := _fault(name):
            raise ValueError(f"{name!r} cannot be the name of a step, which becomes a folder: {reason}")
        folded = _folded(name)
        if seen.get(folded) == name:
            raise ValueError(f"two steps are called {name!r}")
        if folded in seen:
            raise ValueError(f"{seen[folded]!r} and {name!r} are the same folder where case does not count")
        seen[folded] = name


def check_inside(root: Path, folder: Path) -> None:
    """Raise ValueError if a step's folder, or what lies in it, is a link that leads out of ``root`` (resolved)."""
    found = [folder, *(folder.iterdir() if folder.is_dir() else ())]
    for path in found:
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise ValueError(
                f"{path} is a link that leads out of {root}: a run writes into its own folder only"
            )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _fault(name: str) -> str:
    """Why a name is none; empty for a good one."""
    if not name.strip():
        return "it is empty"
    if len(name) > MOST_CHARACTERS or len(name.encode("utf-8", "surrogatepass")) > 2 * MOST_CHARACTERS:
        return f"it is longer than {MOST_CHARACTERS} characters"
    if _FORBIDDEN.search(name):
        return 'a separator, control character or one of : * ? " < > | is in it'
    if name != name.strip() or name.startswith(".") or name.endswith("."):
        return "it begins or ends with a space or a dot"
    if any(unicodedata.category(letter) in ("Cs", "Cc") for letter in name):
        return "it is no text"
    if _DEVICES.fullmatch(name):
        return "Windows has a device of this name"
    if _folded(name) in _OURS:
        return "a run has a file or folder of this name itself"
    return ""
