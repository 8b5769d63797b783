"""The findings table: published claims about contrastive training, tried in DigitWorld.

    python benchmarks/findings.py --out benchmarks/results/findings           # three seeds; writes .json, .md and .png
    python benchmarks/findings.py --quick --out runs/findings-quick           # one seed, a quarter of the rows
    python benchmarks/findings.py --only soup soup-against-all --out runs/soup

Every result is kept in ``--cache`` as soon as it is there, one file per arm and seed, so that a stopped table goes on
where it was; a result is made anew where what it depends on has changed. What an arm is stands in
``findings_table/claims_*.py``, the verdict rule in ``findings_table/verdict.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from findings_table.claims import CLAIMS, chosen
from findings_table.jobs import QUARTER, Job, Settings, Work
from findings_table.plot import draw
from findings_table.report import markdown, starts, table
from findings_table.running import execute
from findings_table.schedule import processes, run_all
from findings_table.store import write_json
from findings_table.verdict import SEEDS
from measuring import machine


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [claim.name for claim in CLAIMS]
    parser.add_argument("--only", nargs="+", metavar="CLAIM", choices=names, help=f"of {', '.join(names)}")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2, or 0 with --quick")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, a quarter of the rows, no search of rates"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument(
        "--queries", type=int, default=2000, help="at least so many in the test pools of every arm"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/findings"), help="folder of starts and results"
    )
    parser.add_argument(
        "--warm-up", nargs="+", type=Path, metavar="FOLDER", help="read starts of the seeds, in their order"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="write the table from what the cache holds"
    )
    parser.add_argument("--out", type=Path, metavar="STEM", help="writes STEM.json, STEM.md and STEM.png")
    args = parser.parse_args()
    args.seeds = args.seeds or ([0] if args.quick else list(range(SEEDS)))
    if args.warm_up is not None and len(args.warm_up) > len(args.seeds):
        parser.error(f"{len(args.warm_up)} warm-ups for {len(args.seeds)} seeds")
    return args


def main() -> int:
    args = parse()
    described = machine()
    settings = Settings(
        cache=args.cache.resolve(),
        quick=args.quick,
        queries=args.queries,
        warm_up=dict(zip(args.seeds, [path.resolve() for path in args.warm_up or ()], strict=False)),
        divide=QUARTER if args.quick else 1,
    )
    claims = chosen(args.only)
    work = Work(claims, args.seeds, settings)
    began = time.perf_counter()
    failed: list[tuple[Job, str]] = []
    if not args.report_only:
        with processes(args.jobs) as pool:
            failed = run_all(work, pool, args.jobs, execute)
    rows = table(claims, work)
    result: dict[str, Any] = {
        "benchmark": "findings",
        "machine": described,
        "quick": args.quick,
        "jobs": args.jobs,
        "seeds": args.seeds,
        "command": "python " + " ".join(sys.argv),
        "minutes_of_this_call": round((time.perf_counter() - began) / 60, 1),
        "core_minutes": round(core_seconds(work) / 60, 1),
        "starts": starts(work),
        "claims": rows,
    }
    if args.out is not None and rows:
        write_json(args.out.with_suffix(".json"), result)
        args.out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
        draw(rows, args.out.with_suffix(".png"))
    for row in rows:
        low, high = row["interval"]
        print(
            f"{row['claim']:28s} {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}] {row['signs']:4s}{row['verdict']}"
        )
    print(json.dumps({key: value for key, value in result.items() if key not in ("claims", "starts")}))
    return 1 if failed or len(rows) < len(claims) else 0


def core_seconds(work: Work) -> float:
    """What everything in the table has cost, starts and searches counted, from the files' own clocks."""
    files = [work.file(job) for job in work.all_jobs() if work.is_done(job)]
    return sum(float(json.loads(file.read_text(encoding="utf-8"))["total_seconds"]) for file in files)


if __name__ == "__main__":
    sys.exit(main())
