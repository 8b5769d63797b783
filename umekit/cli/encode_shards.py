"""``umekit encode IN --out DIR --shard-size N --resume``: a million items to parts, by one process or many."""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from .common import (
    UsageError,
    costs_of,
    limits_of,
    opening,
    print_json,
    report_failures,
    report_left_out,
    tell_tiny,
    told_costs,
    told_cuts,
)
from .ranks import devices_of, rank_and_world
from .reasoners import load_encoder

SHOWN = 20  # failed items that are printed
NEEDS_SHARDS = (
    "resume",
    "processes",
    "threads",
    "batch_tokens",
    "probe",
    "format",
    "vectors",
    "input_format",
    "column",
    "split",
)


def load_on(args: argparse.Namespace, device: str | None) -> Any:
    """The encoder of the command line on whatever device a process is given.

    Raises:
        UsageError: something is asked of thoughts, and none would be written or read.
    """
    encoder = load_encoder(argparse.Namespace(**{**vars(args), "device": device}))
    check_thinking(args, encoder)
    return encoder


def check_thinking(args: argparse.Namespace, encoder: Any) -> None:
    """Raise UsageError where thoughts, or how long they may be, are given to what does not think."""
    for name in ("thoughts", "max_new_tokens"):
        if getattr(args, name) is None:
            continue
        if (args.mode or encoder.model.settings.mode) == "discriminative":
            raise UsageError(
                f"--{name.replace('_', '-')} needs a generative checkpoint, and a mode that thinks"
            )


def add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "shards",
        "many items in parts that survive a stop; several machines or GPUs: torchrun --no-python "
        "--nproc-per-node N umekit encode ..., or --device cuda:0,cuda:1; the vectors are the same",
    )
    group.add_argument("--shard-size", type=int, metavar="N", help="files, lines, rows or samples of a part")
    group.add_argument("--resume", action="store_true", help="go on with what --out holds")
    group.add_argument(
        "--format", choices=("npy", "parquet"), help="of the parts (default npy, with ids in JSON)"
    )
    group.add_argument("--vectors", choices=("float32", "float16"), help="numbers on disk (default float32)")
    group.add_argument(
        "--input-format",
        choices=("folder", "jsonl", "parquet", "tar", "dataset"),
        help="of IN (default: told by its files)",
    )
    group.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="KEY=NAME",
        help="column of a table for text, image, video, document, page, instruction, item or id (repeatable)",
    )
    group.add_argument("--split", metavar="NAME", help="of a data set")
    group.add_argument("--processes", type=int, metavar="N", help="processes on --device (default 1)")
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="of a process on a CPU (default 1, or as the run began; another number changes the last digits)",
    )
    group.add_argument(
        "--batch-tokens",
        type=int,
        metavar="N",
        help="padded tokens of a forward (default: by device, or as the run began; likewise)",
    )
    group.add_argument(
        "--probe",
        type=int,
        metavar="N",
        help="before a new run, encode the first N items some ten to thirty times, with several numbers of threads and "
        "tokens, and take the fastest; they are part of the run, as if they had been given (64 is a good N for small "
        "models, 8 for large ones)",
    )


def refuse_without_shards(args: argparse.Namespace) -> None:
    for name in NEEDS_SHARDS:
        given = getattr(args, name)
        if given is not None and given is not False and given != []:  # 0 is given, and equals False
            raise UsageError(f"--{name.replace('_', '-')} needs --shard-size N")


def refuse_sources(args: argparse.Namespace) -> None:
    """Files that hold many items each, and are read in parts."""
    from ..encoding.inputs.opening import format_of_name

    for file in args.files:
        found = format_of_name(file.name)
        if found is not None and file.is_file():
            raise UsageError(f"{file} holds rows ({found}): give --shard-size N, and a folder as --out")


def run_shards(args: argparse.Namespace) -> int:
    rank, world = rank_and_world()
    devices = devices_of(args, rank, world)
    if args.text or not args.files:
        raise UsageError("with --shard-size give a folder, jsonl, parquet, tars or a data set, and no --text")
    for name in ("shard_size", "threads", "batch_tokens", "probe"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    if args.probe and (world > 1 or len(devices) > 1):
        raise UsageError(
            "--probe is for one process: probe there, and give the others --threads and --batch-tokens"
        )
    if args.probe and args.thoughts is not None:
        raise UsageError("--probe writes thoughts of its own: probe without --thoughts, or leave it out")
    if args.out.suffix == ".npz" or args.out.is_file():
        raise UsageError(f"--out is a folder with --shard-size, not {args.out}")
    columns = columns_of(args.column)
    from ..encoding.devices import device_of
    from ..encoding.inputs import open_source
    from ..encoding.shards.files import open_folder
    from ..encoding.shards.given_thoughts import open_thoughts
    from ..encoding.shards.processes import encode_shards_in_processes
    from ..encoding.shards.run import encode_shards
    from ..encoding.storage.contents import stored_model
    from ..processing.cut_texts import cuts_untold

    where = [hub_or_path(file) for file in args.files]
    try:
        source = open_source(
            where, format=args.input_format, columns=columns, split=args.split, limits=limits_of(args)
        )
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from None
    begun = open_folder(args.out) if args.out.is_dir() else None  # refuses files that are not ours
    if not args.resume and world == 1 and begun is not None:
        raise UsageError(f"{args.out} holds a run already; give --resume to go on, or another --out")
    with opening(args.model):
        for device in devices:
            device_of(device)
    thoughts = None if args.thoughts is None else open_thoughts(args.thoughts, source.fingerprint())
    load = partial(load_on, args)
    tell_tiny(args.model, args.files)
    options: dict[str, Any] = {
        "shard_size": args.shard_size,
        "role": args.role or "document",  # as an index encodes what is in it
        "instruction": args.instruction,
        "mode": args.mode,
        "max_new_tokens": args.max_new_tokens,
        "thoughts": thoughts,
        "kappa": args.kappa,
        "budget": args.budget,
        "format": args.format or "npy",
        "dtype": args.vectors or "float32",
        "threads": _threads(args, devices[0]),
        "batch_tokens": args.batch_tokens,
        "model": stored_model(args.model),
        "show_progress": False if args.quiet else None,
    }
    with cuts_untold():  # told below
        if len(devices) > 1:
            report = encode_shards_in_processes(load, source, args.out, devices, **options)
        else:
            encoder = load(devices[0])
            if args.probe and begun is None:
                options |= _probed(encoder, source, args)
            report = encode_shards(encoder, source, args.out, rank=rank, world=world, **options)
    return _tell(args, report, rank, world, source)


def _probed(encoder: Any, source: Any, args: argparse.Namespace) -> dict[str, int | None]:
    """Threads and tokens that are fastest for the first items; what is given is not tried otherwise."""
    from ..encoding.probing import probe, thread_counts

    rows = (row for sample in source.samples() for row in sample.rows() if row.error is None)
    items = [row.item for row in islice(rows, args.probe)]
    try:
        found = probe(
            encoder,
            items,
            threads=[args.threads] if args.threads else thread_counts(),  # one is what a run has by itself
            budgets=None if args.batch_tokens is None else [args.batch_tokens],
            role=args.role or "document",
            instruction=args.instruction,
            mode=args.mode,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not args.quiet:
        print(f"probed with {len(items)} items: {found}", file=sys.stderr)
    return {
        "threads": args.threads or found.threads,
        "batch_tokens": args.batch_tokens or found.batch_tokens,
    }


def _tell(args: argparse.Namespace, report: Any, rank: int, world: int, source: Any) -> int:
    if report.manifest is None:
        share = f"{report.made} parts made, {report.kept} there already"
        print(f"process {rank} of {world}: {share}; another process ends the run", file=sys.stderr)
        return 0
    manifest = report.manifest
    left_out = getattr(source, "left_out", {})  # of an archive, its headers are read for it
    failed = manifest["failed"] + manifest["double_ids"]
    parts = len(manifest["parts"])
    if args.json:
        summary = {"out": str(args.out), "rows": manifest["rows"], "failed": manifest["failed"]}
        summary |= {"truncated": manifest["truncated"]}
        if args.thoughts is not None:
            summary["without_thought"] = manifest["without_thought"]
        summary |= {"double_ids": manifest["double_ids"], "dim": manifest["dim"], "parts": parts}
        print_json(
            summary | {"made": report.made, "kept": report.kept, "left_out": left_out, **costs_of(report)}
        )
    else:
        print(
            f"{args.out}: {manifest['rows']} vectors of {manifest['dim']} numbers in {parts} parts, "
            f"{told_cuts(manifest['truncated'])}{manifest['failed']} not readable; {told_costs(costs_of(report))}"
        )
    if manifest["without_thought"]:
        print(told_thinkers(manifest["without_thought"], manifest["rows"]), file=sys.stderr)
    report_left_out(left_out)
    if manifest["failed"]:
        with (args.out / "errors.jsonl").open(encoding="utf-8") as lines:
            first = [json.loads(line) for line in islice(lines, SHOWN)]
        report_failures([(error["id"], error["reason"]) for error in first])
        print(f"all {manifest['failed']} are in {args.out / 'errors.jsonl'}", file=sys.stderr)
    if manifest["double_ids"]:
        named = ", ".join(manifest["double_ids_named"][:5])
        print(f"{manifest['double_ids']} ids stand in two parts: {named}", file=sys.stderr)
    # To torchrun a code other than 0 is a crash, and it would end the other ranks.
    return 1 if failed and world == 1 else 0


def told_thinkers(count: int, rows: int) -> str:
    """A line for the items that had no thought among those that were given."""
    return f"{count} of {rows} items have no thought there, and think themselves"


def _threads(args: argparse.Namespace, device: str | None) -> int | None:
    """Threads of torch: one on a CPU, so that the output does not depend on how many processes share it."""
    from ..encoding.shards.files import read_run

    if args.threads is not None:
        return int(args.threads)
    if read_run(args.out) is not None:
        return None
    import torch

    on_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    if not on_cpu:
        return None
    cores = os.cpu_count() or 1
    used = args.processes or 1
    if cores > used and "RANK" not in os.environ and not args.quiet and not args.probe:
        print(f"{used} of {cores} cores encode; --processes or --threads take more", file=sys.stderr)
    return 1


def columns_of(pairs: list[str]) -> dict[str, str]:
    columns = {}
    for pair in pairs:
        key, equals, name = pair.partition("=")
        if not equals or not key or not name:
            raise UsageError(f"--column takes KEY=NAME, not {pair!r}")
        columns[key] = name
    return columns


def hub_or_path(file: Path) -> str:
    """``Path`` makes one slash of two."""
    text = file.as_posix()
    return text.replace("hf:/", "hf://", 1) if text.startswith("hf:/") else str(file)
