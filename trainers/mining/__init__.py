"""Hard negatives from a model's own vectors (U-MARVEL, section 2.6 of its paper; NV-Retriever's relative margin)."""

from .run import mine
from .settings import MiningReport, MiningSettings

__all__ = ["MiningReport", "MiningSettings", "mine"]
