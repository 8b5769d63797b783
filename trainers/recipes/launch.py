"""The torchrun line of a recipe."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def launch_line(arguments: Sequence[str], processes: int, nodes: int = 1) -> str:
    """The shell line that runs ``umekit train <arguments>`` on ``processes`` processes of each of ``nodes`` nodes.

    >>> launch_line(["recipe.yaml", "--out", "runs/a b"], 8)
    "torchrun --standalone --nproc-per-node 8 --module umekit.cli.main train recipe.yaml --out 'runs/a b'"
    """
    if processes < 1 or nodes < 1:
        raise ValueError(f"processes and nodes must be positive, got {processes} and {nodes}")
    where = (
        ["--standalone"]
        if nodes == 1
        else ["--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", "$MASTER:29500"]
    )
    words = ["torchrun", *where, "--nproc-per-node", str(processes), "--module", "umekit.cli.main", "train"]
    return " ".join([*map(_quoted, words), *map(shlex.quote, arguments)])


def _quoted(word: str) -> str:
    return word if word.startswith("$") else shlex.quote(word)
