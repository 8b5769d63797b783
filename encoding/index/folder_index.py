"""A folder of photos, clips, PDFs and texts -> rows of an index, again and again.

A second run encodes only what is new or changed (size and time first, then the hash of the content), and
rows of deleted files leave. A file that can't be read is reported with its reason and has no row: neither
a NaN nor the vector of its former content.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ...processing.cut_texts import tell_cuts
from ...processing.limits import MediaLimits
from ..fingerprint import IndexMismatchError
from ..inputs.files import UnreadableFileError, check_regular, file_items
from ..inputs.folder import Found, list_files
from ..inputs.sample import CHUNK_BYTES, CHUNK_ROWS, Row, bytes_of, reason_of
from ..row_encoding import RowEncoder, VectorMaker
from ..storage.contents import file_sha256
from .exact import Index
from .manifest import MANIFEST, METADATA, IndexFormatError

DEFAULT_FOLDER = ".umekit-index"
SAVE_SECONDS = 120.0  # a long run is written this often, so that a kill costs little
SAVE_SHARE = 10.0  # but a large index takes long to write: the time between is this many times as long
KNOWN = {
    "path": str,
    "sha256": str,
    "rows": int,
    "size": int,
    "mtime_ns": int,
    "read_ns": int,
}  # what a row says
RACY_NS = 2_000_000_000  # a file touched this shortly before we read it may change without a new time stamp


@dataclass
class IndexReport:
    """What a run of ``index_folder`` did; files are relative POSIX paths."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    left_out: dict[str, int] = field(default_factory=dict)  # files of other kinds, counted by ending
    rows: int = 0
    seconds: float = 0.0
    truncated: int = 0  # rows of this run whose text was cut at the limit of tokens
    encoded: int = 0  # rows of this run
    reasoned: int = 0  # of these, thought about
    thought_tokens: int = 0  # of these thoughts


@dataclass(frozen=True)
class _Row(Row):
    metadata: dict[str, Any] = field(default_factory=dict)


def index_folder(
    encoder: VectorMaker,
    path: str | os.PathLike[str],
    index_folder: str | os.PathLike[str] | None = None,
    *,
    recursive: bool = True,
    on_error: str = "skip",
    settings: dict[str, Any] | None = None,
    rebuild: bool = False,
    show_progress: bool | None = None,
    encode_options: dict[str, Any] | None = None,
    limits: MediaLimits | None = None,
) -> tuple[Index, IndexReport]:
    """Bring the index of a folder up to date, and save it.

    Args:
        encoder: makes the vectors, with the role ``document``.
        path: the folder; images, videos, PDFs and TIFFs (a row per page) and texts in it are indexed.
        index_folder: where the index lies; default ``<path>/.umekit-index``.
        recursive: go into subfolders (hidden ones are left out).
        on_error: ``skip`` reports unreadable files; ``raise`` stops at the first, and the old index stays.
        settings: kept in the manifest; an index with other settings is refused.
        rebuild: forget what is there and start anew.
        show_progress: a progress bar; None shows it on a terminal.
        encode_options: passed to ``encoder.encode`` (mode, instruction, ...).
        limits: what one file may cost, as the encoder's processor has them.

    Raises:
        NotADirectoryError: ``path`` is not a folder.
        IndexFormatError: the index there is damaged. IndexMismatchError: another model or settings made it.
    """
    if on_error not in ("skip", "raise"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'skip' or 'raise'")
    root = Path(path)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    started = time.monotonic()
    target = Path(index_folder) if index_folder is not None else root / DEFAULT_FOLDER
    index = _open(target, encoder, settings or {}, rebuild)
    report = IndexReport()
    update = _Update(index, encoder, target, report, encode_options or {}, on_error, limits or MediaLimits())
    listing = list_files(root, recursive=recursive, skip=target.resolve())
    report.left_out = dict(listing.left_out.most_common())
    hidden = None if show_progress is None else not show_progress
    update.drop_missing({found.name for found in listing.files})
    for found in tqdm(listing.files, desc="index", unit="file", disable=hidden):
        update.visit(found)
    update.flush()
    if on_error == "raise" and report.failed:
        raise UnreadableFileError("{}: {}".format(*report.failed[0]))
    index.save(target)
    report.rows = len(index)
    report.seconds = time.monotonic() - started
    tell_cuts(report.truncated, str(root))
    return index, report


def _open(target: Path, encoder: VectorMaker, settings: dict[str, Any], rebuild: bool) -> Index:
    fingerprint = encoder.fingerprint()
    if rebuild or not (target / MANIFEST).exists():
        return Index(encoder.dim, fingerprint, settings)
    index = Index.load(target, fingerprint)
    for name in sorted({*settings, *index.settings} - {"model"}, key=lambda name: (name != "mode", name)):
        if settings.get(name) != index.settings.get(name):
            raise IndexMismatchError(
                f"{target} was made with {name} {index.settings.get(name)!r}, not {settings.get(name)!r}; "
                "use the same, or index anew (--rebuild)"
            )
    index.settings = dict(settings)
    for row, metadata in zip(index.ids, index.metadata, strict=True):
        for name in KNOWN.keys() & metadata.keys():
            value, kind = metadata[name], KNOWN[name]
            if not isinstance(value, kind) or isinstance(value, bool):
                told = f"that {name} is {value!r:.80}, no {kind.__name__}"
                raise IndexFormatError(f"{target}: {METADATA} says of {row!r:.80} {told}")
    return index


class _Update:
    """One pass over a folder: which files changed, rows to be encoded, vectors to be added."""

    def __init__(
        self,
        index: Index,
        encoder: VectorMaker,
        target: Path,
        report: IndexReport,
        options: dict[str, Any],
        on_error: str,
        limits: MediaLimits,
    ) -> None:
        self.limits = limits
        self.index, self.target, self.report, self.on_error = index, target, report, on_error
        self.encoder = RowEncoder(encoder, **{"role": "document", **options})
        self.rows_of: dict[str, list[str]] = {}
        self.meta_of: dict[str, list[dict[str, Any]]] = {}
        for name, metadata in zip(index.ids, index.metadata, strict=True):
            self.rows_of.setdefault(str(metadata.get("path", name)), []).append(name)
            self.meta_of.setdefault(str(metadata.get("path", name)), []).append(metadata)
        self.waiting: list[_Row] = []
        self.held = 0  # bytes of what waits
        self.done: list[tuple[_Row, Any]] = []  # a row and its vector [d]
        self.stale: list[str] = []  # ids that leave
        self.saved, self.saving = time.monotonic(), 0.0

    def drop_missing(self, present: set[str]) -> None:
        for relative in sorted(set(self.rows_of) - present):
            self.stale.extend(self.rows_of[relative])
            self.report.removed.append(relative)

    def visit(self, found: Found) -> None:
        """Keep, replace or add the rows of one file."""
        relative, file = found.name, found.path
        known = self.meta_of.get(relative, [])
        try:
            if found.error is not None:
                raise UnreadableFileError(found.error)
            status = file.stat()
            facts: dict[str, Any] = {
                "size": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "read_ns": time.time_ns(),
            }
            complete = bool(known) and all(row.get("rows") == len(known) for row in known)
            if complete and all(_same_time(row, facts) for row in known):
                self.report.unchanged += 1
                return
            check_regular(status, self.limits)
            facts["sha256"] = file_sha256(file)
            if complete and all(row.get("sha256") == facts["sha256"] for row in known):
                for row in known:
                    row.update(facts)
                self.report.unchanged += 1
                return
            self.stale.extend(self.rows_of.get(relative, []))
            items = file_items(file, self.limits)
            for suffix, item, extra in items:
                metadata = {"path": relative, **extra, **facts, "rows": len(items)}
                self.waiting.append(_Row(relative + suffix, item, metadata=metadata))
                self.held += bytes_of(item)
            (self.report.updated if known else self.report.added).append(relative)
        except (OSError, ValueError, ImportError) as error:
            self.stale.extend(self.rows_of.get(relative, []))
            self._fail(relative, reason_of(error), error)
        if len(self.waiting) >= CHUNK_ROWS or self.held >= CHUNK_BYTES:
            self._encode()
        if (
            time.monotonic() - self.saved > max(SAVE_SECONDS, SAVE_SHARE * self.saving)
            and self.on_error == "skip"
        ):
            self.flush()
            began = time.monotonic()
            self.index.save(self.target)
            self.saved = time.monotonic()
            self.saving = self.saved - began

    def _fail(self, name: str, reason: str, error: BaseException | None = None) -> None:
        if self.on_error == "raise":
            raise UnreadableFileError(f"{name}: {reason}") from error
        self.report.failed.append((name, reason))

    def _encode(self) -> None:
        rows, self.waiting, self.held = self.waiting, [], 0
        if not rows:
            return
        encoded = self.encoder.encode(rows)
        self.report.truncated += len(encoded.truncated)
        self.report.encoded += len(rows)
        self.report.reasoned += encoded.reasoned
        self.report.thought_tokens += encoded.thought_tokens
        for place, row in enumerate(rows):
            if place in encoded.reasons:
                self._fail(row.id, encoded.reasons[place])
            else:
                self.done.append((row, encoded.vectors[place]))

    def flush(self) -> None:
        """Encode what waits, then take stale rows out of the index and put new ones in."""
        self._encode()
        self.index.remove(self.stale)
        if self.done:
            rows = [row for row, _ in self.done]
            vectors = np.stack([vector for _, vector in self.done])
            self.index.add([row.id for row in rows], vectors, [row.metadata for row in rows])
        self.stale, self.done = [], []
        failed = _files_of(name for name, _ in self.report.failed)
        held = _files_of(self.index.ids)
        gone = failed - held
        self.report.added = [file for file in self.report.added if file not in gone]
        self.report.updated = [file for file in self.report.updated if file not in gone]


def _files_of(names: Iterable[str]) -> set[str]:
    return {name.split("#page=")[0] for name in names}


def _same_time(row: dict[str, Any], facts: dict[str, Any]) -> bool:
    settled = row.get("read_ns", 0) - row.get("mtime_ns", 0) > RACY_NS
    return settled and row.get("size") == facts["size"] and row.get("mtime_ns") == facts["mtime_ns"]
