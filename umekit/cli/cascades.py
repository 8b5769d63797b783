"""What ``--rerank`` names: a bare reranker, or the folder of a cascade, whose models are checked."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .common import UsageError, load_reranker

if TYPE_CHECKING:
    from ..encoding.cascade_folder import CascadeRecord
    from ..evaluation.fusing import Fusing


def cascade_of(args: argparse.Namespace) -> CascadeRecord | None:
    """The cascade that --rerank names; None for a bare reranker. Raises UsageError for a preset beside it."""
    from ..encoding.cascade_folder import is_cascade, read_cascade

    if args.rerank is None or not is_cascade(args.rerank):
        return None
    if args.rerank_preset is not None:
        raise UsageError(
            f"--rerank-preset is of a bare reranker; {args.rerank} is a cascade, which has its own"
        )
    return read_cascade(args.rerank)


def reranker_of(args: argparse.Namespace, record: CascadeRecord | None) -> Any:
    """The reranker that --rerank names, or that of its cascade.

    Raises:
        UsageError: the checkpoint is no reranker.
        CascadeMismatchError: it is not the one of the cascade.
    """
    if record is None:
        return load_reranker(args, args.rerank, args.rerank_preset)
    source = record.reranker
    reranker = load_reranker(args, source.name, source.preset, source.revision)
    record.check("reranker", reranker.fingerprint(), args.rerank)
    return reranker


def fusing_of(args: argparse.Namespace, encoder: Any) -> Fusing | None:
    """How a benchmark ranks again: ``--depth`` and ``--alpha``, or else the cascade's own; None without --rerank.

    Raises:
        UsageError: the checkpoint is no reranker.
        CascadeMismatchError: a model is not the one of the cascade.
    """
    from ..encoding.cascade_folder import Fusion
    from ..evaluation.fusing import Fusing
    from .benchmarks.digit_world import model_name

    if not args.rerank:
        return None
    record = cascade_of(args)
    if record is not None:
        record.check("embedder", encoder.fingerprint(), args.rerank)
    own = Fusion() if record is None else record.fusion
    return Fusing(
        reranker_of(args, record),
        model_name(args.rerank if record is None else record.reranker.name),
        args.depth or own.depth,
        own.alpha if args.alpha is None else args.alpha,
        own.tasks if args.alpha is None else {},
    )
