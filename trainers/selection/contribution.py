"""What a thought contributes to a pair, and which thought is kept: pure functions of an evaluator's margins.

An evaluator that answers yes or no to a pair of query q and target t has the margin ``m(q, t, r) = logit(yes) -
logit(no)``, with a thought r of one side in its prompt or without one. Taking the thought away is the intervention:

    contribution(r) = [m(q, t, r) - m(q, t)] - mean over K hard negatives n of [m(q, n, r) - m(q, n)]

The first bracket alone also rewards a thought that makes whatever is shown look right; the second takes that back
(K = 0: the plain form). Margins have no upper end: where a pair is judged right by 8 logits, a thought that makes it 10
has added nothing. ``confidences`` turns them into the log-likelihood of right answers, yes for the pair and no for the
negatives, to which little can be added where the evaluator was right and sure. The thought is a latent variable with
the prior p(r) of who wrote it, and

    p(r | q, t)  proportional to  p(r) * exp(contribution(r) / T)

T to 0 is the largest contribution. MMEmb-R1 (arXiv 2604.06156) compares a pair's confidence with and without the
rationale; neither code nor weights are public, so the second bracket, the log-likelihood, the posterior and the margin
are a re-derivation.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Confidence = Literal["logit", "log-likelihood"]
CONFIDENCES: tuple[Confidence, ...] = ("logit", "log-likelihood")


def confidences(margins: NDArray[np.floating], measure: Confidence) -> NDArray[np.floating]:
    """What :func:`contributions` compares, of margins ``[1 + K, 1 + p]``: the pair itself first, then the negatives.

    measure: ``"logit"``: the margins. ``"log-likelihood"``: log P(yes) of the pair and -log P(no) of the negatives, as
        what is added to those is taken back; float64, nats.
    """
    if measure == "logit":
        return margins
    wide = margins.astype(np.float64)
    with np.errstate(invalid="ignore"):  # NaN, where there is none, stays NaN
        return np.concatenate([-np.logaddexp(0, -wide[:1]), np.logaddexp(0, wide[1:])])


def contributions(margins: NDArray[np.floating]) -> Floats:
    """Contribution of each thought, float64 ``[p]``.

    Args:
        margins: or other confidences, ``[1 + K, 1 + p]``: the pair itself first, then the negatives; without a thought
            first, then with each. NaN where there is none: a negative without one to compare with does not count.

    Raises:
        ValueError: another shape.
    """
    if margins.ndim != 2 or 0 in margins.shape:
        raise ValueError(f"margins are [1 + negatives, 1 + thoughts], not {[*margins.shape]}")
    lifts = margins[:, 1:].astype(np.float64) - margins[:, :1].astype(np.float64)
    own, others = lifts[0], lifts[1:]
    known = ~np.isnan(others)
    counts = known.sum(axis=0)
    return own - np.where(known, others, 0.0).sum(axis=0) / np.maximum(counts, 1)


def posterior(contribution: Floats, prior: Floats, temperature: float) -> Floats:
    """Probability of each thought given the pair, float64 ``[p]``; zero for one without a contribution (NaN).

    Args:
        contribution, prior: ``[p]``; the prior need not sum to 1.
        temperature: T; at 0 all is on the largest contribution, of equal ones on the likelier.

    Raises:
        ValueError: a negative temperature, or a prior that is negative or not finite.
    """
    if not temperature >= 0 or math.isinf(temperature):
        raise ValueError(f"temperature is {temperature}; it is a number from 0 on")
    if not (np.isfinite(prior).all() and (prior >= 0).all()):
        raise ValueError(f"a prior is a finite number from 0 on, not {prior.tolist()}")
    there = ~np.isnan(contribution) & (prior > 0)
    found = np.zeros(len(contribution))
    if not there.any():
        return found
    value, weight = contribution[there], prior[there]
    if temperature == 0:
        weight = np.where(value == value.max(), weight, 0.0)
        value = np.zeros_like(value)
    else:
        value = value / temperature
    likely = np.log(np.where(weight > 0, weight, 1.0)) + value
    likely[weight == 0] = -np.inf
    raised = np.exp(likely - likely.max())
    found[there] = raised / raised.sum()
    return found


def best(probability: Floats, contribution: Floats, margin: float) -> int:
    """The likeliest thought if its contribution is above the margin, else -1: the instance is embedded at once."""
    if not probability.any():
        return -1
    place = int(np.argmax(probability))
    return place if contribution[place] > margin else -1
