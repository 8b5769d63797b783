"""The encode loop of every door: prepared rows to vectors, in batches that memory holds, each row in its place.

A door (``AutoModel.encode``, the installed package's ``Encoder``) says what the caller wants in
:class:`EncodeOptions`, hands prepared rows to :func:`encode_batches` and puts what comes out into an :class:`Encoded`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .batching import Collator, TokenBudget, plan_batches
from .pooling import DegenerateVectorError, check_dim, degenerate_rows, whole_number

REDUCTIONS = ("mean", "first", None)
THINKING_BUDGET = 4  # a step costs little per row: batches that think are this much larger
ROOM_FOR_THOUGHT = 256  # tokens that a thought is taken to have while batches are planned
_DEGENERATE = (
    "its vector is zero, constant or not finite; "
    "the weights, the dtype or the attention kernel of this model are broken"
)

Row = tuple[int, Any]  # index of an item, and the item as the processor has prepared it


@dataclass(frozen=True)
class EncodeOptions:
    """How a call embeds; see ``encode``.

    Attributes:
        mode: a mode of the model.
        dim: keep the first ``dim`` numbers; None for as many as the model has.
        num_samples, reduce, seed: of thoughts.
        decoding: how thoughts are written; None in a mode that does not think.
        strategy: of the adaptive mode: scores items, and reasons.
        decider: of the adaptive mode: which scores are enough.
    """

    mode: str
    dim: int | None = None
    num_samples: int = 1
    reduce: str | None = "mean"
    seed: int = 0
    decoding: Any = None
    strategy: Any = None
    decider: Any = None

    @classmethod
    def of(
        cls,
        model: Any,
        *,
        mode: str | None = None,
        dim: int | None = None,
        num_samples: int = 1,
        reduce: str | None = "mean",
        seed: int | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        thoughts: Any = None,
        kappa: float | None = None,
        budget: Any = None,
        strategy: Any = None,
    ) -> EncodeOptions:
        """Check a caller's wishes against what the model can do, and fill them up.

        Raises:
            ValueError: the model has no such mode or ``dim``, or a wish that only a mode that thinks can fulfil.
        """
        mode = model.settings.mode if mode is None else mode
        if mode not in model.modes:
            kind = model.settings.kind
            needed = "a generative" if kind == "discriminative" else "another"
            raise ValueError(
                f"mode is {mode!r} and this one is {kind}: it has {', '.join(model.modes)}, any other mode needs "
                f"{needed} checkpoint"
            )
        if reduce not in REDUCTIONS:
            raise ValueError(f"reduce is {reduce!r}; use 'mean', 'first' or None")
        whole_number("num_samples", num_samples)
        if seed is not None:
            whole_number("seed", seed, least=0)
        dim = None if dim is None else check_dim(dim, model.dim)
        deciding = {"kappa": kappa, "budget": budget, "strategy": strategy}
        if mode != "adaptive" and (wishes := [name for name, value in deciding.items() if value is not None]):
            raise ValueError(
                f"{', '.join(wishes)}: only mode='adaptive' decides what is thought about, this is {mode!r}"
            )
        if mode != "discriminative":
            # From torch's own generator, so that torch.manual_seed reaches sampling, too.
            seed = int(torch.randint(2**62, ())) if seed is None else seed
            decoding = model.decoding(num_samples, max_new_tokens, temperature, top_p)
            options = cls(mode, dim, num_samples, reduce, seed, decoding)
            if mode == "adaptive":
                chosen = {"strategy": model.strategy_of(strategy), "decider": model.decider_of(kappa, budget)}
                options = replace(options, **chosen)
            return options
        thinking = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        thinking["thoughts"] = thoughts
        wishes = [name for name, value in thinking.items() if value is not None]
        if num_samples > 1 or wishes:
            raise ValueError(
                f"{', '.join(wishes) or 'num_samples'} needs a mode that thinks; this one does not"
            )
        return cls(mode, dim)

    @property
    def thinks(self) -> bool:
        """Whether a thought is written before the vector."""
        return self.mode != "discriminative"

    def begin(self, items: int) -> None:
        """So many different items are to be embedded: whoever keeps a budget wants to know."""
        if self.decider is not None:
            self.decider.begin(items)

    @property
    def most_tokens(self) -> int | None:
        """Of a thought; None in a mode that does not think."""
        return self.decoding.max_new_tokens if self.thinks else None

    @property
    def draws(self) -> bool:
        """Whether equal items have thoughts, and so vectors, of their own."""
        return self.thinks and (self.num_samples > 1 or bool(self.decoding.temperature))

    @property
    def padding_side(self) -> str:
        """Of its batches: a prompt that goes on ends where its row does."""
        return "left" if self.thinks else "right"

    @property
    def budget_factor(self) -> int:
        """How many times the usual tokens a batch may have where nobody has said how many."""
        return THINKING_BUDGET if self.thinks else 1

    def tokens(self, row: Any) -> int:
        """Tokens that a prepared item takes up, its thoughts included."""
        if not self.thinks:
            return len(row.input_ids)
        if row.given:
            return sum(len(row.input_ids) + len(thought) + 1 for thought in row.given)
        return (len(row.input_ids) + min(self.decoding.max_new_tokens, ROOM_FOR_THOUGHT)) * self.num_samples


@dataclass
class EncodedBatch:
    """What some rows became; lists have an entry per row.

    Attributes:
        indices: of the items.
        vectors: float32 ``[n, d]`` or ``[n, k, d]`` by name of an array, on the model's device; NaN where degenerate.
        errors: index and error of every item that has no vector.
        thoughts, thought_ids, thought_tokens, forced: see :class:`Encoded`.
        modes, reason_scores: likewise, where items are decided on.
    """

    indices: list[int]
    vectors: dict[str, Tensor] = field(default_factory=dict)
    errors: list[tuple[int, Exception]] = field(default_factory=list)
    thoughts: list[Any] = field(default_factory=list)
    thought_ids: list[Any] = field(default_factory=list)
    thought_tokens: list[Any] = field(default_factory=list)
    forced: list[Any] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    reason_scores: list[float] = field(default_factory=list)


@dataclass
class Encoded:
    """Result of ``encode(..., return_details=True)``; lists have an entry per item.

    Attributes:
        embeddings: float32 ``[n, d]``; a row of NaN where the item could not be encoded. ``[n, k, d]`` for
            ``reduce=None``; a dict of two arrays for ``mode="both"``.
        modes: mode of every row; in the adaptive mode what was decided, ``"discriminative"`` or ``"generative"``.
        thoughts: what every row wrote before ``<gen_emb>``, tags included; None without a thought, a list of them
            for ``num_samples > 1``.
        thought_tokens: tokens of every thought, 0 without one; likewise.
        forced: whether a thought did not get to ``<gen_emb>`` within its limit; likewise.
        errors: ``(index, exception)`` of every item that was skipped.
        batch_tokens: padded tokens of one forward; fewer than asked for where memory did not hold them. Other
            batches change the last digits of vectors.
        halved: whether memory did not hold what was asked for.
        truncated: tokens of text that every row lost to its limit, 0 where it was not cut.
        thought_ids: ids of every thought; handed back as ``thoughts``, they give the same vectors whatever they are,
            which a text need not: not every sequence of tokens is what its text is tokenised to.
        reason_scores: in the adaptive mode, how likely reasoning was taken to pay for every row, 0 to 1; else None.
        seconds: that the call took, reading and preparing included.
    """

    embeddings: Any
    modes: list[str]
    thoughts: list[Any]
    thought_tokens: list[Any]
    forced: list[Any]
    errors: list[tuple[int, Exception]] = field(default_factory=list)
    batch_tokens: int = 0
    halved: bool = False
    truncated: list[int] = field(default_factory=list)
    thought_ids: list[Any] = field(default_factory=list)
    reason_scores: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    began: float = field(default_factory=perf_counter, repr=False)

    @property
    def invocation_ratio(self) -> float:
        """Share of the items that were reasoned about before they were embedded."""
        failed = {index for index, _ in self.errors}
        reasoned = [
            index not in failed and (mode != "discriminative" or self.thoughts[index] is not None)
            for index, mode in enumerate(self.modes)
        ]
        return sum(reasoned) / max(len(reasoned), 1)

    @property
    def tokens_per_item(self) -> float:
        """Mean of the tokens that an item's thoughts have, all of its samples counted."""
        counts = [sum(one) if isinstance(one, list) else one for one in self.thought_tokens]
        return sum(counts) / max(len(counts), 1)

    @property
    def seconds_per_item(self) -> float:
        """Mean."""
        return self.seconds / max(len(self.modes), 1)

    @classmethod
    def empty(cls, options: EncodeOptions, count: int, dim: int, device: Any = "cpu") -> Encoded:
        """Nothing encoded yet: rows of NaN, by name of an array. dim: of the model."""
        dim = options.dim or dim
        parts = ("discriminative", "generative") if options.mode == "both" else (options.mode,)
        arrays = {}
        for part in parts:
            several = part in ("generative", "adaptive") and options.reduce is None
            shape = (count, options.num_samples, dim) if several else (count, dim)
            arrays[part] = torch.full(shape, torch.nan, dtype=torch.float32, device=device)
        return cls(
            arrays,
            [options.mode] * count,
            [None] * count,
            [0] * count,
            [False] * count,
            truncated=[0] * count,
            thought_ids=[None] * count,
            reason_scores=[None] * count,
        )

    def add(self, batch: EncodedBatch) -> None:
        """Put a batch's rows in their places."""
        for part, vectors in batch.vectors.items():
            self.embeddings[part][batch.indices] = vectors.to(self.embeddings[part].device)
        for place, index in enumerate(batch.indices):
            if batch.thoughts:
                self.thoughts[index] = batch.thoughts[place]
                self.thought_ids[index] = batch.thought_ids[place]
                self.thought_tokens[index] = batch.thought_tokens[place]
                self.forced[index] = batch.forced[place]
            if batch.modes:
                self.modes[index] = batch.modes[place]
                self.reason_scores[index] = batch.reason_scores[place]

    def copy_row(self, source: int, target: int) -> None:
        """Give an item what an equal one has."""
        for rows in (
            *self.embeddings.values(),
            self.thoughts,
            self.thought_ids,
            self.thought_tokens,
            self.forced,
            self.truncated,
            self.modes,
            self.reason_scores,
        ):
            rows[target] = rows[source]

    def finish(self, budget: TokenBudget, numpy: bool = False) -> None:
        """Say what the batches were, and make of the arrays what a caller gets."""
        if numpy:
            self.embeddings = {part: rows.numpy() for part, rows in self.embeddings.items()}
        if len(self.embeddings) == 1:
            [self.embeddings] = self.embeddings.values()
        self.errors.sort(key=lambda error: error[0])
        self.batch_tokens, self.halved = budget.tokens, budget.halved
        self.seconds = perf_counter() - self.began


@torch.inference_mode()
def encode_batches(
    model: Any, rows: Sequence[Row], options: EncodeOptions, budget: TokenBudget, collator: Collator
) -> Iterator[EncodedBatch]:
    """Embed prepared rows in batches of the budget; what memory does not hold is planned again with half of it.

    What the collator holds for later batches is let go of before anything is planned again.

    Args:
        model: an embedding model of ours.
        rows: prepared for the options' mode.
        options: what the caller wants.
        budget: tokens of a batch; what is learned about memory stays in it.
        collator: makes the batches; may work ahead.

    Yields:
        Each batch after it was run; or an item that memory does not hold even alone, with a MemoryError that says so.
    """
    for given in (False, True):  # a thought that is given takes one forward, one that is written many
        left = [(index, row) for index, row in rows if bool(row.given) == given]
        while left:
            batches = plan_batches([options.tokens(row) for _, row in left], budget.tokens, rows=budget.rows)
            planned = [Planned.of(model, [left[number] for number in batch]) for batch in batches]
            left = []
            for place, batch in enumerate(planned):
                if place + 1 < len(planned):
                    collator.prefetch(planned[place + 1].inputs, options.padding_side)
                run = partial(encode_batch, model, batch, options, collator)
                done = budget.attempt(run)
                if done is None and collator.release():
                    done = budget.attempt(run)
                if done is not None:
                    yield done
                elif len(batch.rows) > 1:
                    budget.halve(len(batch.rows) * max(options.tokens(row) for _, row in batch.rows))
                    left = [row for later in planned[place:] for row in later.rows]
                    break
                else:
                    [(index, row)] = batch.rows
                    yield EncodedBatch([index], errors=[(index, MemoryError(_too_large(row, budget)))])


@dataclass(frozen=True)
class Planned:
    """Rows that go through the model together, all with given thoughts or all without, and what goes in."""

    rows: list[Row]
    inputs: list[Any]

    @classmethod
    def of(cls, model: Any, rows: list[Row]) -> Planned:
        if not rows[0][1].given:
            return cls(rows, [row for _, row in rows])
        gen_emb = model.thought_tokens.gen_emb
        return cls(rows, [whole for _, row in rows for whole in row.with_thoughts(gen_emb)])


def encode_batch(model: Any, planned: Planned, options: EncodeOptions, collator: Collator) -> EncodedBatch:
    """Embed rows in one forward, or one prefill and its thoughts."""
    indices = [index for index, _ in planned.rows]
    batch = collator.collate(planned.inputs, options.padding_side)
    given = [row.given for _, row in planned.rows]
    if any(given):
        done = model.embed_given(batch, options, indices, given, collator.processor.tokenizer)
    elif options.thinks:
        done = model.embed_batch(batch, options, indices, collator.processor.tokenizer)
    else:
        done = EncodedBatch(indices, {options.mode: model(**batch, dim=options.dim).embeddings})
    bad = {part: degenerate_rows(vectors) for part, vectors in done.vectors.items()}
    for place in torch.nonzero(torch.stack([*bad.values()]).any(dim=0)).flatten().tolist():
        index = indices[place]
        done.errors.append((index, DegenerateVectorError(f"item {index}: {_DEGENERATE}")))
    if done.errors:
        for part, vectors in done.vectors.items():
            vectors[bad[part]] = torch.nan
    return done


def _too_large(row: Any, budget: TokenBudget) -> str:
    return (
        f"its {len(row.input_ids)} tokens do not fit into the memory of {budget.device} even alone: give smaller or "
        "fewer media, or a smaller max_length or pixel budget"
    )
