"""Thousands of hostile items among good ones, counted by kind: read, or refused and why.

    python benchmarks/fuzz.py --items 10000 --out benchmarks/results/fuzz.json

The items are those of the tests' generator, and so are the checks: every item gives a finite vector of length one, the
good ones that of the item alone (of the others a share is encoded alone, too), or an error that names item and reason.
A fault ends the run with what was found until then.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import runpy
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from measuring import machine

import umekit

TESTS = Path(__file__).resolve().parents[1] / "tests" / "encoding" / "test_hostile.py"
ROUND = 2500  # items of a call
MEMORY = 4 * 2**30  # that this process may come to hold
# The first that an error's words match.
REASONS = {
    "over a limit": r"limit|times longer|more than 200|Bomb",
    "address that is not read": r"addresses are read|private network|only files of|user name or password|a data URL",
    "no such file, or none that is read": r"no such file|regular file|cannot read the file|is empty",
    "wrong kind of file": r"it is a |TIFF of several pages",
    "damaged or of an unknown kind": r"not a picture|cannot read the video|cannot open the PDF|damaged|has no frame|"
    r"cut off|[Tt]runcated|broken|Expected to read|data stream|decoder|"
    r"reading image|no video stream|has no pages|cannot be rendered|base64",
    "page that is not there": r"counts from|has \d+ pages|needs a 'document'|'page' takes",
    "wrong type or value": r"cannot embed|takes|unknown key|nothing to embed|give |is no |array|finite|no pixels|"
    r"Unicode|private-use|frame|closed|holds nothing|bits a sample",
}


def reason(error: Exception) -> str:
    """The class of an error's words."""
    found = (name for name, words in REASONS.items() if re.search(words, str(error), re.DOTALL))
    return next(found, "other words of a decoder")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", type=int, default=100, help="of the first call; each has its own")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    tests: dict[str, Any] = runpy.run_path(str(TESTS))
    encoder = umekit.load(device="cpu", dtype="float32")
    encoder.processor.limits = tests["LIMITS"]
    kinds: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    done, fault, start = 0, None, time.perf_counter()
    described = machine()
    warnings.simplefilter("ignore")  # of decoders, about what is broken here on purpose
    while done < args.items and fault is None:
        count = min(ROUND, args.items - done)
        with tempfile.TemporaryDirectory() as folder, tests["ended_after"](1800):
            try:
                found = tests["check"](
                    encoder, Path(folder), args.seed + done // ROUND, count, alone=count // 5
                )
            except AssertionError as wrong:
                fault, found = f"seed {args.seed + done // ROUND}: {wrong}", []
        done += len(found)
        for kind, error in found:
            kinds.setdefault(kind, Counter())["read" if error is None else "refused"] += 1
            if error is not None:
                reasons[reason(error)] += 1
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if peak > MEMORY:
            fault = f"{peak / 2**30:.1f} GiB of memory"
        print(f"{done} items, {time.perf_counter() - start:.0f} s, {peak / 2**20:.0f} MiB", flush=True)
    result = {
        "benchmark": "fuzz",
        "machine": described,
        "items": done,
        "read": sum(one["read"] for one in kinds.values()),
        "refused": sum(one["refused"] for one in kinds.values()),
        "fault": fault,
        "seconds": round(time.perf_counter() - start),
        "peak_mib": round(peak / 2**20),
        "reasons": dict(reasons.most_common()),
        "kinds": {kind: dict(kinds[kind]) for kind in sorted(kinds)},
    }
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "kinds"}, indent=2))
    return 0 if fault is None else 1


if __name__ == "__main__":
    sys.exit(main())
