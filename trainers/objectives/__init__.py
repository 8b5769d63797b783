"""Objectives: pure functions of vectors and scores, and the modules that hold their learnable parts."""

from .adaptive import adaptive_reward, break_even, thought_advantages, utility_gap
from .contrastive import info_nce
from .distillation import candidate_cosines, listwise_kl
from .module import ContrastiveObjective
from .policy import policy_loss
from .reranking import listwise_cross_entropy
from .rewards import format_reward, group_advantages, rank_gap_reward
from .temperature import LearnableTemperature

__all__ = [
    "ContrastiveObjective",
    "LearnableTemperature",
    "adaptive_reward",
    "break_even",
    "candidate_cosines",
    "format_reward",
    "group_advantages",
    "info_nce",
    "listwise_cross_entropy",
    "listwise_kl",
    "policy_loss",
    "rank_gap_reward",
    "thought_advantages",
    "utility_gap",
]
