"""Objectives: pure functions of vectors and scores, and the modules that hold their learnable parts."""

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
    "candidate_cosines",
    "format_reward",
    "group_advantages",
    "info_nce",
    "listwise_cross_entropy",
    "listwise_kl",
    "policy_loss",
    "rank_gap_reward",
]
