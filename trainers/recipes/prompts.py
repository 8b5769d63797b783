"""Prompts to train with, as data: each names the paper or the code that it is from.

A prompt is put on a model and its processor before training and is saved with them, so that what is trained is what
is served: the published systems mostly train and serve with different prompts, and pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ...encoding.presets.templates import ASSISTANT, END, SYSTEM_TURN, USER, gather
from ...encoding.presets.u_marvel import START, STOP
from ...encoding.presets.u_marvel import template as u_marvel_template
from ...processing.prompts import PromptSettings
from ...processing.tokenizing import PoolingRule

_RZEN_SYSTEM = (
    "Given an image, summarize the provided image in one word. "
    "Given only text, describe the text in one word."
)
# The published instructions bring their own last space; others get one.
_RZEN_QUERY = (
    "{%- set query = ns.instruction ~ (' ' if ns.instruction and ns.text and ns.instruction[-1] not in ' \\n' else '')"
    " ~ ns.text -%}\n"
)
_RZEN_REPRESENT = (
    "{%- set represent = 'Represent the given ' ~ ('image' if ns.media else 'text') ~ ' in one word.' -%}\n"
)


@dataclass(frozen=True)
class TrainingPrompt:
    """One prompt.

    Attributes:
        name: how recipes call it.
        source: where it is from.
        template: the chat template (Jinja).
        pooling: which tokens carry the embedding.
        attention, positions: of the model that it is meant for; None leaves the model's.
        tokens: added tokens that the tokenizer must have.
    """

    name: str
    source: str
    template: str
    pooling: PoolingRule
    attention: Literal["causal", "bidirectional"] | None = None
    positions: Literal["mrope", "1d"] | None = None
    tokens: tuple[str, ...] = ()


def _rzenembed(system: str, represent: bool) -> str:
    turn = f"<|im_start|>system\\n{system}<|im_end|>\\n" if system else ""
    tail = " ~ '\\n' ~ represent" if represent else ""
    return (
        gather()
        + _RZEN_QUERY
        + (_RZEN_REPRESENT if represent else "")
        + f"{{{{- '{turn}{USER}' ~ ns.media ~ query{tail} ~ '{END}{ASSISTANT}<|endoftext|>' -}}}}"
    )


_MEAN = PoolingRule("mean", span_start=START, span_end=STOP)
_MARVEL_TOKENS = ("<emb>", START, STOP)

PROMPTS = {
    prompt.name: prompt
    for prompt in (
        TrainingPrompt(
            "rzenembed",
            "RzenEmbed section 3.4.4: system prompt, query, representation prompt by modality",
            _rzenembed(_RZEN_SYSTEM, represent=True),
            PoolingRule("last"),
            attention="causal",
            positions="1d",
        ),
        TrainingPrompt(
            "rzenembed-plain",
            "RzenEmbed section 4.4, ablation: the same without system and representation prompt",
            _rzenembed("", represent=False),
            PoolingRule("last"),
            attention="causal",
            positions="1d",
        ),
        TrainingPrompt(
            "u-marvel",
            "U-MARVEL stages 2-3 and demo.py: instruction between its tokens and masked, no compression prompt",
            u_marvel_template(SYSTEM_TURN),
            _MEAN,
            attention="bidirectional",
            positions="1d",
            tokens=_MARVEL_TOKENS,
        ),
        TrainingPrompt(
            "u-marvel-compression",
            "U-MARVEL stage 1 (NLI, CC3M, M-BEIR as scripted): prompt1, 'Summarize above ... in one word: '",
            u_marvel_template(SYSTEM_TURN, compression=True),
            _MEAN,
            attention="bidirectional",
            positions="1d",
            tokens=_MARVEL_TOKENS,
        ),
        TrainingPrompt(
            "u-marvel-unmasked",
            "U-MARVEL table 2, ablation: the mean takes the instruction in",
            u_marvel_template(SYSTEM_TURN),
            PoolingRule("mean"),
            attention="bidirectional",
            positions="1d",
            tokens=_MARVEL_TOKENS,
        ),
        TrainingPrompt(
            "lamra",
            "LamRA-Ret, U-MARVEL table 1 first row: compression prompt, causal, the state before <emb>",
            u_marvel_template(SYSTEM_TURN, compression=True),
            PoolingRule("token", token="<emb>", offset=-1),
            attention="causal",
            positions="1d",
            tokens=_MARVEL_TOKENS,
        ),
    )
}


def get_prompt(name: str) -> TrainingPrompt:
    """A prompt by its name. Raises ValueError with the known names."""
    if name not in PROMPTS:
        raise ValueError(f"no training prompt {name!r}; known are {', '.join(PROMPTS)}")
    return PROMPTS[name]


def with_prompt(model: Any, processor: Any, prompt: TrainingPrompt, **changes: Any) -> tuple[Any, Any]:
    """The same weights and tokenizer under another prompt: ``(model, processor)``.

    Args:
        model: any ``UmeFor...`` model; its backbone is shared with the result.
        processor: its processor.
        prompt: what to render and to pool.
        changes: further entries of ``UmeSettings`` (``attention``, ``positions``, ``deepstack`` ...).

    Raises:
        ValueError: the tokenizer lacks a token of the prompt.
        UmeSettingsError: the backbone cannot be used so.
    """
    known = processor.tokenizer.get_added_vocab()
    lost = [token for token in prompt.tokens if token not in known]
    if lost:
        raise ValueError(
            f"the prompt {prompt.name!r} needs the tokens {lost}, which this tokenizer lacks: load the backbone with "
            "a preset that adds them (preset: u-marvel)"
        )
    entries: dict[str, Any] = {"pooling": prompt.pooling.kind}
    entries |= {
        name: value for name in ("attention", "positions") if (value := getattr(prompt, name)) is not None
    }
    settings = replace(model.settings, **(entries | changes))
    settings.check_backbone(model.config.model_type)
    changed = type(model)(model.config, model.backbone, settings)
    return changed, processor.with_settings(
        prompt=PromptSettings(template=prompt.template), pooling=prompt.pooling
    )
