"""Which checkpoint folders can be resumed from, exactly: all that was written is there, or it is an error."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from .distributed import world_size as ranks
from .objectives.saving import SETTINGS_FILE, WEIGHTS_FILE

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")


def mark_incomplete(folder: str | Path) -> None:
    """A checkpoint written over an older one of the same step is not complete until it is done, and keeps no
    generator's state of another number of processes. Those of this run stay: a rank may have written its own by now.
    """
    path = Path(folder)
    if not _FOLDER.fullmatch(path.name):
        return
    (path / STATE_FILE).unlink(missing_ok=True)
    for name in _states(path) - _own_states(ranks()):
        (path / name).unlink(missing_ok=True)


def faults(folder: str | Path, world_size: int = 1, optimizer: bool = True) -> list[str]:
    """Why ``folder`` cannot be resumed from exactly, in words; nothing where it can.

    Something is missing or cannot be read: trainer_state.json is written last, so a folder without a readable one was
    cut off. Or it is of another number of processes, and has states of generators that these would not write.

    Args:
        folder: a ``checkpoint-<step>``.
        world_size: processes that are to go on.
        optimizer: False leaves out optimiser files (DeepSpeed and FSDP have their own).
    """
    path, found = Path(folder), []
    if missing := _missing_files(path, world_size, optimizer):
        found.append(f"{', '.join(missing)} missing or unreadable")
    if foreign := sorted(_states(path) - _own_states(world_size)):
        found.append(f"{', '.join(foreign)} not of a run of {world_size} process{'es' * (world_size > 1)}")
    return found


def check_checkpoint(folder: str | Path, world_size: int = 1, optimizer: bool = True) -> None:
    """Raise FileNotFoundError, naming what is wrong, for a folder that cannot be resumed from exactly."""
    found = faults(folder, world_size, optimizer)
    if found:
        raise FileNotFoundError(
            f"{folder} cannot be resumed from: {'; '.join(found)}. It takes all "
            "files of a checkpoint and as many processes as wrote it; after save_only_model start a new run."
        )


def last_complete_checkpoint(output_dir: str | Path, world_size: int = 1, optimizer: bool = True) -> str:
    """The newest ``checkpoint-<step>`` that is complete and of ``world_size`` processes; others are passed over.

    Raises FileNotFoundError if there is none.
    """
    folders = []
    for path in Path(output_dir).glob("checkpoint-*"):
        match = _FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            folders.append((int(match[1]), path))
    for _, path in sorted(folders, reverse=True):
        found = faults(path, world_size, optimizer)
        if not found:
            return str(path)
        logger.warning("passing over the checkpoint %s (%s)", path, "; ".join(found))
    raise FileNotFoundError(f"no complete checkpoint in {output_dir}")


def _missing_files(path: Path, world_size: int, optimizer: bool) -> list[str]:
    """Names of what an exact resume needs and the folder lacks."""
    names = [SETTINGS_FILE, WEIGHTS_FILE, "scheduler.pt", *(["optimizer.pt"] if optimizer else [])]
    names += sorted(_own_states(world_size))
    missing = [name for name in names if not (path / name).is_file()]
    try:
        json.loads((path / STATE_FILE).read_text())
    except (OSError, ValueError):
        missing.append(STATE_FILE)
    return missing


def _own_states(world_size: int) -> set[str]:
    """Names of the generators' states that so many processes write."""
    return {"rng_state.pth"} if world_size == 1 else {f"rng_state_{rank}.pth" for rank in range(world_size)}


def _states(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("rng_state*.pth")}
