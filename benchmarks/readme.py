"""Write what ``benchmarks/results`` holds into the README: no number there is typed by hand.

python benchmarks/readme.py            # rewrites the blocks between the markers in README.md
python benchmarks/readme.py --check    # exit code 1 where README.md is not what the results say
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from umekit.evaluation.tables import replace_block, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SPEED = ("<!-- speed:start -->", "<!-- speed:end -->")
FINDINGS = ("<!-- findings:start -->", "<!-- findings:end -->")

Result = dict[str, Any]
Rows = list[list[str]]


def read(name: str) -> Result:
    """A committed result."""
    found: Result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _times(value: float) -> str:
    return f"{value:.2f}"


def encode_rows(result: Result) -> Rows:
    """Items a second of a mix and its parts against sentence-transformers."""
    rows = []
    for model, found in result["models"].items():
        for part, door in (("mix", "by_path"), ("mix", "in_memory")):
            if part not in found:
                continue
            where = "files given by path" if door == "by_path" else "pictures in memory"
            rows.append(
                [
                    f"encode 512 texts, images, clips and pages, {where} ({model})",
                    "sentence-transformers",
                    _times(found[part][door]["times_faster"]),
                ]
            )
    return rows


def generate_rows(result: Result) -> Rows:
    """Thinking before embedding, against UME-R1's published loop."""
    rows = []
    for size, found in result["sizes"].items():
        loops, samples = found["loops"], found["samples_239"]
        rows += [
            [
                f"think {loops['new_tokens']} tokens, then embed ({size})",
                "UME-R1's published loop",
                _times(loops["times_faster_than_one_by_one"]),
            ],
            ["the same", "that loop, batched", _times(loops["times_faster_than_batched"])],
            [
                f"{samples['num_samples']} thoughts of one prompt ({size})",
                "as many repeated rows",
                _times(1 / samples["share_of_repeated_rows"]),
            ],
        ]
    return rows


def rerank_rows(result: Result) -> Rows:
    """A hundred candidates behind one query."""
    return [
        [f"rerank 100 candidates, {name.replace('_', ' ')}", _against(other), _times(value)]
        for name, found in result["workloads"].items()
        for other, value in found["times_faster_than"].items()
    ]


def _against(name: str) -> str:
    return {"cross_encoder": "`CrossEncoder`", "generate": "one `generate` per pair"}[name]


KINDS = {"mixed": "texts of mixed length", "equal": "texts of one length", "pictures": "pictures"}


def train_rows(result: Result) -> Rows:
    """A contrastive step with gradient caching."""
    rows = []
    for kind, words in KINDS.items():
        for setting, entry in (("defaults", "over_defaults"), ("its best settings", "over_best")):
            rows.append(
                [
                    f"a contrastive step of {result['batch']} rows, {words}",
                    f"`CachedMultipleNegativesRankingLoss`, {setting}",
                    _times(result[kind][f"{kind}_{entry}"]),
                ]
            )
    return rows


def speed_block() -> str:
    """Times as fast as the usual way, everything of one machine and run."""
    rows = [
        *encode_rows(read("encode")),
        *generate_rows(read("generate")),
        *rerank_rows(read("rerank")),
        *train_rows(read("train")),
    ]
    machine = read("encode")["machine"]
    made = "\n".join(
        f"* `python benchmarks/{name}.py --out benchmarks/results/{name}.json`"
        for name in ("encode", "generate", "rerank", "train")
    )
    return (
        table(["what", "against", "times as fast"], rows, left=2)
        + f"\n\nSame weights, dtype, threads and run; {machine['processor']}, {machine['threads']} thread, torch "
        f"{machine['torch']}, transformers {machine['transformers']}. What pays on a CPU need not on a GPU: nothing "
        f"here was timed on one. Made by\n\n{made}"
    )


def findings_block() -> str:
    """A line per published claim."""
    result = read("findings")
    rows = []
    for row in result["claims"]:
        low, high = row["interval"]
        said = f"**{row['verdict']}**" + (f"; {row['remark']}" if row["remark"] else "")
        rows.append(
            [row["statement"], row["source"], f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]", said]
        )
    return table(["claim", "source", "difference, 95 %", "verdict here"], rows, left=4)


def filled(text: str) -> str:
    """The README with both blocks as the results say."""
    return replace_block(replace_block(text, speed_block(), *SPEED), findings_block(), *FINDINGS)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--check", action="store_true", help="change nothing")
    args = parser.parse_args()
    text = args.readme.read_text(encoding="utf-8")
    made = filled(text)
    if args.check:
        if made != text:
            print(
                f"{args.readme} is not what benchmarks/results say: run python benchmarks/readme.py",
                file=sys.stderr,
            )
        return int(made != text)
    args.readme.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
