"""What encoding cost: seconds, items, thoughts and their tokens, measured where it happens and kept through a stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any


@dataclass
class Cost:
    """Of some encoding.

    Attributes:
        items, seconds: how many and how long, with reading and preparing.
        thoughts, thought_tokens: items that thought before they were embedded, and what they wrote.
    """

    items: int = 0
    seconds: float = 0.0
    thoughts: int = 0
    thought_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            *(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    def rates(self) -> dict[str, float | None]:
        """``items_per_second``, ``invocation_ratio`` (share that thought) and ``tokens_per_item``."""
        items = self.items or None
        return {
            "items_per_second": None if not self.seconds else round(self.items / self.seconds, 2),
            "invocation_ratio": None if items is None else round(self.thoughts / items, 4),
            "tokens_per_item": None if items is None else round(self.thought_tokens / items, 2),
        }

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 3), **self.rates()}

    @classmethod
    def from_dict(cls, block: dict[str, Any]) -> Cost:
        return cls(**{name: block[name] for name in ("items", "seconds", "thoughts", "thought_tokens")})


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


@dataclass
class Measured:
    """An encoder that keeps account of what it does.

    Args:
        encoder: an ``umekit.Encoder``, or whatever encodes like one.
        options: that every call gets, ``num_samples`` say; they become part of the fingerprint.
        detailed: whether it can say what it thought (``return_details``), as umekit's own can.
        log: a file that every call adds a line to. A call that was made twice, because the run was stopped between the
            call and the end of its part, counts once.
    """

    encoder: Any
    options: dict[str, Any] = field(default_factory=dict)
    log: Path | None = None
    detailed: bool = True
    cost: Cost = field(default_factory=Cost)

    @property
    def dim(self) -> int:
        return int(self.encoder.dim)

    @property
    def arithmetic(self) -> Any:
        return getattr(self.encoder, "arithmetic", None)

    @property
    def batch_tokens(self) -> Any:
        return getattr(self.encoder, "batch_tokens", None)

    def __repr__(self) -> str:
        return repr(self.encoder)

    def fingerprint(self) -> dict[str, Any]:
        own = dict(self.encoder.fingerprint())
        return {**own, "options": self.options} if self.options else own

    def encode(self, items: Sequence[Any], **options: Any) -> Any:
        """As the encoder does; details are asked for, and thrown away where they were not."""
        details = options.pop("return_details", False)
        began = perf_counter()
        asked = {"return_details": True} if self.detailed else {}
        found = self.encoder.encode(items, **asked, **{**options, **self.options})
        seconds = perf_counter() - began
        tokens = getattr(found, "thought_tokens", None) or [0] * len(items)
        counts = [sum(one) if isinstance(one, (list, tuple)) else int(one or 0) for one in tokens]
        cost = Cost(len(items), seconds, sum(1 for one in counts if one), sum(counts))
        self.cost += cost
        if self.log is not None:
            line = {"call": _name(items, options), **asdict(cost)}
            with self.log.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
        return found if details or not self.detailed else found.embeddings


def logged(paths: Iterable[Path]) -> Cost:
    """The sum of the calls in some logs, each call once; a line that a killed process left half written counts not."""
    calls: dict[str, Cost] = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                block = json.loads(line)
                call = str(block.pop("call"))
                calls[call] = Cost(**block)
            except (ValueError, TypeError, KeyError):
                continue
    return total(calls.values())


def _name(items: Sequence[Any], options: dict[str, Any]) -> str:
    digest = hashlib.sha256(repr(sorted((key, str(value)) for key, value in options.items())).encode())
    for item in items:
        digest.update(repr(item).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
