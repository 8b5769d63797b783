"""What a checkpoint folder holds beside the weights: our code, so that ``trust_remote_code`` needs no umekit,
and the sentence-transformers files.
"""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers.utils import cached_file

from .settings import UmeSettings, expressible

MODEL_FILE = "modeling_ume.py"  # in a checkpoint of any kind
WRAPPER_FILE = "sentence_transformer_ume.py"  # where stock modules cannot express the checkpoint
_WRAPPER = "sentence_transformer_ume.UmeTransformer"


def auto_map(model_class: type) -> dict[str, str]:
    """``auto_map`` of ``config.json``: where transformers finds a class in a checkpoint."""
    return {"AutoModel": f"{Path(MODEL_FILE).stem}.{model_class.__name__}"}


def write_code(folder: Path, kind: str, source: str | None = None, revision: str | None = None) -> None:
    """Write the model's code into a checkpoint whose ``modules.json`` is written; the processor writes its own.

    The installed package joins its sources; a class loaded as remote code copies the files that it came in.

    Args:
        folder: the checkpoint.
        kind: of the checkpoint.
        source: the checkpoint that the model came from; beside a remote class lies only what it imports, which is
            not the module for sentence-transformers.
        revision: of a ``source`` on the Hub.

    Raises:
        FileNotFoundError: that module is needed and not in ``source``.
    """
    wrapped = names_wrapper(folder)
    if __name__.startswith("umekit."):
        # By name, as the finders of imports in remote code look at text.
        files = importlib.import_module("umekit.bundling").model_files(kind)
        for name, text in files.items():
            if name != WRAPPER_FILE or wrapped:
                (folder / name).write_text(text, encoding="utf-8")
        return
    _copy(Path(__file__), folder / MODEL_FILE)
    if wrapped:
        found = _beside(WRAPPER_FILE, source, revision)
        if found is None:
            beside = Path(__file__).parent
            raise FileNotFoundError(
                f"cannot save a complete checkpoint: {WRAPPER_FILE} is neither in {beside} nor in {source}"
            )
        _copy(found, folder / WRAPPER_FILE)


def stock_modules_read(settings: UmeSettings, source: str | None, revision: str | None = None) -> bool:
    """Whether stock modules that read the config of a remote class's ``source`` find these settings there.

    True only where the source has no module of ours: it is then a checkpoint that stock modules express.
    """
    if __name__.startswith("umekit.") or _beside(WRAPPER_FILE, source, revision) is not None:
        return False
    config = _beside("config.json", source, revision)
    if config is None:
        return False
    stored = SimpleNamespace(**json.loads(config.read_text(encoding="utf-8")))
    return UmeSettings.from_config(stored) == settings


def _beside(name: str, source: str | None, revision: str | None) -> Path | None:
    """A file of the checkpoint that a remote class came in: beside the class, or in its source."""
    found = Path(__file__).with_name(name)
    if source and not found.is_file():
        stored = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        found = Path(stored) if stored else found
    return found if found.is_file() else None


def names_wrapper(folder: Path) -> bool:
    """Whether ``modules.json`` of a checkpoint names our module for sentence-transformers."""
    return f'"{Path(WRAPPER_FILE).stem}.' in (folder / "modules.json").read_text(encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    if not (target.exists() and source.samefile(target)):
        shutil.copyfile(source, target)


def write_sentence_transformers_files(
    folder: Path, settings: UmeSettings, model_type: str, dim: int, adapter: bool = False
) -> None:
    """Write ``modules.json`` and friends: stock modules where the settings allow it, ours otherwise.

    Ours also for an adapter's folder (``adapter``), as stock modules read the base's config in place of the folder's.
    The prompts (``config_sentence_transformers.json``) are the processor's knowledge and written by it.
    """
    native = not adapter and expressible(settings, "sentence-transformers", model_type)[0]
    if settings.kind == "reranker":
        _write_cross_encoder_files(folder, settings, native)
        return
    modules = [_module(0, "", "sentence_transformers.base.modules.transformer.Transformer")]
    if native:
        modules.append(
            _module(1, "1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling")
        )
        (folder / "1_Pooling").mkdir(exist_ok=True)
        pooling = {"embedding_dimension": dim, "pooling_mode": "lasttoken", "include_prompt": True}
        _write(folder / "1_Pooling" / "config.json", pooling)
        if settings.normalize:
            modules.append(
                _module(2, "2_Normalize", "sentence_transformers.base.modules.normalize.Normalize")
            )
            (folder / "2_Normalize").mkdir(exist_ok=True)
            _write(folder / "2_Normalize" / "config.json", {})
        _write(folder / "sentence_bert_config.json", native_transformer_config())
    else:
        modules = [_module(0, "", _WRAPPER)]
        modules[0]["kwargs"] = ["mode", "max_new_tokens", "instruction"]
        if settings.kind == "adaptive":
            modules[0]["kwargs"] += ["kappa", "budget"]
        _remove_module(folder / "1_Pooling", "pooling_mode")
        _remove_module(folder / "2_Normalize")
        # Our module does not read this, but it is where mteb looks for what a model takes beside text.
        modalities = {"modality_config": native_transformer_config()["modality_config"]}
        _write(folder / "sentence_bert_config.json", modalities)
    _write(folder / "modules.json", modules)


def _write_cross_encoder_files(folder: Path, settings: UmeSettings, native: bool) -> None:
    """Stock modules of a ``CrossEncoder``; where it would give other scores, one that refuses to load.

    Without any modules sentence-transformers would take the folder for a classifier, and for some families (Qwen3.5)
    put a random head on it.
    """
    score = folder / "1_LogitScore"
    if not native:
        _remove_module(score, "true_token_id")
        _remove_json(folder / "sentence_bert_config.json", "modality_config")
        _write(folder / "modules.json", [_module(0, "", _WRAPPER)])
        return
    modules = [
        _module(0, "", "sentence_transformers.base.modules.transformer.Transformer"),
        _module(1, score.name, "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
    ]
    score.mkdir(exist_ok=True)
    answers = {"true_token_id": settings.tokens["yes"], "false_token_id": settings.tokens["no"]}
    _write(score / "config.json", {**answers, "module_input_name": "causal_logits"})
    _write(folder / "sentence_bert_config.json", native_reranker_config())
    _write(folder / "modules.json", modules)


def native_reranker_config() -> dict[str, Any]:
    """``sentence_bert_config.json`` of a stock multimodal ``Transformer`` that gives logits."""
    return {
        **native_transformer_config("logits"),
        "transformer_task": "any-to-any",
        "module_output_name": "causal_logits",
    }


def native_transformer_config(output: str = "last_hidden_state") -> dict[str, Any]:
    """``sentence_bert_config.json`` of a stock multimodal ``Transformer``."""
    modality = {"method": "forward", "method_output_name": output}
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": modality,
            "image": modality,
            "video": modality,
            "message": {**modality, "format": "structured"},
        },
        "module_output_name": "token_embeddings",
        "unpad_inputs": False,
        "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
    }


def _module(index: int, path: str, kind: str) -> dict[str, Any]:
    return {"idx": index, "name": str(index), "path": path, "type": kind}


def _remove_module(folder: Path, *keys: str) -> None:
    """Take away the folder of a stock module that a save no longer has; what else lies in it stays."""
    if folder.is_symlink():
        return
    _remove_json(folder / "config.json", *keys)
    try:
        folder.rmdir()
    except OSError:  # not there, or not empty
        return


def _remove_json(path: Path, *keys: str) -> None:
    """Take away a file that is an object of JSON with these keys, or without any where none are named."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if (
        isinstance(content, dict)
        and not path.is_symlink()
        and (set(keys) <= set(content) if keys else not content)
    ):
        path.unlink()


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
