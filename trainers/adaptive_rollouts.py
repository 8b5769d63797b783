"""Groups of rollouts of which some embed at once and some think first, from one prefill of each prompt.

**The action** is drawn from what encoding compares with kappa: p(reason), the softmax over the next-token logits of
``<reason>`` and ``<direct>`` after the prompt, at temperature 1 whatever that of the thoughts. Neither token is ever
written: a rollout that embeds at once has the prefill's vector, and ``[<direct>]`` stands for its completion.

**Forced actions.** A group needs both actions, or neither has anything to be compared with: ``least`` of each are made
sure of. Their log-probabilities enter the loss as if the policy had drawn them, without the weight p / q by which it
would have (q: the action's share of its group). So the gradient of a group, in the logit of p(reason), is
``q (1 - q) (R_reason - R_direct)`` whatever p is: the sign and the zero of the policy's own, ``p (1 - p) (...)``,
without the factor by which a policy that has made up its mind can never change it again. The weight would put that
factor back. A thought that was forced is itself drawn from the policy, and is on-policy as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..modeling.budget import Kappa
from ..modeling.decoding import Decoding
from ..modeling.reasoning import ThoughtWishes
from ..modeling.strategies import Policy, ReadPrompts, Reasoned, Strategy
from .rollouts import Completion, ModelRollouts, Prompt, RolloutEngine, Sampling, written_tokens


@dataclass(frozen=True)
class ActionSampling(Sampling):
    """least: rollouts of a group that take either action, forced where fewer are drawn to. With temperature 0 nothing
    is drawn or forced: a prompt is thought about if p(reason) is over the checkpoint's kappa."""

    least: int = 1


@dataclass
class ActedCompletion(Completion):
    """reason: p(reason) of its prompt. forced: whether its action was not the one that was drawn."""

    reason: float = float("nan")
    forced: bool = False


def draw_actions(
    reason: float, least: int, streams: Sequence[np.random.Generator]
) -> tuple[list[bool], list[bool]]:
    """Whether each rollout of a group thinks, and whether it was forced to do what it does.

    Each draws from its own stream; where fewer than ``least`` took an action, the last of the others take it, too.

    Args:
        reason: p(reason).
        least: of each action, at most half of the group.
        streams: one for each rollout; a number is taken of each.
    """
    drawn = [stream.random() < reason for stream in streams]
    actions = list(drawn)
    for wanted in (True, False):
        others = [place for place, action in enumerate(actions) if action != wanted]
        missing = least - actions.count(wanted)
        for place in others[len(others) - missing :] if missing > 0 else ():
            actions[place] = wanted
    return actions, [action != was for action, was in zip(actions, drawn, strict=True)]


class AdaptiveRollouts(ModelRollouts):
    """The model's own, of both actions; see the module's docstring.

    Args:
        model: a :class:`UmeForAdaptiveEmbedding`. processor, batch_tokens, autocast: as of :class:`ModelRollouts`.
        thoughts: an engine that writes thoughts in the model's place; actions and direct vectors stay the model's.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        batch_tokens: int | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        thoughts: RolloutEngine | None = None,
    ) -> None:
        super().__init__(model, processor, batch_tokens, autocast)
        self.thoughts = thoughts
        self.direct: int = model.settings.tokens["direct"]

    def update(self, model: Any) -> None:
        """The weights are the model's own; another engine is told."""
        if self.thoughts is not None:
            self.thoughts.update(model)

    def written(
        self, inputs: dict[str, Tensor], prompts: Sequence[Prompt], sampling: Sampling, streams: list[Any]
    ) -> list[list[Completion]]:
        """As of the parent, :class:`ActedCompletion`."""
        exploration = Exploration(sampling, self.model.settings.kappa, thinks=self.thoughts is None)
        found = self.model.embed_adaptively(
            inputs,
            strategy=exploration,
            decider=Kappa(0.5),
            decoding=Decoding(sampling.max_tokens, sampling.temperature, top_k=sampling.top_k),
            num_samples=sampling.count,
            reduce=None,
            streams=streams,
            vocabulary=len(self.processor.tokenizer),
        )
        vectors = found.vectors.clone()  # outside of inference mode
        done: list[list[Completion]] = []
        for row, group in enumerate(exploration.groups):
            thoughts = iter(found.rollouts[row])
            done.append([])
            for sample, (reasons, forced) in enumerate(zip(group.actions, group.forced, strict=True)):
                one = ActedCompletion([self.direct], vectors[row, sample], group.reason, forced)
                if reasons and self.thoughts is None:
                    one.tokens = written_tokens(next(thoughts))
                done[-1].append(one)
        if self.thoughts is not None:
            self._think_elsewhere(self.thoughts, prompts, sampling, exploration.groups, done)
        return done

    def _think_elsewhere(
        self,
        engine: RolloutEngine,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        groups: Sequence[Group],
        done: list[list[Completion]],
    ) -> None:
        """Fill in what an engine writes: it is asked for as many thoughts of each prompt as are needed."""
        counts = [sum(group.actions) for group in groups]
        for count in sorted({*counts} - {0}):
            rows = [row for row, wanted in enumerate(counts) if wanted == count]
            asked = Sampling(count, sampling.max_tokens, sampling.temperature, sampling.top_k)
            found = engine.rollout([prompts[row] for row in rows], asked)
            for row, thoughts in zip(rows, found, strict=True):
                written = iter(thoughts)
                for sample, reasons in enumerate(groups[row].actions):
                    if reasons:
                        thought = next(written)
                        one = replace(done[row][sample], tokens=thought.tokens, vector=thought.vector)
                        done[row][sample] = one


@dataclass(frozen=True)
class Group:
    """reason: p(reason) of a prompt. actions: whether each rollout thinks. forced: whether it had to."""

    reason: float
    actions: list[bool]
    forced: list[bool]


class Exploration(Strategy):
    """Decides for every sample of a prompt by itself, in place of once for all.

    Args:
        sampling: an :class:`ActionSampling`, or one at temperature 0.
        kappa: p(reason) over which a prompt is thought about at temperature 0.
        thinks: whether thoughts are written from the prompts' cache.

    Attributes:
        groups: of the prompts, once they are scored.
    """

    def __init__(self, sampling: Sampling, kappa: float, thinks: bool = True) -> None:
        self.sampling, self.kappa, self.thinks = sampling, kappa, thinks
        self.groups: list[Group] = []

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        """1 for a prompt of which a rollout is written here, otherwise 0."""
        probabilities = Policy().scores(model, prompts)
        self.groups = [
            self._group(reason, streams)
            for reason, streams in zip(probabilities.tolist(), prompts.streams, strict=True)
        ]
        self._by_index = dict(zip(prompts.indices, self.groups, strict=True))
        written = [float(self.thinks and any(group.actions)) for group in self.groups]
        return torch.tensor(written, device=probabilities.device)

    def reason(self, model: Any, prompts: ReadPrompts, wishes: ThoughtWishes) -> Reasoned:
        """Thoughts of those samples that have one, from one cache of the prompt; the direct vector of the others."""
        assert prompts.rows is not None
        groups = [self._by_index[index] for index in prompts.indices]
        places = [
            (row, sample)
            for row, group in enumerate(groups)
            for sample, yes in enumerate(group.actions)
            if yes
        ]
        streams = [prompts.streams[row][sample] for row, sample in places]
        vectors = prompts.direct.unsqueeze(1).repeat(1, wishes.num_samples, 1)
        prompts.rows.take([row for row, _ in places])
        written, rollouts = model.think_on(
            prompts.rows, streams, replace(wishes, num_samples=1, reduce="first")
        )
        done = Reasoned(vectors, [0] * len(groups), [[] for _ in groups])
        for (row, sample), vector, [rollout] in zip(places, written, rollouts, strict=True):
            vectors[row, sample] = vector
            done.tokens[row] += len(rollout.thought)
            done.rollouts[row].append(rollout)
        return done

    def _group(self, reason: float, streams: Sequence[np.random.Generator]) -> Group:
        if not self.sampling.temperature:
            return Group(reason, [reason > self.kappa] * len(streams), [False] * len(streams))
        assert isinstance(self.sampling, ActionSampling)
        return Group(reason, *draw_actions(reason, self.sampling.least, streams))
