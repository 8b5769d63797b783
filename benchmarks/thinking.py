"""Does thinking before embedding pay where one pass fails, and does RLVR mend a bad teacher? Tried in DigitWorld.

    mkdir -p runs/untaught
    git archive 52099b7 examples/ume-tiny | tar -x -C runs/untaught     # ume-tiny before it had ever thought
    python benchmarks/thinking.py --start runs/untaught/examples/ume-tiny
    python benchmarks/thinking.py --report-only

Checkpoints lie in ``--runs``; the result of every arm and seed is one file of ``--results`` as soon as it is there, so
that a stopped table goes on where it was, on another day or machine. A seed is a process of one thread.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from findings_table import arms
from findings_table.schedule import processes
from thinking_table import report
from thinking_table.records import ARMS, TINY
from thinking_table.running import Table, run_seed

RESULTS = Path(__file__).parent / "results" / "thinking"
START = Path(__file__).parents[1] / "examples" / TINY


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--start", type=Path, default=START, help="what all arms begin from; the committed results, see above"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/thinking"), help="folder of checkpoints")
    parser.add_argument(
        "--results", type=Path, help=f"folder of results (default: {RESULTS}; of a quick table: in --runs)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="seeds that run at the same time")
    parser.add_argument("--quick", action="store_true", help="a quarter of the steps, a fifth of the queries")
    parser.add_argument("--report-only", action="store_true")
    args = parser.parse_args()
    results = args.results or (args.runs / "quick" if args.quick else RESULTS)
    runs = args.runs / "quick-runs" if args.quick else args.runs
    if not args.report_only:
        table = Table(runs, results, {TINY: args.start}, quick=args.quick)
        with processes(args.jobs) as pool:
            list(pool.map(partial(run_seed, table, args.arms), args.seeds))
    reader = Table(runs, results, quick=args.quick)
    draw = partial(report.draw, reward=report.rewards(reader.found()))
    return arms.write_report(reader, "thinking", report.table, report.markdown, draw)


if __name__ == "__main__":
    sys.exit(main())
