"""What a checkpoint folder holds beside the weights: our code, so that ``trust_remote_code`` needs no umekit,
and the sentence-transformers files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from .settings_ume import UmeSettings, expressible

# Written out, so that what ships is reviewed and not whatever lies in the folder.
CODE_FILES = (
    "settings_ume.py",
    "versions_ume.py",
    "pooling_ume.py",
    "packing_ume.py",
    "patches_ume.py",
    "backbone_ume.py",
    "evaluating_ume.py",
    "weight_files_ume.py",
    "adapters_ume.py",
    "composed_ume.py",
    "saving_ume.py",
    "modeling_ume.py",
    "decoding_ume.py",
    "reasoning_ume.py",
    "generative_ume.py",
    "vision_store_ume.py",
    "prefix_ume.py",
    "reranker_ume.py",
    "sentence_transformer_ume.py",
)


def copy_code(folder: Path, source: str | None, revision: str | None = None) -> None:
    """Copy our modeling files flat into ``folder``.

    Args:
        folder: the checkpoint.
        source: the checkpoint that this model came from: a class loaded as remote code has only the files that it
            imports beside it, the rest are taken from there.
        revision: of a ``source`` on the Hub.

    Raises:
        FileNotFoundError: a file is neither beside this one nor in ``source``.
    """
    here = Path(__file__).parent
    for name in CODE_FILES:
        origin = here / name
        if not origin.is_file():
            found = None
            if source:
                found = cached_file(
                    source, name, revision=revision, _raise_exceptions_for_missing_entries=False
                )
            if found is None:
                raise FileNotFoundError(
                    f"cannot save a complete checkpoint: {name} is neither in {here} nor in {source}"
                )
            origin = Path(found)
        if origin.resolve() != (folder / name).resolve():
            shutil.copyfile(origin, folder / name)


def write_sentence_transformers_files(
    folder: Path, settings: UmeSettings, model_type: str, dim: int, adapter: bool = False
) -> None:
    """Write ``modules.json`` and friends: stock modules where the settings allow it, ours otherwise.

    Ours also for an adapter's folder (``adapter``): stock modules read the base's config in place of the folder's.
    The prompts (``config_sentence_transformers.json``) are the processor's knowledge and written by it.
    """
    native = not adapter and expressible(settings, "sentence-transformers", model_type)[0]
    if settings.role == "reranker":
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
        modules = [_module(0, "", "sentence_transformer_ume.UmeTransformer")]
        modules[0]["kwargs"] = ["mode", "max_new_tokens", "instruction"]
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
        _write(folder / "modules.json", [_module(0, "", "sentence_transformer_ume.UmeTransformer")])
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
