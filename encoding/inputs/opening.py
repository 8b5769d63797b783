"""Find out what a path holds and open it as a source."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...processing.limits import MediaLimits
from .columns import ALL_COLUMNS, Columns
from .files import kind_of
from .folder import FolderSource, scan
from .lines import JsonlSource
from .sample import InputError, Source
from .tables import DatasetSource, ParquetSource
from .tars import TarSource

FORMATS = ("folder", "jsonl", "parquet", "tar", "dataset")
ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".parquet": "parquet",
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".tar.xz": "tar",
    ".tar.bz2": "tar",
}
HUB = "hf://datasets/"


def open_source(
    where: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    limits: MediaLimits | None = None,
) -> Source:
    """Open what is to be encoded.

    Args:
        where: a folder of media; a jsonl, parquet or tar file, several of one kind, or a folder of them; a folder
            that ``Dataset.save_to_disk`` wrote; or ``hf://datasets/owner/name``.
        format: one of ``FORMATS``; told by the files when None.
        columns: key of an item, ``item`` or ``id`` -> column of a table.
        split: of a data set with several.
        limits: what one file or member of an archive may cost, and the password of PDFs.

    Raises:
        InputError: nothing there that can be encoded, or its kind cannot be told.
        FileNotFoundError: there is no such file or folder.
        ImportError: parquet without pyarrow, or a data set without ``datasets``.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format is {format!r}; use one of {FORMATS}")
    given = [where] if isinstance(where, (str, os.PathLike)) else list(where)
    if not given:
        raise InputError("nothing to read")
    chosen = Columns(dict(columns)) if columns else ALL_COLUMNS
    if len(given) == 1 and str(given[0]).startswith(HUB):
        return _from_hub(str(given[0]).removeprefix(HUB), split, chosen)
    paths = [Path(one) for one in given]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}")
    if len(paths) == 1 and paths[0].is_dir():
        kind = format or kind_of_folder(paths[0])
        if kind == "folder":
            return FolderSource(paths[0], limits)
        if kind == "dataset":
            return _from_disk(paths[0], split, chosen)
        files = tables_in(paths[0]).get(kind, [])
        if not files:
            raise InputError(f"{paths[0]} holds no {kind} file")
    else:
        kind = format or _kind_of_files(paths)
        files = list(zip(_short_names(paths), paths, strict=True))
    if kind == "jsonl":
        return JsonlSource(files, chosen)
    if kind == "parquet":
        return ParquetSource(files, chosen)
    if kind == "tar":
        return TarSource(files, chosen, limits)
    raise InputError(f"{paths[0]} is not a folder")


def kind_of_folder(folder: Path) -> str:
    """One of ``FORMATS``. Pictures, clips and PDFs win over tables; texts (a README of a data set) do not.

    Raises:
        InputError: tables of several kinds, or nothing that can be encoded.
    """
    if (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    ):
        return "dataset"
    tables = set(tables_in(folder))
    if not tables:
        return "folder"
    if any(kind_of(entry.name) not in (None, "text") for entry in scan(folder)):
        return "folder"
    if len(tables) > 1:
        raise InputError(f"{folder} holds files of {' and '.join(sorted(tables))}: name the format")
    return tables.pop()


def format_of_name(name: str) -> str | None:
    """One of ``FORMATS`` that the ending of a file's name says."""
    lower = name.lower()
    return next((kind for ending, kind in ENDINGS.items() if lower.endswith(ending)), None)


def tables_in(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """Names and paths of a folder's jsonl, parquet and tar files, by kind; those of its subfolders are others."""
    found: dict[str, list[tuple[str, Path]]] = {}
    for entry in sorted(scan(folder, recursive=False), key=lambda entry: entry.name):
        kind = format_of_name(entry.name)
        if kind is not None and entry.is_file():
            found.setdefault(kind, []).append((entry.name, folder / entry.name))
    return found


def _kind_of_files(paths: Sequence[Path]) -> str:
    first = format_of_name(paths[0].name)
    for path in paths:
        kind = format_of_name(path.name)
        if kind is None or kind != first or not path.is_file():
            raise InputError(
                f"can't read {path} as a source: give a folder, or jsonl, parquet or tar files of one kind"
            )
    return str(first)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """File names, or whole paths where two have the same name."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError("data sets need the library datasets: pip install umekit[scale]") from None
    return datasets


def _from_disk(folder: Path, split: str | None, columns: Columns) -> Source:
    """A saved data set; its data files may not be links or lie elsewhere."""
    part = folder
    if (folder / "dataset_dict.json").is_file():
        splits = _read_json(folder / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
            raise InputError(f"{folder / 'dataset_dict.json'} lists no splits")
        if split is None and len(splits) == 1:
            split = splits[0]
        if split not in splits or Path(str(split)).name != split:
            raise InputError(f"{folder} has the splits {', '.join(splits)}: name one")
        part = folder / str(split)
    listed = _read_json(part / "state.json").get("_data_files")
    for entry in listed if isinstance(listed, list) else [None]:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).name != name or (part / name).is_symlink():
            raise InputError(f"{part / 'state.json'} names data files outside of its folder")
    dataset = _datasets().load_from_disk(os.fspath(part))
    return DatasetSource(dataset, folder.resolve().name, columns, part)


def _from_hub(name: str, split: str | None, columns: Columns) -> Source:
    dataset = _datasets().load_dataset(name, split=split or "train")
    return DatasetSource(dataset, name, columns)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not an object of JSON")
    return found
