"""Embed a parquet or jsonl file on a Ray cluster: one copy of the model per worker, bad rows kept with their reason.

    pip install umekit[ray]
    python -m umekit.examples.ray_encode rows.jsonl --out vectors --column text --workers 2

Without a cluster's address Ray starts a local one. The output is a folder of parquet files with the columns of the
input, ``id``, ``embedding`` and ``embedding_error``. For runs that must survive a stop with equal bytes, take
``umekit encode --shard-size``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from umekit.encoding.encode_rows import EncodeRows


class KeepColumns:
    """Ray replaces a batch by what it gets back, so the input's own columns are put in again."""

    def __init__(self, encode: EncodeRows) -> None:
        self.encode = encode

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, **self.encode(batch)}


def embed(
    dataset: Any, encode: EncodeRows, *, workers: int = 1, batch_size: int = 64, gpus: float = 0
) -> Any:
    """A ``ray.data.Dataset`` with the columns ``id``, ``embedding`` and ``embedding_error``.

    Args:
        dataset: a ``ray.data.Dataset`` of items.
        encode: how to embed its rows.
        workers: actors, each with the model loaded once.
        batch_size: rows that the encoder is given at a time.
        gpus: of a worker.
    """
    import ray

    return dataset.map_batches(
        KeepColumns,
        fn_constructor_args=(encode,),
        batch_size=batch_size,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=gpus,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="embed the rows of a file with Ray Data")
    parser.add_argument("source", type=Path, help="a .parquet or .jsonl file")
    parser.add_argument("--out", type=Path, required=True, help="folder for parquet files")
    parser.add_argument("--model", help="default: ume-tiny")
    parser.add_argument("--column", help="column of whole items (default: columns text, image ...)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="of a worker")
    parser.add_argument("--address", help="of a running cluster (default: a local one)")
    args = parser.parse_args()
    import ray

    ray.init(address=args.address)
    path = str(args.source.resolve())
    dataset = (
        ray.data.read_parquet(path)
        if args.source.suffix == ".parquet"
        else ray.data.read_json(path, lines=True)
    )
    # Paths in rows are relative to the file's folder and cannot lead out of it.
    encode = EncodeRows(args.model, column=args.column, media_root=args.source.resolve().parent)
    embed(dataset, encode, workers=args.workers, gpus=args.gpus).write_parquet(str(args.out.resolve()))


if __name__ == "__main__":
    main()
