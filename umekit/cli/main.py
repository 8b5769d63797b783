"""``umekit <verb>``: finds the verb's file, runs it, and turns errors into one line and an exit code.

0 is success, 1 a failure (some files could not be read, a check did not hold), 2 a wrong call or unusable
input. ``UMEKIT_DEBUG=1`` shows the traceback. Nothing here imports torch: a verb does so when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .._version import __version__
from .common import UsageError

# One file per verb in this folder, with ``add_parser(subparsers)`` and ``run(args) -> int``.
VERBS: tuple[str, ...] = (
    "demo",
    "index",
    "search",
    "rerank",
    "encode",
    "think",
    "explain",
    "train",
    "evaluate",
    "mine",
    "score",
    "tune",
    "probe",
    "select",
    "soup",
    "merge",
    "export",
    "verify",
    "card",
    "doctor",
)

FAILED, UNUSABLE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


class _Parser(argparse.ArgumentParser):
    """argparse, but a usage error is one line and a pointer to the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(UNUSABLE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser(verbs: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """The parser of the given verbs; only their files are imported."""
    parser = _Parser(
        prog="umekit",
        description="Universal multimodal embeddings of text, images, video and documents.",
        epilog="Exit codes: 0 ok, 1 failed (e.g. some files could not be read), 2 wrong usage or input.",
    )
    parser.add_argument("--version", action="version", version=f"umekit {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for verb in verbs:
        module = importlib.import_module(f".{verb}", __package__)
        module.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # of any encoding: what it lacks is written out, and ends nothing
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not sys.stderr.isatty():  # a log or a pipe wants no bars of the libraries below us
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    wanted = (arguments[0],) if arguments and arguments[0] in VERBS else VERBS
    args = build_parser(wanted).parse_args(arguments)
    module = importlib.import_module(f".{args.verb}", __package__)
    try:
        code = int(module.run(args))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"umekit {args.verb}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left, e.g. `| head`
        return BROKEN_PIPE
    except Exception as error:
        if os.environ.get("UMEKIT_DEBUG", "") not in ("", "0"):
            raise
        print(f"umekit {args.verb}: error: {_one_line(error)}", file=sys.stderr)
        return UNUSABLE if _is_unusable_input(error) else FAILED


def _is_unusable_input(error: Exception) -> bool:
    """Whether the caller can mend it by another call. Errors are told by name: no room is imported for it."""
    named = {"IndexFormatError", "IndexMismatchError", "UnreadableFileError"}
    named |= {"CascadeFormatError", "CascadeMismatchError"}
    kinds = (UsageError, FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
    return isinstance(error, kinds) or any(kind.__name__ in named for kind in type(error).__mro__)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, UsageError | ValueError | OSError | ImportError | RuntimeError):
        return text
    return f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())
