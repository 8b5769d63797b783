"""How an objective is kept beside the native weights: ``objective.safetensors`` and ``objective.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHTS_FILE = "objective.safetensors"
SETTINGS_FILE = "objective.json"
SCHEMA = 1


class SavedObjective(nn.Module):
    """An objective whose settings and parameters can be saved, reloaded and checked.

    A subclass sets ``self.settings`` to the keyword arguments of its constructor (JSON values only).
    """

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}

    def clamp_(self) -> None:
        """Project what is learned into its bounds, in place; after each optimiser step."""

    def values(self) -> dict[str, torch.Tensor]:
        """What is learned, by metric name: detached 0-d tensors."""
        return {}

    def save_pretrained(
        self, folder: str | Path, state_dict: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Write both files into ``folder``, which is made if it is not there.

        state_dict: the whole parameters, where those of the module are sharded; the module's own when None.

        Raises:
            RuntimeError: ``state_dict`` has other names than the module.
        """
        own = self.state_dict()
        tensors = own if state_dict is None else state_dict
        if tensors.keys() != own.keys():
            raise RuntimeError(
                f"the objective cannot be saved: it has {sorted(own)}, and {sorted(tensors)} were gathered"
            )
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path / WEIGHTS_FILE)
        text = json.dumps({"schema": SCHEMA, "objective": type(self).__name__, **self.settings}, indent=2)
        (path / SETTINGS_FILE).write_text(text + "\n")

    def load_weights(self, folder: str | Path) -> None:
        """Load the parameters in place, strictly.

        Raises FileNotFoundError for a missing file, ValueError for another kind of objective or other task
        names, RuntimeError for a missing, unexpected or misshapen tensor.
        """
        settings = read_settings(folder, type(self).__name__)
        if settings.get("tasks") != self.settings.get("tasks"):
            raise ValueError(
                f"{folder} was trained with tasks {settings.get('tasks')}, this objective has "
                f"{self.settings.get('tasks')}"
            )
        tensors = load_file(Path(folder) / WEIGHTS_FILE)
        own = self.state_dict()
        missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        shapes = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
        if missing or extra or shapes:
            raise RuntimeError(
                f"{Path(folder) / WEIGHTS_FILE} does not fit: missing {missing}, unexpected {extra}, "
                f"misshapen {shapes}"
            )
        with torch.no_grad():
            for key, value in tensors.items():
                own[key].copy_(value)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Rebuild the objective from its two files. Raises as :meth:`load_weights` does."""
        settings = read_settings(folder, cls.__name__)
        objective = cls(**{k: v for k, v in settings.items() if k not in ("schema", "objective")})
        objective.load_weights(folder)
        return objective


def read_settings(folder: str | Path, kind: str) -> dict[str, Any]:
    """The content of ``objective.json``; raises where it is absent, newer than us or of another kind."""
    for name in (SETTINGS_FILE, WEIGHTS_FILE):
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}: it is not a checkpoint of a umekit trainer")
    settings: dict[str, Any] = json.loads((Path(folder) / SETTINGS_FILE).read_text())
    if settings.get("schema", 0) > SCHEMA:
        raise ValueError(
            f"{folder} was written by a newer umekit (objective schema {settings['schema']} > {SCHEMA})"
        )
    if settings.get("objective") != kind:
        raise ValueError(f"{folder} holds a {settings.get('objective')}, not a {kind}")
    return settings
