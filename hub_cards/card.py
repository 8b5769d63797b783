"""Result files and a checkpoint -> the model card, a README.md with metadata that the Hub reads.

Notable: the card states what a result file or the checkpoint's own files hold, and what its author wrote
about it; results of another model are refused by their fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from .._version import __version__
from ..encoding.fingerprint import differences
from ..evaluation.calibration_report import CalibrationReport
from ..evaluation.curve_report import CurveReport
from ..evaluation.report import Report
from ..evaluation.tables import markdown_table
from ..evaluation.thought_report import OWN, ThoughtReport
from .facts import Facts, read_facts, settings_rows
from .modes import mode_of, modes_section
from .snippets import snippets

TEMPLATE = Path(__file__).with_name("template.md")
NOT_STATED = "Not stated by the author of this checkpoint."
TAGS = {
    "discriminative": ("multimodal-embedding", "sentence-transformers", "feature-extraction"),
    "generative": ("multimodal-embedding", "sentence-transformers", "feature-extraction", "reasoning"),
    "adaptive": (
        "multimodal-embedding",
        "sentence-transformers",
        "feature-extraction",
        "reasoning",
        "adaptive-reasoning",
    ),
    "reranker": ("multimodal-reranking", "sentence-transformers", "reranker"),
}
THINKING = ("generative", "adaptive")
ENGINES = {"sentence-transformers": "sentence-transformers", "vllm": "vLLM"}


class ResultMismatchError(ValueError):
    """A result file is of another model, or of another processor."""


@dataclass(frozen=True)
class CardOptions:
    """What the files can't know.

    Attributes:
        repo: Hub id for the snippets; the folder's name if None.
        license, base_model, language, tags: metadata; tags are added to ours.
        query, text: example texts of the snippets.
    """

    repo: str | None = None
    license: str = "apache-2.0"
    base_model: str | None = None
    language: str | None = None
    tags: tuple[str, ...] = ()
    query: str = "a red bicycle"
    text: str = "a bicycle leans on a wall"


def build_card(
    checkpoint: Path,
    reports: Sequence[Report] = (),
    about: str = "",
    options: CardOptions | None = None,
    fingerprint: Mapping[str, Any] | None = None,
) -> ModelCard:
    """The card of a checkpoint.

    Args:
        checkpoint: its folder.
        reports: what was measured of it.
        about: Markdown by its author. What stands before the first `##` heading says what the model is; the
            sections `Training data` and `Limits` go to their places, other sections to the end.
        options: what the files can't know.
        fingerprint: the checkpoint's, if known; else it is loaded to find out (only where there are reports).

    Raises:
        ResultMismatchError: a report is not of this checkpoint, or of a reranker and not its calibration.
        ValueError: two reports of one mode of a checkpoint that thinks, on the same data.
    """
    options = options or CardOptions()
    facts = read_facts(checkpoint)
    kind = facts.settings.kind
    thinks = kind in THINKING
    if reports:
        strange = [one.title for one in reports if not isinstance(one, CalibrationReport)]
        if facts.settings.kind == "reranker" and strange:
            raise ResultMismatchError(
                f"{strange[0]} does not say by its weights which reranker it is of: a reranker's card takes results of "
                "`umekit evaluate --benchmark calibration`"
            )
        own = fingerprint or _fingerprint(checkpoint)
        for report in reports:
            check_report(report, own)
    repo = options.repo or checkpoint.resolve().name
    name = repo.split("/")[-1]
    sections = split_about(about)
    known = ("", "Training data", "Limits")
    text = (
        _environment()
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            metadata=_metadata(facts, reports, name, options).to_yaml(),
            name=name,
            about=sections.get("") or _default_about(facts, name),
            snippets=snippets(facts, repo, options.query, options.text),
            engines=_engines(facts),
            settings=settings_rows(facts),
            scores=[(_heading(facts, report), markdown_table(report)) for report in reports],
            modes=modes_section(reports, facts.settings.mode, kind == "adaptive") if thinks else "",
            training_data=sections.get("Training data") or NOT_STATED,
            limits=sections.get("Limits")
            or f"{NOT_STATED} What is not in the scores above was not measured.",
            more=[(title, body) for title, body in sections.items() if title not in known],
            versions=_versions(facts, reports),
        )
    )
    return ModelCard(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def check_report(report: Report, fingerprint: Mapping[str, Any]) -> None:
    """Raises ResultMismatchError unless the report is of the model with this fingerprint."""
    different = differences(report.fingerprint, fingerprint)
    if different or "model" not in {*fingerprint, *report.fingerprint}:
        models = [str(one.get("model"))[:12] for one in (report.fingerprint, fingerprint)]
        raise ResultMismatchError(
            f"the result file of {report.conditions.model!r} ({report.conditions.created[:10]}) is not of this "
            "checkpoint: "
            f"{', '.join(different) or 'model'} differs (model {models[0]} there, {models[1]} here); "
            "measure it again"
        )


def split_about(about: str) -> dict[str, str]:
    """Heading of every `##` section -> its text; what comes before the first one under "", without a title.

    >>> split_about("# tiny\\n\\nIt is small.\\n\\n## Limits\\n\\nMany.\\n")
    {'': 'It is small.', 'Limits': 'Many.'}
    """
    parts = re.split(r"^##[ \t]+(.+?)[ \t]*$", about, flags=re.MULTILINE)
    lead = re.sub(r"\A\s*#[ \t]+.*\n?", "", parts[0]).strip()
    return {"": lead} | {title: text.strip() for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def _metadata(facts: Facts, reports: Sequence[Report], name: str, options: CardOptions) -> ModelCardData:
    native, _ = facts.native("sentence-transformers")
    tags = ["umekit", *TAGS[facts.settings.kind], facts.model_type]
    return ModelCardData(
        library_name="sentence-transformers" if native else "transformers",
        pipeline_tag="text-ranking" if facts.settings.kind == "reranker" else "sentence-similarity",
        license=options.license,
        base_model=options.base_model,
        language=options.language,
        tags=list(dict.fromkeys([*tags, *options.tags])),
        model_name=name,
        eval_results=[result for report in reports for result in _eval_results(facts, report)] or None,
    )


def _eval_results(facts: Facts, report: Report) -> list[EvalResult]:
    """An entry a task, kind of pool and metric: what was counted, no mean; of thoughts, with the model's own alone."""
    data = report.conditions.data
    thinks = facts.settings.kind in THINKING
    mode = f" ({mode_of(report, facts.settings.mode)} mode)" if thinks else ""
    return [
        EvalResult(
            task_type="text-ranking" if facts.settings.kind == "reranker" else "retrieval",
            dataset_type=data["name"],
            dataset_name=f"{report.title} {score.label}",
            dataset_config=f"{score.task}/{score.kind}" if score.kind else score.task,
            dataset_split=data["split"],
            dataset_revision=report.revision_of(score)[:12],
            metric_type=metric.lower().replace("@", "_at_").replace(" ", "_"),
            metric_name=f"{metric}{mode}",
            metric_value=round(value, 4),
        )
        for score in report.scores
        for metric, value in [(name.replace("R@", "recall@"), value) for name, value in score.entries()]
        if score.kind == {ThoughtReport: OWN, CurveReport: "adaptive"}.get(type(report), score.kind)
    ]


def _heading(facts: Facts, report: Report) -> str:
    """Of a report's scores; of a checkpoint with modes it says which."""
    words = f"{report.title}, {report.conditions.data['split']} split"
    if facts.settings.kind not in THINKING or isinstance(report, ThoughtReport | CurveReport):
        return words
    return f"{words}, {mode_of(report, facts.settings.mode)} mode"


def _engines(facts: Facts) -> list[str]:
    lines = []
    for target, name in ENGINES.items():
        native, reason = facts.native(target)
        of = " of its direct vectors" if facts.settings.kind in THINKING else ""
        lines.append(
            f"{name}: {f'the settings have a native form{of}, but' if native else 'not possible;'} {reason}."
        )
    return lines


def _default_about(facts: Facts, name: str) -> str:
    taken = "text, images, video and document pages, or a mix of them,"
    if facts.settings.kind == "reranker":
        return f"{name} scores how well a document answers a query, in 0..1; either is {taken[:-1]}."
    made = f"{name} embeds {taken} as vectors of {facts.dim} numbers in one space"
    ways = {
        "generative": ", at once or after a thought",
        "adaptive": ", at once or after a thought, and decides which",
    }
    return f"{made}{ways.get(facts.settings.kind, '')}."


def _versions(facts: Facts, reports: Sequence[Report]) -> str:
    lines = [f"* the weights were saved with transformers {facts.saved_with}"]
    for report in reports:
        versions = ", ".join(f"{name} {version}" for name, version in report.conditions.versions.items())
        lines.append(f"* the scores of {report.conditions.created[:10]} were measured with {versions}")
    return "\n".join([*lines, f"* this card was written by umekit {__version__}"])


def _fingerprint(checkpoint: Path) -> dict[str, Any]:
    from ..encoding.loading import load

    return load(checkpoint, device="cpu").fingerprint()


def _environment() -> Environment:
    return Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)  # Markdown
