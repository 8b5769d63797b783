"""Words, tokens and templates that no model has: the error names file and field, before transformers meets them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import umekit
from umekit.cli.main import main
from umekit.encoding.checkpoint_files import CheckpointFilesError
from umekit.encoding.loading import ProcessorMismatchError
from umekit.modeling.backbone import LoadAuditError
from umekit.processing.items import ItemError


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint of ours to be spoilt."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("qwen3_vl", positions="1d"), copy)
    return copy


WORDS: dict[str, list[Any]] = {
    "text_config.hidden_act": ["evil", 3, [1], None],
    "vision_config.hidden_act": ["evil", "", {}],
    "model_type": ["evil", 3, None, "bert", "llama", ""],
    "text_config.model_type": [[1], {}, 3],
    "dtype": ["evil", [1], 3, "nn", "torch.evil"],
    "torch_dtype": ["evil", -1],
    "text_config.dtype": ["evil"],
    "image_token_id": [10**12, -1],
    "video_token_id": [10**12, -1],
    "vision_start_token_id": [10**12],
    "text_config.pad_token_id": [10**12, -(10**12)],
    "text_config.eos_token_id": [10**12, [1, 10**12]],
    "vision_config.deepstack_visual_indexes": [[99], [-5], ["a"], [0, 0], [True]],
    "vision_config.num_heads": [3, 5],
    "num_labels": [10**12, -1, "evil", [1]],
    "vision_config.num_labels": [10**12],
    "id2label": ["evil", 3, [1]],
    "attn_implementation": ["evil", "somebody/kernel", {"text_config": "somebody/kernel"}],
    "_attn_implementation": ["somebody/kernel:run", 3],
}


def replace_field(folder: Path, field: str, value: Any) -> None:
    *sections, name = field.split(".")
    config = section = json.loads((folder / "config.json").read_text())
    for one in sections:
        section = section[one]
    section[name] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("field", "value"), [(field, one) for field, values in WORDS.items() for one in values]
)
def test_words_and_tokens_that_no_model_has(field: str, value: Any, folder: Path) -> None:
    replace_field(folder, field, value)
    with pytest.raises(CheckpointFilesError, match=rf"config.json: {field} is"):
        umekit.load(folder)
    assert not umekit.verify(folder).ok


@pytest.mark.parametrize("field", ["image_token_id", "video_token_id"])
def test_a_placeholder_that_is_not_the_tokenizers(field: str, folder: Path) -> None:
    replace_field(folder, field, 3)
    with pytest.raises(ProcessorMismatchError, match=f"{field} is 3, and the tokenizer's"):
        umekit.load(folder)


@pytest.mark.parametrize("field", ["vision_config.in_channels", "text_config.num_key_value_heads"])
def test_sizes_that_are_not_those_of_the_weights(field: str, folder: Path) -> None:
    replace_field(folder, field, 4)
    with pytest.raises(LoadAuditError, match=r"another shape than config.json"):
        umekit.load(folder)


@pytest.mark.parametrize("field", ["text_config.hidden_act", "model_type", "image_token_id", "num_labels"])
def test_the_command_line_says_it_in_one_line(
    field: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_field(folder, field, WORDS[field][0])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.txt").write_text("a")
    arguments = [
        "index",
        str(tmp_path / "pictures"),
        "--model",
        str(folder),
        "--index",
        str(tmp_path / "index"),
    ]
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert f"config.json: {field} is" in said


@pytest.mark.parametrize(
    ("template", "reason"),
    [("{{ '' }}", "renders to nothing"), ("{% if false %}a{% endif %}", "renders to nothing"),
     ("{{ messages[99].role }}", "cannot be rendered: UndefinedError"), ("{{ 1 / 0 }}", "ZeroDivisionError"),
     ("{{ messages + 1 }}", "cannot be rendered: TypeError"), ("{% for", "chat template, line 1"),
     ("{{ evil() }}", "'evil' is undefined")],
)  # fmt: skip
def test_chat_templates_that_give_no_prompt(template: str, reason: str, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(template)
    encoder = umekit.load(folder)
    with pytest.raises(
        ItemError, match=rf"item 0: the checkpoint's chat template.*{reason}|item 0.*{reason}"
    ):
        encoder.encode(["a"])
