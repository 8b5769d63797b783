"""U-MARVEL's stages, loss and gradients, through the trainers: the numbers of their own code on given vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vector_table import numbers, step

from umekit.trainers import ContrastiveTrainer, DistillationTrainer
from umekit.trainers.objectives import candidate_cosines

GOLDEN = Path(__file__).parent / "golden"
CHUNKS = pytest.mark.parametrize("chunk_tokens", [None, 3])


def cases(name: str) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(GOLDEN / f"{name}.npz") as stored:
        for key in stored:
            case, _, array = key.partition("/")
            found.setdefault(case, {})[array] = stored[key]
    return found


def assert_near(found: Any, expected: Any) -> None:
    expected = np.asarray(expected, dtype=np.float64)
    difference = np.abs(np.asarray(found, dtype=np.float64).reshape(expected.shape) - expected).max()
    assert difference <= 1e-4 * np.abs(expected).max()


def distillation_rows(scores: np.ndarray) -> list[dict[str, Any]]:
    n, c = scores.shape
    queries, lists = numbers(0, n), numbers(n, n, c)
    return [
        {"query": query, "candidates": items, "teacher_scores": given.tolist()}
        for query, items, given in zip(queries, lists, scores, strict=True)
    ]


def distilled(folder: Path, case: dict[str, np.ndarray], scores: np.ndarray, **settings: Any) -> Any:
    vectors, rows = (case["query"], case["candidates"]), distillation_rows(scores)
    given = {"temperature": float(case["temperature"]), "generation_prompt": True, **settings}
    return step(DistillationTrainer, vectors, rows, folder, **given)


@CHUNKS
@pytest.mark.parametrize("name", ["kl_3x5_tau0.05", "kl_2x50_tau0.05"])
def test_distillation(tmp_path: Path, name: str, chunk_tokens: int | None) -> None:
    case = cases("umarvel_distillation")[name]
    loss, gradients, temperature = distilled(
        tmp_path, case, case["teacher_fused"], teacher_scale=0.5, chunk_tokens=chunk_tokens
    )
    assert_near(loss, case["loss"])
    assert loss == pytest.approx(float(case["loss_without_floor"]), rel=2e-6)
    n = len(case["query"])
    assert_near(gradients[:n], case["grad_query"])
    assert_near(gradients[n:], case["grad_candidates"])
    assert_near(temperature, case["grad_temperature"])


@CHUNKS
def test_distillation_of_the_vectors_that_their_model_gave(tmp_path: Path, chunk_tokens: int | None) -> None:
    with np.load(GOLDEN / "umarvel_train_model.npz") as stored:
        case = {key.removeprefix("distill/"): stored[key] for key in stored}
    n, c = case["teacher_fused"].shape
    case["query"] = case["vectors"][:n]
    case["candidates"] = (
        case["vectors"][n:].reshape(c, n, -1).swapaxes(0, 1)
    )  # candidate 0 of every query first
    cosines = candidate_cosines(torch.tensor(case["query"]), torch.tensor(case["candidates"]))
    assert_near(cosines, case["student_scores"])
    loss, _, temperature = distilled(
        tmp_path, case, case["teacher_fused"], teacher_scale=0.5, chunk_tokens=chunk_tokens
    )
    assert_near(loss, case["loss"])
    assert_near(temperature, case["grad/temperature"])


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_nothing_is_learnt_if_and_only_if_the_student_is_the_teacher(tmp_path: Path, divergence: str) -> None:
    case = cases("umarvel_distillation")["kl_3x5_tau0.05"]
    own = candidate_cosines(torch.tensor(case["query"]), torch.tensor(case["candidates"])).numpy()
    for shift in (0.0, 0.5):  # a softmax does not know how high all scores are
        loss, gradients, temperature = distilled(tmp_path, case, own + shift, divergence=divergence)
        assert abs(loss) < 1e-6
        assert gradients.abs().max() < 1e-4
        assert abs(temperature) < 1e-4
    other = own.copy()
    other[0, own[0].argmax()] += 0.1
    loss, gradients, _ = distilled(tmp_path, case, other, divergence=divergence)
    assert loss > 1e-4
    assert gradients.abs().max() > 1e-2


def test_reverse_is_the_other_divergence_and_infonce_is_added(tmp_path: Path) -> None:
    case = cases("umarvel_distillation")["kl_3x5_tau0.05"]
    scores, tau = case["teacher_fused"], float(case["temperature"])
    logs = [s / tau - np.log(np.exp(s / tau).sum(1, keepdims=True)) for s in (case["student_scores"], scores)]
    student, teacher = logs
    expected = (np.exp(student) * (student - teacher)).sum(1).mean()
    assert distilled(tmp_path, case, scores, divergence="reverse")[0] == pytest.approx(expected, rel=1e-4)
    rows = [
        {**row, "positive": row["candidates"][1], "negatives": []} for row in distillation_rows(scores)
    ]  # each query's second candidate
    query, positive = (
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (case["query"], case["candidates"][:, 1])
    )
    cosines = query @ positive.T / tau
    contrast = (np.log(np.exp(cosines).sum(1)) - np.diag(cosines)).mean()
    for chunk_tokens in (None, 3):
        loss, _, _ = step(
            DistillationTrainer,
            (case["query"], case["candidates"]),
            rows,
            tmp_path,
            temperature=tau,
            generation_prompt=True,
            divergence="reverse",
            infonce_weight=0.3,
            chunk_tokens=chunk_tokens,
        )
        assert loss == pytest.approx(expected + 0.3 * contrast, rel=1e-4)


def test_a_positive_is_forced_in_where_the_list_has_it_not(tmp_path: Path) -> None:
    case = cases("umarvel_distillation")["kl_3x5_tau0.05"]
    whole = distillation_rows(case["teacher_fused"])
    last = [{**row, "positive": row["candidates"][-1], "positive_teacher_score": 9.0} for row in whole]
    cut = [
        {
            **row,
            "candidates": row["candidates"][:-1],
            "teacher_scores": row["teacher_scores"][:-1],
            "positive": row["candidates"][-1],
            "positive_teacher_score": row["teacher_scores"][-1],
        }
        for row in whole
    ]
    given = {"temperature": 0.05, "teacher_scale": 0.5, "generation_prompt": True}
    vectors = (case["query"], case["candidates"])
    for rows in (last, cut):
        loss, _, _ = step(DistillationTrainer, vectors, rows, tmp_path, force_positive=True, **given)
        assert_near(loss, case["loss"])
    loss, _, _ = step(DistillationTrainer, vectors, cut, tmp_path, **given)
    assert abs(loss - float(case["loss"])) > 1e-2
    loss, _, _ = step(DistillationTrainer, vectors, last, tmp_path, max_candidates=4, **given)
    shorter, _, _ = step(DistillationTrainer, vectors, cut, tmp_path, **given)
    assert loss == pytest.approx(shorter)


@CHUNKS
@pytest.mark.parametrize("name", ["stage1_q2p_tau0.05", "stage2_5_modality_negatives", "stage2_learned_tau"])
def test_infonce_of_their_stages(tmp_path: Path, name: str, chunk_tokens: int | None) -> None:
    case = cases("umarvel_infonce")[name]
    n, k = len(case["query"]), case["negatives"].shape[1] if "negatives" in case else 0
    roles = ["query", "positive", *(["negatives"] if k else [])]
    rows = [
        {"query": q, "positive": p, "negatives": others}
        for q, p, others in zip(numbers(0, n), numbers(n, n), numbers(2 * n, n, k), strict=True)
    ]
    loss, gradients, temperature = step(
        ContrastiveTrainer,
        [case[role] for role in roles],
        rows,
        tmp_path,
        temperature=float(case["temperature"]),
        negatives_shared=True,
        chunk_tokens=chunk_tokens,
    )
    assert_near(loss, case["loss"])
    expected = [case[f"grad_{role}"] for role in roles]
    for found, one in zip(
        gradients.split([one.size // one.shape[-1] for one in expected]), expected, strict=True
    ):
        assert_near(found, one)
    assert_near(temperature, case["grad_temperature"])
