"""Write what ``benchmarks/results`` holds into README.md and docs/: no number there is typed by hand.

python benchmarks/readme.py            # rewrites the blocks between the markers
python benchmarks/readme.py --check    # exit code 1 where a page is not what the results say

DigitWorld's block in docs/results.md is written by ``umekit evaluate --readme``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from umekit.evaluation.tables import replace_block, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Result = dict[str, Any]
Rows = list[list[str]]


def read(name: str) -> Result:
    """A committed result."""
    found: Result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _times(value: float) -> str:
    return f"{value:.2f}"


DOORS = {"by_path": "files given by path", "in_memory": "pictures in memory"}


def encode_rows(result: Result) -> Rows:
    """Items a second of the mix, against sentence-transformers."""
    return [
        [
            f"encode {found['mix'][door]['items']} texts, images, clips and pages, {words} "
            f"({model}, {result['dtype']})",
            "sentence-transformers",
            _times(found["mix"][door]["times_faster"]),
        ]
        for model, found in result["models"].items()
        for door, words in DOORS.items()
    ]


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
        [f"rerank {found['candidates']} candidates, {name.replace('_', ' ')}", _against(other), _times(value)]
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


def train_reranker_rows(result: Result) -> Rows:
    """A reranker's step; ``apart`` reads every pair by itself."""
    return [
        [
            f"a reranker's step of {found['pairs']} pairs, {name}{', every pair by itself' * (arm == 'apart')}",
            "`CrossEncoderTrainer`",
            _times(times),
        ]
        for name, found in result["workloads"].items()
        for arm, times in found["times_the_pairs_of_cross_encoder"].items()
    ]


def rlvr_rows(result: Result) -> Rows:
    """A step of reinforcement learning."""
    what = f"an RLVR step of {result['prompts']} prompts with pictures, {result['rollouts_of_each']} thoughts each"
    return [[what, "TRL's `GRPOTrainer`", _times(result["trl_over_umekit"]["step"])]]


def evaluation_rows(result: Result) -> Rows:
    """A whole retrieval task: files, vectors, ranks."""
    return [
        [
            f"evaluate {result['items']} queries and pictures, {name}",
            "`mteb.evaluate`",
            _times(found["times_mteb"]),
        ]
        for name, found in result["tasks"].items()
    ]


SPEED_FILES = {
    "encode": encode_rows,
    "encode-2b-wide": encode_rows,
    "train": train_rows,
    "train-reranker": train_reranker_rows,
    "rlvr": rlvr_rows,
    "generate": generate_rows,
    "rerank": rerank_rows,
    "evaluation": evaluation_rows,
}
SAME = ("torch", "transformers")  # of a run, for numbers to stand in one table


def speed_block() -> str:
    """Times as fast as the usual way.

    Raises:
        ValueError: the files are of different versions.
    """
    results = {name: read(name) for name in SPEED_FILES}
    runs = {tuple(result["machine"][key] for key in SAME) for result in results.values()}
    if len(runs) > 1:
        raise ValueError(f"results of different runs: {sorted(map(str, runs))}")
    torch, transformers = runs.pop()
    machines = {name: found["machine"] for name, found in results.items()}
    rows = [
        [*row, str(machines[name]["threads"]), machines[name]["processor"]]
        for name, rows_of in SPEED_FILES.items()
        for row in rows_of(results[name])
    ]
    return (
        table(["what", "against", "times as fast", "threads", "processor"], rows, left=2)
        + f"\n\nEach line compares two ways in one run, with the same weights, dtype and threads (torch "
        f"{torch}, transformers {transformers}); the commands stand at the top of the files in "
        "[benchmarks](../benchmarks). What pays on a CPU need not pay on a GPU: nothing here was timed on one."
    )


def findings_block() -> str:
    """What was tried, and a line per published claim."""
    result = read("findings")
    claims = result["claims"]
    rows = []
    for row in claims:
        low, high = row["interval"]
        said = f"**{row['verdict']}**" + (f"; {row['remark']}" if row["remark"] else "")
        rows.append(
            [row["statement"], row["source"], f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]", said]
        )
    counts = Counter(row["verdict"] for row in claims)
    return (
        f"{len(claims)} claims of U-MARVEL and RzenEmbed, each with arms of equal rows from "
        f"{len(result['seeds'])} paired seeds, scored on {min(row['queries'] for row in claims):,} queries or more; "
        f"{result['core_minutes']:.0f} minutes of one core ({result['machine']['processor']}). "
        f"{', '.join(f'{count} {verdict}' for verdict, count in counts.most_common())}.\n\n"
        + table(["claim", "source", "difference, 95 %", "verdict here"], rows, left=4)
    )


BACKBONES = {"qwen2_vl": "Qwen2-VL", "qwen3_vl": "Qwen3-VL"}


def systems_block() -> str:
    """A line per published system: what it does, and what was compared with its official code."""
    result = read("systems")
    rows = [
        [
            f"`{name}`",
            ", ".join(found["repositories"]) or "given as `preset=`",
            ", ".join(BACKBONES[backbone] for backbone in found["backbones"]),
            ", ".join(found["modes"]),
            ", ".join(found["modalities"]),
            f"{found['items'] - len(found['set_aside'])} items, within {found['largest_difference']:.0e}",
        ]
        for name, found in result["systems"].items()
    ]
    return table(
        ["preset", "repositories", "backbone", "modes", "modalities", "vectors verified"], rows, left=6
    )


HEADLINES = {  # what the rows of results are, and against what
    ("encode", "encode-2b-wide"): ("encoding", "sentence-transformers"),
    ("train",): ("a contrastive step", "its cached loss"),
    ("generate",): ("thinking before embedding", "UME-R1's published loop"),
    ("rerank",): ("reranking 100 candidates", "`CrossEncoder` or one `generate` per pair"),
}


def headline_block() -> str:
    """The range of every kind of speed-up, in one sentence."""
    parts = []
    for names, (words, against) in HEADLINES.items():
        times = [float(row[2]) for name in names for row in SPEED_FILES[name](read(name))]
        parts.append(f"{words} {min(times):.1f} to {max(times):.1f} (against {against})")
    return f"How many times as fast, on a CPU: {'; '.join(parts)}. Each line: [docs/results.md](docs/results.md)."


BLOCKS: dict[str, dict[str, Callable[[], str]]] = {  # page to the blocks that it holds
    "README.md": {"systems": systems_block, "headline": headline_block},
    "docs/results.md": {"speed": speed_block, "findings": findings_block},
}


def filled(page: str, text: str) -> str:
    """A page with its blocks as the results say."""
    for name, block in BLOCKS[page].items():
        text = replace_block(text, block(), f"<!-- {name}:start -->", f"<!-- {name}:end -->")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="where README.md and docs/ are")
    parser.add_argument("--check", action="store_true", help="change nothing")
    args = parser.parse_args()
    stale = 0
    for page in BLOCKS:
        file = args.root / page
        text = file.read_text(encoding="utf-8")
        made = filled(page, text)
        if made == text:
            continue
        stale += 1
        if args.check:
            print(
                f"{file} is not what benchmarks/results say: run python benchmarks/readme.py", file=sys.stderr
            )
        else:
            file.write_text(made, encoding="utf-8")
    return int(args.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
