"""Write ume-tiny's folder, and that of its reranker, anew: settings and code as this version writes them.

    python examples/refresh_ume_tiny.py

Weights and cards stay as they are; ``publish_ume_tiny.py`` takes other weights. The file of weights is bfloat16, for
half the bytes; ``config.json`` says float32, which every door then computes in.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import umekit
from umekit.encoding.packaged import RERANKER
from umekit.examples.publish_ume_tiny_reranker import write_adapter
from umekit.modeling.adapters import CONFIG_FILE

TARGET = Path(__file__).resolve().parent / "ume-tiny"


def in_float32(config: dict[str, Any]) -> dict[str, Any]:
    """A config, and the configs in it, that name float32 as their dtype."""
    return {
        key: "float32" if key == "dtype" else in_float32(value) if isinstance(value, dict) else value
        for key, value in config.items()
    }


def write_model(source: Path) -> None:
    """ume-tiny's folder from another one; its card stays."""
    card = TARGET / "README.md"
    with tempfile.TemporaryDirectory() as scratch:
        fresh = umekit.export(source, Path(scratch) / "ume-tiny")
        shutil.copy(source / "model.safetensors", fresh / "model.safetensors")
        config = fresh / "config.json"
        told = in_float32(json.loads(config.read_text(encoding="utf-8")))
        config.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        if card.is_file():
            shutil.copy(card, fresh / "README.md")
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.copytree(fresh, TARGET)
    print(f"wrote {TARGET}")


def main() -> int:
    write_model(TARGET)
    reranker = TARGET.with_name(RERANKER)
    if (reranker / CONFIG_FILE).is_file():
        write_adapter(reranker, reranker)
    return 0


if __name__ == "__main__":
    sys.exit(main())
