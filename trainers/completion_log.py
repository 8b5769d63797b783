"""Rollouts as a reader wants to see them: a file of JSON lines for a step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..encoding.storage.atomic import write_atomically
from .rollout_rewards import RewardedGroups

FOLDER = "completions"


def write_completions(folder: Path, step: int, sides: Mapping[str, RewardedGroups], rows: int) -> Path:
    """Write ``folder/completions/step-<step>.jsonl``; a resumed run writes the same file again.

    sides: by role. rows: the first so many are written.
    """
    lines: list[dict[str, Any]] = []
    for role, side in sides.items():
        for row, texts in enumerate(side.groups.texts[:rows]):
            for sample, text in enumerate(texts):
                lines.append(
                    {
                        "step": step,
                        "role": role,
                        "row": row,
                        "sample": sample,
                        "text": text,
                        **{f"reward_{name}": value[row, sample].item() for name, value in side.parts.items()},
                        "advantage": side.advantages[row, sample].item(),
                        **(
                            {}
                            if side.action_advantages is None
                            else {"action_advantage": side.action_advantages[row, sample].item()}
                        ),
                    }
                )
    path = folder / FOLDER / f"step-{step:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(path, text.encode())
    return path
