"""AdaptiveRLVRTrainer: when to think, and what, by reward: utility less cost.

RLVRTrainer's step with groups that hold both actions. A rollout's reward is

    R = format_weight * R_format + embed_weight * u + adaptive_weight * R_ada

u is its utility (rank x gap), R_ada what a thought gained over the direct vector less the cost of its tokens, or what
embedding at once has missed: :mod:`.objectives.adaptive`. A rollout's action is one more token of the clipped loss and
of the KL term; its log-probability is that of the softmax over ``<reason>`` and ``<direct>`` alone, at the end of the
prompt, which is what encoding compares with kappa. How actions are drawn and forced, and why a forced one has no
importance weight: :mod:`.adaptive_rollouts`.

A re-derivation of MMEmb-R1's adaptive control (arXiv 2604.06156), of which neither code nor formulas are public.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .action_collapse import ActionCollapse
from .adaptive_rollouts import ActedCompletion, ActionSampling, AdaptiveRollouts
from .batches import ItemBatch
from .distributed import sum_over_ranks
from .model_with_objective import Metrics, produced
from .objectives.adaptive import adaptive_reward, break_even, thought_advantages, utility_gap
from .rlvr import Drawn, RLVRTrainer
from .rlvr_arguments import RLVRTrainingArguments
from .rollout_rewards import Reward, RewardedGroups, RolloutGroups, embedding_reward
from .rollouts import Completion, RolloutEnds, RolloutEngine
from .tokens import IGNORED

BASELINES = ("thoughts", "group")


@dataclass
class AdaptiveRLVRTrainingArguments(RLVRTrainingArguments):
    """Arguments of :class:`AdaptiveRLVRTrainer`; every default is ours."""

    mode: str | None = field(default="adaptive", metadata={"help": "Items are asked to think."})
    adaptive_weight: float = field(default=1.0, metadata={"help": "Of the reward for gain less cost."})
    reasoning_cost: float = field(
        default=0.1, metadata={"help": "Utility that a thought of max_completion_length tokens costs."}
    )
    regret: float = field(
        default=1.0,
        metadata={"help": "Of what thoughts would have gained, what a rollout without one is charged."},
    )
    action_warmup_steps: int = field(
        default=50, metadata={"help": "Steps in which half of every group thinks and half does not."}
    )
    least_actions: int = field(
        default=1, metadata={"help": "Rollouts of each action in a group thereafter, forced where need be."}
    )
    action_weight: float = field(
        default=1.0, metadata={"help": "Tokens of a thought that an action counts for in the loss."}
    )
    thought_baseline: str = field(
        default="thoughts",
        metadata={
            "help": "What a thought's tokens are measured by: `thoughts`, the mean of the group's thoughts, so that "
            "they are not unlearnt where thinking does not pay; `group`, that of all of its rollouts (plain GRPO)."
        },
    )
    collapse_window: int = field(default=50, metadata={"help": "Batches over which collapse is looked for."})
    collapse_share: float = field(
        default=0.02,
        metadata={"help": "A mean p(reason) within this of 0 or 1 over the window is a collapse."},
    )

    def __post_init__(self) -> None:
        if self.mode != "adaptive":
            raise ValueError(f"mode is {self.mode!r}: groups of both actions are of mode 'adaptive'")
        if self.thought_baseline not in BASELINES:
            raise ValueError(
                f"thought_baseline is one of {', '.join(BASELINES)}, not {self.thought_baseline!r}"
            )
        for name in ("adaptive_weight", "reasoning_cost", "regret", "action_warmup_steps", "action_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 1 <= self.least_actions <= self.num_generations // 2:
            raise ValueError(
                f"least_actions is {self.least_actions}; it must be from 1 to half of num_generations, "
                f"{self.num_generations}: without both actions in a group neither has anything to be compared with"
            )
        if self.collapse_window < 1 or not 0 <= self.collapse_share < 0.5:
            raise ValueError(
                f"collapse_window must be at least 1 and collapse_share from 0 to under 0.5, got "
                f"{self.collapse_window} and {self.collapse_share}"
            )
        super().__post_init__()


class _OfTheLast:
    """A reward that is asked for several times of the same groups, and computed once."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self._groups: RolloutGroups | None = None

    def __call__(self, groups: RolloutGroups) -> Tensor:
        if groups is not self._groups:
            values = torch.as_tensor(self.reward(groups), dtype=torch.float32)
            self._groups, self._values = groups, values.to(groups.vectors.device)
        return self._values


class AdaptiveRLVRTrainer(RLVRTrainer):
    """Trains whether a model thinks, and how, by what thoughts gain and what they cost; rows as of its parent.

    model: a :class:`UmeForAdaptiveEmbedding` with the tokens ``<direct>`` and ``<reason>``. utility: what a rollout's
    vector is worth, in place of rank x gap. rewards: in place of form and utility; that for gain less cost is always
    added. rollout_engine: writes the thoughts; actions and direct vectors stay the model's own.

    A log has of each side, beside its parent's: ``reason_probability`` (mean p(reason)), ``invocation_ratio`` (share of
    prompts that encoding at the checkpoint's kappa would think about), ``thought_tokens`` (mean, of those that think),
    ``delta`` (mean gain of a group's thoughts) and ``break_even`` (from which on such thoughts pay), ``forced_actions``
    (share of rollouts), ``collapse`` (-1: all direct, 1: all thought about, 0: neither). An evaluation decides
    and thinks as encoding does, and tells the ``invocation_ratio``, too.
    """

    args: AdaptiveRLVRTrainingArguments
    arguments_class = AdaptiveRLVRTrainingArguments

    def __init__(
        self,
        model: nn.Module,
        args: AdaptiveRLVRTrainingArguments,
        *,
        utility: Reward | None = None,
        rollout_engine: RolloutEngine | None = None,
        **kwargs: Any,
    ) -> None:
        if "adaptive" not in getattr(model, "modes", ()):
            raise TypeError(f"{type(model).__name__} does not decide: load it with kind 'adaptive'")
        model.strategy_of("policy")  # type: ignore[operator]  # says what is missing where it has no such tokens
        super().__init__(model, args, **kwargs)
        if self.is_fsdp_enabled or self._shards_parameters:
            raise ValueError(
                "the model cannot decide with its parameters in shards: train with DDP or ZeRO-1/2"
            )
        self._decided: list[bool] | None = None  # while an evaluation counts
        if rollout_engine is not None:
            self.engine = self.own_rollouts(rollout_engine)
        self.utility = _OfTheLast(utility or embedding_reward)
        self.utility_weight = 0.0
        if kwargs.get("rewards") is None:
            self.utility_weight = args.embed_weight
            self.rewards["embed"] = (self.utility, args.embed_weight)
        self.rewards["adaptive"] = (self.adaptive_reward, args.adaptive_weight)
        self.collapse = ActionCollapse(args.collapse_window, args.collapse_share)
        self.add_callback(self.collapse)

    # ---- rollouts --------------------------------------------------------------------------------

    def rollout_ends(self) -> RolloutEnds:
        """As of the parent, with the action that ends a rollout at once."""
        return replace(super().rollout_ends(), direct=self.native_model.settings.tokens["direct"])

    def own_rollouts(self, thoughts: RolloutEngine | None = None) -> AdaptiveRollouts:
        """Of both actions. thoughts: an engine that writes them."""
        return AdaptiveRollouts(
            self.native_model,
            self.processing_class,
            self.args.rollout_tokens,
            self.compute_loss_context_manager,
            None if thoughts is None else self.checked(thoughts),
        )

    def sampling(self) -> ActionSampling:
        """Half of a group takes either action while it warms up, thereafter at least ``least_actions``."""
        args = self.args
        warm = self.state.global_step < args.action_warmup_steps
        return ActionSampling(
            args.num_generations,
            args.max_completion_length,
            args.sampling_temperature,
            args.top_k,
            least=args.num_generations // 2 if warm else args.least_actions,
        )

    # ---- rewards ---------------------------------------------------------------------------------

    def reasoned(self, groups: RolloutGroups) -> tuple[Tensor, Tensor]:
        """Which rollouts thought, bool [n, g], and tokens of their thoughts, float32 [n, g], 0 without."""
        lengths = torch.tensor(
            [[0.0 if self.ends.at_once(one) else float(len(one)) for one in row] for row in groups.tokens],
            device=groups.vectors.device,
        ).view(len(groups.tokens), groups.vectors.shape[1])
        return lengths > 0, lengths

    def format_reward(self, groups: RolloutGroups) -> Tensor:
        """The parent's of a thought; where there is none, the mean of the group's thoughts.

        So form is learned among thoughts, and is no reason to think or not: a thought that ends nowhere has the
        utility 0 already.
        """
        found, thought = super().format_reward(groups), self.reasoned(groups)[0]
        mean = (found * thought).sum(dim=1, keepdim=True) / thought.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.where(thought, found, mean)

    def adaptive_reward(self, groups: RolloutGroups) -> Tensor:
        """R_ada of :func:`.objectives.adaptive.adaptive_reward`."""
        return adaptive_reward(
            self.utility(groups),
            *self.reasoned(groups),
            cost=self.args.reasoning_cost,
            max_length=self.args.max_completion_length,
            regret=self.args.regret,
        )

    def rewarded(self, groups: RolloutGroups, names: Sequence[str]) -> RewardedGroups:
        """As of the parent; an action has its group's advantage, times ``action_weight``, a thought its own."""
        done = super().rewarded(groups, names)
        args = self.args
        tokens = done.advantages
        if args.thought_baseline == "thoughts":
            tokens = thought_advantages(
                done.reward,
                self.reasoned(groups)[0],
                scale=args.scale_advantages,
                min_deviation=args.min_deviation,
            )
        return replace(done, advantages=tokens, action_advantages=args.action_weight * done.advantages)

    def measured(self, side: RewardedGroups, written: Sequence[Sequence[Completion]]) -> Metrics:
        """The parent's, and what is told of actions; see the class."""
        groups, args = side.groups, self.args
        thought, lengths = self.reasoned(groups)
        gap = utility_gap(self.utility(groups), thought)[1]
        acted = [[one for one in row if isinstance(one, ActedCompletion)] for row in written]
        reason = gap.new_tensor([row[0].reason for row in acted])
        kappa = self.native_model.settings.kappa
        forced = gap.new_tensor([float(one.forced) for row in acted for one in row])
        parts = [reason, (reason > kappa).float(), gap, torch.ones_like(reason), lengths, thought, forced]
        sums = sum_over_ranks(torch.stack([part.float().sum() for part in parts]))
        reasons, invoked, gaps, prompts, tokens, thoughts, forces = sums.unbind()
        length = tokens / thoughts.clamp(min=1)
        price = break_even(
            length,
            cost=args.reasoning_cost,
            max_length=args.max_completion_length,
            regret=args.regret,
            embed_weight=self.utility_weight,
            adaptive_weight=args.adaptive_weight,
        )
        found = {
            "reason_probability": reasons / prompts.clamp(min=1),
            "invocation_ratio": invoked / prompts.clamp(min=1),
            "thought_tokens": length,
            "delta": gaps / prompts.clamp(min=1),
            "break_even": price,
            "forced_actions": forces / (prompts * args.num_generations).clamp(min=1),
        }
        told = [found[name].item() for name in ("reason_probability", "delta", "break_even")]
        found["collapse"] = length.new_tensor(float(self.collapse.add(groups.role, *told)))
        return {**super().measured(side, written), **found}

    # ---- losses ----------------------------------------------------------------------------------

    def _likely(self, model: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        # An action is chosen between two tokens, at temperature 1, and not from the vocabulary.
        labels, places = inputs["local_labels"], inputs["local_action_places"]
        tokens = self._likely_tokens(model, output, labels[:, :-1])
        states = output.last_hidden_state[torch.arange(len(labels), device=labels.device), places]
        odds = model.action_logits(states).float()
        thinks = labels[:, -1]
        actions = F.logsigmoid(torch.where(thinks == 1, odds, -odds)).masked_fill(thinks == IGNORED, 0.0)
        return torch.cat([tokens, actions[:, None]], dim=1)

    def anchor(self, values: Tensor, *, drawn: Drawn) -> tuple[Tensor, Metrics]:
        """As of the parent; a rollout without a thought is where its thought would be."""
        return super().anchor(torch.stack([values[:, 0], produced(values)], dim=1), drawn=drawn)

    # ---- evaluation ------------------------------------------------------------------------------

    def greedy(self, items: Sequence[Any]) -> list[Completion]:
        """As encoding decides, at the checkpoint's kappa."""
        found = super().greedy(items)
        if self._decided is not None:
            self._decided += [not self.ends.at_once(one.tokens) for one in found]
        return found

    def evaluate_batches(
        self, model: nn.Module, batches: Iterable[ItemBatch]
    ) -> tuple[dict[str, float], int]:
        """As of the parent, and ``invocation_ratio``, the share of items that were thought about."""
        self._decided = []
        metrics, count = super().evaluate_batches(model, batches)
        own = torch.tensor([sum(self._decided), len(self._decided)], device=self.args.device)
        self._decided = None
        thought, items = sum_over_ranks(own).tolist()
        return {**metrics, "invocation_ratio": thought / max(items, 1.0)}, count
