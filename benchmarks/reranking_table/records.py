"""The arms of the table as data: where each starts, who teaches it, on how much it is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

TINY = "ume-tiny"
Kind = Literal["stage2", "reranker", "distilled", "continued"]
# A task that recall alone leaves something to, and pools so large that it does. A clip's candidates are descriptions:
# the clip is read once for all of them, so that a reranker can learn from all ten at the price of one.
TASKS = ("retrieve_clip_caption",)
POOL, DEPTH = 4000, 10  # candidates of a pool, and of them those that are scored again
EASY = 0.05  # of the reranker's batches, the first ones, have any wrong candidates
STUDENT_ROWS = 2880  # of each task: a tenth of the reranker's
QUERIES, VALIDATION = 2000, 400  # of each task
QUICK = 4  # what a quick table divides steps by
CONTRASTIVE: dict[str, Any] = {"directions": ["q2p", "p2q"]}
VERSION = 4  # raise it where what rows, pools or scores mean is changed


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
        name, what: for files and readers.
        kind: ``stage2`` goes on with in-batch and hard negatives, ``reranker`` learns to answer yes or no,
            ``distilled`` learns the teacher's scores of a tenth of the rows (and InfoNCE, where its arguments give it a
            weight), ``continued`` those rows with hard negatives.
        start: ``ume-tiny``, or the arm whose checkpoint of the same seed it goes on from.
        teacher: the reranker whose scored rows it reads; the arm that only takes their lists, too.
        steps, batch: of the optimiser, and rows of a step.
        rates: learning rates that are tried; the best on validation rows is kept.
        arguments: of the trainer.
    """

    name: str
    what: str
    kind: Kind
    start: str = TINY
    teacher: str | None = None
    steps: int = 200
    batch: int = 40
    rates: tuple[float, ...] = (2e-4,)
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """Arms that must be there first."""
        return tuple(name for name in (self.start, self.teacher) if name is not None and name != TINY)

    def quick(self) -> Arm:
        """A quarter of it."""
        return replace(self, steps=max(1, self.steps // QUICK), rates=self.rates[:1])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


STAGE2 = Arm("stage2", "in-batch and hard negatives, the embedder that recalls", "stage2")
RERANKER = Arm(
    "reranker",
    "a LoRA on it that answers yes or no: any negatives first, then those that stage 2 ranks first",
    "reranker",
    "stage2",
    steps=1800,
    batch=16,
    rates=(1e-3,),
)
# Equal rows, steps and candidates: what differs is whether the scores are learnt or which one is right.
_STUDENT: dict[str, Any] = {
    "start": "stage2",
    "teacher": "reranker",
    "steps": 300,
    "batch": 16,
    "rates": (3e-4, 1e-3),
}
DISTILLED = Arm(
    "distilled",
    "a fresh LoRA on stage 2 that learns the fused scores of a tenth of the rows",
    "distilled",
    **_STUDENT,
)
# Hard negatives are learnt beside the other rows of the batch, scores of a list are not: is that the gap?
ANCHORED = Arm(
    "anchored",
    "the same with an InfoNCE loss over the batch beside the scores",
    "distilled",
    **{**_STUDENT, "rates": (1e-3,)},
    arguments={"infonce_weight": 1.0, **CONTRASTIVE},
)
CONTINUED = Arm(
    "continued", "the same LoRA, rows, lists and steps with hard negatives", "continued", **_STUDENT
)
ARMS: dict[str, Arm] = {arm.name: arm for arm in (STAGE2, RERANKER, DISTILLED, ANCHORED, CONTINUED)}
