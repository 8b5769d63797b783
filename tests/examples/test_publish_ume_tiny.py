"""Other weights become ume-tiny: probe, folder, result file and card."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import umekit
import umekit.examples
from umekit.encoding.packaged import packaged_model
from umekit.examples import publish_ume_tiny, refresh_ume_tiny


def test_other_weights_become_ume_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "trained", tmp_path / "examples" / "ume-tiny"
    shutil.copytree(packaged_model(), source)
    weights = {name: value * 1.01 for name, value in load_file(source / "model.safetensors").items()}
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    for module in (publish_ume_tiny, refresh_ume_tiny):
        monkeypatch.setattr(module, "TARGET", target)
    monkeypatch.setattr(umekit.examples, "__path__", [str(target.parent)])
    monkeypatch.setattr(publish_ume_tiny, "RESULTS", tmp_path)
    monkeypatch.setattr(publish_ume_tiny, "PROBED", "20")
    report = ("digit-world", "--tasks", "qa_what", "--queries", "8", "--quiet")
    monkeypatch.setattr(publish_ume_tiny, "REPORTS", {"glance": report})
    monkeypatch.setattr(sys, "argv", ["publish", str(source)])
    assert publish_ume_tiny.main() == 0
    found = load_file(target / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert json.loads((target / "config.json").read_text())["dtype"] == "float32"
    model = umekit.load(device="cpu").model
    assert (model.settings.default_mode, model.settings.strategy) == ("discriminative", "probe")
    assert not torch.equal(model.probe.weight, umekit.load(source, device="cpu").model.probe.weight)
    assert "| image_qa | qa_what |" in (target / "README.md").read_text()
