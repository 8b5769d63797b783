"""What ``--rerank`` names: a bare reranker, or the folder of a cascade, whose models are checked.

Without a name it is the cascade that comes with ume-tiny, whose name here is always the package's: a folder of that
name is ``./ume-tiny-cascade``.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..encoding.packaged import CASCADE, RERANKER, packaged_model
from .common import UsageError, load_reranker

if TYPE_CHECKING:
    from ..encoding.cascade_folder import CascadeRecord
    from ..evaluation.fusing import Fusing


def add_rerank_arguments(parser: argparse._ActionsContainer, does: str) -> None:
    """``--rerank [PATH]``, and what a bare reranker may need beside it."""
    parser.add_argument(
        "--rerank",
        metavar="PATH",
        nargs="?",
        const=CASCADE,
        help=f"{does}: a reranker (checkpoint folder or Hub id), or the folder of a cascade that `umekit tune` wrote, "
        "whose reranker, fusion and depth are then taken (without PATH: that of the packaged ume-tiny)",
    )
    parser.add_argument(
        "--rerank-preset",
        metavar="NAME",
        help="published system of a bare reranker, if it lacks our settings",
    )


def cascade_of(args: argparse.Namespace) -> CascadeRecord | None:
    """The cascade that --rerank names; None for a bare reranker. Raises UsageError for a preset beside it."""
    from ..encoding.cascade_folder import is_cascade, read_cascade

    if args.rerank is None:
        return None
    folder = str(packaged_model(CASCADE)) if args.rerank == CASCADE else args.rerank
    if not is_cascade(folder):
        return None
    if args.rerank_preset is not None:
        raise UsageError(
            f"--rerank-preset is of a bare reranker; {args.rerank} is a cascade, which has its own"
        )
    return read_cascade(folder)


def check_embedder(args: argparse.Namespace, record: CascadeRecord | None, encoder: Any) -> None:
    """Raise where a cascade was made with another embedder.

    Raises:
        UsageError: it is the one that comes with ume-tiny.
        CascadeMismatchError: any other.
    """
    from ..encoding.cascade_folder import CascadeMismatchError

    if record is None:
        return
    try:
        record.check("embedder", encoder.fingerprint(), args.rerank)
    except CascadeMismatchError as error:
        if args.rerank != CASCADE:
            raise
        raise UsageError(
            "--rerank without PATH is the reranker of the packaged ume-tiny, and this embedder is another one: name a "
            "reranker of yours (--rerank PATH)"
        ) from error


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
    check_embedder(args, record, encoder)
    own = Fusion() if record is None else record.fusion
    return Fusing(
        reranker_of(args, record),
        model_name(args.rerank if record is None else record.reranker.name or RERANKER),
        args.depth or own.depth,
        own.alpha if args.alpha is None else args.alpha,
        own.tasks if args.alpha is None else {},
    )
