"""MMEmb-R1 (arXiv 2604.06156) re-derived: UME-R1's prompt on Qwen3-VL, and tokens by which a model decides to think.

Neither code nor weights of it are public: every entry here is ours, and no checkpoint is known by this name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...processing.prompts import PromptSettings
from ...processing.settings import ProcessorSettings
from ...processing.tokenizing import PoolingRule
from . import qwen3_vl_embedding
from .preset import AddedToken
from .ume_r1 import UME_R1, template

OURS = "ours: nothing is published"


def processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    """Pixels and frames of Qwen3-VL-Embedding, without its resize before the processor's."""
    settings = qwen3_vl_embedding.processor(model_type, image_processor)
    return replace(
        settings,
        prompt=PromptSettings(template=template("evaluation")),
        pooling=PoolingRule("token", token="<disc_emb>"),
        budget=replace(settings.budget, first_image=None, first_frame=None),
        empty_items=False,
    )


MMEMB_R1 = replace(
    UME_R1,
    name="mmemb-r1",
    fixture=("", ""),
    repos=(),
    families=("qwen3_vl",),
    model=replace(UME_R1.model, kind="adaptive"),
    processor=processor,
    tokens=(
        *UME_R1.tokens,
        AddedToken("<direct>", "copy", of="<|box_start|>"),
        AddedToken("<reason>", "copy", of="<|box_end|>"),
    ),
    model_tokens={**UME_R1.model_tokens, "direct": "<direct>", "reason": "<reason>"},
    official=None,
    differences=(),
    sources={
        "template": f"{OURS}; UME-R1's, in the one line of its evaluation",
        "pooling": f"{OURS}; UME-R1's <disc_emb> and <gen_emb>",
        "positions": f"{OURS}; the backbone's",
        "budget": f"{OURS}; as of Qwen3-VL-Embedding",
        "tokens": f"{OURS}; read after the prompt and never written, see trainers/actions.py",
    },
)
