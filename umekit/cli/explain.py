"""``umekit explain ITEM``: what the model really sees of an item, and which tokens carry the embedding."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..processing.prompts import ROLES
from .common import (
    UsageError,
    add_item_arguments,
    add_model_arguments,
    item_from,
    limits_of,
    load_encoder,
    print_json,
    print_table,
)

SLOTS = {0: "", 1: "direct", 2: "generated"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="show the rendered text, tokens, pooling slots, grids and pixels of an item",
        description="Show what the model sees of an item. ITEM is a text, or the path of a file that exists.",
    )
    parser.add_argument("item", nargs="?", metavar="ITEM", help="a text, or an existing file")
    parser.add_argument("--text", metavar="TEXT", help="a text, even where a file has that name")
    parser.add_argument("--role", choices=ROLES, help="which side of a search the item is on")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    add_item_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    item = _item(args)
    mode = {"mode": args.mode} if args.mode else {}
    facts: dict[str, Any] = load_encoder(args).processor.explain(item, role=args.role, **mode)
    facts = {name: _plain(value) for name, value in facts.items()}
    if args.json:
        print_json({"item": item, **facts})
        return 0
    print("item:", item)
    print("\nrendered text:\n" + facts["text"])
    print(f"\n{facts['length']} tokens (a run of equal ones is one line)")
    print_table(("at", "count", "id", "token", "embedding slot"), _runs(facts), indent="  ")
    if facts["media"]:
        names = list(facts["media"][0])
        print("\nmedia")
        print_table(names, [[row.get(name) for name in names] for row in facts["media"]], indent="  ")
    return 0


def _item(args: argparse.Namespace) -> dict[str, Any]:
    from ..encoding.inputs.files import file_items, kind_of

    if args.item is not None and args.text is not None:
        raise UsageError("give the text once: as ITEM or as --text")
    file = (
        Path(args.item)
        if args.item is not None and len(args.item) < 1024 and "\x00" not in args.item
        else None
    )
    if file is not None and kind_of(file) is not None and file.is_file():
        item = file_items(file, limits_of(args))[0][1]
        if args.page is not None and "document" in item:
            item["page"] = args.page
        return item | ({"instruction": args.instruction} if args.instruction else {})
    return item_from(args, args.text if args.item is None else args.item)


def _runs(facts: dict[str, Any]) -> list[tuple[int, int, int, str, str]]:
    """Tokens as rows; a run of the same id and slot (vision tokens) is one row."""
    rows: list[tuple[int, int, int, str, str]] = []
    triples = zip(facts["input_ids"], facts["tokens"], facts["pooling_slots"], strict=True)
    for position, (number, token, slot) in enumerate(triples):
        name = SLOTS.get(slot, str(slot))
        if rows and (rows[-1][2], rows[-1][4]) == (number, name):
            rows[-1] = (rows[-1][0], rows[-1][1] + 1, *rows[-1][2:])
        else:
            rows.append((position, 1, number, token, name))
    return rows


def _plain(value: Any) -> Any:
    """Tensors, arrays and tuples as plain lists, for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
