"""Result files: a report of any benchmark, written in one step and checked when it is read."""

from __future__ import annotations

import json
from pathlib import Path

from ..encoding.storage.atomic import write_atomically
from ..encoding.storage.contents import read_object
from .benchmarks.definition import BENCHMARKS
from .benchmarks.report import BenchmarkReport
from .calibration_report import BENCHMARK as CALIBRATION
from .calibration_report import CalibrationReport
from .curve_report import BENCHMARK as CURVE
from .curve_report import CurveReport
from .digit_world.report import BENCHMARK, DigitWorldReport
from .mteb_report import MtebReport
from .report import KIND, SCHEMA, Report
from .score import ResultFormatError
from .thought_report import BENCHMARK as THOUGHTS
from .thought_report import ThoughtReport

# Benchmarks that report more than scores.
EXTENSIONS: dict[str, type[Report]] = {
    BENCHMARK: DigitWorldReport,
    THOUGHTS: ThoughtReport,
    CALIBRATION: CalibrationReport,
    CURVE: CurveReport,
    **dict.fromkeys(BENCHMARKS, BenchmarkReport),
}


def save_report(report: Report, path: Path) -> None:
    """Write the result file in one step of the file system."""
    write_atomically(path, (json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n").encode())


def load_report(path: Path) -> Report:
    """Raises ResultFormatError: not JSON, or not a result file that can be trusted."""
    block = read_object(path, ResultFormatError)
    try:
        if not isinstance(block, dict) or block.get("kind") != KIND:
            raise ResultFormatError("this is not a result file of umekit")
        if block.get("schema") != SCHEMA:
            raise ResultFormatError(f"result schema {block.get('schema')!r}; this umekit reads {SCHEMA}")
        return _class_of(str(block.get("benchmark"))).from_dict(block)
    except ResultFormatError as error:
        raise ResultFormatError(f"{path}: {error}") from None


def _class_of(benchmark: str) -> type[Report]:
    return MtebReport if benchmark.startswith("mteb:") else EXTENSIONS.get(benchmark, Report)
