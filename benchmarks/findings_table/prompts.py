"""Prompts of the arms. They have the form of the published ones, in words that the tiny tokenizer knows.

The published compression prompt ("summarize above image in one word:") works because the backbone already answers it
with the content. What this backbone has learned to answer so is "read the scene", hence that stands in its place;
the published words would fall apart into bytes that were never trained.
"""

from __future__ import annotations

from typing import Any

from umekit.encoding.presets.templates import ASSISTANT, END, USER, gather
from umekit.encoding.presets.u_marvel import START, STOP
from umekit.processing.tokenizing import PoolingRule
from umekit.trainers.recipes.prompts import TrainingPrompt, with_prompt

DIRECT = "direct"  # the start's own: causal, the state at <disc_emb>
READ = "'\\nread the ' ~ ('scene' if ns.media else 'caption')"


def _marvel(compression: bool) -> str:
    body = f"(('{START}' ~ ns.instruction ~ '{STOP} ') if ns.instruction else '') ~ ns.text"
    tail = f" ~ {READ}" if compression else ""
    return gather() + f"{{{{- '{USER}' ~ ns.media ~ {body}{tail} ~ '{END}{ASSISTANT}<emb>' -}}}}"


def _rzen(represent: bool) -> str:
    system = "<|im_start|>system\\nread the scene or the caption<|im_end|>\\n" if represent else ""
    tail = f" ~ {READ}" if represent else ""
    item = f"ns.media ~ ns.instruction ~ '\\n' ~ ns.text{tail}"
    return gather() + f"{{{{- '{system}{USER}' ~ {item} ~ '{END}{ASSISTANT}<disc_emb>' -}}}}"


_TOKENS = ("<emb>", START, STOP)
_MASKED = PoolingRule("mean", span_start=START, span_end=STOP)


def _causal(name: str, compression: bool) -> TrainingPrompt:
    return TrainingPrompt(
        name,
        "LamRA-Ret; U-MARVEL table 1",
        _marvel(compression),
        PoolingRule("last"),
        attention="causal",
        tokens=_TOKENS,
    )


def _mean(name: str, compression: bool, rule: PoolingRule = _MASKED) -> TrainingPrompt:
    return TrainingPrompt(
        name, "U-MARVEL tables 1 and 2", _marvel(compression), rule, attention="bidirectional", tokens=_TOKENS
    )


PROMPTS: dict[str, TrainingPrompt] = {
    prompt.name: prompt
    for prompt in (
        _causal("causal-last", compression=False),
        _causal("causal-last-compression", compression=True),
        _mean("bidirectional-mean", compression=False),
        _mean("bidirectional-mean-compression", compression=True),
        _mean("bidirectional-mean-unmasked", compression=False, rule=PoolingRule("mean")),
        TrainingPrompt(
            "embedding-prompt",
            "RzenEmbed section 3.4.4",
            _rzen(True),
            PoolingRule("last"),
            tokens=("<disc_emb>",),
        ),
        TrainingPrompt(
            "no-embedding-prompt",
            "RzenEmbed section 4.4",
            _rzen(False),
            PoolingRule("last"),
            tokens=("<disc_emb>",),
        ),
    )
}


def put_on(model: Any, processor: Any, name: str) -> tuple[Any, Any]:
    """Model and processor under a prompt of the table; as they are for ``direct``."""
    return (model, processor) if name == DIRECT else with_prompt(model, processor, PROMPTS[name])
