"""U-MARVEL's pointwise reranker (Tencent BAC) on Qwen2-VL, as its M-BEIR evaluation scores.

Its weights are not published: the preset is for checkpoints that the authors' scripts have trained, given by name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...modeling.settings import UmeSettings
from ...processing.prompts import PromptSettings
from ...processing.settings import ProcessorSettings
from ...processing.tokenizing import PoolingRule
from . import u_marvel
from .pair_templates import gather_pair
from .preset import Difference, Preset, Traces
from .templates import ASSISTANT, END, SYSTEM_TURN, USER

# A line continuation inside the string left 24 spaces, and "responed" is theirs: it was trained so.
JUDGE = (
    "I will provide you with a query and a candidate. Please evaluate whether the candidate"
    + " " * 24
    + "meets the requirements of the query. If it does, respond with \\'Yes\\'; "
    "if it doesn\\'t, responed with \\'No\\'."
)


def template() -> str:
    """One user turn: the request, the query with its instruction, the candidate; pictures before texts."""
    query = "sentence((sentence(ns.instruction) ~ ' ' ~ ns.query_text) if ns.instruction else ns.query_text)"
    return (
        gather_pair()
        + f"{{{{- '{SYSTEM_TURN}{USER}{JUDGE}Query:' ~ ns.query_media ~ {query} -}}}}\n"
        + f"{{{{- 'Candidate:' ~ ns.document_media ~ sentence(ns.document_text) ~ '{END}{ASSISTANT}' -}}}}"
    )


def processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    return replace(
        u_marvel.qwen2_processor(model_type, image_processor),
        prompt=PromptSettings(template=template()),
        pooling=PoolingRule("last"),
        limits={},
        truncation="text",
        empty_items=True,
        pairs=True,
    )


U_MARVEL_RERANKER = Preset(
    name="u-marvel-reranker",
    fixture=("umarvel_reranker", "scores_alone"),
    repos=(),
    traces=Traces(phrases=(JUDGE.partition(".")[0],)),
    families=("qwen2_vl",),
    model=UmeSettings(kind="reranker", attention="causal", positions="mrope", pooling="last"),
    processor=processor,
    model_tokens={"yes": "Yes", "no": "No"},
    differences=(
        Difference(
            official="128 tokens are generated, and the first position's logits are read",
            default="one forward, two rows of the output matrix, in float32",
            why="the same number at a fraction of the work",
        ),
    ),
    sources={
        "template": "dataset/datasets_mbeir_eval_rerank.py: construct_rerank_messages, format_string; "
        "collators/eval_rerank.py: add_generation_prompt=True",
        "positions": "eval/eval_mbeir_rerank_pointwise.py: stock class and generate, so M-RoPE",
        "tokens": "the same: tokenizer('Yes').input_ids[0], tokenizer('No').input_ids[0]",
        "score": "the same: softmax over the two logits of the first generated position, taken for Yes",
        "max_length": "nothing is cut at evaluation; training cut texts at 256 tokens",
        "budget": "collators/qwen2_vision_process.py, as of the embedder",
    },
)

SHORT = (
    gather_pair()
    + f"{{{{- '{USER}' ~ ns.instruction -}}}}\n{{{{- ' ' ~ ns.query_media ~ ns.query_text -}}}}\n"
    + "{{- '\\n' ~ ns.document_media ~ ns.document_text -}}\n"
    + f"{{{{- '{END}{ASSISTANT}' -}}}}"
)
U_MARVEL_RERANKER_SHORT = replace(
    U_MARVEL_RERANKER.variant(
        "u-marvel-reranker-short",
        "ours: no request, and texts as they stand, for small models that learn it from nothing but the answers",
        template=SHORT,
    ),
    # A small model may never have read Yes or No, and its rows of them are then alike; digits it knows.
    model_tokens={"yes": "1", "no": "0"},
)
