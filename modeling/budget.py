"""Which items reason: those whose score is over kappa, which is fixed, or chosen as it goes so that a budget is met.

A strategy scores a prompt, how likely reasoning is to pay; here is the other half, the threshold. :class:`Kappa` looks
at one score and nothing else, so that an item's decision is its own whatever the batch. :class:`Budget` has a memory:
its decisions depend on the items before, in the order in which they come, and on nothing else (no chance, no clock).
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .pooling import is_number

WINDOW = 1024  # scores that a quantile is taken of
PRIOR = tuple((place + 0.5) / 16 for place in range(16))  # before many are seen: as if these had been
SLACK = 0.02  # of all tokens: how far from the budget it may be on the way
LENGTHS = 128  # thoughts that the mean length is taken of
SURPRISE = 16  # times that mean: how long those under way may turn out to be, and still be made up for


class Kappa:
    """A row reasons if its score is over ``kappa``.

    >>> Kappa(0.5).decide([0.5, 0.75])
    [False, True]
    """

    longest: int | None = None  # tokens that reasoning about one item may cost, where an encoding has said so

    def __init__(self, kappa: float) -> None:
        self.kappa = check_kappa(kappa)

    def begin(self, items: int) -> None:
        """So many items are to come, in one call."""

    def decide(self, scores: Sequence[float]) -> list[bool]:
        """Whether rows with these scores reason, of as many as can be said now: the first, and at least one."""
        return [score > self.kappa for score in scores]

    def spent(self, tokens: Sequence[int]) -> None:
        """What the rows that were last decided to reason have written, an entry for each."""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """What is decided inside is forgotten if an error comes out: memory may not hold a batch."""
        before = copy.deepcopy(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise


class Budget(Kappa):
    """Meets an average of thought tokens per item, by choosing kappa anew for every item.

    After ``t`` items that have written ``S`` tokens the account is ``A = budget * t - S``. The next item may reason if
    its score is over kappa, the ``1 - f`` quantile of the last 1,024 scores, where ``f = (budget + A / h) / m`` is the
    share of items that brings the account back to zero over ``h`` items, at the mean length ``m`` of the last 128
    thoughts. That is the threshold; a corridor stands around it: an item reasons whatever its score once ``A`` is over
    the slack, and none does that would bring it under minus the slack, where the slack is 2 % of ``budget * n`` (``n``
    the larger of the items so far and those announced), or one thought where that is more. So sorted scores, equal
    ones and any order at all end within the slack, and a batch of one as one of thousands, provided that what is left
    to be thought can still spend it: a budget over what all items would write is not met, and then all reason.

    Rows of a batch are decided in order, with ``m`` in place of lengths that are not known yet. So that lengths which
    surprise are made up for (a batch of hard items after many easy ones), there are never more thoughts under way than
    have ended, nor more than what is left to spend could pay for if each were as long as it may be, or 16 times ``m``;
    of the slack, where that is more. The rest of the batch waits. The very first item is thought about whatever its
    score, to learn what a thought costs. One object may be handed to several calls, which then keep one account.

    A re-derivation: MMEmb-R1 has published no code, and says nothing of budgets.

    Args:
        tokens: average per item, over 0.

    Attributes:
        kappa: the latest threshold.
        items, tokens_spent: so far.

    >>> budget, spent = Budget(10), 0
    >>> for _ in range(1000):
    ...     if budget.decide([0.5]) == [True]:  # equal scores say nothing, and each thought has 40 tokens
    ...         budget.spent([40])
    ...         spent += 40
    >>> abs(spent - 10 * 1000) <= 0.02 * 10 * 1000 + 40
    True
    """

    def __init__(self, tokens: float) -> None:
        super().__init__(0.5)
        if not is_number(tokens) or tokens <= 0:
            raise ValueError(
                f"budget is {tokens!r}; give a number of tokens over 0, or mode='discriminative' for none"
            )
        self.tokens = float(tokens)
        self.items = 0
        self.tokens_spent = 0
        self._expected = 0  # items, with those that are announced
        self._thoughts = 0
        self._under_way = 0  # thoughts without a length yet
        self._waiting = 0  # rows that were asked for and not decided: their scores are known already
        self._lengths: deque[int] = deque(maxlen=LENGTHS)
        self._scores = deque(PRIOR, maxlen=WINDOW)
        self._sorted = list(PRIOR)

    def begin(self, items: int) -> None:
        """So many items are to come: what is announced lets the account swing more on the way."""
        self._expected = max(self._expected, self.items + items)

    def decide(self, scores: Sequence[float]) -> list[bool]:
        """As of :class:`Kappa`. Those that are not decided yet must be asked for again, after :meth:`spent`."""
        for score in scores[self._waiting :]:
            self._see(score)
        left = self.tokens * max(self._expected, self.items + len(scores)) - self.tokens_spent
        enough = max(min(left / self.surprise, self._thoughts), self.slack / self.surprise, 1.0)
        chosen: list[bool] = []
        for score in scores:
            if self._under_way >= enough:
                break
            chosen.append(self._reasons(score))
        self._waiting = len(scores) - len(chosen)
        return chosen

    def spent(self, tokens: Sequence[int]) -> None:
        self._lengths.extend(tokens)
        self.tokens_spent += sum(tokens)
        self._thoughts += len(tokens)
        self._under_way = 0

    @property
    def length(self) -> float:
        """Mean tokens of a thought lately; before there was any, as if every item could have one."""
        return max(sum(self._lengths) / len(self._lengths), 1.0) if self._lengths else self.tokens

    @property
    def surprise(self) -> float:
        """Tokens that a thought under way may turn out to have."""
        most = SURPRISE * self.length
        return most if self.longest is None else max(min(most, self.longest), self.length)

    @property
    def slack(self) -> float:
        """How far the account may be from zero, in tokens."""
        return max(SLACK * self.tokens * max(self.items, self._expected), self.length)

    def _see(self, score: float) -> None:
        if len(self._scores) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._scores[0])]
        self._scores.append(score)
        insort(self._sorted, score)

    def _reasons(self, score: float) -> bool:
        self.items += 1
        length, slack = self.length, self.slack
        account = self.tokens * self.items - self.tokens_spent - self._under_way * length
        horizon = max(SLACK * max(self.items, self._expected), 1.0)
        share = (self.tokens + (account - self.tokens) / horizon) / length
        place = math.ceil((1 - min(max(share, 0.0), 1.0)) * len(self._sorted)) - 1
        self.kappa = self._sorted[place] if place >= 0 else 0.0
        reasons = account > slack or (score > self.kappa and account - length >= -slack)
        self._under_way += reasons
        return reasons


def decider_of(kappa: Any, budget: Any, default: float) -> Kappa:
    """What a caller's ``kappa`` and ``budget`` ask for; a budget may be an account that is kept already.

    Raises:
        ValueError: both are given, or one is no such number.
    """
    if budget is None:
        return Kappa(default if kappa is None else kappa)
    if kappa is not None:
        raise ValueError("kappa and budget both say how much is thought: give one of them")
    # Not isinstance: a checkpoint's own code has a class of its own.
    return budget if hasattr(budget, "tokens_spent") else Budget(budget)


def check_kappa(kappa: Any) -> float:
    """Raise ValueError unless it is a number from 0 to 1."""
    if not is_number(kappa) or not 0 <= kappa <= 1:
        raise ValueError(f"kappa is {kappa!r}; give a number from 0 (reason nearly always) to 1 (never)")
    return float(kappa)
