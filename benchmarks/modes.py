"""ume-tiny's ways to answer beside each other on DigitWorld: what each finds, and what it costs.

    python benchmarks/modes.py --commands       # what to run: an `umekit evaluate` for every way
    python benchmarks/modes.py                  # their result files -> ume-tiny-modes.{json,md,png} beside these

A way whose result is not there is left out, and the table says so. A result that is not of the way that its name
says, or of another ume-tiny than the others, is refused.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from findings_table.store import write_json

from umekit.encoding.storage.atomic import write_atomically
from umekit.evaluation.beside import QUERIES, beside_rows, draw_beside, said
from umekit.evaluation.digit_world.report import BENCHMARK
from umekit.evaluation.report import Report
from umekit.evaluation.results import load_report
from umekit.evaluation.score import ResultFormatError
from umekit.evaluation.tables import conditions, markdown

RESULTS = Path(__file__).parent / "results"
STEM = "ume-tiny"
SIZE = ("--queries", "400", "--kinds", "hard")  # of every run


class WrongResultError(ValueError):
    """A result file is not of the way that its name says; the message names both."""


@dataclass(frozen=True)
class Way:
    """One way from queries to ranks.

    Attributes:
        what: for readers.
        mode: of embedding. thinks: whether queries think first; None where that is decided for each.
        reranked: whether a reranker sees the first candidates.
        own: whether ume-tiny itself embeds, and not another checkpoint.
    """

    what: str
    mode: str
    thinks: bool | None
    reranked: bool = False
    own: bool = True

    def check(self, report: Report) -> None:
        """Raises WrongResultError."""
        settings, cost = report.conditions.settings, report.costs.get(QUERIES, {})
        ratio = cost.get("invocation_ratio")
        modes = (self.mode, None) if self.thinks is False else (self.mode,)  # a glance is ume-tiny's default
        wrong = {
            f"benchmark {report.benchmark}": report.benchmark != BENCHMARK,
            f"mode {settings.get('mode')}": settings.get("mode") not in modes,
            f"{ratio} of the queries thought": ratio is None
            or (self.thinks is not None and ratio != float(self.thinks)),
            "a reranker" if settings.get("rerank") else "no reranker": bool(settings.get("rerank"))
            != self.reranked,
            "blind controls or drawn thoughts in its costs": bool(
                settings.get("blind") or settings.get("num_samples")
            ),
        }
        if found := [line for line, is_wrong in wrong.items() if is_wrong]:
            raise WrongResultError(f"this is not ume-tiny, {self.what}: {', '.join(found)}")


WAYS = {
    "glance": Way("embedded at a glance", "discriminative", thinks=False),
    "thinking": Way("embedded after a thought", "generative", thinks=True),
    "adaptive": Way("embedded as a probe decides", "adaptive", thinks=None),
    "reranked": Way("recalled at a glance, then reranked", "discriminative", thinks=False, reranked=True),
    "distilled": Way("distilled from that reranker, at a glance", "discriminative", thinks=False, own=False),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--commands", action="store_true", help="print what makes the result files")
    parser.add_argument("--reranker", default="ume-tiny-cascade", help="for --commands")
    parser.add_argument("--distilled", default="DISTILLED", help="folder of the student, for --commands")
    args = parser.parse_args()
    if args.commands:
        for name in WAYS:
            print(command_of(name, args.results, args.reranker, args.distilled))
        return 0
    try:
        reports = read(args.results)
        result = table(reports)
    except (WrongResultError, ResultFormatError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    stem = args.results / f"{STEM}-modes"
    text = as_markdown(result, reports)
    write_json(stem.with_suffix(".json"), result)
    write_atomically(stem.with_suffix(".md"), text.encode())
    draw_beside(reports, stem.with_suffix(".png"))
    print(text)
    return 0


def file_of(name: str, results: Path) -> Path:
    return results / f"{STEM}-{name}.json"


def command_of(name: str, results: Path, reranker: str, distilled: str) -> str:
    """The call that makes a way's result file."""
    way = WAYS[name]
    words = ["umekit", "evaluate", "examples/ume-tiny" if way.own else distilled, "--benchmark", BENCHMARK]
    words += ["--mode", way.mode, *SIZE, *(["--rerank", reranker] if way.reranked else [])]
    return shlex.join([*words, "--out", os.path.relpath(file_of(name, results))])


def read(results: Path) -> dict[str, Report]:
    """The result files that are there, in the order of :data:`WAYS`.

    Raises:
        ResultFormatError: one cannot be trusted.
        WrongResultError: fewer than two; one that is not what it is called, or of another ume-tiny.
    """
    found: dict[str, Report] = {}
    for name, way in WAYS.items():
        if (path := file_of(name, results)).is_file():
            found[name] = load_report(path)
            try:
                way.check(found[name])
            except WrongResultError as error:
                raise WrongResultError(f"{path}: {error}") from None
    if len(found) < 2:
        raise WrongResultError(f"{results} has {len(found)} of {', '.join(WAYS)}: see --commands")
    own = {name: _weights(report) for name, report in found.items() if WAYS[name].own}
    if len(set(own.values())) > 1:
        raise WrongResultError(f"these are of several ume-tinys, run them again: {own}")
    if strange := [name for name in found if not WAYS[name].own and _weights(found[name]) in own.values()]:
        raise WrongResultError(f"{strange[0]} is ume-tiny itself, and not what was distilled")
    return found


def table(reports: Mapping[str, Report]) -> dict[str, Any]:
    """Rows by name, which of the ways are missing, what a reader must know, and where each row is from."""
    headers, rows = beside_rows(reports)
    return {
        "benchmark": "modes",
        "command": "python benchmarks/modes.py",
        "of": BENCHMARK,
        "tasks": [score.label for score in next(iter(reports.values())).scores],
        "rows": [dict(zip(headers, row, strict=True)) for row in rows],
        "missing": [name for name in WAYS if name not in reports],
        "said": said(reports),
        "sources": {
            name: {
                "what": WAYS[name].what,
                "file": f"{STEM}-{name}.json",
                "weights": _weights(report),
                "command": report.conditions.command,
                "machine": report.conditions.machine,
                "created": report.conditions.created,
            }
            for name, report in reports.items()
        },
    }


def as_markdown(result: Mapping[str, Any], reports: Mapping[str, Report]) -> str:
    headers = list(result["rows"][0])
    parts = [
        "# ume-tiny's ways to answer, on DigitWorld",
        markdown(headers, [list(row.values()) for row in result["rows"]]),
        "\n".join(f"* {name}: {source['what']}" for name, source in result["sources"].items()),
    ]
    if result["missing"]:
        parts.append(f"Not run: {', '.join(result['missing'])}.")
    if result["said"]:
        parts.append("\n".join(f"* **{line}**" for line in result["said"]))
    parts += [f"{name}: {conditions(report)}" for name, report in reports.items()]
    return "\n\n".join(parts) + "\n"


def _weights(report: Report) -> str:
    return str(report.fingerprint["model"])


if __name__ == "__main__":
    sys.exit(main())
