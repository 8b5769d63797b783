"""How large the house is, and how far a reader must walk through it.

    python benchmarks/house.py --out benchmarks/results/house.json

Lines and files of every room; and for a few trips (one text encoded, a search ...) the files that a call enters and
the moves from one of them to another: a call of a function whose nearest caller of ours stands in another file. Trips
are taken a second time, so that imports and caches do not count, and in all threads.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image

import umekit

ROOT = Path(umekit.__file__).resolve().parent.parent
ROOMS = ("umekit", "hub_cards", "trainers", "evaluation", "encoding", "processing", "modeling")


class Walk:
    """Files that are entered, and moves between them, while it is open."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.moves = 0
        self._names: dict[str, str | None] = {}

    def __enter__(self) -> Walk:
        threading.setprofile(self._event)
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or (here := self._place(frame)) is None:
            return
        self.files.add(here)
        caller = frame.f_back
        while caller is not None and self._place(caller) is None:
            caller = caller.f_back
        if caller is not None and self._place(caller) != here:
            self.moves += 1

    def _place(self, frame: FrameType) -> str | None:
        name = frame.f_code.co_filename
        if name not in self._names:
            path = Path(name)
            inside = path.is_absolute() and path.is_relative_to(ROOT)
            relative = path.relative_to(ROOT) if inside else None
            ours = relative is not None and relative.parts[0] in ROOMS
            self._names[name] = str(relative) if ours else None
        return self._names[name]


def rooms() -> dict[str, dict[str, int]]:
    """Lines and files of Python in every room."""
    found = {}
    for room in ROOMS:
        paths = sorted((ROOT / room).rglob("*.py"))
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
        found[room] = {"lines": lines, "files": len(paths)}
    found["all"] = {
        "lines": sum(one["lines"] for one in found.values()),
        "files": sum(one["files"] for one in found.values()),
    }
    return found


def walk(trip: Callable[[], Any]) -> dict[str, Any]:
    """One trip, after one that is not looked at."""
    trip()
    with Walk() as seen:
        trip()
    return {"files": len(seen.files), "moves": seen.moves, "names": sorted(seen.files)}


def trips(folder: Path) -> dict[str, Callable[[], Any]]:
    """The trips by name."""
    from umekit.cli.main import main

    encoder = umekit.load(device="cpu")
    picture = Image.new("RGB", (84, 84), "red")
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(4):
        Image.new("RGB", (84, 84), (number * 60, 0, 0)).save(pictures / f"{number}.png")
    main(["index", str(pictures), "--quiet"])
    numbers = iter(range(1000))

    def shards() -> None:
        out = folder / f"shards-{next(numbers)}"
        main(["encode", str(pictures), "--out", str(out), "--shard-size", "2", "--quiet"])

    return {
        "encode a text": lambda: encoder.encode("one text"),
        "encode a picture and a text": lambda: encoder.encode([{"image": picture, "text": "one"}]),
        "search": lambda: main(["search", "one text", "--index", str(pictures / ".umekit-index"), "--json"]),
        "folder to shards": shards,
        "a cached step": cached_step(folder),
    }


def cached_step(folder: Path) -> Callable[[], Any]:
    """One step of contrastive training with gradient caching, without the Trainer's loop around it."""
    from umekit.trainers import ContrastiveTrainer, ContrastiveTrainingArguments

    encoder = umekit.load(device="cpu")
    rows = [{"query": f"red {number}", "positive": f"a red {number}"} for number in range(8)]
    arguments = ContrastiveTrainingArguments(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=8,
        chunk_tokens=64,
        max_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = ContrastiveTrainer(
        model=encoder.model, args=arguments, processing_class=encoder.processor, train_dataset=rows
    )
    batch = next(iter(trainer.get_train_dataloader()))
    wrapped = trainer.model_wrapped
    return lambda: trainer.training_step(wrapped, batch)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result")
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "house", "rooms": rooms(), "trips": {}}
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        for title, trip in trips(Path(name)).items():
            result["trips"][title] = walk(trip)
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for room, size in result["rooms"].items():
        print(f"{room:12} {size['lines']:6} lines {size['files']:4} files")
    for title, found in result["trips"].items():
        print(f"{title:28} {found['files']:3} files {found['moves']:4} moves")
    return 0


if __name__ == "__main__":
    sys.exit(main())
