"""Log-probabilities of tokens: block by block as at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from umekit.trainers import tokens


@pytest.mark.parametrize("asked", [0.0, 0.4, 1.0])
def test_in_blocks_as_at_once(asked: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "BLOCK", 3)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 11, bias=False)
    model = SimpleNamespace(backbone=SimpleNamespace(get_output_embeddings=lambda: head))
    states = torch.randn(3, 7, 8, requires_grad=True)  # the last row is a dummy's
    labels = torch.where(torch.rand(2, 7) < asked, torch.randint(0, 11, (2, 7)), tokens.IGNORED)
    found = tokens.log_probabilities(model, states, labels)
    whole = -F.cross_entropy(
        head(states[:2]).flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100
    )
    torch.testing.assert_close(found, whole.view(2, 7))
    mine = torch.autograd.grad(found.sin().sum(), [states, head.weight])
    twin = torch.autograd.grad(whole.sin().sum(), [states, head.weight])
    torch.testing.assert_close(mine, twin)
