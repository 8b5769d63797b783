"""Published checkpoints in folders of any name: recognised by what their files hold, or said to be unclear."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import umekit
from umekit.cli.main import main
from umekit.encoding.presets import PresetError
from umekit.encoding.presets.choosing import UnknownSystemWarning

GOLDEN = Path(__file__).parent.parent / "golden"
SURE = {"ume_r1": "ume-r1", "umarvel_qwen2vl": "u-marvel", "umarvel_qwen3vl": "u-marvel-qwen3vl"}
UNCLEAR = {
    "lamra_ret": "lamra-ret",
    "rzenembed": "rzenembed",
    "vlm2vec_v2": "vlm2vec-v2",
    "umarvel_reranker": "u-marvel-reranker",
    "qwen3vl_embedding": "qwen3-vl-embedding",
    "qwen3vl_reranker": "qwen3-vl-reranker",
}
JUDGE = "Judge whether the Document meets the requirements based on the Query and the Instruct provided."
Copy = Callable[..., Path]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """``copy(system, name)``: a fixture's checkpoint in a folder that says nothing."""

    def make(system: str, name: str = "some-model") -> Path:
        folder = tmp_path / name
        shutil.copytree(GOLDEN / system / "checkpoint", folder)
        return folder

    return make


def change(folder: Path, file: str, **entries: Any) -> None:
    path = folder / file
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **entries}))


def system_of(folder: Path, **options: Any) -> str:
    """The preset that a folder is loaded with, or its warning's class name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            opened = umekit.load(folder, **options)
        except UnknownSystemWarning:
            return "unclear"
    template = opened.processor.settings.prompt.template
    names = [
        name
        for name, preset in umekit.encoding.presets.PRESETS.items()
        if template
        and preset.processor(opened.model.config.model_type, opened.processor.image_processor)
        == opened.processor.settings
    ]
    return names[0] if names else "plain"


@pytest.mark.parametrize("system", SURE)
def test_what_the_files_say_is_taken_without_a_word(system: str, copy: Copy) -> None:
    folder = copy(system)
    assert system_of(folder) == SURE[system]
    found, wanted = umekit.load(folder), umekit.load(folder, preset=SURE[system])
    options = {"mode": "discriminative"}
    assert np.array_equal(found.encode(["a"], **options), wanted.encode(["a"], **options))
    assert umekit.verify(folder).ok


@pytest.mark.parametrize("system", UNCLEAR)
def test_what_they_do_not_say_is_warned_of_once_and_not_verified(system: str, copy: Copy) -> None:
    folder = copy(system)
    with pytest.warns(UnknownSystemWarning) as caught:
        encoder = umekit.load(folder)
    [told] = [one for one in caught if one.category is UnknownSystemWarning]  # and not of what ran before
    assert told.filename == __file__
    message = str(told.message)
    assert repr(UNCLEAR[system]) in message
    assert str(folder) in message
    with pytest.raises(AttributeError, match=r"for a reranker preset=.*scores no pairs"):
        encoder.rerank("a", ["b"])
    with pytest.warns(UnknownSystemWarning):
        result = umekit.verify(folder)
    assert [problem.prop for problem in result.problems] == ["preset"]
    assert UNCLEAR[system] in str(result.problems[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        umekit.load(folder, preset="none")
        umekit.load(folder, role="discriminative")
    assert umekit.verify(folder, preset="none").ok


def test_a_reranker_needs_its_preset(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy("qwen3vl_reranker")
    with pytest.raises(PresetError, match="qwen3-vl-reranker"):
        umekit.load(folder, role="reranker")
    with pytest.warns(UnknownSystemWarning):
        code = main(["rerank", "--model", str(folder), "--query", "a", "--candidate", "b"])
    assert code == 2
    assert "qwen3-vl-reranker" in capsys.readouterr().err


def test_modules_of_a_cross_encoder(copy: Copy) -> None:
    """What it is comes from its modules, and whose prompt it was trained with from its templates alone."""
    folder = copy("qwen3vl_reranker")
    kind = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
    (folder / "modules.json").write_text(
        json.dumps([{"idx": 1, "name": "1", "path": "1_LogitScore", "type": kind}])
    )
    with pytest.raises(PresetError, match="qwen3-vl-reranker"):
        umekit.load(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "reranker.jinja").write_text("{{- '" + JUDGE + "' -}}")
    assert system_of(folder) == "qwen3-vl-reranker"
    assert repr(umekit.load(folder)).startswith("Reranker(")
    with pytest.raises(PresetError, match="one is a reranker, the other an embedder"):
        umekit.load(folder, preset="qwen3-vl-embedding")


@pytest.mark.parametrize(
    "file", ["chat_template.json", "tokenizer_config.json", "config_sentence_transformers.json"]
)
def test_prompts_give_a_system_away(file: str, copy: Copy) -> None:
    folder = copy("qwen3vl_embedding")
    prompt = "Represent the user's input."
    entry: dict[str, Any] = {"chat_template": '{{ "' + prompt + '" }}'}
    if file.startswith("config_"):
        entry = {"prompts": {"query": prompt, "document": prompt}}
    change(folder, file, **entry)
    assert system_of(folder) == "qwen3-vl-embedding"


@pytest.mark.parametrize(
    ("tokens", "system"),
    [
        (["<emb>"], "lamra-ret"),
        (["<emb>", "<instruction_start>", "<instruction_end>"], "u-marvel"),
        (["<disc_emb>", "<gen_emb>"], "ume-r1"),
        (["<disc_emb>", "<gen_emb>", "<emb>"], "unclear"),
        (["<instruction_start>"], "unclear"),
        (["<gen_emb>"], "unclear"),
    ],
)
def test_tokens_give_a_system_away(tokens: list[str], system: str, copy: Copy) -> None:
    from transformers import AutoTokenizer

    folder = copy("rzenembed")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(tokens)
    tokenizer.save_pretrained(folder)
    assert system_of(folder) == system


@pytest.mark.parametrize(
    ("system", "entries", "found"),
    [
        ("rzenembed", {"_name_or_path": "qihoo360/RzenEmbed"}, "rzenembed"),
        ("rzenembed", {"_name_or_path": "/data/models/RzenEmbed-v2-7B/"}, "rzenembed"),
        ("rzenembed", {"_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"}, "unclear"),
        ("rzenembed", {"_name_or_path": "someone/RzenEmbed-like"}, "unclear"),
        ("rzenembed", {"_name_or_path": "Qwen/Qwen3-VL-Embedding-2B"}, "unclear"),  # of another family
        ("qwen3vl_embedding", {"_name_or_path": "Qwen/Qwen3-VL-2B-Instruct"}, "unclear"),
        ("qwen3vl_embedding", {"architectures": ["Qwen3VLRetForConditionalGeneration"]}, "u-marvel-qwen3vl"),
        ("rzenembed", {"architectures": ["Qwen2VLRetFinetuneForConditionalGeneration"]}, "unclear"),
    ],
)
def test_config_gives_a_system_away(system: str, entries: dict[str, Any], found: str, copy: Copy) -> None:
    folder = copy(system)
    change(folder, "config.json", **entries)
    assert system_of(folder) == found


def test_names_narrow_to_those_that_it_may_be(copy: Copy) -> None:
    folder = copy("lamra_ret")
    change(folder, "config.json", architectures=["Qwen2VLRetFinetuneForConditionalGeneration"])
    with pytest.warns(UnknownSystemWarning, match="preset='lamra-ret' or 'u-marvel'[.]"):
        umekit.load(folder)


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nbase_model: Qwen/Qwen3-VL-Embedding-2B\n---\n# mine\n", "qwen3-vl-embedding"),
        ("---\nbase_model:\n- Qwen/Qwen3-VL-Embedding-8B\ntags: [a]\n---\n", "qwen3-vl-embedding"),
        ("# Qwen3-VL-Embedding-2B\n\nIt embeds.\n", "qwen3-vl-embedding"),
        (
            "---\nbase_model: Qwen/Qwen3-VL-2B-Instruct\n---\nBetter than Qwen/Qwen3-VL-Embedding-2B.\n",
            "unclear",
        ),
        ("# Like Qwen3-VL-Embedding-2B\n", "unclear"),
    ],
)
def test_a_model_card_gives_a_system_away(card: str, found: str, copy: Copy) -> None:
    folder = copy("qwen3vl_embedding")
    (folder / "README.md").write_text(card)
    assert system_of(folder) == found


def test_a_folder_of_the_repositorys_name(copy: Copy) -> None:
    assert system_of(copy("qwen3vl_embedding", "Qwen3-VL-Embedding-2B")) == "qwen3-vl-embedding"
    assert system_of(copy("rzenembed", "rzenembed-v2-7b")) == "rzenembed"
    assert system_of(copy("rzenembed", "Qwen2-VL-2B-Instruct")) == "unclear"


def test_another_preset_than_the_files_say(copy: Copy) -> None:
    folder = copy("umarvel_qwen2vl")
    with pytest.warns(UserWarning, match="looks like u-marvel .*'sim.temp'.* preset='lamra-ret'"):
        umekit.load(folder, preset="lamra-ret")
    with pytest.raises(PresetError, match="one is a reranker"):
        umekit.load(folder, preset="u-marvel-reranker")


def test_a_preset_of_another_kind_than_own_settings(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen3_vl")
    with pytest.raises(PresetError, match="is a discriminative checkpoint, preset='qwen3-vl-reranker'"):
        umekit.load(folder, preset="qwen3-vl-reranker")


def test_a_plain_backbone_of_a_family_without_presets(tiny_backbone: Callable[[str], Path]) -> None:
    with pytest.warns(UnknownSystemWarning, match="No preset is for qwen2_5_vl"):
        umekit.load(tiny_backbone("qwen2_5_vl"))


def test_a_reranker_has_no_vectors(copy: Copy) -> None:
    reranker = umekit.load(copy("qwen3vl_reranker"), preset="qwen3-vl-reranker")
    for name in ("encode", "encode_query", "encode_document"):
        with pytest.raises(AttributeError, match="is a reranker"):
            getattr(reranker, name)(["a"])
    assert not hasattr(reranker, "encode")


def test_an_adapter_is_known_by_its_own_name(copy: Copy, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = copy("vlm2vec_v2")
    encoder = umekit.load(base, preset="vlm2vec-v2")
    encoder.model.backbone.add_adapter(
        peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapter = tmp_path / "VLM2Vec-V2.0"
    encoder.model.backbone.save_pretrained(adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownSystemWarning)
        found = umekit.load(adapter)
    np.testing.assert_allclose(found.encode(["a dog"]), encoder.encode(["a dog"]), atol=1e-6)
