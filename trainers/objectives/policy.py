"""The clipped policy objective with a KL term (GRPO), and the ways to average it over tokens."""

from __future__ import annotations

import torch
from torch import Tensor

NORMS = ("constant", "token", "sequence")


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    beta: float = 0.04,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    norm: str = "constant",
    max_length: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss (0-d, with gradient through ``logp``) and metrics (detached 0-d).

    Per token: ``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + beta * k3`` with r = exp(logp - old) and
    k3 = exp(ref - logp) - (ref - logp) - 1.

    logp, old_logp, ref_logp: [b, t]; ref_logp may be None if beta is 0. advantages: [b] or [b, t].
    mask: bool [b, t], True at tokens that the policy chose; forced tokens, prompt and padding are left out.
    norm: "constant" divides by ``b * max_length`` (Dr.GRPO, as in UME-R1), "token" by the number of tokens
        (DAPO), "sequence" averages each sequence, then the sequences (GRPO).

    Metrics: kl (mean k3; only with ref_logp), clip_fraction (share of tokens whose clipped term is in force),
    ratio (mean). Raises ValueError for arguments that do not fit.
    """
    if norm not in NORMS:
        raise ValueError(f"norm is one of {NORMS}, not {norm!r}")
    if norm == "constant" and not max_length:
        raise ValueError("norm='constant' needs max_length")
    if ref_logp is None and beta != 0:
        raise ValueError("beta needs ref_logp")
    for name, value in (("old_logp", old_logp), ("ref_logp", ref_logp), ("mask", mask)):
        if value is not None and value.shape != logp.shape:
            raise ValueError(f"{name} {[*value.shape]} does not fit logp {[*logp.shape]}")
    if advantages.shape not in (logp.shape, logp.shape[:1]):
        raise ValueError(f"advantages {[*advantages.shape]} do not fit logp {[*logp.shape]}")
    keep = mask.bool()
    dtype = torch.promote_types(logp.dtype, torch.float32)
    zero = torch.zeros((), dtype=dtype, device=logp.device)
    new = torch.where(keep, logp.to(dtype), zero)  # a forced token may have a log-probability of -inf

    def fixed(values: Tensor) -> Tensor:
        return torch.where(keep, values.detach().to(dtype), zero)

    advantage = advantages.detach().to(dtype)
    advantage = advantage[:, None] if advantage.ndim == 1 else advantage
    ratio = (new - fixed(old_logp)).exp()
    plain, clipped = ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    tokens = -torch.minimum(plain, clipped)
    count = keep.sum().clamp(min=1)
    with torch.no_grad():
        metrics = {
            "clip_fraction": ((clipped < plain) & keep).sum() / count,
            "ratio": torch.where(keep, ratio, zero).sum() / count,
        }
    if ref_logp is not None:
        log_ratio = fixed(ref_logp) - new
        k3 = log_ratio.exp() - log_ratio - 1
        metrics["kl"] = (torch.where(keep, k3, zero).sum() / count).detach()
        tokens = tokens + beta * k3
    tokens = torch.where(keep, tokens, zero)
    if norm == "constant":
        assert max_length is not None
        loss = tokens.sum() / (logp.shape[0] * max_length)
    elif norm == "token":
        loss = tokens.sum() / count
    else:
        loss = (tokens.sum(dim=1) / keep.sum(dim=1).clamp(min=1)).mean()
    return loss, metrics
