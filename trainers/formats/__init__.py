"""Training data as others publish it -> rows of the trainers, read one by one and only when asked for.

Every reader returns a map-style data set of rows (``query``, ``positive``, ``negatives`` ...). Media stay paths or
bytes until the processor opens them. Files are not trusted: nothing is unpickled, no path leads out of its root, and an
error names file and row.
"""

from __future__ import annotations

from ...encoding.inputs.json_records import FormatError
from ...encoding.inputs.mbeir import format_string
from ...encoding.inputs.media_root import MediaRoot
from .mbeir import read_mbeir
from .mmeb import read_mmeb
from .own import read_rows
from .pairs import read_pairs
from .records import FormatRows, Records, open_records
from .ume_r1 import read_ume_r1

__all__ = [
    "FormatError",
    "FormatRows",
    "MediaRoot",
    "Records",
    "format_string",
    "open_records",
    "read_mbeir",
    "read_mmeb",
    "read_pairs",
    "read_rows",
    "read_ume_r1",
]
