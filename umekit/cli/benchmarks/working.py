"""Where a run keeps what it has done, so that a stopped one goes on."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..common import UsageError
from ..ranks import rank_and_world


def work_of(args: argparse.Namespace) -> Path | None:
    """``--work``, or a folder beside ``--out``; None where neither is given."""
    if args.work is not None:
        return Path(args.work)
    return None if args.out is None else Path(args.out).with_suffix(".work")


def check_work(args: argparse.Namespace, kept: str) -> None:
    """Raises UsageError where the folder ``kept`` in it is of a run that nobody said goes on."""
    work = work_of(args)
    if work is not None and not args.resume and (work / kept).is_dir() and rank_and_world()[1] == 1:
        raise UsageError(f"{work} holds {kept} of a run; give --resume to go on with it, or another --work")
