"""``--reasoner``: a stock model that thinks for the embedder of the model arguments."""

from __future__ import annotations

import argparse
from typing import Any

from . import common
from .common import UsageError, opening, positive

NAMES = {"side": "reasoner_side", "prompt": "reasoner_prompt", "max_new_tokens": "reasoner_tokens"}


def add_reasoner_arguments(parser: argparse.ArgumentParser) -> None:
    """Who thinks for the embedder, of what, and how."""
    group = parser.add_argument_group(
        "reasoner",
        "a model that thinks of every item before it is embedded, for embedders that do not think, too; what was made "
        "with one is searched and gone on with by the same, told the same",
    )
    group.add_argument(
        "--reasoner", metavar="PATH", help="image-text-to-text model of transformers: folder or Hub id"
    )
    group.add_argument(
        "--reasoner-side",
        choices=("both", "query", "document"),
        help="whose items it thinks of (default both)",
    )
    group.add_argument(
        "--reasoner-prompt",
        metavar="TEXT",
        help="what it is asked of an item (default: to think step by step)",
    )
    group.add_argument(
        "--reasoner-tokens", type=positive, metavar="N", help="most tokens of a thought of it (default 512)"
    )


def load_encoder(args: argparse.Namespace, model: str | None = None) -> Any:
    """:func:`common.load_encoder`, with the reasoner that was asked for.

    Raises:
        UsageError: the reasoner, or the embedder, is none.
    """
    options = {option: value for option, name in NAMES.items() if (value := getattr(args, name)) is not None}
    if args.reasoner is None:
        if options:
            raise UsageError(f"--{NAMES[next(iter(options))].replace('_', '-')} needs --reasoner PATH")
        return common.load_encoder(args, model)
    from ..encoding.reasoner import Reasoner

    with opening(args.reasoner):
        reasoner = Reasoner.from_pretrained(args.reasoner, device=args.device, dtype=args.dtype, **options)
    return common.load_encoder(args, model, reasoner=reasoner)
