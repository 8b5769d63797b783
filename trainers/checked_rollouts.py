"""What another engine writes, looked at before it is rewarded and trained on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from .rollouts import Completion, Prompt, RolloutEnds, RolloutEngine, Sampling


class CheckedRollouts:
    """An engine whose completions are as many, as long and of such tokens as the model's own could be.

    Args:
        engine: any :class:`RolloutEngine`.
        ends: of the trained model; what is written behind an end is not looked at.
        never: ids that may not be written: of media above all, which would be taken for pictures.
        vocabulary: ids from here on are no tokens.
    """

    def __init__(
        self, engine: RolloutEngine, ends: RolloutEnds, never: Collection[int], vocabulary: int
    ) -> None:
        self.engine = engine
        self.ends, self.never, self.vocabulary = ends, never, vocabulary

    def update(self, model: Any) -> None:
        """Of the engine."""
        self.engine.update(model)

    def rollout(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Of the engine.

        Raises:
            ValueError: not ``sampling.count`` completions of each prompt, one that is empty or too long, or a token
                that may not be written.
        """
        found = self.engine.rollout(prompts, sampling)
        if len(found) != len(prompts) or any(len(row) != sampling.count for row in found):
            raise ValueError(
                f"{self._name} gave {[len(row) for row in found]} completions for {len(prompts)} prompts, which should "
                f"have {sampling.count} each"
            )
        for number, row in enumerate(found):
            for one in row:
                if reason := self._fault(self.ends.cut(one.tokens), sampling.max_tokens):
                    wrong, remedy = reason
                    raise ValueError(
                        f"{self._name} wrote {wrong}, after prompt {number} of {len(prompts)}: {remedy}"
                    )
        return found

    @property
    def _name(self) -> str:
        return type(self.engine).__name__

    def _fault(self, tokens: Sequence[int], most: int) -> tuple[str, str] | None:
        """What is wrong with a completion, and what helps."""
        if not tokens:
            return "no token", "let it write at least one, its end counts"
        if len(tokens) > most:
            return f"{len(tokens)} tokens, more than {most}", "let it stop at Sampling.max_tokens"
        for token in tokens:
            if token in self.never:
                return (
                    f"token {token}, which may not be written",
                    "have it sample none of model.thought_tokens.never",
                )
            if not 0 <= token < self.vocabulary:
                return (
                    f"token {token}, which the tokenizer of {self.vocabulary} lacks",
                    "have it sample from the tokenizer's ids alone",
                )
        return None
