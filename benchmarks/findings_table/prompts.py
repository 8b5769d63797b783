"""Prompts of the arms. They have the form of the published ones, in words that the tiny tokenizer knows.

The published compression prompt ("summarize above image in one word:") works because the backbone already answers it
with the content. What this backbone has learned to answer so is "read the scene", hence that stands in its place;
the published words would fall apart into bytes that were never trained.
"""

from __future__ import annotations

from typing import Any

from umekit.encoding.presets import Preset
from umekit.encoding.presets.rzenembed import RZENEMBED
from umekit.encoding.presets.templates import ASSISTANT, END, USER, gather
from umekit.encoding.presets.u_marvel import START, STOP, U_MARVEL
from umekit.processing.tokenizing import PoolingRule

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


_MARVEL, _RZEN = "U-MARVEL tables 1 and 2", "RzenEmbed sections 3.4.4 and 4.4"


def _mean(name: str, compression: bool, pooling: PoolingRule | None = None) -> Preset:
    return U_MARVEL.variant(name, _MARVEL, template=_marvel(compression), pooling=pooling)


def _causal(name: str, compression: bool) -> Preset:
    last = PoolingRule("last")
    return U_MARVEL.variant(name, _MARVEL, template=_marvel(compression), pooling=last, attention="causal")


PROMPTS: dict[str, Preset] = {
    prompt.name: prompt
    for prompt in (
        _causal("causal-last", compression=False),
        _causal("causal-last-compression", compression=True),
        _mean("bidirectional-mean", compression=False),
        _mean("bidirectional-mean-compression", compression=True),
        _mean("bidirectional-mean-unmasked", compression=False, pooling=PoolingRule("mean")),
        RZENEMBED.variant("embedding-prompt", _RZEN, template=_rzen(True)),
        RZENEMBED.variant("no-embedding-prompt", _RZEN, template=_rzen(False)),
    )
}


def put_on(model: Any, processor: Any, name: str) -> tuple[Any, Any]:
    """Model and processor under a prompt of the table; as they are for ``direct``."""
    if name == DIRECT:
        return model, processor
    return PROMPTS[name].put_on(model, processor, positions=model.settings.positions)  # the start's own
