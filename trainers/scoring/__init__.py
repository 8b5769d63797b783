"""A teacher's scores for rows with lists of candidates (U-MARVEL, section 2.8 of its specification: fused, frozen)."""

from .run import ScoringReport, score

__all__ = ["ScoringReport", "score"]
