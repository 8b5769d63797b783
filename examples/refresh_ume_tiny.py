"""Write ume-tiny's folder anew: settings, code and card as this version writes them, the weights as they are.

    python examples/refresh_ume_tiny.py [SOURCE]

SOURCE is a folder that ``train_ume_tiny.py`` made; the committed model itself when left out.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import umekit

TARGET = Path(__file__).resolve().parent / "ume-tiny"


def main() -> int:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    card = TARGET / "README.md"
    with tempfile.TemporaryDirectory() as scratch:
        fresh = umekit.export(source, Path(scratch) / "ume-tiny")
        if card.is_file():
            shutil.copy(card, fresh / "README.md")
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.copytree(fresh, TARGET)
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
