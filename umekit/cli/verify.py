"""``umekit verify PATH``: is a checkpoint complete, and does it still give its golden vectors?"""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import UsageError, opening, print_json

SHOWN = 40


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "verify",
        help="audit a checkpoint and compare it with golden vectors",
        description="Load a checkpoint, audit its weights and tokens, and compare token ids, grids and vectors with a "
        "golden folder: the one given, or the checkpoint's own. Exit code 1: something differs; the item and the "
        "property are named.",
    )
    parser.add_argument("path", metavar="PATH", help="checkpoint folder or Hub id")
    parser.add_argument("--golden", type=Path, metavar="FOLDER", help="golden folder (default: PATH/golden)")
    parser.add_argument(
        "--make", type=Path, metavar="FOLDER", help="write a golden folder of 20 items instead"
    )
    parser.add_argument("--preset", help="name of a published system, for checkpoints without our settings")
    parser.add_argument("--compat", choices=("official",), help="reproduce the official code's defects")
    parser.add_argument(
        "--array", help="which vectors of a published fixture (default: the one its README names)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: the golden folder's"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: what is there)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    from ..encoding.devices import device_of
    from ..encoding.golden.folder import make_golden
    from ..encoding.golden.verify import verify
    from ..encoding.loading import load
    from ..encoding.presets import get_preset

    options = {
        name: value for name in ("compat", "dtype", "device") if (value := getattr(args, name)) is not None
    }
    with opening(args.path):
        device_of(args.device)
        if args.preset is not None:
            get_preset(args.preset)
        if not Path(args.path).exists() and (args.path.count("/") > 1 or args.path[:1] in "./~"):
            raise UsageError(f"{args.path}: there is no such folder")
    if args.make is not None:
        if args.golden is not None or args.array is not None:
            raise UsageError("--make writes a golden folder, --golden and --array read one: give one of them")
        folder = make_golden(load(args.path, preset=args.preset, **options), args.make)
        if args.json:
            print_json({"made": str(folder)})
        else:
            print(f"{folder}: made")
        return 0
    if args.golden is not None and not args.golden.is_dir():
        raise UsageError(f"{args.golden}: there is no such folder")
    result = verify(args.path, args.golden, preset=args.preset, array=args.array, **options)
    if args.json:
        problems = [{"item": p.item, "property": p.prop, "message": p.message} for p in result.problems]
        found = {"ok": result.ok, "problems": problems, "facts": result.facts}
        found |= {"golden": result.golden, "items": result.items, "largest": result.largest}
        print_json({**found, "notes": result.notes})
        return 0 if result.ok else 1
    print("  ".join(f"{name}={value}" for name, value in result.facts.items()))
    if result.golden is None:
        print("no golden folder: weights and tokens were checked, vectors were not")
    elif result.items:
        print(f"{result.items} golden items of {result.golden}, largest difference {result.largest:.2g}")
    for note in result.notes:
        print(f"note: {note}")
    for problem in result.problems[:SHOWN]:
        print(f"wrong: {problem}")
    if len(result.problems) > SHOWN:
        print(f"... and {len(result.problems) - SHOWN} more")
    print("ok" if result.ok else f"{len(result.problems)} problem(s)")
    return 0 if result.ok else 1
