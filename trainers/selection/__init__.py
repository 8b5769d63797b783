"""Which of many thoughts an instance is trained with, or none (MMEmb-R1, re-derived: see ``contribution``)."""

from .run import select
from .settings import SelectionReport, SelectionSettings
from .workers import Worker

__all__ = ["SelectionReport", "SelectionSettings", "Worker", "select"]
