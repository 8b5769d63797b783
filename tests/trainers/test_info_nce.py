"""info_nce against a plain float64 twin written in loops, and the properties of its contract."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from umekit.trainers.objectives import info_nce

Term = tuple[float, float, bool]  # similarity, similarity to the target, the same id


def terms(
    q: np.ndarray,
    p: np.ndarray,
    h: np.ndarray | None,
    directions: tuple[str, ...],
    ids: np.ndarray | None,
    mask: np.ndarray | None,
    shared: bool,
    offset: int,
    hard_ids: np.ndarray | None,
) -> list[list[tuple[float, list[Term]]]]:
    """Of each direction and row: the positive's similarity, and the negatives."""
    q, p = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, p))
    if h is not None:
        h = h / np.linalg.norm(h, axis=-1, keepdims=True)
    n, m = len(q), len(p)

    def same(column: int, row: int) -> bool:
        return ids is not None and ids[column] == ids[row + offset]

    def hard(other: int, place: int, row: int) -> bool:
        return ids is not None and hard_ids is not None and hard_ids[other, place] == ids[row + offset]

    result = []
    both = "q2p" in directions and "p2q" in directions
    for kind in ("q2p", "p2q"):
        if kind not in directions:
            continue
        rows = []
        for i in range(n):
            own = p[i + offset]
            target = own if kind == "q2p" else q[i]
            anchor = q[i] if kind == "q2p" else own
            found: list[Term] = []
            if kind == "q2p":
                found += [(anchor @ p[j], p[j] @ target, same(j, i)) for j in range(m) if j != i + offset]
                if h is not None:
                    for row in range(n) if shared else [i]:
                        for j in range(h.shape[1]):
                            if mask is None or mask[row, j]:
                                found.append((anchor @ h[row, j], h[row, j] @ target, hard(row, j, i)))
            else:
                found += [(anchor @ q[j], q[j] @ target, same(j + offset, i)) for j in range(n) if j != i]
            if "q2q" in directions and (kind == "q2p" or not both):
                found += [(q[i] @ q[j], q[j] @ target, same(j + offset, i)) for j in range(n) if j != i]
            if "p2p" in directions and (kind == "p2q" or not both):
                found += [(own @ p[j], p[j] @ target, same(j, i)) for j in range(m) if j != i + offset]
            rows.append((float(q[i] @ own), found))
        result.append(rows)
    return result


def twin(
    q: np.ndarray,
    p: np.ndarray,
    h: np.ndarray | None,
    tau: np.ndarray,
    directions: tuple[str, ...],
    alpha: float,
    delta: float | None,
    ids: np.ndarray | None,
    mask: np.ndarray | None,
    shared: bool,
    offset: int,
    margin: float | None = None,
    dims: list[int] | None = None,
    weights: list[float] | None = None,
    hard_ids: np.ndarray | None = None,
) -> float:
    """The loss, term by term; what is dropped is decided on the whole vectors."""
    others = (directions, ids, mask, shared, offset, hard_ids)
    whole = terms(q, p, h, *others)

    def dropped(positive: float, term: Term) -> bool:
        similarity, to_target, duplicate = term
        above = margin is not None and positive > 0 and similarity > margin * positive
        return duplicate or above or (delta is not None and to_target > delta)

    losses = []
    for dim in dims or [q.shape[1]]:
        prefix = terms(q[:, :dim], p[:, :dim], None if h is None else h[..., :dim], *others)
        per_direction = []
        for decided, rows in zip(whole, prefix, strict=True):
            per_row = []
            for i, ((full, judged), (positive, found)) in enumerate(zip(decided, rows, strict=True)):
                total = np.exp(positive / tau[i])
                for term, (s, _, _) in zip(judged, found, strict=True):
                    if not dropped(full, term):
                        total += np.exp(alpha * s) * np.exp(s / tau[i])
                per_row.append(-float(np.log(np.exp(positive / tau[i]) / total)))
            per_direction.append(np.mean(per_row))
        losses.append(np.mean(per_direction))
    return float(np.average(losses, weights=weights))


ALL_DIRECTIONS = [
    tuple(main) + tuple(extra)
    for main in (("q2p",), ("p2q",), ("q2p", "p2q"))
    for extra in ((), ("q2q",), ("p2p",), ("q2q", "p2p"))
]


@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 5),
    extra=st.integers(0, 3),
    k=st.integers(0, 3),
    directions=st.sampled_from(ALL_DIRECTIONS),
    alpha=st.sampled_from([0.0, 1.5, 9.0]),
    delta=st.sampled_from([None, 0.0, 0.3, 0.95]),
    with_ids=st.booleans(),
    with_hard_ids=st.booleans(),
    with_mask=st.booleans(),
    shared=st.booleans(),
    per_row=st.booleans(),
    margin=st.sampled_from([None, 0.5, 0.95, 1.1]),
    dims=st.sampled_from([None, [4], [1, 3], [2, 4, 3]]),
    weighted=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_every_option_equals_the_twin(
    seed: int,
    n: int,
    extra: int,
    k: int,
    directions: tuple[str, ...],
    alpha: float,
    delta: float | None,
    with_ids: bool,
    with_hard_ids: bool,
    with_mask: bool,
    shared: bool,
    per_row: bool,
    margin: float | None,
    dims: list[int] | None,
    weighted: bool,
) -> None:
    rng = np.random.default_rng(seed)
    q, p = rng.normal(size=(n, 4)), rng.normal(size=(n + extra, 4))
    h = rng.normal(size=(n, k, 4)) if k else None
    ids = rng.integers(0, 4, size=n + extra) if with_ids else None
    mask = rng.random((n, k)) < 0.6 if with_mask and k else None
    hard_ids = rng.integers(0, 4, size=(n, k)) if with_ids and with_hard_ids and k else None
    tau = rng.uniform(0.05, 1.0, size=n) if per_row else np.full(n, 0.1)
    offset = int(rng.integers(0, extra + 1))
    weights = [float(w) for w in rng.uniform(0.2, 2, size=len(dims))] if dims and weighted else None
    shape = (ids, mask, shared, offset)
    expected = twin(q, p, h, tau, directions, alpha, delta, *shape, margin, dims, weights, hard_ids)
    options: dict[str, Any] = {
        "temperature": torch.tensor(tau) if per_row else 0.1,
        "directions": directions,
        "hardness_alpha": alpha,
        "false_negative_delta": delta,
        "positive_ids": None if ids is None else torch.tensor(ids),
        "negative_mask": None if mask is None else torch.tensor(mask),
        "negative_ids": None if hard_ids is None else torch.tensor(hard_ids),
        "negatives_shared": shared,
        "targets_offset": offset,
        "false_negative_margin": margin,
        "matryoshka_dims": dims,
        "matryoshka_weights": weights,
    }
    vectors = [None if x is None else torch.tensor(x) for x in (q, p, h)]
    loss = info_nce(*vectors, **options)  # type: ignore[arg-type]
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    single = [None if x is None else x.float() for x in vectors]
    plain = {**options, "false_negative_delta": None, "false_negative_margin": None}  # a threshold is a cliff
    low = info_nce(*single, **plain)  # type: ignore[arg-type]
    assert low.dtype == torch.float32
    without = twin(q, p, h, tau, directions, alpha, None, *shape, None, dims, weights, hard_ids)
    assert low.item() == pytest.approx(without, rel=1e-4, abs=1e-5)


def vectors(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


EVERYTHING: dict[str, Any] = {
    "false_negative_delta": 0.6,
    "false_negative_margin": 0.9,
    "matryoshka_dims": [2, 4],
    "matryoshka_weights": [1.0, 3.0],
}


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize(
    ("detach", "directions"), list(itertools.product([True, False], [("q2p",), ALL_DIRECTIONS[-1]]))
)
def test_gradcheck(detach: bool, directions: tuple[str, ...], options: dict[str, Any]) -> None:
    q, p, h = (vectors(*s, seed=i).requires_grad_() for i, s in enumerate([(3, 4), (4, 4), (3, 2, 4)]))
    tau = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64, requires_grad=True)

    def loss(q: torch.Tensor, p: torch.Tensor, h: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return info_nce(
            q, p, h, temperature=tau, directions=directions, hardness_alpha=0.0 if detach else 2.0,
            detach_hardness=detach, targets_offset=1, positive_ids=torch.tensor([7, 5, 7, 5]), **options,
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, (q, p, h, tau))


def test_detached_hardness_is_a_constant_weight() -> None:
    q, p = vectors(3, 4).requires_grad_(), vectors(3, 4, seed=1)
    loss = info_nce(q, p, temperature=0.5, hardness_alpha=2.0)
    (gradient,) = torch.autograd.grad(loss, q)
    cosine = F.normalize(q, dim=-1) @ F.normalize(p, dim=-1).T
    weight = 2.0 * cosine.detach() * (1 - torch.eye(3, dtype=torch.float64))
    (expected,) = torch.autograd.grad(F.cross_entropy(cosine / 0.5 + weight, torch.arange(3)), q)
    torch.testing.assert_close(gradient, expected)
    loss = info_nce(q, p, temperature=0.5, hardness_alpha=2.0, detach_hardness=False)
    (attached,) = torch.autograd.grad(loss, q)
    assert not torch.allclose(attached, expected)


@pytest.mark.parametrize("delta", [None, 1.0])
def test_without_options_it_is_cross_entropy(delta: float | None) -> None:
    q, p, h = vectors(5, 8), vectors(5, 8, seed=1), vectors(5, 2, 8, seed=2)
    nq, np_, nh = (F.normalize(x, dim=-1) for x in (q, p, h))
    logits = torch.cat([nq @ np_.T, torch.einsum("nd,nkd->nk", nq, nh)], dim=1) / 0.07
    expected = F.cross_entropy(logits, torch.arange(5))
    torch.testing.assert_close(info_nce(q, p, h, temperature=0.07, false_negative_delta=delta), expected)


def test_delta_one_drops_nothing_even_for_equal_vectors() -> None:
    p = vectors(1, 64, dtype=torch.float32).repeat(6, 1)
    q = vectors(6, 64, seed=1, dtype=torch.float32)
    loss = info_nce(q, p, temperature=0.02, false_negative_delta=1.0)
    assert loss.item() == pytest.approx(np.log(6), abs=1e-4)


def test_a_duplicate_target_contributes_nothing() -> None:
    q, p = vectors(4, 8), vectors(4, 8, seed=1)
    p[2] = p[0]
    by_delta = info_nce(q, p, temperature=0.1, false_negative_delta=0.999)
    by_id = info_nce(q, p, temperature=0.1, positive_ids=torch.tensor([5, 1, 5, 2]))
    torch.testing.assert_close(by_delta, by_id)
    assert by_id < info_nce(q, p, temperature=0.1)


@pytest.mark.parametrize("directions", [("q2p",), ("q2p", "p2q", "q2q", "p2p")])
def test_an_own_positive_among_the_shared_negatives_is_no_negative(directions: tuple[str, ...]) -> None:
    q = torch.eye(4, dtype=torch.float64)
    shifted = torch.tensor([[1, 2], [2, 3], [3, 0], [0, 1]])  # each row's negatives are others' positives
    options: dict[str, Any] = {"temperature": 0.01, "directions": directions, "negatives_shared": True}
    ids = torch.arange(4) + 10
    loss = info_nce(q, q, q[shifted], positive_ids=ids, negative_ids=ids[shifted], **options)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert info_nce(q, q, q[shifted], positive_ids=ids, **options) > 0.3, "two copies of the own positive"


def test_an_own_negative_of_the_own_target_is_no_negative() -> None:
    q, p, h = vectors(3, 4), vectors(3, 4, seed=1), vectors(3, 2, 4, seed=2)
    ids, hard_ids = torch.tensor([1, 2, 3]), torch.tensor([[9, 1], [1, 9], [9, 9]])
    mask = torch.tensor([[True, False], [True, True], [True, True]])
    loss = info_nce(q, p, h, temperature=0.1, positive_ids=ids, negative_ids=hard_ids)
    torch.testing.assert_close(loss, info_nce(q, p, h, temperature=0.1, negative_mask=mask))


def unit(degrees: float) -> list[float]:
    return [float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))]


def test_the_margin_drops_what_is_nearly_as_similar_as_the_positive() -> None:
    q = torch.tensor([unit(0)], dtype=torch.float64)
    p = torch.tensor([unit(40)], dtype=torch.float64)  # cosine 0.766; 95 % of it is 0.728
    near, far = unit(-43), unit(-44)  # 0.731 and 0.719
    both = torch.tensor([[near, far]], dtype=torch.float64)
    only_far = torch.tensor([[far]], dtype=torch.float64)
    loss = info_nce(q, p, both, temperature=0.1, false_negative_margin=0.95)
    torch.testing.assert_close(loss, info_nce(q, p, only_far, temperature=0.1))
    combined = info_nce(q, p, both, temperature=0.1, false_negative_margin=0.95, false_negative_delta=0.0)
    assert combined < loss, "delta takes the other one (its cosine to the positive is 0.10)"


def test_the_margin_leaves_a_row_alone_whose_positive_is_not_similar() -> None:
    q = torch.tensor([unit(0)], dtype=torch.float64)
    p = torch.tensor([unit(120)], dtype=torch.float64)
    h = torch.tensor([[unit(10), unit(130)]], dtype=torch.float64)
    plain = info_nce(q, p, h, temperature=0.1)
    assert torch.equal(info_nce(q, p, h, temperature=0.1, false_negative_margin=0.95), plain)
    assert plain > 1


def test_one_prefix_is_the_loss_of_the_cut_vectors() -> None:
    q, p, h = vectors(4, 8), vectors(4, 8, seed=1), vectors(4, 2, 8, seed=2)
    cut = info_nce(q[:, :3], p[:, :3], h[..., :3], temperature=0.1, hardness_alpha=2.0)
    one = info_nce(q, p, h, temperature=0.1, hardness_alpha=2.0, matryoshka_dims=[3])
    torch.testing.assert_close(one, cut)
    whole = info_nce(q, p, h, temperature=0.1)
    assert torch.equal(info_nce(q, p, h, temperature=0.1, matryoshka_dims=[8]), whole)


def test_what_is_dropped_is_decided_on_the_whole_vectors() -> None:
    q, p = vectors(4, 8), vectors(4, 8, seed=1)
    p[:, 0] = 5.0  # the first number alone makes all positives equal
    loss = info_nce(q, p, temperature=0.1, false_negative_delta=0.99, matryoshka_dims=[1])
    torch.testing.assert_close(loss, info_nce(q[:, :1], p[:, :1], temperature=0.1))


def test_the_positive_is_never_dropped() -> None:
    q = vectors(3, 8)
    loss = info_nce(
        q, q.clone(), q[:, None].clone(), temperature=0.1, directions=ALL_DIRECTIONS[-1],
        false_negative_delta=-1.0, false_negative_margin=0.01, positive_ids=torch.zeros(3, dtype=torch.int64),
    )  # fmt: skip
    assert loss.item() == 0.0


def test_float32_inside_autocast_and_for_bfloat16() -> None:
    q, p = vectors(4, 16, dtype=torch.float32), vectors(4, 16, seed=1, dtype=torch.float32)
    expected = info_nce(q, p, temperature=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(q, p, temperature=0.02), expected)
    half = info_nce(q.bfloat16(), p.bfloat16(), temperature=0.02)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, info_nce(q.bfloat16().float(), p.bfloat16().float(), temperature=0.02))


@pytest.mark.parametrize("shared", [False, True])
def test_a_zero_vector_that_is_masked_leaves_finite_gradients(shared: bool) -> None:
    q, p = vectors(2, 4).requires_grad_(), vectors(2, 4, seed=1)
    h = torch.zeros(2, 1, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(2, 1, dtype=torch.bool)
    loss = info_nce(q, p, h, temperature=0.1, negative_mask=mask, negatives_shared=shared, hardness_alpha=9.0)
    loss.backward()
    torch.testing.assert_close(loss, info_nce(q, p, temperature=0.1, hardness_alpha=9.0))
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()
    assert h.grad is not None
    assert (h.grad == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": torch.ones(3)}, "temperature"),
        ({"directions": ("q2q",)}, "needs 'q2p' or 'p2q'"),
        ({"directions": ("q2p", "d2q")}, "unknown directions"),
        ({"targets_offset": 1}, "do not fit"),
        ({"positive_ids": torch.zeros(3)}, "positive_ids"),
        ({"negative_mask": torch.ones(2, 1)}, "negative_mask"),
        ({"false_negative_margin": 0.0}, "false_negative_margin"),
        ({"false_negative_margin": float("nan")}, "false_negative_margin"),
        ({"matryoshka_dims": []}, "matryoshka_dims"),
        ({"matryoshka_dims": [2, 2]}, "matryoshka_dims"),
        ({"matryoshka_dims": [0, 2]}, "matryoshka_dims"),
        ({"matryoshka_dims": [2, 5]}, "exceed the vectors' 4"),
        ({"matryoshka_weights": [1.0]}, "without matryoshka_dims"),
        ({"matryoshka_dims": [2, 4], "matryoshka_weights": [1.0]}, "1 matryoshka_weights for 2"),
        ({"matryoshka_dims": [2], "matryoshka_weights": [-1.0]}, "positive"),
        ({"negatives": torch.ones(2, 1, 5)}, "negatives"),
        ({"negatives": torch.ones(2, 1, 4), "negative_mask": torch.ones(2, 3)}, "negative_mask"),
        ({"negative_ids": torch.ones(2, 1), "positive_ids": torch.ones(2)}, "give negatives"),
        ({"negatives": torch.ones(2, 1, 4), "negative_ids": torch.ones(2, 1)}, "and positive_ids too"),
        (
            {
                "negatives": torch.ones(2, 1, 4),
                "positive_ids": torch.ones(2),
                "negative_ids": torch.ones(2, 3),
            },
            "do not fit",
        ),
    ],
)
def test_what_does_not_fit_raises(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"query": vectors(2, 4), "positive": vectors(2, 4), "temperature": 0.1}
    with pytest.raises(ValueError, match=message):
        info_nce(**{**arguments, **change})
