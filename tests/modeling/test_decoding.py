"""The loop of a thought on toys: which state is taken, at which position, and how tokens are chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from umekit.modeling.backbone import cache_argument, cache_of
from umekit.modeling.decoding import CachedRows, Decoding, choose
from umekit.modeling.generative import streams_of
from umekit.modeling.reasoning import Rollout, ThoughtTokens, think


class _Counter(nn.Module):
    """A stand-in for a backbone: the state of a token is its id and its position."""

    def forward(self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        assert attention_mask.shape[0] == len(input_ids)
        state = torch.stack([input_ids[:, -1], position_ids[0, :, -1]], dim=-1).float()
        return type("Output", (), {"last_hidden_state": state.unsqueeze(1)})


class _NoCache:
    def reorder_cache(self, index: Tensor) -> None:
        pass


def _scripted(scripts: list[list[int]], limit: int, **options: Any) -> tuple[list[Rollout], list[int]]:
    """Rows that write given tokens after prompts of 10, 30, 50 ... tokens; and the first position of each thought."""
    starts = [10 + 20 * row for row in range(len(scripts))]
    rows = CachedRows(
        _Counter(),
        _NoCache(),
        torch.ones(len(scripts), 4, dtype=torch.long),
        torch.tensor(starts),
        torch.tensor([[1.0, start - 1.0] for start in starts]),
    )

    def output(states: Tensor) -> Tensor:
        logits = torch.zeros(len(states), 10)
        for place, (_, position) in enumerate(states.tolist()):
            row = max(number for number, start in enumerate(starts) if start - 1 <= position)
            logits[place, scripts[row][int(position) + 1 - starts[row]]] = 1.0
        return logits

    names = ThoughtTokens(gen_emb=7, ends=frozenset({9}))
    return think(
        rows, output, names, Decoding(limit), streams_of(0, range(len(scripts)), 1), **options
    ), starts


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 9])
def test_positions_of_a_toy(limit: int) -> None:
    """The state is that of <gen_emb> (7), at its own position, whenever the rows come to it."""
    lengths = [0, 2, 3]
    found, starts = _scripted([[5] * length + [7] * 9 for length in lengths], limit)
    for rollout, start, length in zip(found, starts, lengths, strict=True):
        reached = length < limit
        assert rollout.forced is not reached
        assert rollout.thought == [5] * min(length, limit)
        assert rollout.state.tolist() == [7, start + min(length, limit)]
        assert rollout.tokens == ([5] * length + [7] if reached else [5] * limit)


def test_the_published_loop() -> None:
    """``official``: the last <gen_emb> that a step has read, or else the state of the last step."""
    scripts = [[5, 7, 5, 7, 9], [5, 7, 9], [5, 5, 9], [5, 6, 8, 8, 8, 8]]
    found, starts = _scripted(scripts[:3], 9, official=True)
    assert [rollout.state.tolist() for rollout in found] == [
        [7, starts[0] + 3],
        [7, starts[1] + 1],
        [5, starts[2] + 1],
    ]
    assert [rollout.forced for rollout in found] == [False, False, True]
    assert [rollout.thought for rollout in found] == [[5, 7, 5], [5], [5, 5]]
    # Cut at four tokens: the last <gen_emb> is not read any more, and the step that wrote it counts.
    found, starts = _scripted([scripts[0], scripts[3]], 4, official=True)
    assert [rollout.state.tolist() for rollout in found] == [[5, starts[0] + 2], [8, starts[1] + 2]]
    assert [rollout.forced for rollout in found] == [True, True]
    assert [rollout.tokens for rollout in found] == [scripts[0][:4], scripts[3][:4]]


@given(
    logits=st.lists(st.floats(-8, 8), min_size=2, max_size=9),
    temperature=st.floats(0.1, 3),
    top_p=st.floats(0.05, 1),
    seed=st.integers(0, 2**32),
)
def test_choice_of_tokens(logits: list[float], temperature: float, top_p: float, seed: int) -> None:
    row = torch.tensor([[*logits, float("-inf")]])
    decoding = Decoding(1, temperature, top_p)
    chosen = choose(row.expand(40, -1), decoding, streams_of(seed, range(40), 1))
    probabilities = (row[0] / temperature).softmax(-1)
    order = probabilities.argsort(descending=True, stable=True).tolist()
    for token in set(chosen):
        better = sum(float(probabilities[other]) for other in order[: order.index(token)])
        assert better < top_p + 1e-5
        assert probabilities[token] > 0


def test_choice_follows_the_probabilities() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.0, 0.3, 0.4])
    chosen = choose(probabilities.log().expand(20_000, -1), Decoding(1, 1.0), streams_of(0, range(20_000), 1))
    shares = np.bincount(chosen, minlength=5) / len(chosen)
    np.testing.assert_allclose(shares, probabilities.numpy(), atol=0.015)
    assert shares[2] == 0


class _Old(nn.Module):
    def forward(self, input_ids: Tensor, past_key_values: Any = None) -> Any:
        return type("Output", (), {"past_key_values": past_key_values})()


class _New(nn.Module):
    def forward(self, input_ids: Tensor, cache: Any = None) -> Any:
        return type("Output", (), {"cache": cache})()


@pytest.mark.parametrize("kind", [_Old, _New])
def test_a_cache_goes_in_and_out_under_the_name_that_the_backbone_knows(kind: type[nn.Module]) -> None:
    base, cache = kind(), object()
    assert cache_of(base(torch.zeros(1, 1), **cache_argument(base, cache))) is cache


def test_a_wrapped_forward_is_looked_through() -> None:
    """accelerate and PEFT lay a function over an instance's forward; the class still says what it takes."""
    base = _New()
    original = base.forward
    base.forward = lambda *args, **kwargs: original(*args, **kwargs)  # type: ignore[method-assign]
    assert list(cache_argument(base, None)) == ["cache"]
