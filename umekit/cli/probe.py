"""``umekit probe --model CHECKPOINT --out DIR``: a linear probe that decides what a checkpoint thinks about."""

from __future__ import annotations

import argparse
from pathlib import Path

from .benchmarks.thoughts import asked_questions
from .common import UsageError, add_model_arguments, load_encoder, positive, print_folder


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "probe",
        help="fit a linear probe that decides what is thought about, and save the checkpoint with it",
        description="Embed queries at once and after a thought, see where a thought turned a miss into a hit, and fit "
        "a logistic regression of that on the states of their prompts. Makes an adaptive checkpoint of any that "
        "thinks, without training it. Fit it on other questions than it is judged by: DigitWorld's validation split "
        "is the default, umekit evaluate curve takes the test split.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the folder to write; new or empty"
    )
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="your own rows (query, positive), not DigitWorld"
    )
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="of DigitWorld (default: walk and others)")
    parser.add_argument("--queries", type=positive, metavar="N", help="of a task (default 500)")
    parser.add_argument("--size", type=positive, metavar="N", help="candidates of a pool (default 400)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the world (default 0)")
    parser.add_argument(
        "--split", choices=("validation", "train", "test"), default="validation", help="default validation"
    )
    parser.add_argument(
        "--kappa", type=float, default=0.5, metavar="K", help="of the saved checkpoint (default 0.5)"
    )
    parser.add_argument("--penalty", type=float, default=1.0, metavar="P", help="of the weights (default 1)")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ..evaluation.curve import fit_on

    if args.out.is_file() or (args.out.is_dir() and any(args.out.iterdir())):
        raise UsageError(f"--out: {args.out} is there already; name a new or empty folder")
    try:
        questions, _ = asked_questions(args)
        encoder = load_encoder(args, role="adaptive")
        options = {} if args.max_new_tokens is None else {"max_new_tokens": args.max_new_tokens}
        probe = fit_on(encoder, questions, {"mode": "generative", **options}, penalty=args.penalty)
        encoder.model.set_probe(probe, args.kappa)
    except ValueError as error:
        raise UsageError(str(error)) from None
    encoder.model.save_pretrained(args.out)
    encoder.processor.save_pretrained(args.out)
    print_folder(args.out, args.json)
    return 0
