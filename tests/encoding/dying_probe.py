"""A sharded run one of whose two processes is killed at every start: python dying_probe.py SOURCE OUT MARKS."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from shard_probe import ProbeEncoder


class Dies:
    """Device to encoder; a process of the device ``second`` leaves a mark and is killed."""

    def __init__(self, marks: str) -> None:
        self.marks = marks

    def __call__(self, device: str | None) -> ProbeEncoder:
        if device == "second":
            Path(self.marks, str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return ProbeEncoder()


def main(source: str, out: str, marks: str) -> None:
    from umekit.encoding.inputs import open_source
    from umekit.encoding.shards.processes import ShardProcessError, encode_shards_in_processes

    try:
        encode_shards_in_processes(
            Dies(marks), open_source(source), out, ["first", "second"], shard_size=10, show_progress=False
        )
    except ShardProcessError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
