"""Recall, then rerank: an embedder finds a query's candidates, a reranker scores them again, and both scores are fused.

``S = alpha * S_recall + (1 - alpha) * S_rerank`` over the first ``depth`` (U-MARVEL, reranking with fusion), with one
alpha for each task where it was chosen on validation data (``umekit tune``).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import torch
from tqdm.auto import tqdm

from ..modeling.pooling import whole_number
from .calls import as_items
from .cascade_folder import (
    MODELS,
    PACKAGED,
    CascadeRecord,
    Fusion,
    ModelSource,
    read_cascade,
    write_cascade,
)
from .encoder import PROGRESS_FROM, Encoder
from .index.exact import Index
from .index.two_stage import Fused, rescore
from .loading import load
from .packaged import CASCADE, folder_or_name, packaged_model
from .reranker import Reranker

BLOCK = 32  # queries that are scored again at a time; media that they have in common are read once


class Searchable(Protocol):
    """What is needed of an index: exact or compressed."""

    fingerprint: dict[str, Any]
    settings: dict[str, Any]

    def __len__(self) -> int: ...

    def search(self, vectors: Any, k: int = 10) -> Any: ...


@dataclass
class CascadeResult:
    """Result of a search with ``return_details=True``.

    Attributes:
        rows: of each query its best rows, with recall, reranking and fused score.
        failed: ``(query, id, reason)`` of every candidate that could not be opened or scored.
    """

    rows: list[list[Fused]]
    failed: list[tuple[int, str, str]] = field(default_factory=list)


class Cascade:
    """An embedder and a reranker that search together.

    Args:
        encoder: of :func:`umekit.load`, the recall model.
        reranker: of :func:`umekit.load`.
        fusion: share of the recall score, for each task or all, and depth.
        sources: of ``"embedder"`` and ``"reranker"``, what they were loaded from; only saving needs it.

    Example:
        >>> pair = Cascade.of("Qwen/Qwen3-VL-Embedding-2B", "Qwen/Qwen3-VL-Reranker-2B")  # doctest: +SKIP
        >>> pair.save("cascade")                                                          # doctest: +SKIP
        >>> pair.search(["a red bicycle"], index, folder_items(index, root))[0][0].score  # doctest: +SKIP
        0.81
    """

    def __init__(
        self,
        encoder: Encoder,
        reranker: Reranker,
        fusion: Fusion | None = None,
        sources: Mapping[str, ModelSource] | None = None,
    ) -> None:
        self.encoder, self.reranker = encoder, reranker
        self.fusion = fusion or Fusion()
        self.sources = None if sources is None else {which: sources[which] for which in MODELS}

    def __repr__(self) -> str:
        return f"Cascade({self.encoder!r}, {self.reranker!r}, {self.fusion})"

    # ---- a folder -------------------------------------------------------------------------------------------------

    @classmethod
    def of(
        cls,
        embedder: str | os.PathLike[str] | ModelSource | None = None,
        reranker: str | os.PathLike[str] | ModelSource | None = None,
        fusion: Fusion | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """Load both models.

        Args:
            embedder: folder or Hub id, None for ume-tiny; a :class:`ModelSource` also says preset and revision.
            reranker: the same of the reranker, None for that of ume-tiny.
            fusion: see the class.
            device, dtype, model_kwargs: of both, as in ``umekit.load``.

        Raises:
            ValueError: the first is a reranker, or the second an embedder. And what ``umekit.load`` raises.
        """
        sources = {"embedder": _source(embedder), "reranker": _source(reranker)}
        options = {"device": device, "dtype": dtype, **model_kwargs}
        loaded = {
            which: load(source.name or packaged_model(PACKAGED[which]), **source.options(), **options)
            for which, source in sources.items()
        }
        for which, does in (("embedder", "encode"), ("reranker", "rerank")):
            if not hasattr(loaded[which], does):
                raise ValueError(f"{sources[which].name or PACKAGED[which]} is no {which}")
        return cls(loaded["embedder"], loaded["reranker"], fusion, sources)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str] | None = None,
        *,
        embedder: str | os.PathLike[str] | None = None,
        reranker: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Self:
        """Load what :meth:`save` or ``umekit tune`` wrote, and both models that it names.

        Args:
            folder: with ``cascade.json``; None is ume-tiny's, with its reranker, which comes with the package.
            embedder, reranker: where a model is now, if it was moved.
            options: device, dtype and so on, as in :meth:`of`.

        Raises:
            CascadeFormatError: no cascade, or a damaged one.
            CascadeMismatchError: a model is not the one that the cascade was made with.
        """
        folder = packaged_model(CASCADE) if folder is None else folder_or_name(folder)
        record = read_cascade(folder)
        moved = {"embedder": embedder, "reranker": reranker}
        sources = {which: _moved(getattr(record, which), moved[which]) for which in MODELS}
        made = cls.of(sources["embedder"], sources["reranker"], record.fusion, **options)
        record.check("embedder", made.encoder.fingerprint(), folder)
        record.check("reranker", made.reranker.fingerprint(), folder)
        return made

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``cascade.json``: names and fingerprints of both models, shares and depth. No weights.

        Raises:
            ValueError: where the models are from is not known, or neither a folder nor a Hub id.
            ForeignFileError: a ``cascade.json`` that is not ours.
        """
        if self.sources is None:
            raise ValueError("where the models were loaded from is not known: make the cascade by Cascade.of")
        prints = {"embedder": self.encoder.fingerprint(), "reranker": self.reranker.fingerprint()}
        write_cascade(folder, CascadeRecord(**self.sources, fingerprints=prints, fusion=self.fusion))

    # ---- searching ------------------------------------------------------------------------------------------------

    def search(
        self,
        queries: Any,
        index: Searchable,
        item_of: Callable[[str], Any],
        *,
        k: int = 10,
        tasks: str | Sequence[str | None] | None = None,
        depth: int | None = None,
        instruction: str | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        show_progress: bool | None = None,
        return_details: bool = False,
        **options: Any,
    ) -> Any:
        """The best rows of an index for each query, after reranking.

        Args:
            queries: items, n.
            index: made with this embedder; another model's is refused.
            item_of: id to the item of that row, which the reranker reads;
                :func:`~umekit.encoding.index.two_stage.folder_items` for the index of a folder.
            k: rows of a query.
            tasks: of all queries, or of each; decides which alpha is theirs.
            depth: candidates that are scored again; :attr:`Fusion.depth`, and at least ``k``, when None.
            instruction: what to look for, for both models; a query's own wins over it.
            on_error: ``"raise"`` stops at the first candidate that can't be opened or scored; ``"skip"`` leaves it
                out. A bad query raises.
            show_progress: None shows a bar on a terminal from 200 queries on.
            return_details: a :class:`CascadeResult` instead of its rows.
            options: go to ``Encoder.encode``; ``mode`` is the index's own where it is not given.

        Returns:
            Of each query up to ``k`` :class:`Fused`, best first.

        Raises:
            ItemError: which query is wrong, and how. CandidateError: a candidate.
            IndexMismatchError: another model made the index.
            ValueError: ``depth`` below ``k``, or not one task for each query.
        """
        listed = as_items(queries)
        k = whole_number("k", k)
        depth = max(self.fusion.depth, k) if depth is None else whole_number("depth", depth)
        if depth < k:
            raise ValueError(f"depth is {depth}, fewer than the {k} rows asked for")
        names = [tasks] * len(listed) if tasks is None or isinstance(tasks, str) else list(tasks)
        if len(names) != len(listed):
            raise ValueError(f"{len(names)} tasks for {len(listed)} queries; give one, or one for each")
        if len(index) == 0:
            raise ValueError("the index is empty")
        alphas = [self.fusion.alpha_of(name) for name in names]
        encode = {"mode": index.settings.get("mode"), "instruction": instruction, **options}
        ids, scores = self.encoder.search(listed, index, min(depth, len(index)), **encode)  # type: ignore[arg-type]
        result = CascadeResult([])
        show = (
            len(listed) >= PROGRESS_FROM and sys.stderr.isatty() if show_progress is None else show_progress
        )
        with tqdm(total=len(listed), unit="query", desc="rerank", disable=not show) as bar:
            for start in range(0, len(listed), BLOCK):
                block = slice(start, start + BLOCK)
                found = [
                    [(name, float(score)) for name, score in zip(*row, strict=True) if name is not None]
                    for row in zip(ids[block], scores[block], strict=True)
                ]
                ranked, failed = rescore(
                    self.reranker,
                    listed[block],
                    found,
                    item_of,
                    alphas=alphas[block],
                    instruction=instruction,
                    on_error=on_error,
                )
                result.rows += [rows[:k] for rows in ranked]
                result.failed += [(start + number, name, reason) for number, name, reason in failed]
                bar.update(len(found))
        if return_details:
            return result
        if result.failed:
            number, name, reason = result.failed[0]
            warnings.warn(
                f"{len(result.failed)} candidates could not be scored and are left out; the first: {name} of query "
                f"{number}: {reason} (return_details=True lists all)",
                stacklevel=2,
            )
        return result.rows

    def rank(self, queries: Any, candidates: Mapping[str, Any], **options: Any) -> Any:
        """:meth:`search` among candidates in memory.

        Args:
            queries: items.
            candidates: id -> item.
            options: of :meth:`search`.

        Raises:
            ItemError: a candidate cannot be embedded. And what :meth:`search` raises.
        """
        names = list(candidates)
        mode = {"mode": options["mode"]} if "mode" in options else {}
        vectors = self.encoder.encode_document([candidates[name] for name in names], **mode)
        index = Index(self.encoder.dim, self.encoder.fingerprint())
        index.add(names, vectors)
        return self.search(queries, index, candidates.__getitem__, **options)


def _source(given: str | os.PathLike[str] | ModelSource | None) -> ModelSource:
    if isinstance(given, ModelSource):
        return given
    return ModelSource(None if given is None else os.fspath(given))


def _moved(source: ModelSource, name: str | os.PathLike[str] | None) -> ModelSource:
    return source if name is None else ModelSource(os.fspath(name), source.preset)
