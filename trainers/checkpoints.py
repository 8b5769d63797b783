"""Which checkpoint folders can be resumed from, exactly: all that was written is there, or it is an error."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from .objectives.saving import SETTINGS_FILE, WEIGHTS_FILE

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")


def mark_incomplete(folder: str | Path) -> None:
    """A checkpoint written over an older one of the same step is not complete until it is done."""
    if _FOLDER.fullmatch(Path(folder).name):
        (Path(folder) / STATE_FILE).unlink(missing_ok=True)


def missing_files(folder: str | Path, world_size: int = 1, optimizer: bool = True) -> list[str]:
    """Names of what an exact resume needs and ``folder`` lacks. trainer_state.json is written last, so a
    folder without a readable one was cut off. optimizer=False leaves out optimiser files (DeepSpeed and
    FSDP have their own).
    """
    path = Path(folder)
    names = [SETTINGS_FILE, WEIGHTS_FILE, "scheduler.pt", *(["optimizer.pt"] if optimizer else [])]
    if world_size == 1:
        names.append("rng_state.pth")
    else:
        names += [f"rng_state_{rank}.pth" for rank in range(world_size)]
    missing = [name for name in names if not (path / name).is_file()]
    try:
        json.loads((path / STATE_FILE).read_text())
    except (OSError, ValueError):
        missing.append(STATE_FILE)
    return missing


def check_checkpoint(folder: str | Path, world_size: int = 1, optimizer: bool = True) -> None:
    """Raise FileNotFoundError, naming what is missing, for a folder that cannot be resumed from exactly."""
    missing = missing_files(folder, world_size, optimizer)
    if missing:
        raise FileNotFoundError(
            f"{folder} cannot be resumed from: {', '.join(missing)} missing or unreadable. It takes all "
            "files of a checkpoint and as many processes as wrote it; after save_only_model start a new run."
        )


def last_complete_checkpoint(output_dir: str | Path, world_size: int = 1, optimizer: bool = True) -> str:
    """The newest ``checkpoint-<step>`` that is complete; one cut off while it was written is passed over.

    Raises FileNotFoundError if there is none.
    """
    folders = []
    for path in Path(output_dir).glob("checkpoint-*"):
        match = _FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            folders.append((int(match[1]), path))
    for _, path in sorted(folders, reverse=True):
        missing = missing_files(path, world_size, optimizer)
        if not missing:
            return str(path)
        logger.warning("passing over the incomplete checkpoint %s (no %s)", path, ", ".join(missing))
    raise FileNotFoundError(f"no complete checkpoint in {output_dir}")
