"""One batch through the model in the mode that the caller asked for; what comes back is NumPy and text."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..modeling.decoding import Decoding
from ..modeling.generative import details_of, streams_of
from ..modeling.pooling import DegenerateVectorError, check_dim, check_vectors
from ..modeling.settings import whole_number
from ..processing.collating import Prepared
from .batching import plan_batches

if TYPE_CHECKING:
    from .prefetching import Feed

MODES = ("discriminative", "generative", "adaptive", "both")
ROOM_FOR_THOUGHT = 256  # tokens that a thought is taken to have while batches are planned
MEMORY_WORDS = (  # of allocators without an error of their own
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "alloc_failed",
)
THINKING_BUDGET = 4  # a step costs little per row: batches that think are this much larger


@dataclass(frozen=True)
class Pass:
    """How a call of ``encode`` embeds.

    Attributes:
        mode: a mode of the model's role.
        dim: keep the first ``dim`` numbers.
        decoding, num_samples, reduce, seed: of thoughts; see ``UmeForGenerativeEmbedding.encode``.
    """

    mode: str
    dim: int | None = None
    decoding: Decoding = field(default_factory=Decoding)
    num_samples: int = 1
    reduce: Literal["mean", "first"] | None = "mean"
    seed: int = 0

    @property
    def thinks(self) -> bool:
        return self.mode != "discriminative"

    @property
    def padding_side(self) -> str:
        """Of its batches: a prompt that goes on ends where its row does."""
        return "left" if self.thinks else "right"

    @property
    def draws(self) -> bool:
        """Whether equal items have thoughts, and so vectors, of their own."""
        return self.thinks and (self.num_samples > 1 or bool(self.decoding.temperature))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the arrays that come out."""
        return ("discriminative", "generative") if self.mode == "both" else (self.mode,)

    def shape(self, part: str, rows: int, dim: int) -> tuple[int, ...]:
        """Shape of one of them."""
        several = part == "generative" and self.reduce is None
        return (rows, self.num_samples, dim) if several else (rows, dim)

    def tokens(self, row: Prepared) -> int:
        """Tokens that an item takes up, its thoughts included."""
        if not self.thinks:
            return row.length
        return (row.length + min(self.decoding.max_new_tokens, ROOM_FOR_THOUGHT)) * self.num_samples


@dataclass
class Outcome:
    """A batch's vectors per part, degenerate ones as NaN, and its thoughts."""

    vectors: dict[str, NDArray[np.float32]]
    thoughts: list[Any]
    thought_tokens: list[Any]
    forced: list[Any]


def plan_pass(
    model: Any,
    mode: str | None,
    dim: int | None,
    *,
    max_new_tokens: int | None,
    num_samples: int,
    reduce: Literal["mean", "first"] | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
) -> Pass:
    """Check a caller's wishes against the model's role.

    Raises:
        ValueError: no such mode, no such ``dim``, or a wish that only a mode that thinks can fulfil.
    """
    dim = None if dim is None else check_dim(dim, model.dim)
    role = model.settings.role
    known = model.modes
    mode = known[0] if mode is None else mode
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; use one of {MODES}")
    if mode not in known:
        needed = "a generative" if role == "discriminative" else f"another ({mode})"
        raise ValueError(f"mode={mode!r} needs {needed} checkpoint; this one is {role}")
    if reduce not in ("mean", "first", None):
        raise ValueError(f"reduce is {reduce!r}; use 'mean', 'first' or None")
    whole_number("num_samples", num_samples)
    if seed is not None:
        whole_number("seed", seed, least=0)
    if mode == "discriminative":
        given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        wishes = [name for name, value in given.items() if value is not None]
        if num_samples > 1 or wishes:
            raise ValueError(
                f"{', '.join(wishes) or 'num_samples'} needs a mode that thinks; this one does not"
            )
        return Pass(mode, dim)
    if seed is None:
        seed = int(torch.randint(2**62, ()))  # follows torch.manual_seed
    decoding = model.decoding(num_samples, max_new_tokens, temperature, top_p)
    return Pass(mode, dim, decoding, num_samples, reduce, seed)


@torch.inference_mode()
def run_pass(
    model: Any,
    feed: Feed,
    rows: Sequence[Prepared],
    indices: Sequence[int],
    plan: Pass,
) -> Outcome:
    """Embed prepared items; ``indices`` are their places among all, to which drawn thoughts belong."""
    if not plan.thinks:
        batch = feed.collate(rows, plan.padding_side)
        vectors = _checked(model(**batch, dim=plan.dim).embeddings)
        n = len(rows)
        return Outcome({plan.mode: vectors}, [None] * n, [0] * n, [False] * n)
    batch = feed.collate(rows, plan.padding_side)
    tokenizer = feed.processor.tokenizer
    found = model.embed(
        batch,
        plan.mode,
        decoding=plan.decoding,
        num_samples=plan.num_samples,
        reduce=plan.reduce,
        dim=plan.dim,
        streams=streams_of(plan.seed, indices, plan.num_samples),
        vocabulary=len(tokenizer),
    )
    arrays = {
        part: _checked(values)
        for part, values in (("discriminative", found.direct), ("generative", found.generated))
        if values is not None
    }
    details = details_of(found.rollouts, tokenizer, several=plan.num_samples > 1)
    return Outcome(arrays, *details)


@dataclass
class Budget:
    """Padded tokens of one forward on a device; half as many each time that memory did not hold them."""

    tokens: int
    device: torch.device
    halved: bool = False

    def halve(self, too_many: int) -> None:
        """At most half of what was too much; the first time, it is said."""
        former = self.tokens
        self.tokens = max(1, min(former, too_many) // 2)
        if not self.halved:
            warnings.warn(
                f"out of memory on {self.device}: batch_tokens is now {self.tokens} instead of {former}, and becomes "
                "less if need be; give batch_tokens to begin with less",
                stacklevel=5,
            )
        self.halved = True


def run_batches(
    rows: list[tuple[int, Prepared]],
    plan: Pass,
    budget: Budget,
    run: Callable[[list[tuple[int, Prepared]]], None],
    feed: Feed,
) -> Iterator[tuple[list[tuple[int, Prepared]], bool]]:
    """Run items in batches of the budget; what memory does not hold is planned again with half of it.

    What the feed holds for later batches is let go of before anything is planned again.

    Yields:
        Each batch after it was run, and True; or an item that memory does not hold even alone, and False.
    """
    left = rows
    while left:
        batches = plan_batches([plan.tokens(row) for _, row in left], budget.tokens)
        planned = [[left[number] for number in batch] for batch in batches]
        left = []
        for place, batch in enumerate(planned):
            if place + 1 < len(planned):
                feed.announce([row for _, row in planned[place + 1]], plan.padding_side)
            held = fits(partial(run, batch), budget.device)
            if not held and feed.release():
                held = fits(partial(run, batch), budget.device)
            if not held and len(batch) > 1:
                budget.halve(len(batch) * max(plan.tokens(row) for _, row in batch))
                left = [row for later in planned[place:] for row in later]
                break
            yield batch, held


def fits(run: Callable[[], None], device: torch.device) -> bool:
    """Do something; False where memory did not hold it."""
    try:
        run()
    except Exception as error:
        if not out_of_memory(error):
            raise
    else:
        return True
    # Only here: the error is gone, and with it the frames that hold tensors.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return False


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of a forward says that its batch was too large for the device (or for the host)."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in MEMORY_WORDS)


def _checked(vectors: Tensor) -> NDArray[np.float32]:
    """Vectors ``[n, d]`` or ``[n, k, d]`` as NumPy; items with a degenerate one are NaN."""
    try:
        check_vectors(vectors.reshape(-1, vectors.shape[-1]))
        return vectors.cpu().numpy()
    except DegenerateVectorError:
        return np.stack([_or_nan(item) for item in vectors])


def _or_nan(vectors: Tensor) -> NDArray[np.float32]:
    try:
        check_vectors(vectors.reshape(-1, vectors.shape[-1]))
    except DegenerateVectorError:
        return np.full(vectors.shape, np.nan, dtype=np.float32)
    return vectors.cpu().numpy()
