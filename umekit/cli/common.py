"""What the verbs share: model arguments, item arguments, tables and JSON. Imports nothing heavy."""

from __future__ import annotations

import argparse
import errno
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..processing.prompts import MODES

KERNELS = ("sdpa", "eager", "flash_attention_2", "packed_sdpa")


class UsageError(Exception):
    """The call can't be carried out as it stands; exit code 2."""


def add_model_arguments(parser: argparse.ArgumentParser, *, embedder: bool = True) -> None:
    """Which checkpoint, where and how; ``embedder=False`` for rerankers."""
    group = parser.add_argument_group("model")
    default = "the packaged ume-tiny" if embedder else "ume-tiny's packaged reranker"
    group.add_argument("--model", metavar="PATH", help=f"checkpoint folder or Hub id (default: {default})")
    group.add_argument("--preset", help="name of a published system, for checkpoints without our settings")
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: what is there)")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: by device")
    group.add_argument(
        "--attention",
        choices=KERNELS,
        help="kernel (default: sdpa, and packed_sdpa on a CPU); the last two compute no padding where no thought is "
        "written",
    )
    if embedder:
        group.add_argument(
            "--compile",
            action="store_const",
            const=True,
            help="torch.compile the layers of a discriminative checkpoint: slow to begin, for long runs",
        )
        group.add_argument("--mode", choices=MODES, help="how to embed (default: the checkpoint's)")
    group.add_argument(
        "--max-new-tokens", type=positive, metavar="N", help="most tokens of a thought, for modes that think"
    )


def add_adaptive_arguments(parser: argparse.ArgumentParser) -> None:
    """What an adaptive checkpoint thinks about."""
    group = parser.add_argument_group("adaptive mode", "for checkpoints that decide what they think about")
    group.add_argument(
        "--kappa",
        type=float,
        metavar="K",
        help="think where p(reason) is over it: 0 nearly always, 1 never (default: the checkpoint's)",
    )
    group.add_argument(
        "--budget", type=float, metavar="N", help="instead: average thought tokens an item, met as it goes"
    )


def positive(text: str) -> int:
    """An argument that is a whole number from 1 on."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return number


def add_password_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--password", metavar="TEXT", help="opens PDFs that are encrypted; it is saved nowhere"
    )


def add_item_arguments(parser: argparse.ArgumentParser) -> None:
    """Media and instruction of one item; the text is the verb's own positional."""
    group = parser.add_argument_group("item", "text and media may be combined; the media come first")
    group.add_argument(
        "--image", type=Path, action="append", metavar="FILE", help="an image (several are allowed)"
    )
    group.add_argument("--video", type=Path, metavar="FILE", help="a video clip")
    group.add_argument("--document", type=Path, metavar="FILE", help="a PDF, of which one page is taken")
    group.add_argument("--page", type=int, metavar="N", help="page of --document, from 1 (default 1)")
    group.add_argument("--instruction", metavar="TEXT", help="what to look for (default: the checkpoint's)")
    add_password_argument(group)


def item_from(args: argparse.Namespace, text: str | None) -> dict[str, Any]:
    """The item that the arguments describe.

    Raises:
        UsageError: nothing given, an empty text, a file that is not there, or --page without --document.
    """
    item: dict[str, Any] = {}
    images = args.image or []
    for file in (*images, args.video, args.document):
        if file is not None and not file.is_file():
            raise UsageError(f"{file}: there is no such file")
    if len(images) == 1:
        item["image"] = str(images[0])
    elif images:
        item["images"] = [str(file) for file in images]
    if args.video is not None:
        item["video"] = str(args.video)
    if args.page is not None and args.document is None:
        raise UsageError("--page needs --document")
    if args.page is not None and args.page < 1:
        raise UsageError(f"--page is {args.page}; pages count from 1")
    if args.document is not None:
        item["document"] = str(args.document)
        item["page"] = args.page or 1
    if text is not None:
        if not text.strip():
            raise UsageError("the text is empty")
        item["text"] = text
    if not item:
        raise UsageError("nothing to embed: give a text, --image, --video or --document")
    if args.instruction is not None:
        item["instruction"] = args.instruction
    return item


def load_encoder(args: argparse.Namespace, model: str | None = None, **options: Any) -> Any:
    """The encoder of the model arguments; ``model`` is used where --model was not given, options go to ``load``.

    Raises:
        UsageError: the checkpoint is a reranker, which has no vectors.
    """
    encoder = _load(args, args.model or model, loading_options(args) | options)
    if not hasattr(encoder, "encode"):
        raise UsageError(f"{args.model or model} is a reranker: it scores pairs and has no vectors")
    return encoder


def load_reranker(
    args: argparse.Namespace, model: str | None, preset: str | None, revision: str | None = None
) -> Any:
    """A reranker, where and how the model arguments say; ume-tiny's where none is named.

    Raises:
        UsageError: the checkpoint is an embedder, which cannot score pairs.
    """
    from ..encoding.packaged import RERANKER

    model = model or RERANKER
    options = {**loading_options(args), "preset": preset, "revision": revision}
    options["compile"] = None  # which is for embedders
    reranker = _load(args, model, {name: value for name, value in options.items() if value is not None})
    if not hasattr(reranker, "rerank"):
        raise UsageError(
            reranker.why_no_scores or f"{model} is an embedder: it has vectors and scores no pairs"
        )
    return reranker


def _load(args: argparse.Namespace, model: str | None, options: Mapping[str, Any]) -> Any:
    """``umekit.load``, for which :func:`opening` answers; its processor opens PDFs with the password that was given."""
    import umekit

    with opening(model):
        loaded = umekit.load(model, **options)
    password = getattr(args, "password", None)
    if password is not None:
        loaded.processor.limits = replace(loaded.processor.limits, document_password=password)
    return loaded


def loading_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``umekit.load`` that were given."""
    names = {"preset": "preset", "device": "device", "dtype": "dtype"}
    names |= {"attention": "attn_implementation", "compile": "compile"}
    return {
        option: value for name, option in names.items() if (value := getattr(args, name, None)) is not None
    }


def limits_of(args: argparse.Namespace) -> Any:
    """What a file may cost, with the password that was given."""
    from ..processing.limits import MediaLimits

    return MediaLimits(document_password=getattr(args, "password", None))


@contextmanager
def opening(model: str | None) -> Iterator[None]:
    """Whatever keeps a model from being opened is a wrong call, in one line; a full disk or memory is none.

    Raises:
        UsageError: no such model, preset, device or role, or files that do not fit together.
    """
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(error, UsageError | MemoryError) or "out of memory" in said.lower():
            raise
        name = model or "ume-tiny"
        if "not a valid model identifier" in said:
            said = f"there is no such folder here, and no such model on the Hub{_offline()}"
        elif not isinstance(error, ValueError | OSError | ImportError | RuntimeError):
            said = f"{type(error).__name__}: {said}"
        raise UsageError(said if name in said else f"{name}: {said}") from error


def _offline() -> str:
    import os

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    return " (HF_HUB_OFFLINE is set, so only what is in the cache was looked at)" if offline else ""


DEMO_SHEET = "contact-sheet.html"  # what umekit demo writes
TINY = (
    "ume-tiny knows only DigitWorld (coloured handwritten digits), so its results here mean nothing; for your own "
    "files give --model Qwen/Qwen3-VL-Embedding-2B (a download of 4.3 GB), or any other"
)


def tell_tiny(model: str | None, paths: Sequence[Path]) -> None:
    """One line on stderr where no model was named, unless all that is looked at is the demo's."""
    if model is None and not (paths and all(_is_of_demo(path) for path in paths)):
        print(TINY, file=sys.stderr)


def _is_of_demo(path: Path) -> bool:
    """Whether a file or folder lies in what a demo wrote: its sheet is beside it, or further up."""
    place = path.resolve()
    for folder in (place, *place.parents):
        if (folder / DEMO_SHEET).is_file():
            from ..demo.contact_sheet import is_contact_sheet

            return is_contact_sheet(folder / DEMO_SHEET)
    return False


def mode_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("mode", "max_new_tokens", "kappa", "budget")
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def check_adaptive(args: argparse.Namespace, encoder: Any) -> None:
    """Raise UsageError where --kappa and --budget mean nothing, before anything is read for hours."""
    from ..modeling.encode_loop import EncodeOptions

    if args.kappa is None and args.budget is None:
        return
    try:
        EncodeOptions.of(encoder.model, mode=args.mode, kappa=args.kappa, budget=args.budget)
    except ValueError as error:
        raise UsageError(str(error)) from None


def costs_of(encoded: Any) -> dict[str, float]:
    """Of the details of a call: share of the items that were thought about, thought tokens and seconds of an item."""
    return {
        "invocation_ratio": round(encoded.invocation_ratio, 4),
        "tokens_per_item": round(encoded.tokens_per_item, 2),
        "seconds_per_item": round(encoded.seconds_per_item, 5),
    }


def told_costs(costs: Mapping[str, float]) -> str:
    """The same in words."""
    return (
        f"{costs['invocation_ratio']:.0%} thought about, {costs['tokens_per_item']:.1f} thought tokens and "
        f"{costs['seconds_per_item']:.4f} s an item"
    )


def told_thought(encoded: Any, place: int = 0) -> dict[str, Any]:
    """The thought of an item's vector: text, tokens, and whether it was cut at its limit; nothing without one."""
    score = encoded.reason_scores[place] if getattr(encoded, "reason_scores", None) else None
    decided = {} if score is None else {"p_reason": round(score, 4), "mode": encoded.modes[place]}
    if encoded.thoughts[place] is None:
        return decided
    tokens, forced = encoded.thought_tokens[place], encoded.forced[place]
    return {"thought": encoded.thoughts[place], "thought_tokens": tokens, "forced": forced, **decided}


def shown_thought(told: Mapping[str, Any]) -> str:
    """The same in a line; empty without a thought."""
    if "thought" not in told:
        return f"embedded at once: p(reason) is {told['p_reason']:.2f}" if "p_reason" in told else ""
    cut = ", cut at its limit" if told["forced"] else ""
    return f"thought ({told['thought_tokens']} tokens{cut}): {_cell(told['thought'])}"


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def print_folder(folder: Path, as_json: bool) -> None:
    """What was written into a folder."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if as_json:
        print_json({"out": str(folder), "files": files})
    else:
        print(f"{folder}: {len(files)} files")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], indent: str = "") -> None:
    """Columns as wide as their widest cell; numbers to the right. Control characters are made visible."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(headers), *cells]) for column in range(len(headers))]
    right = [any(isinstance(row[column], int | float) for row in rows) for column in range(len(headers))]
    for row in [list(headers), ["-" * width for width in widths], *cells]:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        print((indent + "  ".join(padded)).rstrip())


def _cell(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def report_failures(failures: Sequence[tuple[str, str]], limit: int = 20) -> None:
    """One line on stderr for each file that could not be read."""
    for name, reason in failures[:limit]:
        print(f"could not read {_cell(name)}: {_cell(reason)}", file=sys.stderr)
    if len(failures) > limit:
        print(f"... and {len(failures) - limit} more", file=sys.stderr)


def told_cuts(count: int) -> str:
    """Of a printed line: how many texts were cut at the model's limit of tokens; nothing where none was."""
    return f"{count} cut at the model's limit of tokens, " if count else ""


def report_left_out(left_out: Mapping[str, int]) -> None:
    """One line on stderr for the files that are of no kind that is read."""
    from ..encoding.inputs.folder import counted

    if left_out:
        print(f"left out: {_cell(counted(left_out))}", file=sys.stderr)
