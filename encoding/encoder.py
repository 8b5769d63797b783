"""Items to vectors at any scale: batches planned by tokens, media prepared ahead, order kept, faults named."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..modeling.batching import TokenBudget, default_tokens
from ..modeling.encode_loop import Encoded, EncodeOptions, encode_batches
from ..modeling.evaluating import evaluating
from ..modeling.pooling import whole_number
from ..processing.collating import Prepared
from ..processing.cut_texts import Cuts
from ..processing.items import ItemError
from ..processing.thoughts import listed_thoughts
from .calls import as_items, check_call, compute_alone_after_fork
from .deduplication import first_occurrences
from .fingerprint import HashOfWeights, check_fingerprint, model_hashes, processor_hash
from .prefetching import Prefetcher, mover_for, prepare_ahead
from .reasoned import Reasoned

if TYPE_CHECKING:
    from ..modeling.composed import UmePreTrainedModel
    from ..processing.processor import UmeProcessor
    from .index.exact import Index
    from .reasoner import Reasoner

Role = Literal["query", "document"]
WINDOW = 1024  # items that are prepared and sorted together
PROGRESS_FROM = 200  # items from which a terminal gets a progress bar


class Encoder:
    """A model and its processor, ready to encode; see :func:`umekit.load`.

    Args:
        model: an embedding model of ours.
        processor: the checkpoint's processor.
        batch_tokens: padded tokens of one forward, visual ones counted; chosen by device when None.
        workers: threads that read, resize and tokenise ahead of the model; chosen by cores when None.
        reasoner: thinks of the items before they are embedded; None where the model is on its own.
    """

    def __init__(
        self,
        model: UmePreTrainedModel,
        processor: UmeProcessor,
        *,
        batch_tokens: int | None = None,
        workers: int | None = None,
        reasoner: Reasoner | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.reasoner = reasoner
        self.assumption = ""  # what `load` took for granted of a checkpoint that does not say what it is
        if batch_tokens is None:
            batch_tokens = default_tokens(model.device)
        self.batch_tokens = whole_number("batch_tokens", batch_tokens)
        self.workers = min(8, os.cpu_count() or 1) if workers is None else whole_number("workers", workers, 0)

    def __repr__(self) -> str:
        settings = self.model.settings
        return (
            f"Encoder({self.model.config.model_type}, {settings.kind}, dim={self.dim}, "
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
    def _model_hashes(self) -> HashOfWeights[tuple[str, str]]:
        return model_hashes(self.model)

    @cached_property
    def _processor_hash(self) -> str:
        return processor_hash(self.processor)

    def fingerprint(self) -> dict[str, Any]:
        """Hashes of model and processor, and the dimension: what vectors must share to be compared.

        ``model`` is of the weights as they are now; ``model_1`` is what earlier versions called it, and is looked at
        only where an index has nothing better. ``reasoner`` is there where one thinks.
        """
        now, former = self._model_hashes()
        own = {"model": now, "model_1": former, "processor": self._processor_hash, "dim": self.dim}
        return own if self.reasoner is None else own | {"reasoner": self.reasoner.fingerprint()}

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
        thoughts: Any = None,
        kappa: float | None = None,
        budget: Any = None,
        strategy: Any = None,
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
                ``"both"`` gives both from one prefill; the last two need a generative checkpoint. ``"adaptive"``
                thinks of the items for which it seems to pay, and needs an adaptive one.
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
            thoughts: one for each item, from anywhere, which is then embedded with it in one forward and writes none:
                a text ``<think>...</think><answer>...``, a pair ``(thought, answer)``, or ids of tokens, such as
                ``thought_ids`` of the details; None for an item that is to think itself. With ``num_samples``, each
                is a list of so many. None of them may be longer than ``max_new_tokens``. Where there is a reasoner,
                it thinks of the items that have none.
            kappa: of the adaptive mode: an item is thought about if p(reason) is over it; the checkpoint's when None.
            budget: of the adaptive mode, in place of kappa: average thought tokens per item, which kappa is chosen for
                as it goes; or a :class:`Budget`, which keeps its account over several calls. Equal items are then
                decided on each in its turn.
            strategy: of the adaptive mode: what decides, and reasons: ``"policy"``, ``"probe"`` or a
                :class:`Strategy`; the checkpoint's when None.
        Returns:
            float32 ``[n, d]``, rows of length one, in the items' order; ``[n, k, d]`` for ``reduce=None``; with
            ``mode="both"`` a dict of ``"discriminative"`` and ``"generative"``.

        Raises:
            ItemError: which item is wrong, and how (``on_error="raise"``).
            DegenerateVectorError: a vector is zero, constant or not finite.
        """
        compute_alone_after_fork()
        check_call(role=role, instruction=instruction, on_error=on_error, batch_tokens=batch_tokens)
        options = EncodeOptions.of(
            self.model,
            mode=mode,
            dim=dim,
            num_samples=num_samples,
            reduce=reduce,
            seed=seed,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            thoughts=thoughts,
            kappa=kappa,
            budget=budget,
            strategy=strategy,
        )
        listed = as_items(items)
        result = Encoded.empty(options, len(listed), self.dim)
        given = None if thoughts is None else listed_thoughts(thoughts, len(listed))
        reasoned: Reasoned | None = None
        if self.reasoner is not None and self.reasoner.thinks_of(role):
            reasoned = Reasoned.of(self.reasoner, listed, given, options, role, instruction, self.processor)
            given = reasoned.given
        processor = self.processor.for_call(listed).for_mode(options.mode)
        device = self.model.device
        memory = TokenBudget(batch_tokens or self.batch_tokens * options.budget_factor, device)
        apart = options.draws or given is not None or budget is not None or len(listed) == 1
        firsts = range(len(listed)) if apart else first_occurrences(listed)
        unique = [index for index, first in enumerate(firsts) if index == first]
        options.begin(len(unique))
        cuts = Cuts()
        if show_progress is None:
            show_progress = len(listed) >= PROGRESS_FROM and sys.stderr.isatty()

        def prepare(index: int) -> Prepared:
            try:
                return processor.prepare(
                    listed[index] if reasoned is None else reasoned.item(index),
                    role=role,
                    instruction=instruction,
                    index=index,
                    thought=None if given is None else given[index],
                    num_samples=num_samples,
                    max_new_tokens=options.most_tokens,
                )
            except (ItemError, ImportError):
                raise
            except Exception as error:  # no item may end the run by an error that does not name it
                raise ItemError(f"{type(error).__name__}: {error}"[:500], index) from error

        def fail(index: int, error: Exception) -> None:
            if on_error == "raise":
                raise error
            result.errors.append((index, error))

        with (
            evaluating(self.model),
            Prefetcher(self.model, processor, mover_for(device)) as prefetcher,
            tqdm(total=len(listed), unit="item", disable=not show_progress, desc="encode") as bar,
        ):
            for window in prepare_ahead(unique, prepare, WINDOW, self.workers):
                rows = [(index, row) for index, row in window if isinstance(row, Prepared)]
                for index, row in window:
                    if isinstance(row, Exception):
                        fail(index, row)
                    elif row.cut_tokens:
                        result.truncated[index] = row.cut_tokens
                        cuts.see([row])
                bar.update(len(window) - len(rows))
                prefetcher.begin_window([row for _, row in rows])
                for batch in encode_batches(self.model, rows, options, memory, prefetcher):
                    for index, error in batch.errors:
                        fail(index, ItemError(str(error), index) if isinstance(error, MemoryError) else error)
                    result.add(batch)
                    bar.update(len(batch.indices))
            bar.update(len(listed) - len(unique))

        failed = dict(result.errors)
        for index, first in enumerate(firsts):
            if index == first:
                continue
            if first in failed:
                result.errors.append((index, _error_of_equal(failed[first], first, index)))
            else:
                result.copy_row(first, index)
                cuts.count += result.truncated[index] > 0
        if cuts.count:
            cuts.warn(len(listed))
        result.finish(memory, numpy=True)
        if reasoned is not None:
            reasoned.tell(result)
        if return_details:
            return result
        if result.errors:
            warnings.warn(
                f"{len(result.errors)} of {len(listed)} items could not be encoded and are rows of NaN; the first: "
                f"{result.errors[0][1]} (return_details=True lists all)",
                stacklevel=2,
            )
        return result.embeddings

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


def _error_of_equal(error: Exception, first: int, index: int) -> Exception:
    """The error of an item, as that of another one that is equal to it."""
    again = copy.copy(error)
    again.args = (str(error).replace(f"item {first}:", f"item {index}:", 1),)
    if isinstance(again, ItemError):
        again.index = index
    return again


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
