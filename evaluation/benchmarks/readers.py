"""Readers by the name that a definition gives: rows of a task, in their published layout, to a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import documents, images, m_beir, videos, zero_shot
from .data import BenchmarkData
from .definition import Benchmark, Task
from .problem import Problem


@dataclass(frozen=True)
class Choices:
    """How to read what may be read in several ways.

    Attributes:
        pool: of M-BEIR: the task's own (``local``) or the union (``global``).
        prompt: of M-BEIR, which of an instruction's paraphrases: ``first``, or its number from 1. The official code
            draws one at random, also when it evaluates.
    """

    pool: str = "local"
    prompt: str = "first"


Reader = Callable[[Benchmark, Task, BenchmarkData, Choices], Problem]

READERS: dict[str, Reader] = {
    "mmeb-image": lambda _, task, data, __: images.read_image_task(task, data),
    "mmeb-v1": lambda _, task, data, __: images.read_v1_task(task, data),
    "mmeb-video-cls": lambda _, task, data, __: videos.read_classification(task, data),
    "mmeb-video-qa": lambda _, task, data, __: videos.read_questions(task, data),
    "mmeb-video-ret": lambda _, task, data, __: videos.read_retrieval(task, data),
    "mmeb-video-mret": lambda _, task, data, __: videos.read_moments(task, data),
    "visdoc": lambda _, task, data, __: documents.read_documents(task, data),
    "m-beir": lambda benchmark, task, data, choices: m_beir.read_task(
        benchmark, task, data, choices.pool, choices.prompt
    ),
    "zero-shot": lambda _, task, data, __: zero_shot.read_set(task, data),
}


def read_problem(
    benchmark: Benchmark, task: Task, data: BenchmarkData, choices: Choices | None = None
) -> Problem:
    """A task's queries and candidates.

    Raises:
        BenchmarkDataError: rows or media are not there.
        FormatError, ProblemError: a row is not as published; names it.
    """
    return READERS[task.reader](benchmark, task, data, choices or Choices())
