"""``python -m umekit``: the same as ``umekit``."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
