"""What rollouts are rewarded for: their form, and how well their vectors find those of the other side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .distributed import sum_over_ranks
from .objectives.rewards import format_reward, rank_and_gap


@dataclass(frozen=True)
class RolloutGroups:
    """The rollouts of one side of a batch, a group of g per row, as a reward sees them.

    Attributes:
        role: ``"query"`` or ``"positive"``.
        texts: of this rank's n rows, what each rollout wrote, special tokens shown.
        tokens: the same as ids.
        rows: what else stands in these rows (numbers and texts).
        vectors, valid: float32 ``[N, g, d]`` and bool ``[N, g]``, of all ranks' rows; a rollout without a vector is not
            valid, and its vector 0.
        others, others_valid: ``[N, h, d]`` and ``[N, h]``, the other side's.
        ids: int64 ``[N]``; equal where rows have the same target.
        first: which of the N rows is this rank's first.
        seed: of a reward that wants chance of its own; differs from step to step.
    """

    role: str
    texts: Sequence[Sequence[str]]
    tokens: Sequence[Sequence[Sequence[int]]]
    rows: Sequence[Mapping[str, Any]]
    vectors: Tensor
    valid: Tensor
    others: Tensor
    others_valid: Tensor
    ids: Tensor
    first: int
    seed: tuple[int, ...]

    def own(self, values: Tensor) -> Tensor:
        """This rank's rows of all."""
        return values[self.first : self.first + len(self.texts)]

    @functools.cached_property
    def rank_and_gap(self) -> tuple[Tensor, Tensor]:
        """Of this rank's rollouts: the share of own targets in the top, and the gap to others', each [n, g]."""
        if len(self.vectors) == 0:
            return self.valid.float(), self.valid.float()
        share, gap = rank_and_gap(
            self.vectors,
            self.others,
            query_valid=self.valid,
            target_valid=self.others_valid,
            target_ids=self.ids,
        )
        return self.own(share), self.own(gap)


Reward = Callable[[RolloutGroups], Tensor]  # [n, g], of this rank's rows


def embedding_reward(groups: RolloutGroups) -> Tensor:
    """Share of own targets among the nearest, times the gap to others' (UME-R1)."""
    share, gap = groups.rank_and_gap
    return share * gap


def text_reward(groups: RolloutGroups, score: Callable[[str], float] = format_reward) -> Tensor:
    """A score of each text; UME-R1's of the form by default."""
    values = [[score(text) for text in row] for row in groups.texts]
    return torch.tensor(values, dtype=torch.float32, device=groups.vectors.device).view(
        len(values), groups.vectors.shape[1]
    )


def total_reward(
    groups: RolloutGroups, rewards: Mapping[str, tuple[Reward, float]], names: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum [n, g] and its parts without weights. names: of the rows.

    Raises:
        ValueError: a reward has another shape or is not finite; says of which row.
    """
    parts: dict[str, Tensor] = {}
    shape = (len(groups.texts), groups.vectors.shape[1])
    total = groups.vectors.new_zeros(shape, dtype=torch.float32)
    for name, (reward, weight) in rewards.items():
        values = torch.as_tensor(reward(groups), dtype=torch.float32, device=total.device)
        if values.shape != shape:
            raise ValueError(f"reward {name!r} has the shape {[*values.shape]}, not {[*shape]}")
        bad = (~values.isfinite()).any(dim=1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"reward {name!r} of {names[bad[0]]}, {groups.role} side, is not finite")
        parts[name] = values
        total = total + weight * values
    return total, parts


@dataclass(frozen=True)
class RewardedGroups:
    """groups: what was rewarded. parts: by name, without weights; reward: their sum; advantages: of the tokens, and
    action_advantages: of the actions, where there are such; all [n, g]."""

    groups: RolloutGroups
    parts: Mapping[str, Tensor]
    reward: Tensor
    advantages: Tensor
    action_advantages: Tensor | None = None

    def metrics(self) -> dict[str, Tensor]:
        """Means over the rollouts of all ranks; ``forced_share`` is that of rollouts without a vector of their own,
        ``equal_groups`` that of groups whose rewards are all the same."""
        share, gap = self.groups.rank_and_gap
        lengths = [[len(one) for one in row] for row in self.groups.tokens]
        found = {
            "reward": self.reward,
            "reward_std": self.reward.std(dim=1, keepdim=True).expand_as(self.reward),
            **{f"reward_{name}": values for name, values in self.parts.items()},
            "own_share": share,
            "gap": gap,
            "length": torch.tensor(lengths, dtype=torch.float32, device=share.device).view(share.shape),
            "forced_share": (~self.groups.own(self.groups.valid)).float(),
            "equal_groups": (self.reward == self.reward[:, :1]).all(1, keepdim=True).float().expand_as(share),
        }
        sums = torch.stack(
            [*[values.float().sum() for values in found.values()], share.new_tensor(share.numel())]
        )
        *totals, count = sum_over_ranks(sums)
        return {name: total / count.clamp(min=1) for name, total in zip(found, totals, strict=True)}
