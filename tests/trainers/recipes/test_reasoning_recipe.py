"""A cold start by recipe from UME-R1's json: the numbers of the trainer, and a checkpoint that thinks."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from transformers import HfArgumentParser

import umekit
from umekit.trainers.recipes import FORMATS, read_recipe, run_recipe
from umekit.trainers.registry import trainer_class

sys.path.insert(0, str(Path(__file__).parents[1]))
import reasoning_reference as reference

EXAMPLES = Path(__file__).parents[3] / "examples" / "recipes"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published pairs in the published layout."""
    folder = tmp_path_factory.mktemp("data")
    for key, pixels in reference.OFFICIAL.items():
        if key.startswith("image/"):
            Image.fromarray(pixels).save(folder / f"{key.removeprefix('image/')}.png")

    def side(said: dict[str, Any]) -> dict[str, Any]:
        marks = "<image>\n" * len(said["images"])
        human = f"{marks}{said['text']}\n<disc_emb>\n{reference.STORED['instruction']}"
        written = f"<think>{said['thought']}</think><answer>{said['answer']}<gen_emb>"
        turns = [{"from": "human", "value": human}, {"from": "gpt", "value": written}]
        return {"conversations": turns, "image": [f"{name}.png" for name in said["images"]]}

    records = [{"qry": side(pair["query"]), "pos": side(pair["target"])} for pair in reference.PAIRS]
    (folder / "sft.json").write_text(json.dumps(records))
    return folder


def recipe(data: Path, **arguments: Any) -> str:
    given = {
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 1e-3,
        "use_cpu": True,
    }
    step = {
        "kind": "train",
        "name": "cold",
        "trainer": "reasoning",
        "source": "x",
        "data": {"sources": [{"name": "sft", "format": "ume-r1-sft", "path": str(data / "sft.json")}]},
        "arguments": {**given, "logging_steps": 1, "disable_tqdm": True, **arguments},
    }
    model = {"path": str(reference.CHECKPOINT), "preset": "ume-r1-training", "attn_implementation": "eager"}
    return yaml.safe_dump({"name": "try", "source": "x", "model": model, "steps": [step]})


def test_from_the_published_json(data: Path, tmp_path: Path) -> None:
    (tmp_path / "try.yaml").write_text(recipe(data, chunk_tokens=400))
    run_recipe(read_recipe(tmp_path / "try.yaml"), tmp_path / "out", formats=FORMATS)
    states = list((tmp_path / "out" / "cold" / "trainer").glob("checkpoint-*/trainer_state.json"))
    logged = json.loads(states[0].read_text())["log_history"][0]
    losses, _, _ = reference.step()
    for name, value in losses.items():
        assert logged[name] == pytest.approx(value, rel=1e-4), name
    encoder = umekit.load(tmp_path / "out" / "cold" / "model", device="cpu")
    vectors = encoder.encode(["a cat", {"image": Image.new("RGB", (56, 56))}], mode="both", max_new_tokens=4)
    assert all(np.isfinite(one).all() and one.shape == (2, 80) for one in vectors.values())
    assert encoder.processor.settings.blank_image == 28


@pytest.mark.parametrize("name", ["ume-r1-qwen2vl-2b", "dume-qwen2vl-2b"])
def test_packaged_arguments(name: str, tmp_path: Path) -> None:
    (step,) = read_recipe(EXAMPLES / f"{name}.yaml").steps
    kind = trainer_class(step.trainer).arguments_class
    given = {**step.arguments, "output_dir": str(tmp_path), "use_cpu": True}
    (args,) = HfArgumentParser(kind).parse_dict(given)
    assert args.trained_parts == ["language", "merger"]
    assert args.directions == ["q2p", "p2q"]
    assert dataclasses.is_dataclass(args)
