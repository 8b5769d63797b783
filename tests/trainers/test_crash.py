"""A process killed by the system while it writes a checkpoint leaves a run that can be resumed exactly."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from stub_model import stub_trainer

SETTINGS: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "chunk_tokens": 60}


def train_until_killed(folder: Path, at_write: int) -> None:
    """Kill this process in the middle of its n-th ``torch.save``, which leaves a truncated file."""
    original, writes = torch.save, 0

    def save(value: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal writes
        writes += 1
        original(value, file, *args, **kwargs)
        if writes == at_write:
            os.truncate(file, os.path.getsize(file) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save
    stub_trainer(folder, **SETTINGS).train()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("at_write", [5, 6, 7, 8])
def test_killed_while_saving(tmp_path: Path, at_write: int) -> None:
    whole = stub_trainer(tmp_path / "whole", **SETTINGS)
    whole.train()
    if at_write == 8:  # written over a complete one of the same step
        shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "run" / "checkpoint-4")
    child = os.fork()
    if child == 0:
        signal.alarm(120)  # a fork of a process with threads may wait for them for ever
        try:
            train_until_killed(tmp_path / "run", at_write)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the second checkpoint was not being written"
    assert os.WTERMSIG(status) == signal.SIGKILL, "it hung"
    assert (tmp_path / "run" / "checkpoint-4").is_dir()
    resumed = stub_trainer(tmp_path / "run", **SETTINGS)
    resumed.train(resume_from_checkpoint=True)
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name
