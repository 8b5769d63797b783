"""Items by the million: a folder, jsonl, parquet, webdataset tars or a ``datasets`` folder, read lazily.

What is read was written by others. Rows and archives cannot name files outside their root, members of an archive
stay in memory and never become files, and nothing is unpickled. A row that cannot be read keeps its place and its
id, so that the shards of two runs hold the same rows.
"""

from __future__ import annotations

from .columns import OutsideRootError
from .opening import FORMATS, open_source
from .sample import InputError, Row, Sample, Source

__all__ = ["FORMATS", "InputError", "OutsideRootError", "Row", "Sample", "Source", "open_source"]
