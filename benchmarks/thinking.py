"""Does thinking before embedding pay where one pass fails, and does RLVR mend a bad teacher? Tried in DigitWorld.

    python benchmarks/thinking.py --seeds 0 1 2 --arms thinking glance rl rl-shuffled more-teaching rl-twice
    python benchmarks/thinking.py --report-only

Checkpoints lie in ``--runs``; the result of every arm and seed is one file of ``--results`` as soon as it is there, so
that a stopped table goes on where it was, on another day or machine. A seed is a process of one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from findings_table.schedule import processes
from findings_table.store import digest, read_json, weights_hash, write_json
from measuring import machine
from thinking_table import report, scoring
from thinking_table.records import ARMS, TINY, Arm, chain
from thinking_table.rows import MIXTURE, print_of_rows

RESULTS = Path(__file__).parent / "results" / "thinking"
START = Path(__file__).parents[1] / "examples" / TINY


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--start",
        type=Path,
        default=START,
        help="what all arms begin from; ume-tiny has learned to think since the first results, which began before that",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/thinking"), help="folder of checkpoints")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--jobs", type=int, default=2, help="seeds that run at the same time")
    parser.add_argument("--quick", action="store_true", help="a quarter of the steps, a fifth of the queries")
    parser.add_argument("--report-only", action="store_true")
    args = parser.parse_args()
    if not args.report_only:
        with processes(args.jobs) as pool:
            work = [pool.submit(run_seed, chain(args.arms), seed, args) for seed in args.seeds]
            for one in work:
                one.result()
    return write_report(args)


def run_seed(arms: list[Arm], seed: int, args: argparse.Namespace) -> None:
    """Every arm of a seed that has no result yet, in turn."""
    from thinking_table.training import train

    for arm in arms:
        print_of = f"{arm.name}, seed {seed}"
        source = START if arm.start == TINY else args.runs / f"{arm.start}-{seed}" / "checkpoint"
        folder, file = args.runs / f"{arm.name}-{seed}", args.results / f"{arm.name}-{seed}.json"
        known = read_json(file)
        if known and (known["arm"], known["start"]) == (fingerprint(arm), weights_hash(args.start)):
            needed = any(
                other.start == arm.name and not (args.results / f"{other.name}-{seed}.json").is_file()
                for other in arms
            )
            if not needed or (folder / "checkpoint").is_dir():
                continue
        began = time.perf_counter()
        train(arm, seed, args.start if arm.start == TINY else source, folder)
        trained = time.perf_counter()
        share = 5 if args.quick else 1
        easy = scoring.EASY_QUERIES // share if arm.start == TINY and arm.teacher == "careful" else 0
        found = scoring.score(folder / "checkpoint", arm.kind != "glance", scoring.WALKS // share, easy)
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        record: dict[str, Any] = {
            "arm": fingerprint(arm),
            "start": weights_hash(args.start),
            "settings": arm.to_dict(),
            "seed": seed,
            "machine": machine(),
            **found,
            "controlled": min(scoring.CONTROLLED, found["queries"]),
            "easy_queries": easy,
            "minutes": round((trained - began) / 60, 1),
            "log": [line for line in log if "loss" in line],
        }
        write_json(file, record)
        print(f"{print_of}: {round((time.perf_counter() - began) / 60, 1)} min", flush=True)


def fingerprint(arm: Arm) -> str:
    """Of what decides an arm's result, and that of the arm it starts from."""
    before = fingerprint(ARMS[arm.start]) if arm.start != TINY else ""
    return digest([arm.to_dict(), MIXTURE, print_of_rows(), before])


def write_report(args: argparse.Namespace) -> int:
    """JSON, markdown and picture beside the folder of results."""
    results: dict[str, dict[int, Any]] = {}
    for name in ARMS:
        for file in sorted(args.results.glob(f"{name}-[0-9]*.json")):
            record = read_json(file)
            if record is not None and record["arm"] == fingerprint(ARMS[name]):
                results.setdefault(name, {})[record["seed"]] = record
    if not results:
        print("no results", file=sys.stderr)
        return 1
    if len({record["start"] for seeds in results.values() for record in seeds.values()}) > 1:
        print(
            "these results began at different weights: give another --results to one of them", file=sys.stderr
        )
        return 1
    found = {"benchmark": "thinking", "command": "python benchmarks/thinking.py", **report.table(results)}
    stem = args.results.parent / "thinking"
    write_json(stem.with_suffix(".json"), found)
    stem.with_suffix(".md").write_text(report.markdown(found), encoding="utf-8")
    curves = {
        name: [
            line["query_reward"]
            for line in next(iter(results[name].values()))["log"]
            if "query_reward" in line
        ]
        for name in results
        if ARMS[name].kind == "rl"
    }
    report.draw(found, {name: curve for name, curve in curves.items() if curve}, stem.with_suffix(".png"))
    print(report.markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
