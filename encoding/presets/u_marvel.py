"""U-MARVEL's embedders (Tencent BAC) on Qwen2-VL and Qwen3-VL, as their M-BEIR evaluation embeds."""

from __future__ import annotations

from dataclasses import replace
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
START, STOP = "<instruction_start>", "<instruction_end>"
# In this order, the matrix growing after each: <emb> keeps the published spare row, the others become means.
TOKENS = (AddedToken("<emb>", "spare"), AddedToken(START, "mean"), AddedToken(STOP, "mean"))
FIRST = FirstResize(factor=28, least=4 * TOKEN, most=300 * TOKEN)

_BODY = (
    "{%- if ns.instruction -%}{%- set body = "
    f"sentence('{START}' ~ sentence(ns.instruction) ~ '{STOP} ' ~ ns.text) -%}}\n"
    "{%- else -%}{%- set body = sentence(ns.text) -%}{%- endif -%}\n"
)
# The compression prompts of the shipped evaluation script; the published checkpoints are used without.
_COMPRESSION = (
    "{%- set body = body ~ ('\\nSummarize above image and sentence in one word: ' if ns.media "
    "else '\\nSummarize above sentence in one word: ') -%}\n"
)


def template(system: str, compression: bool = False) -> str:
    """The chat template: ``system`` turn, media and sentence, ``<emb>.``, and the next turn's beginning."""
    body = _BODY + (_COMPRESSION if compression else "")
    answer = f"{END}{ASSISTANT}<emb>.{END}{ASSISTANT}"
    return gather() + body + f"{{{{- '{system}{USER}' ~ ns.media ~ body ~ '{answer}' -}}}}"


def _settings(model_type: str, budget: PixelBudget, system: str) -> ProcessorSettings:
    return ProcessorSettings(
        family=model_type,
        prompt=PromptSettings(template=template(system)),
        pooling=PoolingRule("mean", span_start=START, span_end=STOP),
        budget=budget,
        sampling=Sampling(fps=2.0, min_frames=4, max_frames=64, list_frames=768),
        limits={"plain": 1024},
        truncation="right",
    )


def qwen2_processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    budget = PixelBudget(
        image=(4 * TOKEN, 300 * TOKEN),
        frame=(128 * TOKEN, 768 * TOKEN),
        video=(128 * TOKEN, 24576 * TOKEN),
        first_image=FIRST,
        list_frame=(4 * TOKEN, 300 * TOKEN),
        first_frame=FIRST,
    )
    return _settings(model_type, budget, SYSTEM_TURN)


def qwen3_processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    size = image_processor.size
    budget = PixelBudget(
        image=(size["shortest_edge"], size["longest_edge"]),
        frame=(128 * 1024, 768 * 1024),
        video=(4 * 1024, 24576 * 1024),
        rule="volume",
        first_image=FIRST,
        first_frame=FIRST,
    )
    return _settings(model_type, budget, "")


def official(model: UmeSettings, settings: ProcessorSettings) -> tuple[UmeSettings, ProcessorSettings]:
    return replace(model, attention="bidirectional_if_padded"), settings


_SOURCES = {
    "attention": "models/*_bidirectional_atten.py: all zeros but for padded keys",
    "positions": "models/*_finetune.py: the inner model is called with inputs_embeds and position_ids=None",
    "pooling": "models/*_finetune.py: mean over labels != pad, without <instruction_start>..<instruction_end>",
    "template": "dataset/datasets_mbeir.py: format_string, construct_messages with prompt_index=1; "
    "collators/mbeir_eval.py: add_generation_prompt=True",
    "tokens": "eval scripts: <emb>, <instruction_start>, <instruction_end>, the matrix resized after each",
    "limits": "collators/mbeir_eval.py: candidates truncation=True, max_length=1024; queries are not cut",
    "budget.first_image": "collators/qwen2_vision_process.py: MAX_PIXELS = 300 * 28 * 28, MIN_PIXELS = 4 * 28 * 28",
    "budget.frame": "collators/qwen2_vision_process.py: VIDEO_*_PIXELS; frames of a list are images",
}

U_MARVEL = Preset(
    name="u-marvel",
    fixture=("umarvel_qwen2vl", "alone_eager"),
    spare_keys=("sim.temp",),
    repos=("TencentBAC/U-MARVEL-Qwen2VL-7B-Instruct",),
    traces=Traces(tokens=tuple(token.text for token in TOKENS), classes=("Qwen2VLRet",)),
    families=("qwen2_vl",),
    model=UmeSettings(kind="discriminative", attention="bidirectional", positions="1d", pooling="mean"),
    processor=qwen2_processor,
    tokens=TOKENS,
    official=official,
    differences=(
        Difference(
            official="attention is causal in a batch without padding, so for every item alone (sdpa)",
            default="bidirectional always",
            why="it was trained in padded batches; a vector must not depend on its batch (by up to 0.38)",
        ),
    ),
    sources=_SOURCES,
)

_COMPRESSING = template(SYSTEM_TURN, compression=True)

# What the papers train with. U-MARVEL's stages 2-3 and its demo.py have the prompt of the preset itself.
U_MARVEL_COMPRESSION = U_MARVEL.variant(
    "u-marvel-compression",
    "U-MARVEL stage 1 (NLI, CC3M, M-BEIR as scripted) and its evaluation script: prompt1, 'Summarize above ...'",
    template=_COMPRESSING,
)
U_MARVEL_UNMASKED = U_MARVEL.variant(
    "u-marvel-unmasked",
    "U-MARVEL table 2, ablation: the mean takes the instruction in",
    pooling=PoolingRule("mean"),
)
LAMRA_IN_U_MARVEL = U_MARVEL.variant(
    "lamra",
    "LamRA-Ret, U-MARVEL table 1 first row: compression prompt, causal, the state before <emb>",
    template=_COMPRESSING,
    pooling=PoolingRule("token", token="<emb>", offset=-1),
    attention="causal",
)

U_MARVEL_QWEN3VL = Preset(
    name="u-marvel-qwen3vl",
    fixture=("umarvel_qwen3vl", "alone_pil_processor"),
    spare_keys=("sim.temp",),
    repos=("TencentBAC/U-MARVEL-Qwen3VL-4B-Instruct",),
    traces=Traces(tokens=tuple(token.text for token in TOKENS), classes=("Qwen3VLRet",)),
    families=("qwen3_vl",),
    model=UmeSettings(
        kind="discriminative", attention="bidirectional", positions="1d", deepstack=False, pooling="mean"
    ),
    processor=qwen3_processor,
    tokens=TOKENS,
    sources={
        **_SOURCES,
        "deepstack": "models/qwen3_vl_finetune.py: the features are computed and not handed on",
        "budget.image": "preprocessor_config.json: the processor resizes a second time, on its own grid",
        "template (system)": "Qwen3-VL's template has no default system turn",
    },
)
