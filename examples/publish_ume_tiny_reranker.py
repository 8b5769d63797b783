"""A trained adapter becomes the reranker that comes with ume-tiny: folder, tuned cascade, result file, card.

    python examples/publish_ume_tiny_reranker.py runs/ume-tiny-reranker

Writes ``examples/ume-tiny-reranker`` and ``examples/ume-tiny-cascade`` anew, and the calibration of the reranker on
unseen handwriting into ``benchmarks/results``. The adapter must be of the ume-tiny that lies beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from umekit.cli.main import main as umekit_verb
from umekit.encoding.packaged import CASCADE, EMBEDDER, RERANKER, packaged_model
from umekit.modeling.adapters import CONFIG_FILE, WEIGHTS_FILE, add_adapter
from umekit.trainers.lora.merging import open_base

RESULT = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / f"{RERANKER}.json"
ABOUT = Path(__file__).with_name("ume_tiny_reranker_about.md")
LARGEST = 2 * 2**20  # bytes of the adapter's weights
DEPTH = "10"  # candidates of a query that are scored again
QUERIES = "200"  # of a task, to choose alpha by


def write_adapter(source: Path, target: Path) -> None:
    """Settings, code and processor as this version writes them; the adapter's weights as they are, its base beside it.

    Raises:
        AdapterError: it was trained on other weights than those of its base.
        ValueError: it is too large.
    """
    size = (source / WEIGHTS_FILE).stat().st_size
    if size > LARGEST:
        raise ValueError(f"{source / WEIGHTS_FILE} has {size:,} bytes, more than {LARGEST:,}")
    card = target / "README.md"
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / target.name
        reranker = open_base(source, target.parent / EMBEDDER)
        add_adapter(reranker.model.backbone, str(source))
        reranker.model.save_pretrained(fresh)
        reranker.processor.save_pretrained(fresh)
        shutil.copyfile(source / WEIGHTS_FILE, fresh / WEIGHTS_FILE)
        config = fresh / CONFIG_FILE
        named = {
            **json.loads(config.read_text(encoding="utf-8")),
            "base_model_name_or_path": f"../{EMBEDDER}",
        }
        config.write_text(json.dumps(named, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if card.is_file():
            shutil.copyfile(card, fresh / "README.md")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(fresh, target)
    print(f"wrote {target}: {size:,} bytes of weights", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder that train_ume_tiny_reranker.py made")
    parser.add_argument("--queries", default=QUERIES, help="of a task of DigitWorld, to choose alpha by")
    parser.add_argument("--result", type=Path, default=RESULT, help="the result file")
    args = parser.parse_args()
    place = packaged_model(EMBEDDER).parent
    reranker, cascade = place / RERANKER, place / CASCADE
    write_adapter(args.source, reranker)
    shutil.rmtree(cascade, ignore_errors=True)
    chosen_by = ["--depths", DEPTH, "--queries", args.queries]
    about = ["--about", str(ABOUT), "--query", "upper left red 4", "--text", "a red 4 in the upper left"]
    for verb in (
        ["tune", "digit-world", "--reranker", RERANKER, "--out", str(cascade), *chosen_by],
        ["evaluate", "calibration", "--queries", args.queries, "--out", str(args.result)],
        ["card", str(reranker), "--results", str(args.result), *about, "--force"],
    ):
        print("umekit", *verb, flush=True)
        if code := umekit_verb(verb):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
