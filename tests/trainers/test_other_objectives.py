"""listwise_kl, rank_gap_reward, group_advantages and policy_loss against plain twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umekit.trainers.objectives import group_advantages, listwise_kl, policy_loss, rank_gap_reward


@given(seed=st.integers(0, 2**31), direction=st.sampled_from(["forward", "reverse"]), masked=st.booleans())
@settings(max_examples=40, deadline=None)
def test_listwise_kl_equals_its_twin(seed: int, direction: str, masked: bool) -> None:
    rng = np.random.default_rng(seed)
    s, t = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    mask = rng.random((3, 5)) < 0.6 if masked else np.ones((3, 5), dtype=bool)
    mask[:, 0] = True
    expected = 0.0
    for i in range(3):
        p, q = (np.exp(x[i][mask[i]] / tau) for x, tau in ((t, 0.7), (s, 0.3)))
        p, q = p / p.sum(), q / q.sum()
        a, b = (p, q) if direction == "forward" else (q, p)
        expected += float((a * np.log(a / b)).sum()) / 3
    student = torch.tensor(s, requires_grad=True)
    teacher = torch.tensor(t, requires_grad=True)
    loss = listwise_kl(
        student,
        teacher,
        temperature=0.3,
        teacher_temperature=0.7,
        mask=torch.tensor(mask),
        direction=direction,
    )
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert (student.grad[~torch.tensor(mask)] == 0).all()


def test_listwise_kl_gradients_and_errors() -> None:
    student = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 4, dtype=torch.float64)
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s, t: listwise_kl(s, teacher, temperature=t, teacher_temperature=0.4), (student, tau)
    )
    assert listwise_kl(teacher, teacher).item() == 0
    with pytest.raises(ValueError, match="no candidates"):
        listwise_kl(student, teacher, mask=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="direction"):
        listwise_kl(student, teacher, direction="both")


@given(seed=st.integers(0, 2**31), masked=st.booleans())
@settings(max_examples=40, deadline=None)
def test_rank_gap_reward_equals_its_twin(seed: int, masked: bool) -> None:
    rng = np.random.default_rng(seed)
    n, g, h = 3, 2, 4
    q, t = rng.integers(-1, 2, size=(n, g, 2)) + 0.5, rng.integers(-1, 2, size=(n, h, 2)) + 0.5  # with ties
    qv = rng.random((n, g)) < 0.7 if masked else np.ones((n, g), dtype=bool)
    tv = rng.random((n, h)) < 0.7 if masked else np.ones((n, h), dtype=bool)
    tv[:2, 0] = True
    expected = np.zeros((n, g))
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, t)]
    scores = np.round(np.einsum("igd,jhd->igjh", *unit), 12)
    for i in range(n):
        for a in range(g):
            own = sorted((scores[i, a, i, k] for k in range(h) if tv[i, k]), reverse=True)
            rest = [scores[i, a, j, k] for j in range(n) for k in range(h) if j != i and tv[j, k]]
            if not own or not qv[i, a]:
                continue
            found = sum(place + sum(r >= s for r in rest) < len(own) for place, s in enumerate(own))
            expected[i, a] = found / len(own) * (np.mean(own) - np.mean(rest))
    reward = rank_gap_reward(
        torch.tensor(q), torch.tensor(t), query_valid=torch.tensor(qv), target_valid=torch.tensor(tv)
    )
    np.testing.assert_allclose(reward.numpy(), expected, atol=1e-9)


def test_rank_gap_reward_at_its_ends() -> None:
    eye = torch.eye(3)
    perfect = rank_gap_reward(eye[:, None].repeat(1, 2, 1), eye[:, None].repeat(1, 2, 1))
    torch.testing.assert_close(perfect, torch.ones(3, 2))
    same = torch.ones(2, 2, 3)
    assert (rank_gap_reward(same, same) == 0).all()
    with pytest.warns(UserWarning, match="no other targets"):
        alone = rank_gap_reward(eye[:1, None], torch.tensor([[[0.6, 0.8, 0.0]]]))
    torch.testing.assert_close(alone, torch.tensor([[0.6]]))


def test_group_advantages() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0], [2.0, 2.0, 2.0]])
    values = rewards.numpy()
    expected = (values - values.mean(1, keepdims=True)) / (values.std(1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(group_advantages(rewards).numpy(), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        group_advantages(torch.ones(3, 1))


@pytest.mark.parametrize("norm", ["constant", "token", "sequence"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_policy_loss_equals_its_twin(norm: str, beta: float) -> None:
    rng = np.random.default_rng(1)
    new, old, ref = (rng.normal(scale=0.4, size=(3, 5)) - 1 for _ in range(3))
    advantages, mask = rng.normal(size=3), rng.random((3, 5)) < 0.7
    mask[2] = False
    totals, counts = np.zeros(3), np.zeros(3)
    for i in range(3):
        for j in range(5):
            if mask[i, j]:
                r, x = np.exp(new[i, j] - old[i, j]), ref[i, j] - new[i, j]
                policy = min(r * advantages[i], np.clip(r, 0.8, 1.28) * advantages[i])
                totals[i] += -policy + beta * (np.exp(x) - x - 1)
                counts[i] += 1
    expected = {
        "constant": totals.sum() / (3 * 7),
        "token": totals.sum() / counts.sum(),
        "sequence": (totals / np.maximum(counts, 1)).mean(),
    }[norm]
    logp = torch.tensor(
        np.where(mask, new, -np.inf), requires_grad=True
    )  # forced tokens may be impossible ones
    loss, metrics = policy_loss(
        logp,
        torch.tensor(old),
        torch.tensor(ref) if beta else None,
        torch.tensor(advantages),
        torch.tensor(mask),
        beta=beta,
        norm=norm,
        max_length=7,
    )
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert ("kl" in metrics) == bool(beta)
    loss.backward()
    assert logp.grad is not None
    assert torch.isfinite(logp.grad).all()
    assert (logp.grad[~torch.tensor(mask)] == 0).all()


def test_policy_loss_refuses_what_does_not_fit() -> None:
    x, mask = torch.zeros(2, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match="max_length"):
        policy_loss(x, x, x, torch.ones(2), mask)
    with pytest.raises(ValueError, match="ref_logp"):
        policy_loss(x, x, None, torch.ones(2), mask, norm="token")
    with pytest.raises(ValueError, match="advantages"):
        policy_loss(x, x, x, torch.ones(3), mask, norm="token")
