"""Objectives: pure functions of vectors and scores, and the modules that hold their learnable parts."""

from .contrastive import info_nce
from .module import ContrastiveObjective
from .temperature import LearnableTemperature

__all__ = ["ContrastiveObjective", "LearnableTemperature", "info_nce"]
