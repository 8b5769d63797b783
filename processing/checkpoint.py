"""The processor's files in a checkpoint folder: ours, the native ones beside them, and our code."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoConfig
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import cached_file

from .families import family_of
from .settings import ProcessorSettings
from .vision import PixelBudget

_ST_CONFIG = "config_sentence_transformers.json"

CODE_FILES = ("processing_ume.py", "pdfium_ume.py")  # of the processor, in a checkpoint
_MODULES = (
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "2_Normalize/config.json",
    "1_LogitScore/config.json",
)


def read_processor_settings(
    source: str, image_processor: Any, hub: dict[str, Any]
) -> tuple[ProcessorSettings, str | None]:
    """A checkpoint's settings and its chat template.

    Returns:
        The stored settings and template; or, for a published checkpoint without ours, defaults for its family (with
        its own pixel limits, at most 1280 tokens a picture) and None, since its template is a chat's.
    """
    path = cached_file(source, "processor_config.json", _raise_exceptions_for_missing_entries=False, **hub)
    stored = json.loads(Path(path).read_text(encoding="utf-8")).get("ume") if path else None
    if stored is None:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
        if getattr(config, "ume", None) is not None and path:
            raise ValueError(
                f"{source}: config.json has umekit's settings, processor_config.json has lost them (saved by a native "
                "processor?); copy processor_config.json and chat_template.jinja from the checkpoint it came from"
            )
        return default_settings(config.model_type, image_processor), None
    template = cached_file(source, "chat_template.jinja", **hub)
    text = Path(str(template)).read_text(encoding="utf-8")
    prompt = stored.get("prompt") if isinstance(stored, dict) else None
    if isinstance(prompt, dict) and prompt.get("template"):
        stored["prompt"]["template"] = text  # the file is the truth, its name stands for it in the settings
    return ProcessorSettings.from_dict(stored), text


def as_sentence_transformers_saved(
    settings: ProcessorSettings, source: str, tokenizer: Any, hub: dict[str, Any]
) -> ProcessorSettings:
    """Settings with the prompts and the length that sentence-transformers has saved for a checkpoint of ours.

    Its files are written by us with the same prompts, so they differ only where that library has changed them. Roles
    are found as it finds them: ``query``; ``document``, ``passage`` or ``corpus``; else the default prompt.

    Raises:
        ValueError: the file's prompts are no texts, or its default is none of them.
    """
    path = cached_file(source, _ST_CONFIG, _raise_exceptions_for_missing_entries=False, **hub)
    if path is None:
        return settings
    stored = json.loads(Path(path).read_text(encoding="utf-8"))
    prompts: Any = stored.get("prompts") or {}
    name = stored.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ValueError(f"{source}/{_ST_CONFIG}: prompts must be names with texts")
    if name is not None and not (isinstance(name, str) and name in prompts):
        raise ValueError(
            f"{source}/{_ST_CONFIG}: default_prompt_name is {name!r}, which is none of the prompts"
        )
    default: str = prompts[name] if name is not None else ""
    said: dict[str, str] = {"default": default, "query": prompts.get("query", default)}
    said["document"] = next(
        (prompts[one] for one in ("document", "passage", "corpus") if one in prompts), default
    )
    if settings.pairs:
        said = {"query": default}
    known = settings.prompt.instructions
    changed = {role: text for role, text in said.items() if text != known.get(role, "")}
    settings = replace(settings, prompt=replace(settings.prompt, instructions={**known, **changed}))
    limit = _stock_length(source, tokenizer, hub)
    return settings if limit is None else replace(settings, max_length=min(settings.max_length, limit))


def _stock_length(source: str, tokenizer: Any, hub: dict[str, Any]) -> int | None:
    """``max_seq_length`` where stock modules run the checkpoint: they keep it in the tokenizer's files or their own."""
    found = {}
    for name in ("modules.json", "sentence_bert_config.json"):
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)
        found[name] = json.loads(Path(path).read_text(encoding="utf-8")) if path is not None else None
    modules, own = found.values()
    if not modules or not str(modules[0].get("type")).endswith(".Transformer"):
        return None
    limits = [tokenizer.model_max_length, (own or {}).get("max_seq_length")]
    given = [limit for limit in limits if limit is not None]
    if any(isinstance(limit, bool) or not isinstance(limit, int) or limit < 1 for limit in given):
        raise ValueError(f"{source}: max_seq_length is {given}; use positive whole numbers")
    return min(given, default=None)


def default_settings(model_type: str, image_processor: Any) -> ProcessorSettings:
    """Settings for a backbone that nobody has trained with umekit yet."""
    family = family_of(model_type)
    token = (image_processor.patch_size * image_processor.merge_size) ** 2
    least = image_processor.size["shortest_edge"]
    most = max(min(image_processor.size["longest_edge"], 1280 * token), least)
    budget = PixelBudget(
        image=(least, most),
        frame=(4 * token, 256 * token),
        video=(4 * token, 16384 * token),
        rule=family.video_rule,
    )
    return ProcessorSettings(family=model_type, budget=budget)


def write_processor_files(processor: Any, folder_name: str) -> list[str]:
    """Write every file of the processor; the names of the files written by name here."""
    folder = Path(folder_name)
    folder.mkdir(parents=True, exist_ok=True)
    processor.tokenizer.save_pretrained(folder)
    native = processor.family.processor
    _update_json(folder / "tokenizer_config.json", {"processor_class": native})
    image = _image_block(processor)
    config = {
        "processor_class": native,
        "auto_map": {"AutoProcessor": "processing_ume.UmeProcessor"},
        "image_processor": image,
        "video_processor": _video_block(processor),
        "ume": processor.settings.to_dict(),
    }
    if processor.settings.prompt.template:
        config["ume"]["prompt"]["template"] = "chat_template.jinja"
    written = {
        "processor_config.json": config,
        "preprocessor_config.json": {**image, "processor_class": native},
        _ST_CONFIG: _sentence_transformers_block(processor, folder),
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
    _write_code(folder)
    return [*written, "chat_template.jinja", *CODE_FILES, *_copy_model_files(processor.origin, folder)]


def _write_code(folder: Path) -> None:
    """The installed package joins its sources; a class loaded as remote code copies the files that it came in."""
    if __name__.startswith("umekit."):
        # By name, as the finders of imports in remote code look at text.
        for name, text in importlib.import_module("umekit.bundling").processor_files().items():
            (folder / name).write_text(text, encoding="utf-8")
        return
    for name in CODE_FILES:
        source, target = Path(__file__).with_name(name), folder / name
        if not (target.exists() and source.samefile(target)):
            shutil.copyfile(source, target)


def _copy_model_files(origin: tuple[str, dict[str, Any]] | None, folder: Path) -> list[str]:
    """Copy what the processor's own checkpoint has beside: model code and sentence-transformers' files.

    A model that stock classes save has our settings in its ``config.json`` and none of our files, so the processor
    brings them, before or after it. What our own classes have written stays as it is.
    """
    if origin is None:
        return []
    source, hub = origin
    home = Path(source) / hub.get("subfolder", "")
    if not home.is_dir():
        known = ("revision", "token", "cache_dir", "local_files_only")
        arguments = {name: hub[name] for name in known if name in hub}
        patterns = ["config.json", "*_ume.py", *_MODULES]
        home = Path(snapshot_download(source, allow_patterns=patterns, **arguments))
    if not (home / "modeling_ume.py").is_file():
        return []  # a published checkpoint: its modules do not fit our settings
    names = (
        [] if (folder / "modules.json").is_file() else [name for name in _MODULES if (home / name).is_file()]
    )
    missing = [name for name in names if not (folder / name).exists()]
    for name in missing:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(home / name, folder / name)
    code = [name for name in _model_code(folder, home) if not (folder / name).exists()]
    for name in code:
        shutil.copyfile(home / name, folder / name)
    return [*missing, *code]


def _model_code(folder: Path, home: Path) -> list[str]:
    """Files of ``home`` that the ``folder`` lacks of the class in ``config.json`` and the module in ``modules.json``.

    With all that they import: several where an older version has saved ``home``.
    """
    entries = []
    for name in ("config.json", "modules.json"):
        path = folder / name if (folder / name).is_file() else home / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        entries += re.findall(r'(?:"|--)(\w+_ume)\.\w+"', text)
    missing = [entry for entry in entries if not (folder / f"{entry}.py").exists()]
    found = {home / f"{entry}.py" for entry in missing if (home / f"{entry}.py").is_file()}
    for path in list(found):
        found |= {Path(one) for one in get_relative_import_files(str(path))}
    return sorted(path.name for path in found)


def _image_block(processor: Any) -> dict[str, Any]:
    block = dict(processor.image_processor.to_dict())
    kind = str(block.get("image_processor_type", "Qwen2VLImageProcessor"))
    block["image_processor_type"] = kind.removesuffix("Pil").removesuffix("Fast")
    least, most = processor.settings.budget.image
    block["size"] = {"shortest_edge": least, "longest_edge": most}
    for name in ("processor_class", "min_pixels", "max_pixels"):
        block.pop(name, None)
    return block


def _video_block(processor: Any) -> dict[str, Any]:
    budget, sampling = processor.settings.budget, processor.settings.sampling
    least, most = budget.video if budget.rule == "volume" else budget.frame
    return {
        "video_processor_type": processor.family.video_processor,
        "size": {"shortest_edge": least, "longest_edge": most},
        "patch_size": processor.layout.patch,
        "merge_size": processor.layout.merge,
        "temporal_patch_size": processor.layout.temporal,
        "image_mean": list(processor.scale.mean),
        "image_std": list(processor.scale.std),
        "fps": sampling.fps,
        "min_frames": sampling.min_frames,
        "max_frames": sampling.max_frames,
        "cap_pixels_per_frame": False,
    }


def _sentence_transformers_block(processor: Any, folder: Path) -> dict[str, Any]:
    """Prompts from the instructions; or sentence-transformers' own file, if it is the one that is just saving.

    That library writes its file first and then has the processor saved into the same folder: ``__version__`` tells
    it, and goes away here, so that a later save by us does not keep prompts of long ago.
    """
    instructions = processor.settings.prompt.instructions
    block: dict[str, Any]
    if processor.settings.pairs:
        block = {
            "model_type": "CrossEncoder",
            "prompts": {"query": instructions["query"]} if instructions.get("query") else {},
            "default_prompt_name": "query" if instructions.get("query") else None,
            "activation_fn": "torch.nn.modules.activation.Sigmoid",
        }
    else:
        block = {
            "model_type": "SentenceTransformer",
            "prompts": {role: instructions.get(role, "") for role in ("query", "document")},
            "default_prompt_name": "default" if instructions.get("default") else None,
            "similarity_fn_name": "cosine",
        }
        if instructions.get("default"):
            block["prompts"]["default"] = instructions["default"]
    path = folder / _ST_CONFIG
    if path.is_file():
        existing = json.loads(path.read_text(encoding="utf-8"))
        if existing.pop("__version__", None) is not None:
            block.update(existing)
    block["requirements"] = {"sentence-transformers": ">=6.2", "transformers": ">=5.23"}
    return block


def _update_json(path: Path, changes: dict[str, Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(changes)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
