"""Qwen3-VL-Reranker (Qwen), as its ``Qwen3VLReranker.process`` scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...modeling.settings import UmeSettings
from ...processing.prompts import PromptSettings
from ...processing.settings import ProcessorSettings
from . import qwen3_vl_embedding
from .pair_templates import gather_pair
from .preset import Difference, Preset, Traces
from .templates import ASSISTANT, END, USER

DEFAULT_INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)


def template() -> str:
    """Media before text on either side, ``NULL`` for a side without content, the instruction as it was given."""
    sides = {
        side: f"(ns.{side}_media ~ ns.{side}_text if ns.{side}_media or ns.{side}_text else 'NULL')"
        for side in ("query", "document")
    }
    return (
        gather_pair(videos_first=True)
        + f"{{{{- '<|im_start|>system\\n{JUDGE}{END}{USER}<Instruct>: ' -}}}}\n"
        + f"{{{{- (ns.instruction or '{DEFAULT_INSTRUCTION}') ~ '<Query>:' ~ {sides['query']} -}}}}\n"
        + f"{{{{- '\\n<Document>:' ~ {sides['document']} ~ '{END}{ASSISTANT}' -}}}}"
    )


def processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    return replace(
        qwen3_vl_embedding.processor(model_type, image_processor),
        prompt=PromptSettings(template=template()),
        max_length=10240 + 5,
        pairs=True,
    )


QWEN3_VL_RERANKER = Preset(
    name="qwen3-vl-reranker",
    fixture=("qwen3vl_reranker", "scores_alone"),
    repos=("Qwen/Qwen3-VL-Reranker-2B", "Qwen/Qwen3-VL-Reranker-8B"),
    traces=Traces(phrases=(JUDGE.partition(".")[0], DEFAULT_INSTRUCTION)),
    families=("qwen3_vl",),
    model=UmeSettings(kind="reranker", attention="causal", positions="mrope", pooling="last"),
    processor=processor,
    model_tokens={"yes": "yes", "no": "no"},
    differences=(
        Difference(
            official="the score is computed in the model's dtype",
            default="two rows of the output matrix and the state are multiplied in float32",
            why="in bfloat16 a logit moves in steps of 1/16, and close candidates tie",
        ),
    ),
    sources={
        "template": "format_mm_instruction: fixed system turn; '<Instruct>: ', '<Query>:', '\\n<Document>:'; "
        "format_mm_content: video, image, text, or NULL",
        "tokens": "__init__: ids of 'yes' and 'no'; get_binary_linear: their rows' difference",
        "score": "compute_scores: sigmoid((w_yes - w_no) . last state)",
        "budget": "MIN_PIXELS, MAX_PIXELS and frames as of Qwen3-VL-Embedding; do_resize=False",
        "max_length": "MAX_LENGTH = 10240 beside the 5 tokens of the generation prompt; only text is cut",
    },
)
