"""Benchmarks of ``umekit evaluate``, a file each: what they are called, their options, and how they are run.

A file has ``NAMES``, ``OPTIONS`` (arguments that only it takes), ``SHARED`` (those of all that it takes, too),
``add_arguments(parser)``, ``check(args)`` and ``measure(args, name, model, command) -> Report | None``.
"""

from __future__ import annotations

from types import ModuleType

from . import calibration, curve, digit_world, mteb, retrieval, thoughts

MODULES: tuple[ModuleType, ...] = (digit_world, thoughts, curve, calibration, retrieval, mteb)
NAMES: tuple[str, ...] = tuple(name for module in MODULES for name in module.NAMES)


def module_of(name: str) -> ModuleType | None:
    """The file of a benchmark; ``mteb:NAME`` is one of mteb's."""
    head = name.partition(":")[0] if name.startswith("mteb:") else name
    return next((module for module in MODULES if head in module.NAMES), None)
