"""A trained embedder becomes ume-tiny: its probe, folder, result files and card.

    python examples/publish_ume_tiny.py runs/ume-tiny-thoughts/ume-tiny

Half an hour on one core. The reranker that comes with ume-tiny is of its weights: ``train_ume_tiny_reranker.py`` and
``publish_ume_tiny_reranker.py`` make it anew, and ``benchmarks/modes.py --commands`` says what its table then needs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from umekit.cli.main import main as umekit_verb
from umekit.examples.refresh_ume_tiny import TARGET, write_model

PROBED = "400"  # queries of a task that the probe is fitted on
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
ABOUT = Path(__file__).with_name("ume_tiny_about.md")
# By the name of their file: at a glance, after a thought, what a thought is worth, and what deciding costs.
REPORTS = {
    "digit_world": ("digit-world", "--blind"),
    "ume-tiny-thinking": ("digit-world", "--mode", "generative", "--queries", "400", "--kinds", "hard"),
    "ume-tiny-thoughts": ("thoughts", "--queries", "500"),
    "ume-tiny-curve": ("curve", "--queries", "1000", "--draw", str(RESULTS / "ume-tiny-curve.png")),
}


class VerbError(RuntimeError):
    """A call of umekit failed; the message names it."""


def run(*verb: str) -> None:
    """Raises VerbError."""
    print("umekit", *verb, flush=True)
    if code := umekit_verb(list(verb)):
        raise VerbError(f"umekit {verb[0]} failed with {code}")


def add_probe(source: Path, out: Path) -> None:
    """A folder with the source's weights and a probe that says when to think; by default it embeds at a glance."""
    run("probe", "--model", str(source), "--out", str(out), "--queries", PROBED)
    shutil.copyfile(source / "model.safetensors", out / "model.safetensors")  # in its own precision
    config = out / "config.json"
    told = json.loads(config.read_text(encoding="utf-8"))
    told["ume"]["default_mode"] = "discriminative"
    config.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder that train_ume_tiny_thoughts.py made")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            add_probe(args.source, Path(scratch) / "ume-tiny")
            write_model(Path(scratch) / "ume-tiny")
        for name, verb in REPORTS.items():
            run("evaluate", *verb, "--out", str(RESULTS / f"{name}.json"))
        results = [word for name in REPORTS for word in ("--results", str(RESULTS / f"{name}.json"))]
        run("card", str(TARGET), *results, "--about", str(ABOUT), "--force")
    except VerbError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
