"""``umekit.verify``: is a checkpoint complete, and does it still give what its golden folder says?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...processing.processor import UmeProcessor
from ..checkpoint_files import has_settings
from ..loading import load
from ..presets import PRESETS, Preset
from .folder import (
    GOLDEN_FOLDER,
    flat_settings,
    measured,
    options_of,
    prepare_one,
    read_golden,
    vector_of,
)
from .items import Case, Golden


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be.

    Attributes:
        item: name of the golden item, "" where it concerns the checkpoint.
        prop: which property.
        message: what it is and what was expected.
    """

    item: str
    prop: str
    message: str

    def __str__(self) -> str:
        return f"{self.item}: {self.prop}: {self.message}" if self.item else f"{self.prop}: {self.message}"


@dataclass
class Verification:
    """Outcome of :func:`verify`.

    Attributes:
        problems: empty when all is well.
        facts: what was loaded: dtype, kernel, parameters, tied weights, settings.
        golden: the golden folder, None where there was none.
        items: how many golden items were compared.
        differences: of each item, the largest difference of a number of its vector.
        notes: items that differ from a published fixture just as a preset documents it.
    """

    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    golden: str | None = None
    items: int = 0
    differences: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def largest(self) -> float:
        """Largest difference of a number of any vector."""
        return max(self.differences.values(), default=0.0)


def verify(
    path: str | os.PathLike[str],
    golden: str | os.PathLike[str] | None = None,
    *,
    preset: str | None = None,
    array: str | None = None,
    **load_options: Any,
) -> Verification:
    """Load a checkpoint, audit it, and compare it with a golden folder.

    Args:
        path: folder or Hub repository.
        golden: golden folder; the checkpoint's own ``golden/`` when None, where it has one.
        preset: a published system; that of a published fixture when None.
        array: which vectors of a published fixture.
        load_options: go to :func:`umekit.load` (``compat``, ``device``, ``dtype``, ...).

    Returns:
        What is wrong, each with the item and the property; whatever cannot be loaded is a problem, too.
    """
    result = Verification()
    source = os.fspath(path)
    own = Path(source) / GOLDEN_FOLDER
    if golden is None and own.is_dir():
        golden = own
    wanted = None if golden is None else read_golden(Path(golden), array)
    if wanted is not None:
        result.golden = os.fspath(golden)  # type: ignore[arg-type]
        if "dtype" not in load_options:
            load_options["dtype"] = wanted.dtype
    try:
        if wanted is not None and preset is None and wanted.preset and not has_settings(source):
            preset = wanted.preset
        encoder = load(source, preset=preset, **load_options)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        result.problems.append(Problem("", "load", f"{type(error).__name__}: {error}"))
        return result
    if encoder.assumption:
        result.problems.append(Problem("", "preset", encoder.assumption))
    audit(encoder, result)
    if wanted is not None:
        compare(encoder, wanted, result)
        if wanted.preset and result.problems and load_options.get("compat") is None:
            _excuse_documented(encoder, wanted, PRESETS[wanted.preset], result)
    return result


def audit(encoder: Any, result: Verification) -> None:
    """Check a loaded model: leftover keys, tied weights, tokens; note dtype and kernel."""
    model, processor = encoder.model, encoder.processor
    config = model.config
    backbone = model.backbone
    result.facts |= {
        "family": config.model_type,
        "role": model.settings.kind,
        "dtype": str(model.dtype).removeprefix("torch."),
        "kernel": getattr(config, "_attn_implementation", None),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "tied": bool(getattr(config, "tie_word_embeddings", False)),
        "device": str(model.device),
    }
    for key in getattr(model, "unexpected_keys", ()):
        result.problems.append(Problem("", "weights", f"{key} is in the files and has no place in the model"))
    if result.facts["tied"]:
        head, rows = backbone.get_output_embeddings(), backbone.get_input_embeddings()
        if head is not None and head.weight.data_ptr() != rows.weight.data_ptr():
            result.problems.append(Problem("", "weights", "the output matrix should be tied and is a copy"))
    rows = model.get_input_embeddings().weight.shape[0]
    rule = processor.settings.pooling
    vocabulary = processor.tokenizer.get_vocab()
    for token in (rule.token, rule.span_start, rule.span_end):
        if token and vocabulary.get(token, rows) >= rows:
            result.problems.append(
                Problem("", "tokens", f"{token} is pooled by and is not in the vocabulary")
            )
    for name, ids in model.settings.tokens.items():
        for number in ids if isinstance(ids, list) else [ids]:
            if not 0 <= number < rows:
                result.problems.append(
                    Problem("", "tokens", f"{name} is token {number}, the model has {rows}")
                )


def compare(encoder: Any, golden: Golden, result: Verification, *, batched: bool = True) -> None:
    """Compare settings, inputs and vectors, the vectors alone and (``batched``) in one call."""
    if golden.settings:
        now = flat_settings(encoder.model, encoder.processor)
        for name in sorted({*now, *golden.settings}):
            if now.get(name) != golden.settings.get(name):
                text = f"{now.get(name)!r}, golden has {golden.settings.get(name)!r}"
                result.problems.append(Problem("", f"settings {name}", text))
    good = []
    for case in golden.cases:
        found = list(_input_problems(encoder.processor, case))
        result.problems += found
        if not any(problem.prop == "item" for problem in found):
            good.append(case)
    result.items = len(golden.cases)
    if not golden.cases:
        result.problems.append(Problem("", "golden", "it holds no item, so that nothing was compared"))
    pairs = any(case.candidate is not None for case in good)
    what = "score" if pairs else "vector"
    able = []
    for case in good:
        try:
            vector = vector_of(encoder, case.item, case.role, case.candidate, case.mode)
        except Exception as error:  # whatever a wrong setting breaks is what is looked for here
            text = f"cannot be computed: {type(error).__name__}: {error}"
            result.problems.append(Problem(case.name, what, text))
            continue
        able.append(case)
        _compare_vector(case, vector, what, golden, result)
    for cases in _calls(able) if batched and not _depends_on_batch(encoder) else ():
        for case, vector in zip(cases, _together(encoder, cases), strict=True):
            _compare_vector(case, vector, f"{what} in a batch", golden, result)


def _together(encoder: Any, cases: list[Case]) -> NDArray[np.float32]:
    """Vectors, or scores, of cases in one call."""
    if cases[0].candidate is not None:
        return encoder.rerank(cases[0].item, [case.candidate for case in cases])[:, None]
    options = options_of(encoder.model, cases[0].mode)
    return encoder.encode([case.item for case in cases], role=cases[0].role, **options)


def _depends_on_batch(encoder: Any) -> bool:
    """Whether a vector is, by an official defect that was asked for, another one in a batch."""
    attention = encoder.model.settings.attention
    return attention == "bidirectional_if_padded" or encoder.processor.settings.budget.listed_scope == "call"


def _calls(cases: list[Case]) -> list[list[Case]]:
    """Cases that go into one call: those of a role, or those of a query."""
    calls: list[list[Case]] = []
    for case in cases:
        same = (
            c for c in calls if c[0].role == case.role and (case.candidate is None or c[0].item == case.item)
        )
        call = next(same, None)
        if call is None:
            calls.append([case])
        else:
            call.append(case)
    return calls


def _excuse_documented(encoder: Any, golden: Golden, preset: Preset, result: Verification) -> None:
    """Turn problems into notes where the official code's documented defects, and nothing else, explain them."""
    names = {problem.item for problem in result.problems if problem.item}
    if preset.official is None or not names:
        return
    model, processor, again = encoder.model, encoder.processor, Verification()
    before = model.settings
    try:
        model.settings, settings = preset.official(before, processor.settings)
        encoder.processor = UmeProcessor(processor.image_processor, processor.tokenizer, None, settings)
        cases = [case for case in golden.cases if case.name in names]
        compare(encoder, replace(golden, cases=cases), again, batched=False)
    finally:
        model.settings, encoder.processor = before, processor
    excused = names - {problem.item for problem in again.problems}
    result.notes += [
        f"{name} differs as the preset {preset.name} documents (compat)" for name in sorted(excused)
    ]
    result.problems = [problem for problem in result.problems if problem.item not in excused]
    result.differences |= {name: again.differences[name] for name in excused if name in again.differences}


def _input_problems(processor: Any, case: Case) -> Iterator[Problem]:
    try:
        row = prepare_one(processor, case.item, case.role, case.candidate, case.mode)
    except ValueError as error:
        yield Problem(case.name, "item", f"cannot be prepared: {error}")
        return
    now = measured(row)
    if now["ids"] != case.ids:
        where = ""
        pairs = zip(row.input_ids.tolist(), case.input_ids, strict=False)
        first = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
        if first is not None:
            where = f", from position {first}"
        yield Problem(
            case.name, "token ids", f"{now['length']} tokens, golden has {case.length} others{where}"
        )
    if now["grids"] != case.grids:
        yield Problem(case.name, "grids", f"{now['grids']}, golden has {case.grids}")
    if case.slots and now["slots"] != case.slots:
        places = np.flatnonzero(row.slots)
        text = f"{len(places)} positions ({places[0]}..{places[-1]}) are not golden's"
        yield Problem(case.name, "pooled positions", text)
    if case.pixels is not None and now["pixels"] is not None and abs(now["pixels"] - case.pixels) > 0.02:
        yield Problem(case.name, "pixels", f"their mean is {now['pixels']}, golden has {case.pixels}")


def _compare_vector(
    case: Case, vector: NDArray[np.float32], prop: str, golden: Golden, result: Verification
) -> None:
    kept = case.vector.shape[0]
    if len(vector) < kept:
        text = f"{len(vector)} numbers, golden has {kept}"
        result.problems.append(Problem(case.name, prop, text))
        return
    difference = float(np.abs(vector[:kept] - case.vector).max())
    result.differences[case.name] = max(result.differences.get(case.name, 0.0), difference)
    tolerance = golden.loose.get(case.name, golden.tolerance)
    if not difference <= tolerance:
        result.problems.append(
            Problem(case.name, prop, f"differs by {difference:.2g}, allowed is {tolerance:.2g}")
        )
