"""What lies beside an adapter's factors: config with settings, processor, code; compared, and written anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...encoding.checkpoint_files import has_settings, read_config
from ...encoding.loading import CLASSES
from ...modeling.saving import auto_map, write_code, write_sentence_transformers_files
from ...modeling.settings import UmeSettings
from ...processing.processor import UmeProcessor
from .folders import SoupError

# Files that decide what a model is given; they must be equal wherever two folders both have them.
DECISIVE = ("processor_config.json", "chat_template.jinja", "tokenizer.json")
# Entries of config.json that say where and by what it was written and not what the model is.
INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "auto_map")


def check_metadata(first: Path, other: Path) -> None:
    """Raise SoupError where two folders differ in the model's config, settings, processor or template."""
    if (first / "config.json").is_file() and (other / "config.json").is_file():
        a, b = _config(first), _config(other)
        different = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
        if different:
            key = different[0]
            raise SoupError(
                f"{first} and {other} differ in {', '.join(different)} of config.json "
                f"({key}: {_short(a.get(key))} and {_short(b.get(key))})"
            )
    for name in DECISIVE:
        one, two = first / name, other / name
        if one.is_file() and two.is_file() and one.read_bytes() != two.read_bytes():
            raise SoupError(f"{first} and {other} have different {name}: they embed other inputs")


def write_metadata(source: Path, target: Path) -> None:
    """Write config, code and sentence-transformers files, and the processor, as far as ``source`` has them."""
    if has_settings(str(source)):
        config = read_config(str(source))
        settings = UmeSettings.from_config(config)
        config.auto_map = auto_map(CLASSES[settings.kind])
        config.save_pretrained(target)
        dim = settings.dim or config.get_text_config().hidden_size
        write_sentence_transformers_files(target, settings, config.model_type, dim)
        write_code(target, settings.kind)
    if (source / "processor_config.json").is_file():
        UmeProcessor.from_pretrained(source).save_pretrained(target)


def _config(folder: Path) -> dict[str, Any]:
    return _plain(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in INCIDENTAL}
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else text[:57] + "..."
