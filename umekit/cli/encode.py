"""``umekit encode F... --out vectors.npz``: files and texts to vectors. With --shard-size: see encode_shards.py."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..processing.prompts import ROLES
from .common import (
    UsageError,
    add_adaptive_arguments,
    add_model_arguments,
    add_password_argument,
    check_adaptive,
    costs_of,
    limits_of,
    mode_options,
    print_json,
    report_failures,
    report_left_out,
    tell_tiny,
    told_costs,
    told_cuts,
)
from .encode_shards import (
    add_shard_arguments,
    check_thinking,
    refuse_sources,
    refuse_without_shards,
    run_shards,
    told_thinkers,
)
from .reasoners import add_reasoner_arguments, load_encoder


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "encode",
        help="encode files and texts into an npz file",
        description="Write an npz with `ids` [n], `embeddings` float32 [n, d] (unit rows), `manifest` "
        "(JSON). Folders are gone through as by `umekit index`; a PDF or TIFF gives a row per page. Files that can't "
        "be read are left out and named; exit code 1. With "
        "--shard-size, F is a folder, jsonl, parquet, webdataset tars or a data set, and --out a folder of parts.",
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="F", help="images, clips, PDFs, texts (.txt, .md), or folders"
    )
    parser.add_argument(
        "--text", action="append", default=[], metavar="TEXT", help="a text (may be repeated)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE.npz",
        help="the file (or, with --shard-size, folder) to write",
    )
    parser.add_argument(
        "--role",
        choices=ROLES,
        help="which side of a search the items are on (default: neither; with --shard-size document, as in an index)",
    )
    parser.add_argument("--instruction", metavar="TEXT", help="default: the checkpoint's")
    parser.add_argument(
        "--thoughts",
        type=Path,
        metavar="FILE",
        help="embed with these thoughts, by id: a folder of umekit think, or a jsonl with id and thought; an item "
        "without one thinks itself",
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_password_argument(parser)
    add_model_arguments(parser)
    add_reasoner_arguments(parser)
    add_adaptive_arguments(parser)
    add_shard_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.shard_size is not None:
        return run_shards(args)
    refuse_without_shards(args)
    import numpy as np

    from ..encoding.inputs.sample import reason_of
    from ..encoding.storage.atomic import write_atomically
    from ..encoding.storage.contents import library_versions
    from ..encoding.storage.ownership import check_own
    from ..processing.cut_texts import cuts_untold

    if not args.files and not args.text:
        raise UsageError("nothing to encode: give files or --text")
    if args.out.suffix != ".npz":
        raise UsageError(f"--out must end in .npz: {args.out} (for a folder of parts, give --shard-size)")
    if not args.out.parent.is_dir():
        raise UsageError(f"--out: there is no folder {args.out.parent}")
    check_own(args.out, _is_ours, "give another --out")
    refuse_sources(args)
    rows, failed, left_out = _rows(args)
    if not rows:
        report_left_out(left_out)
        report_failures(failed)
        raise UsageError("none of the items could be read; nothing is written")
    tell_tiny(args.model, args.files)
    encoder = load_encoder(args)
    check_thinking(args, encoder)
    check_adaptive(args, encoder)
    given = _given_thoughts(args, [name for name, _ in rows])
    with cuts_untold():
        encoded = encoder.encode(
            [item for _, item in rows],
            role=args.role,
            instruction=args.instruction,
            on_error="skip",
            return_details=True,
            show_progress=False if args.quiet else None,
            **mode_options(args),
            **given,
        )
    bad = dict(encoded.errors)
    failed.extend((rows[number][0], reason_of(error)) for number, error in bad.items())
    cut = [number for number, tokens in enumerate(getattr(encoded, "truncated", [])) if tokens]
    truncated = len(set(cut) - set(bad))
    kept = [number for number in range(len(rows)) if number not in bad]
    report_left_out(left_out)
    report_failures(failed)
    if not kept:
        raise UsageError("none of the items could be read; nothing is written")
    manifest = {"fingerprint": encoder.fingerprint(), "role": args.role, "mode": args.mode}
    if given:
        manifest["thoughts"] = str(args.thoughts)
    for name in ("kappa", "budget"):
        if getattr(args, name) is not None:
            manifest[name] = getattr(args, name)
    manifest |= {"instruction": args.instruction, "versions": library_versions()}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        ids=np.array([rows[number][0] for number in kept], dtype=np.str_),
        embeddings=np.asarray(encoded.embeddings, dtype=np.float32)[kept],
        manifest=np.array(json.dumps(manifest, sort_keys=True)),
    )
    write_atomically(args.out, buffer.getvalue())
    if args.json:
        summary = {"out": str(args.out), "rows": len(kept), "dim": encoder.dim, "failed": failed}
        print_json(summary | {"truncated": truncated, "left_out": left_out, **costs_of(encoded)})
    else:
        made = f"{len(kept)} vectors of {encoder.dim} numbers"
        print(
            f"{args.out}: {made}, {told_cuts(truncated)}{len(failed)} not readable; {told_costs(costs_of(encoded))}"
        )
    return 1 if failed else 0


def _given_thoughts(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Options of ``encode`` for the thoughts that were given. In one folder, an item may be called as by ``think``.

    Raises:
        UsageError: none is of an item here.
    """
    if args.thoughts is None:
        return {}
    from ..encoding.shards.given_thoughts import open_thoughts

    found = open_thoughts(args.thoughts)
    lookup = found.of_samples(0, len(names))
    thoughts = [lookup(name) for name in names]
    if len(args.files) == 1 and args.files[0].is_dir():
        folder = f"{args.files[0].as_posix()}/"
        for place, name in enumerate(names):
            if thoughts[place] is None:
                thoughts[place] = lookup(name.removeprefix(folder))
    missing = thoughts.count(None)
    if missing == len(names):
        raise UsageError(f"{args.thoughts} has no thought of these items, of {names[0]!r} for one")
    if missing:
        print(told_thinkers(missing, len(names)), file=sys.stderr)
    return {"thoughts": thoughts, "num_samples": found.num_samples}


def _rows(
    args: argparse.Namespace,
) -> tuple[list[tuple[str, dict[str, Any]]], list[tuple[str, str]], dict[str, int]]:
    """Ids and items of all that was named; ``(file, reason)`` of what can't be read; what folders hold beside it."""
    from ..encoding.inputs.folder import Found, list_files, printable, sample_of

    rows: list[tuple[str, dict[str, Any]]] = []
    failed: list[tuple[str, str]] = []
    left_out: Counter[str] = Counter()
    for given in args.files:
        files = [Found("", given)]
        if given.is_dir():
            listing = list_files(given)
            files = listing.files
            left_out += listing.left_out
        for found in files:
            for row in sample_of(found, printable((given / found.name).as_posix()), limits_of(args)).rows():
                if row.error is None:
                    rows.append((row.id, row.item))
                else:
                    failed.append((row.id, row.error))
    rows.extend((f"text:{number}", {"text": text}) for number, text in enumerate(args.text))
    return rows, failed, dict(left_out.most_common())


def _is_ours(path: Path) -> bool:
    """Whether a file is an npz that this verb wrote."""
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as found:
            manifest = json.loads(str(found["manifest"])) if {"ids", "embeddings"} <= set(found) else None
    except (OSError, ValueError, KeyError, AttributeError, RecursionError, zipfile.BadZipFile):
        return False
    return isinstance(manifest, dict) and isinstance(manifest.get("fingerprint"), dict)
