"""LamRA-Ret, as its M-BEIR evaluation embeds."""

from __future__ import annotations

from typing import Any

from ...modeling.settings import UmeSettings
from ...processing.first_resize import FirstResize
from ...processing.prompts import PromptSettings
from ...processing.settings import ProcessorSettings
from ...processing.tokenizing import PoolingRule
from ...processing.video import Sampling
from ...processing.vision import PixelBudget
from .preset import AddedToken, Difference, Preset, Traces
from .templates import ASSISTANT, END, SYSTEM_TURN, USER, gather

TOKEN = 28**2
FIRST = FirstResize(factor=28, least=4 * TOKEN, most=300 * TOKEN)
TEMPLATE = (
    gather()
    + "{%- if ns.instruction -%}{%- set body = sentence(sentence(ns.instruction) ~ ' ' ~ ns.text) -%}\n"
    + "{%- else -%}{%- set body = sentence(ns.text) -%}{%- endif -%}\n"
    + "{%- set what = 'sentence' if not ns.media else ('image and sentence' if body else 'image') -%}\n"
    + f"{{{{- '{SYSTEM_TURN}{USER}' ~ ns.media ~ body ~ '\\nSummarize above ' ~ what ~ ' in one word: "
    + f"{END}{ASSISTANT}<emb>.{END}{ASSISTANT}' -}}}}"
)


def processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    return ProcessorSettings(
        family=model_type,
        prompt=PromptSettings(template=TEMPLATE),
        pooling=PoolingRule("token", token="<emb>", offset=-1),
        budget=PixelBudget(
            image=(4 * TOKEN, 300 * TOKEN),
            frame=(128 * TOKEN, 768 * TOKEN),
            video=(128 * TOKEN, 24576 * TOKEN),
            first_image=FIRST,
            first_frame=FIRST,
            list_frame=(4 * TOKEN, 300 * TOKEN),
        ),
        sampling=Sampling(fps=2.0, min_frames=4, max_frames=64, list_frames=768),
        limits={"plain": 1024},
    )


LAMRA_RET = Preset(
    name="lamra-ret",
    fixture=("lamra_ret", "alone"),
    repos=("code-kunkun/LamRA-Ret",),
    families=("qwen2_vl",),
    model=UmeSettings(kind="discriminative", attention="causal", positions="1d", pooling="token"),
    processor=processor,
    tokens=(AddedToken("<emb>", "spare"),),
    traces=Traces(tokens=("<emb>",), classes=("Qwen2VLRet",)),
    differences=(
        Difference(
            official="with transformers 4.47 demo.py has M-RoPE on its first call, 1-D positions on later ones",
            default="1-D positions, as in training and evaluation",
            why="the evaluation path made the published scores; compat='official' is the same",
        ),
    ),
    sources={
        "positions": "models/qwen2_vl.py: the inner model is called with inputs_embeds and position_ids=None",
        "pooling": "models/qwen2_vl.py: argmax(labels == emb_token_id) - 1, the token that predicts <emb>",
        "template": "dataset/datasets_mbeir.py: format_string and the three summary prompts; <emb>. as the answer; "
        "the collators add the generation prompt",
        "budget": "collators/vision_process.py: MAX_PIXELS = 300 * 28 * 28",
        "tokens": "<emb> is added to the tokenizer and takes the first spare row",
    },
)
