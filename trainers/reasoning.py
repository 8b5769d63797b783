"""ReasoningTrainer, the cold start of thinking: two contrastive losses and the thoughts' tokens from one forward.

    L = disc_weight * L_disc + gen_weight * L_gen + query_ce_weight * CE_query + positive_ce_weight * CE_positive

L_disc is InfoNCE at the prompt's ``<disc_emb>``, L_gen at the ``<gen_emb>`` that ends the thought; a CE is the mean
over all tokens that one side of the batch has to write. The defaults are UME-R1's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import ContrastiveTrainingArguments
from .batches import ContrastiveBatch, ItemBatch
from .contrastive import ContrastiveTrainer
from .distributed import sum_over_ranks, world_size
from .gradient_cache import Chunks
from .model_with_objective import LOCAL_WEIGHT, Metrics, read_slots
from .thoughts import ThoughtCollator
from .tokens import completion_labels, log_probabilities
from .validation import validate

SIDES = ("query", "positive")
DISC, GEN = 0, 1  # slots of what is read
WEIGHTS = ("disc_weight", "gen_weight", "query_ce_weight", "positive_ce_weight")


@dataclass(frozen=True)
class View:
    """A contrastive loss: its name in logs, the slot of queries and of targets, and its weight."""

    name: str
    query: int
    target: int
    weight: float


@dataclass
class ReasoningTrainingArguments(ContrastiveTrainingArguments):
    """Arguments of :class:`ReasoningTrainer`. Defaults that differ from the parent are those of UME-R1's training."""

    mode: str | None = field(default="generative", metadata={"help": "Items are asked to think."})
    directions: list[str] = field(
        default_factory=lambda: ["q2p", "p2q"], metadata={"help": "Any of q2p, p2q, q2q, p2p; see info_nce."}
    )
    train_lm_head: bool = field(default=True, metadata={"help": "Train an untied lm_head."})
    trained_parts: list[str] | None = field(
        default_factory=lambda: ["language", "merger"],
        metadata={"help": "Parts that are trained where there is no adapter; None: all, vision too."},
    )
    disc_weight: float = field(default=1.0, metadata={"help": "Of the contrastive loss without a thought."})
    gen_weight: float = field(default=1.0, metadata={"help": "Of the contrastive loss after a thought."})
    query_ce_weight: float = field(
        default=1.0, metadata={"help": "Of the cross-entropy of queries' thoughts."}
    )
    positive_ce_weight: float = field(default=1.0, metadata={"help": "Of that of positives' thoughts."})
    ce_per_rank: bool = field(
        default=False,
        metadata={
            "help": "Each rank takes the mean over its own tokens, and the ranks' means are averaged, as UME-R1's code "
            "has it. False: the mean over the tokens of all ranks, so that two ranks train as one."
        },
    )
    thoughtless_rows: bool = field(
        default=False,
        metadata={"help": "Rows without a thought on a side are let pass, for the direct slot alone."},
    )

    def __post_init__(self) -> None:
        if self.mode in (None, "discriminative"):
            raise ValueError(f"mode is {self.mode!r}: a trainer of thoughts needs prompts that ask for one")
        for name in WEIGHTS:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        super().__post_init__()

    def collator_settings(self) -> dict[str, Any]:
        """Keyword arguments of the :class:`ThoughtCollator` that these arguments describe."""
        return {**super().collator_settings(), "thoughtless_rows": self.thoughtless_rows}


class ReasoningTrainer(ContrastiveTrainer):
    """Teaches a model to embed directly and after a thought of its own; rows as in :class:`ThoughtCollator`.

    model: a :class:`UmeForGenerativeEmbedding`. A log has ``disc_loss``, ``gen_loss``, ``query_ce`` and
    ``positive_ce``, each without its weight. An evaluation reads the thoughts of its rows, and writes none.
    """

    args: ReasoningTrainingArguments
    arguments_class = ReasoningTrainingArguments
    collator_class = ThoughtCollator

    def __init__(self, model: nn.Module, args: ReasoningTrainingArguments, **kwargs: Any) -> None:
        if "generative" not in getattr(model, "modes", ()):
            raise TypeError(f"{type(model).__name__} does not think: load it with kind 'generative'")
        super().__init__(model, args, **kwargs)

    def read(self, output: Any) -> Tensor:
        """Both slots, [B, 2, d]."""
        return read_slots(output)

    def views(self) -> list[View]:
        """Which slots are contrasted with which."""
        return [View("disc", DISC, DISC, self.args.disc_weight), View("gen", GEN, GEN, self.args.gen_weight)]

    def contrast(self, rows: ContrastiveBatch) -> tuple[Tensor, Metrics]:
        """The losses of all views by their weights, and their metrics."""
        loss: Tensor | float = 0.0
        metrics: Metrics = {}
        for view in self.views():
            part, found = super().contrast(rows.slot(view.query, view.target))
            loss = loss + view.weight * part
            metrics[f"{view.name}_loss"] = part
            metrics |= {f"{view.name}_{key}": value for key, value in found.items()}
        return loss, metrics  # type: ignore[return-value]

    # ---- tokens ----------------------------------------------------------------------------------

    def chunks(self, model: nn.Module, batch: ItemBatch, indices: Sequence[Sequence[int]]) -> Chunks:
        """As the parent's; counts the tokens of each side first, which a cross-entropy is a mean of."""
        device = self.args.device
        counts = torch.zeros(len(SIDES), device=device)
        shares = torch.zeros(len(batch.items), len(SIDES), device=device)
        spans = batch.spans()
        for side, role in enumerate(SIDES):
            shares[spans[role], side] = 1.0
            counts[side] = sum(item.completion for item in batch.items[spans[role]])
        total = counts * world_size() if self.args.ce_per_rank else sum_over_ranks(counts)
        self._shares = shares / total.clamp(min=1)
        self._cross_entropies = torch.zeros(len(SIDES), device=device)
        return super().chunks(model, batch, indices)

    def batch_backward(self, model: nn.Module, batch: ItemBatch) -> tuple[Tensor, Metrics]:
        """Of all losses."""
        loss, metrics = super().batch_backward(model, batch)
        values = sum_over_ranks(self._cross_entropies)
        return loss, {**metrics, **{f"{role}_ce": value for role, value in zip(SIDES, values, strict=True)}}

    def local_inputs(self, batch: ItemBatch, indices: Sequence[int], inputs: Any) -> dict[str, Any]:
        """``labels`` int64 [items, L], and ``shares`` [items, 2]: what a token of an item counts for in each mean."""
        items = [batch.items[index] for index in indices]
        labels = completion_labels(items, inputs["input_ids"], inputs["attention_mask"])
        return {"labels": labels, "shares": self._shares[list(indices)]}

    def local_loss(self, model: Any, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """CE_query and CE_positive by their weights."""
        likely = log_probabilities(model, output.last_hidden_state, inputs["local_labels"])
        sides = -likely.sum(dim=1) @ inputs["local_shares"]
        self._cross_entropies += sides.detach() * inputs.get(LOCAL_WEIGHT, 1.0)
        return sides[0] * self.args.query_ce_weight + sides[1] * self.args.positive_ce_weight

    # ---- evaluation ------------------------------------------------------------------------------

    def evaluate_batches(
        self, model: nn.Module, batches: Iterable[ItemBatch]
    ) -> tuple[dict[str, float], int]:
        """Loss and recall@1 of every view that rows have (``disc_...``, ``gen_...``); ``loss`` is their weighted sum,
        without tokens, and ``recall@1`` that of each side after its thought where it has one."""
        rows = [(batch.names, self.gathered(model, batch)) for batch in batches]
        found: dict[str, float] = {}
        loss = 0.0
        for view in self.views():
            seen = [(names, one.slot(view.query, view.target)) for names, one in rows]
            if not any(len(one) for _, one in seen):
                continue  # such as targets that are all texts, of which nobody thinks
            metrics, _ = validate(seen, self.objective_module)
            found |= {f"{view.name}_{key}": value for key, value in metrics.items()}
            loss += view.weight * metrics["loss"]
        chosen, count = validate([(names, as_written(one)) for names, one in rows], self.objective_module)
        return {**found, "loss": loss, "recall@1": chosen["recall@1"]}, count


def as_written(rows: ContrastiveBatch) -> ContrastiveBatch:
    """Every item after its thought where it has one, and as it is embedded at once elsewhere."""

    def chosen(values: Tensor) -> Tensor:
        direct, generated = values[..., DISC, :], values[..., GEN, :]
        return torch.where(generated.ne(0).any(-1, keepdim=True), generated, direct)

    return replace(
        rows, query=chosen(rows.query), positive=chosen(rows.positive), negatives=chosen(rows.negatives)
    )
