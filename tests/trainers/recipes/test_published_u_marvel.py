"""U-MARVEL's recipe at the published size, run whole on a made-up M-BEIR with a tiny backbone: every step and what it
leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import umekit
from umekit.trainers.recipes import FORMATS, read_recipe, run_recipe

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "examples" / "recipes" / "u-marvel-qwen2vl-7b.yaml"
MODEL = ROOT / "tests" / "golden" / "umarvel_reranker" / "checkpoint"
ROWS = 20  # of which a tenth are two


def make_data(folder: Path) -> Path:
    """M-BEIR with texts that ask for pictures, NLI pairs and captions, each as they are published."""
    rng = np.random.default_rng(0)
    (folder / "M-BEIR" / "pictures").mkdir(parents=True)
    for number in range(ROWS):
        pixels = rng.integers(0, 255, (56, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "M-BEIR" / "pictures" / f"{number}.png")
    parts = {
        "query/union_train/mbeir_union_up_train.jsonl": [
            {
                "qid": f"9:{n}",
                "query_txt": f"picture {n}",
                "query_modality": "text",
                "pos_cand_list": [f"9:{n}"],
            }
            for n in range(ROWS)
        ],
        "cand_pool/global/mbeir_union_train_cand_pool.jsonl": [
            {"did": f"9:{n}", "txt": None, "img_path": f"pictures/{n}.png", "modality": "image"}
            for n in range(ROWS)
        ],
    }
    for name, records in parts.items():
        path = folder / "M-BEIR" / name
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "M-BEIR" / "instructions").mkdir()
    prompts = ["query_modality", "cand_modality", "dataset_name", "dataset_id", "prompt_1"]
    lines = ["\t".join(prompts), "text\timage\tMSCOCO\t9\tFind a picture."]
    (folder / "M-BEIR" / "instructions" / "query_instructions.tsv").write_text("\n".join(lines) + "\n")
    with (folder / "nli_for_simcse.csv").open("w", newline="") as file:
        rows = [[f"text {n}", f"sentence {n}", "another"] for n in range(ROWS)]
        csv.writer(file).writerows([["sent0", "sent1", "hard_neg"], *rows])
    captions = [
        {"query": f"caption {n}", "positive": {"image": f"M-BEIR/pictures/{n}.png"}} for n in range(ROWS)
    ]
    (folder / "llava_cc3m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions))
    return folder


@pytest.mark.slow
def test_every_step_on_a_made_up_mbeir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    changes: dict[str, Any] = {"model.path": str(MODEL), "model.dtype": "float32"}
    for step in read_recipe(RECIPE).steps:
        if step.kind == "train":
            small = {"per_device_train_batch_size": 2, "bf16": False}
            changes |= {f"steps.{step.name}.arguments.{name}": value for name, value in small.items()}
            changes |= {f"steps.{step.name}.lora.rank": 2, f"steps.{step.name}.lora.alpha": 4}
    recipe = read_recipe(RECIPE, changes).shortened(2)  # at the first one the rate is 0
    results = {one.name: one for one in run_recipe(recipe, tmp_path / "run", formats=FORMATS)}
    assert list(results) == [step.name for step in recipe.steps]
    lists = results["lists"].metrics
    assert (lists["rows"], lists["filled"]) == (ROWS, 0)
    scored = results["scored"].metrics
    assert scored["rows"] == ROWS // 10  # ten percent, and all of their list
    kept = [json.loads(line) for line in Path(scored["file"]).read_text().splitlines()]
    for row in kept:
        fused = 0.5 * np.array(row["recall_scores"]) + 0.5 * np.array(row["rerank_scores"])
        np.testing.assert_allclose(row["teacher_scores"], fused, atol=1e-6)
    hard, student = (results[name].metrics["temperature"]["temperature"] for name in ("hard", "distilled"))
    assert student == pytest.approx(hard, rel=0.01)  # it goes on
    for name in ("reranker", "reranker-plus"):
        scores = umekit.load(results[name].folder).rerank("a", ["b", "c"])
        assert scores.shape == (2,)
    for name in ("distilled", "continue-hard"):
        model = umekit.load(results[name].folder)
        assert model.encode(["a"]).shape == (1, model.dim)
        assert model.model.settings.attention == "bidirectional"
