"""Published rerankers: every pair of every fixture, by every door, alone and behind its query's shared prefix."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import umekit
from umekit.encoding.golden.folder import read_golden
from umekit.encoding.golden.items import Case, Golden
from umekit.encoding.loading import ProcessorMismatchError
from umekit.encoding.presets import find_preset
from umekit.modeling.settings import UmeSettingsError
from umekit.processing.items import ItemError

GOLDEN = Path(__file__).parent.parent / "golden"
SYSTEMS = {"qwen3vl_reranker": "qwen3-vl-reranker", "umarvel_reranker": "u-marvel-reranker"}
ARRAYS = dict.fromkeys(SYSTEMS, ("scores_alone", "scores_batch"))


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def load_system() -> Callable[[str], umekit.Reranker]:
    loaded: dict[str, umekit.Reranker] = {}

    def get(name: str) -> umekit.Reranker:
        if name not in loaded:
            loaded[name] = umekit.load(GOLDEN / name / "checkpoint", preset=SYSTEMS[name])
        return loaded[name]

    return get


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            out = tmp_path_factory.mktemp(name) / "exported"
            made[name] = umekit.export(GOLDEN / name / "checkpoint", out, preset=SYSTEMS[name])
        return made[name]

    return get


def lists(golden: Golden) -> list[list[Case]]:
    """Cases by query."""
    found: dict[str, list[Case]] = {}
    for case in golden.cases:
        found.setdefault(json.dumps(case.item), []).append(case)
    return list(found.values())


def assert_close(cases: list[Case], scores: Any, golden: Golden) -> None:
    for case, score in zip(cases, np.asarray(scores), strict=True):
        limit = golden.tolerance
        assert abs(float(score) - float(case.vector[0])) <= limit, case.name


# ---- every pair, by every door ------------------------------------------------------------------------------------


def test_ids_grids_and_scores_are_the_official_ones(
    system: str, load_system: Callable[[str], umekit.Reranker]
) -> None:
    reranker = load_system(system)
    assert isinstance(reranker, umekit.Reranker)
    records = json.loads((GOLDEN / system / "manifest.json").read_text())["items"]
    for array in ARRAYS[system]:
        golden = read_golden(GOLDEN / system, array)
        for case, record in zip(golden.cases, records, strict=True):
            row = reranker.processor.prepare_pair(case.item, case.candidate)
            assert row.rendered == record["prompt_text"]
            assert row.input_ids.tolist() == record["input_ids"]
            assert [list(one.grid) for one in (*row.images, *row.videos)] == case.grids
            assert np.flatnonzero(row.slots).tolist() == [row.length - 1]
            assert_close([case], reranker.rerank(case.item, [case.candidate]), golden)


def test_behind_a_shared_prefix_and_in_any_batch(
    system: str, load_system: Callable[[str], umekit.Reranker]
) -> None:
    reranker = load_system(system)
    golden = read_golden(GOLDEN / system)
    for cases in lists(golden):
        for budget in (None, 200):
            scores = reranker.rerank(cases[0].item, (case.candidate for case in cases), batch_tokens=budget)
            assert scores.dtype == np.float32
            assert_close(cases, scores, golden)
    together = reranker.rerank_many(
        [cases[0].item for cases in lists(golden)],
        [[case.candidate for case in cases] for cases in lists(golden)],
    )
    for cases, scores in zip(lists(golden), together, strict=True):
        assert_close(cases, scores, golden)


def test_logits_are_the_official_ones(system: str, load_system: Callable[[str], umekit.Reranker]) -> None:
    reranker = load_system(system)
    with np.load(GOLDEN / system / "vectors.npz") as stored:
        expected = stored["logits_alone"]
    golden = read_golden(GOLDEN / system)
    for number, case in enumerate(golden.cases):
        rows = reranker.processor.prepare_pairs(case.item, [case.candidate])
        logits = reranker.model.pair_logits(rows, processor=reranker.processor)[0].numpy()
        if expected.ndim == 1:
            logits = logits[0] - logits[1]
        assert np.abs(logits - expected[number]).max() <= 1e-5, case.name


def test_an_exported_folder_gives_the_same(system: str, exported: Callable[[str], Path]) -> None:
    folder = exported(system)
    assert umekit.verify(folder, GOLDEN / system).ok
    assert umekit.verify(folder).ok
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {"AutoModel": "modeling_ume.UmeForReranking"}
    assert config["ume"]["role"] == "reranker"
    assert config["architectures"][0].endswith("ForConditionalGeneration")


def test_the_same_through_auto_model(system: str, exported: Callable[[str], Path]) -> None:
    model = AutoModel.from_pretrained(exported(system), trust_remote_code=True, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(exported(system), trust_remote_code=True)
    golden = read_golden(GOLDEN / system)
    for cases in lists(golden):
        scores = model.rerank(cases[0].item, [case.candidate for case in cases], processor=processor)
        assert_close(cases, scores, golden)


def test_the_same_through_cross_encoder(system: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.CrossEncoder(str(exported(system)), trust_remote_code=True, device="cpu")
    golden = read_golden(GOLDEN / system)
    for cases in lists(golden):
        pairs = [(side(case.item), side(case.candidate or {})) for case in cases]
        prompt = cases[0].item.get("instruction")
        assert_close(cases, model.predict(pairs, prompt=prompt), golden)
    cases = lists(golden)[0]
    pair = (side(cases[0].item), side(cases[0].candidate or {}))
    model.save_pretrained(str(tmp_path / "again"))
    again = library.CrossEncoder(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    assert_close(cases[:1], again.predict([pair], prompt=cases[0].item.get("instruction")), golden)


def side(item: dict[str, Any]) -> Any:
    """Half of a pair as sentence-transformers takes it."""
    content = {key: value for key, value in item.items() if key != "instruction"}
    if "video" in content:
        content["video"] = [Image.open(name) for name in content["video"]]
    if not content:
        return ""
    return content["text"] if list(content) == ["text"] else content


# ---- a single quirk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"positions": "1d"}, {"deepstack": False}, {"tokens": {"yes": 361, "no": 361}}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_flipped_setting_of_the_model_is_seen(
    system: str, changes: dict[str, Any], load_system: Callable[[str], umekit.Reranker]
) -> None:
    if system == "umarvel_reranker" and "deepstack" in changes:
        pytest.skip("Qwen2-VL has no DeepStack")
    reranker = load_system(system)
    golden = read_golden(GOLDEN / system)
    before = reranker.model.settings
    reranker.model.settings = replace(before, **changes)
    try:
        worst = max(
            abs(float(reranker.rerank(case.item, [case.candidate])[0]) - float(case.vector[0]))
            for case in golden.cases
        )
    finally:
        reranker.model.settings = before
    assert worst > 1e-3


# ---- loading ----------------------------------------------------------------------------------------------------


def test_presets_are_found_by_repository() -> None:
    for name in ("Qwen/Qwen3-VL-Reranker-2B", "Qwen/Qwen3-VL-Reranker-8B"):
        assert find_preset(name).name == "qwen3-vl-reranker"


def test_an_embedder_is_no_reranker_and_a_reranker_no_embedder(
    system: str, exported: Callable[[str], Path], tiny_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises((UmeSettingsError, ProcessorMismatchError)):
        umekit.load(tiny_checkpoint("qwen2_vl"), role="reranker")
    with pytest.raises((UmeSettingsError, ProcessorMismatchError)):
        umekit.load(exported(system), role="discriminative")


# ---- faults -----------------------------------------------------------------------------------------------------


def test_bad_candidates_are_named_or_skipped(
    system: str, load_system: Callable[[str], umekit.Reranker]
) -> None:
    reranker = load_system(system)
    candidates = ["a text", {"image": "/nowhere.png"}, "another text"]
    with pytest.raises(ItemError, match="item 1"):
        reranker.rerank("which", candidates)
    with pytest.warns(UserWarning, match="1 of 3 candidates"):
        scores = reranker.rerank("which", candidates, on_error="skip")
    assert np.isnan(scores).tolist() == [False, True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(scores[[0, 2]] - reranker.rerank("which", candidates[::2])).max() < 1e-5
    with pytest.raises(ItemError, match="the query"):
        reranker.rerank({"image": "/nowhere.png"}, candidates, on_error="skip")
    with pytest.raises(ValueError, match="on_error"):
        reranker.rerank("which", candidates, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 queries, but 2 lists"):
        reranker.rerank_many(["which"], [["a"], ["b"]])
    assert reranker.rerank("which", []).shape == (0,)
    with pytest.warns(UserWarning, match="1 of 1"):
        assert np.isnan(reranker.rerank("which", [candidates[1]], on_error="skip")).all()


def test_an_instruction_changes_the_score_and_the_querys_own_wins(
    system: str, load_system: Callable[[str], umekit.Reranker]
) -> None:
    reranker = load_system(system)
    plain = reranker.rerank("which", ["a text"])
    told = reranker.rerank("which", ["a text"], instruction="Find the picture.")
    own = reranker.rerank(
        {"text": "which", "instruction": "Find the picture."}, ["a text"], instruction="No."
    )
    assert plain != told
    assert told == own
