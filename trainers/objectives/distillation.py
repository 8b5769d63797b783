"""Listwise distillation: the student's distribution over a row's candidates against the teacher's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def candidate_cosines(query: Tensor, candidates: Tensor) -> Tensor:
    """Cosines of each query ``[n, d]`` to its candidates ``[n, c, d]``: ``[n, c]``, float32 also under autocast."""
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.promote_types(query.dtype, torch.float32)
        q, c = F.normalize(query.to(dtype), dim=-1), F.normalize(candidates.to(dtype), dim=-1)
        return torch.einsum("nd,ncd->nc", q, c)


def listwise_kl(
    student_scores: Tensor,
    teacher_scores: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    teacher_temperature: float | Tensor | None = None,
    mask: Tensor | None = None,
    direction: str = "forward",
) -> Tensor:
    """Mean over rows of KL(teacher || student) ("forward") or KL(student || teacher) ("reverse"), 0-d.

    student_scores, teacher_scores: [n, c]; the teacher's are detached. temperature: float, 0-d or [n];
    gradients flow into the student's. teacher_temperature: the same, detached; None is the student's. mask:
    bool [n, c], True where a candidate exists. Computed in float32 (float64 for float64 scores). U-MARVEL's
    distillation is "forward" with one temperature for both.

    Raises ValueError for shapes that do not fit, a row without candidates or an unknown direction.

    >>> scores = torch.tensor([[1.0, 2.0]])
    >>> listwise_kl(scores, scores + 3).item()
    0.0
    """
    if student_scores.ndim != 2 or student_scores.shape != teacher_scores.shape:
        raise ValueError(f"two [n, c] expected, got {[*student_scores.shape]} and {[*teacher_scores.shape]}")
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction is 'forward' or 'reverse', not {direction!r}")
    if mask is not None and mask.shape != student_scores.shape:
        raise ValueError(f"mask {[*mask.shape]} does not fit scores {[*student_scores.shape]}")
    keep = torch.ones_like(student_scores, dtype=torch.bool) if mask is None else mask.bool()
    if not keep.any(dim=1).all():
        raise ValueError("a row has no candidates")
    dtype = torch.promote_types(student_scores.dtype, torch.float32)
    with torch.autocast(student_scores.device.type, enabled=False):

        def log_probabilities(scores: Tensor, tau: float | Tensor) -> Tensor:
            scale = tau[:, None] if isinstance(tau, Tensor) and tau.ndim == 1 else tau
            return (scores.to(dtype) / scale).masked_fill(~keep, float("-inf")).log_softmax(dim=1)

        student = log_probabilities(student_scores, temperature)
        goal = temperature if teacher_temperature is None else teacher_temperature
        teacher = log_probabilities(
            teacher_scores.detach(), goal.detach() if isinstance(goal, Tensor) else goal
        )
        first, second = (teacher, student) if direction == "forward" else (student, teacher)
        first, second = first.masked_fill(~keep, 0.0), second.masked_fill(~keep, 0.0)
        return (first.exp() * (first - second) * keep).sum(dim=1).mean()
