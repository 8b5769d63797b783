"""Items to vectors at any scale: batches planned by tokens, media prepared ahead, order kept, faults named."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..modeling.evaluating import evaluating
from ..modeling.pooling import DegenerateVectorError
from ..modeling.settings import whole_number
from ..processing.collating import Prepared
from ..processing.cut_texts import Cuts
from ..processing.items import ItemError
from .batching import prepare_ahead
from .calls import check_call
from .deduplication import first_of_equals
from .encoded import Encoded, as_items
from .fingerprint import ModelHashes, check_fingerprint, processor_hash
from .forking import compute_alone_after_fork
from .passes import THINKING_BUDGET, Budget, Pass, plan_pass, run_batches, run_pass
from .prefetching import Feed, mover_for
from .shared_features import SharedFeatures
from .shared_pictures import SharedPictures

if TYPE_CHECKING:
    from ..modeling.composed import UmePreTrainedModel
    from ..processing.processor import UmeProcessor
    from .index.exact import Index

Role = Literal["query", "document"]
WINDOW = 1024  # items that are prepared and sorted together
PROGRESS_FROM = 200  # items from which a terminal gets a progress bar
TOKENS_ON_CPU = 2048  # larger ones run out of the cores' caches, and are no faster
TOKENS_ON_GPU = 32768
DEGENERATE = (
    "its vector is zero, constant or not finite; "
    "the weights, the dtype or the attention kernel of this model are broken"
)


class Encoder:
    """A model and its processor, ready to encode; see :func:`umekit.load`.

    Args:
        model: an embedding model of ours.
        processor: the checkpoint's processor.
        batch_tokens: padded tokens of one forward, visual ones counted; chosen by device when None.
        workers: threads that read, resize and tokenise ahead of the model; chosen by cores when None.
    """

    def __init__(
        self,
        model: UmePreTrainedModel,
        processor: UmeProcessor,
        *,
        batch_tokens: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.assumption = ""  # what `load` took for granted of a checkpoint that does not say what it is
        on_cpu = model.device.type == "cpu"
        default = TOKENS_ON_CPU if on_cpu else TOKENS_ON_GPU
        self.batch_tokens = default if batch_tokens is None else whole_number("batch_tokens", batch_tokens)
        self.workers = min(8, os.cpu_count() or 1) if workers is None else whole_number("workers", workers, 0)

    def __repr__(self) -> str:
        settings = self.model.settings
        return (
            f"Encoder({self.model.config.model_type}, {settings.role}, dim={self.dim}, "
            f"{self.model.dtype}, {self.model.device})"
        )

    @property
    def why_no_scores(self) -> str:
        """Of a checkpoint that does not say what it is: that it was only taken for an embedder; else empty."""
        return f"{self.assumption} So it has vectors and scores no pairs." if self.assumption else ""

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there: asked to score, an embedder says what it is."""
        if name in ("rerank", "rerank_many"):
            unclear = self.__dict__.get("assumption") and self.why_no_scores
            raise AttributeError(
                unclear or "this checkpoint is an embedder: it has vectors and scores no pairs"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.model.dim

    @property
    def arithmetic(self) -> str:
        """What decides the last digits of a vector, beside weights, batches and threads: device, dtype, attention."""
        compiled = any(part._compiled_call_impl is not None for part in self.model.modules())
        kernel = self.model.config.get_text_config()._attn_implementation
        parts = [self.model.device.type, str(self.model.dtype).removeprefix("torch."), str(kernel)]
        return ", ".join([*parts, "compiled"] if compiled else parts)

    @cached_property
    def _model_hashes(self) -> ModelHashes:
        return ModelHashes(self.model)

    @cached_property
    def _processor_hash(self) -> str:
        return processor_hash(self.processor)

    def fingerprint(self) -> dict[str, Any]:
        """Hashes of model and processor, and the dimension: what vectors must share to be compared.

        ``model`` is of the weights as they are now; ``model_1`` is what earlier versions called it, and is looked at
        only where an index has nothing better.
        """
        now, former = self._model_hashes()
        return {"model": now, "model_1": former, "processor": self._processor_hash, "dim": self.dim}

    # ---- encoding -------------------------------------------------------------------------------------------------

    def encode(
        self,
        items: Any,
        *,
        role: Role | None = None,
        instruction: str | None = None,
        mode: str | None = None,
        dim: int | None = None,
        batch_tokens: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        show_progress: bool | None = None,
        return_details: bool = False,
        max_new_tokens: int | None = None,
        num_samples: int = 1,
        reduce: Literal["mean", "first"] | None = "mean",
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Any:
        """Embed items. Of equal ones, one is encoded and the others get its vector.

        Nothing is dropped out, whatever mode the model is in, and its mode is afterwards what it was.

        Args:
            items: an iterable of items, or one item: ``str`` (always text), a PIL image, an array or tensor (a picture
                ``[H, W, C]`` or ``[C, H, W]``, a clip ``[T, H, W, C]`` or ``[T, C, H, W]``; several of them in a
                list), or a dict with any of ``text, image, images, video, document, page, instruction``. Media are
                a path, an http(s), ``file:`` or ``data:`` URL, bytes, a PIL image, an array, or for ``video`` a list
                of frames; a list under ``text``, ``image`` or ``video`` (of clips) is several parts in order.
            role: ``"query"`` or ``"document"``: default instruction of that side; None for neither.
            instruction: replaces the default, ``""`` by none; an item's own ``instruction`` wins over it.
            mode: None for the checkpoint's. ``"discriminative"`` embeds at once, ``"generative"`` thinks first,
                ``"both"`` gives both from one prefill; the last two need a generative checkpoint.
            dim: keep the first ``dim`` numbers, normalised again.
            batch_tokens: padded tokens of one forward, those of thoughts counted as far as they can be known. Halved,
                with a warning, for the rest of the call when memory runs out.
            on_error: ``"raise"`` stops at the first bad item; ``"skip"`` gives it a row of NaN.
            show_progress: None shows a bar on a terminal from 200 items on.
            return_details: an :class:`Encoded` instead of the array. With or without it, one warning tells of texts
                that were cut at the checkpoint's limit of tokens.
            max_new_tokens: most tokens of a thought; the checkpoint's when None.
            num_samples: thoughts per item, which share the prompt's prefill.
            reduce: ``"mean"`` of the thoughts' vectors, the ``"first"``, or None for all of them.
            temperature, top_p: None is greedy for one sample and temperature 1 for several.
            seed: an item's drawn thoughts then depend on the seed and its index alone; torch's seed when None.

        Returns:
            float32 ``[n, d]``, rows of length one, in the items' order; ``[n, k, d]`` for ``reduce=None``; with
            ``mode="both"`` a dict of ``"discriminative"`` and ``"generative"``.

        Raises:
            ItemError: which item is wrong, and how (``on_error="raise"``).
            DegenerateVectorError: a vector is zero, constant or not finite.
        """
        compute_alone_after_fork()
        plan = plan_pass(
            self.model,
            mode,
            dim,
            max_new_tokens=max_new_tokens,
            num_samples=num_samples,
            reduce=reduce,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        check_call(role=role, instruction=instruction, on_error=on_error, batch_tokens=batch_tokens)
        listed = as_items(items)
        result = Encoded.empty(plan, len(listed), plan.dim or self.dim)
        errors = result.errors
        processor = self.processor.for_call(listed).for_mode(plan.mode)
        tokens = batch_tokens or self.batch_tokens * (THINKING_BUDGET if plan.thinks else 1)
        budget = Budget(tokens, self.model.device)

        def prepare(index: int) -> Prepared:
            try:
                item = pictures.put_into(listed[index])
                return processor.prepare(item, role=role, instruction=instruction, index=index)
            except (ItemError, ImportError):
                raise
            except Exception as error:  # no item may end the run by an error that does not name it
                raise ItemError(f"{type(error).__name__}: {error}"[:500], index) from error

        def run(batch: list[tuple[int, Prepared]]) -> None:
            self._run(batch, plan, feed, result, on_error)

        if show_progress is None:
            show_progress = len(listed) >= PROGRESS_FROM and sys.stderr.isatty()
        firsts = list(range(len(listed))) if plan.draws else first_of_equals(listed)
        unique = [index for index, first in enumerate(firsts) if index == first]
        pictures = SharedPictures(listed, unique, processor.limits)
        features = SharedFeatures(self.model, processor)
        cuts = Cuts()
        with (
            evaluating(self.model),
            Feed(features, mover_for(self.model.device)) as feed,
            tqdm(total=len(listed), unit="item", disable=not show_progress, desc="encode") as bar,
        ):

            def encode_these(indices: Sequence[int]) -> None:
                workers = self.workers if len(indices) > 1 else 0
                for window in prepare_ahead(indices, lambda place: prepare(indices[place]), WINDOW, workers):
                    good: list[tuple[int, Prepared]] = []
                    for place, outcome in window:
                        index = indices[place]
                        if isinstance(outcome, Prepared):
                            good.append((index, outcome))
                            result.truncated[index] = outcome.cut_tokens
                        elif on_error == "raise":
                            raise outcome
                        else:
                            errors.append((index, outcome))
                            bar.update()
                    cuts.see(row for _, row in good)
                    features.expect([row for _, row in good])
                    for batch, fits in run_batches(good, plan, budget, run, feed):
                        if not fits and on_error == "raise":
                            raise self._too_large(*batch[0])
                        if not fits:
                            errors.append((batch[0][0], self._too_large(*batch[0])))
                        bar.update(len(batch))

            encode_these(unique)
            failed = {index for index, _ in errors}
            # Those equal to a failed one fail by themselves, so that the error names each by its own index.
            encode_these([index for index, first in enumerate(firsts) if index != first and first in failed])
            for index, first in enumerate(firsts):
                if index != first and first not in failed:
                    result.copy_row(first, index)
                    cuts.count += result.truncated[index] > 0
                    bar.update()
        errors.sort(key=lambda error: error[0])
        result.batch_tokens, result.halved = budget.tokens, budget.halved
        if plan.mode != "both":
            result.embeddings = result.embeddings[plan.mode]
        cuts.warn(len(listed))
        if return_details:
            return result
        if errors:
            warnings.warn(
                f"{len(errors)} of {len(listed)} items could not be encoded and are rows of NaN; the first: "
                f"{errors[0][1]} (return_details=True lists all)",
                stacklevel=2,
            )
        return result.embeddings

    def _too_large(self, index: int, row: Prepared) -> ItemError:
        return ItemError(
            f"its {row.length} tokens do not fit into the memory of {self.model.device} even alone: give smaller or "
            "fewer media, or a smaller max_length or pixel budget",
            index,
        )

    def _run(
        self,
        rows: list[tuple[int, Prepared]],
        plan: Pass,
        feed: Feed,
        result: Encoded,
        on_error: str,
    ) -> None:
        """One batch of items with their indices into the result."""
        indices = [index for index, _ in rows]
        done = run_pass(self.model, feed, [row for _, row in rows], indices, plan)
        broken = np.zeros(len(rows), dtype=bool)
        for vectors in done.vectors.values():
            broken |= ~np.isfinite(vectors).reshape(len(rows), -1).all(axis=1)
        failures: list[tuple[int, Exception]] = [
            (indices[number], DegenerateVectorError(f"item {indices[number]}: {DEGENERATE}"))
            for number in np.flatnonzero(broken)
        ]
        if failures and on_error == "raise":
            raise failures[0][1]
        result.errors += failures
        for part, vectors in done.vectors.items():
            result.embeddings[part][indices] = vectors
        for place, index in enumerate(indices):
            result.thoughts[index] = done.thoughts[place]
            result.thought_tokens[index] = done.thought_tokens[place]
            result.forced[index] = done.forced[place]

    def encode_query(self, items: Any, **options: Any) -> Any:
        """:meth:`encode` with ``role="query"``."""
        return self.encode(items, role="query", **options)

    def encode_document(self, items: Any, **options: Any) -> Any:
        """:meth:`encode` with ``role="document"``."""
        return self.encode(items, role="document", **options)

    # ---- using vectors --------------------------------------------------------------------------------------------

    def similarity(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float32]:
        """Cosine similarities: ``[n, d]`` and ``[m, d]`` to float32 ``[n, m]``."""
        return _unit(a) @ _unit(b).T

    def search(
        self, queries: Any, index: Index, k: int = 10, **options: Any
    ) -> tuple[list[list[str | None]], NDArray[np.float32]]:
        """Encode queries and find their nearest neighbours.

        Args:
            queries: items, encoded with ``role="query"``.
            index: made with this model; another model's is refused.
            k: results per query.
            options: go to :meth:`encode`.

        Returns:
            Ids and float32 scores ``[n, k]``, best first; short lists are filled with None and -inf.

        Raises:
            IndexMismatchError: another model or processor made the index.
        """
        check_fingerprint("the index", index.fingerprint, self.fingerprint())
        return index.search(self.encode_query(queries, **options), k)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
