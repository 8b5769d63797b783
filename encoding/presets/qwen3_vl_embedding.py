"""Qwen3-VL-Embedding (Qwen), as its ``Qwen3VLEmbedder.process`` embeds."""

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
from .preset import Difference, Preset, Traces
from .templates import ASSISTANT, END, USER, gather, punctuation

TOKEN = 32**2
DEFAULT_INSTRUCTION = "Represent the user's input."


def template() -> str:
    """Instruction in the system turn, with a full stop where it lacks punctuation; ``NULL`` where there is nothing."""
    default = DEFAULT_INSTRUCTION.replace("'", "\\'")
    return (
        gather(videos_first=True)
        + f"{{%- set instruction = (ns.instruction or '{default}').strip() -%}}\n"
        + f"{{%- set marks = '{punctuation()}' -%}}\n"
        + "{%- if instruction and instruction[-1] not in marks -%}"
        + "{%- set instruction = instruction ~ '.' -%}{%- endif -%}\n"
        + f"{{{{- '<|im_start|>system\\n' ~ instruction ~ '{END}{USER}' ~ ns.media -}}}}\n"
        + f"{{{{- (ns.text if ns.text or ns.media else 'NULL') ~ '{END}{ASSISTANT}' -}}}}"
    )


def processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    return ProcessorSettings(
        family=model_type,
        prompt=PromptSettings(instruction_in="system", template=template()),
        pooling=PoolingRule("last"),
        budget=PixelBudget(
            image=(4 * TOKEN, 1800 * TOKEN),
            frame=(128 * TOKEN, 768 * TOKEN),
            video=(128 * TOKEN, 7680 * TOKEN),
            rule="frame",
            first_image=FirstResize(factor=32, least=4 * TOKEN, most=1800 * TOKEN),
            first_frame=FirstResize(factor=64, least=4 * 64**2, most=16384 * 64**2),
            frame_filter="tensor",
        ),
        sampling=Sampling(fps=1.0, min_frames=4, max_frames=64, list_fps=2.0, list_pad=True),
        max_length=8192,
        empty_items=True,
    )


def official(model: UmeSettings, settings: ProcessorSettings) -> tuple[UmeSettings, ProcessorSettings]:
    return model, replace(settings, truncation="right")


QWEN3_VL_EMBEDDING = Preset(
    name="qwen3-vl-embedding",
    fixture=("qwen3vl_embedding", "alone"),
    repos=("Qwen/Qwen3-VL-Embedding-2B", "Qwen/Qwen3-VL-Embedding-8B"),
    traces=Traces(phrases=(DEFAULT_INSTRUCTION,)),
    families=("qwen3_vl",),
    model=UmeSettings(kind="discriminative", attention="causal", positions="mrope", pooling="last"),
    processor=processor,
    official=official,
    differences=(
        Difference(
            official="over max_length the end of the prompt is cut and a text token is pooled",
            default="the item's text is shortened; the generation prompt stays and its last token is pooled",
            why="the pooled state would not be the one that was trained",
        ),
    ),
    sources={
        "template": "format_model_input: instruction stripped, '.' unless its last character is of category P; "
        "content is video, image, text, or NULL",
        "pooling": "_pooling_last: last attended token",
        "budget": "MIN_PIXELS = 4 * 32 * 32, MAX_PIXELS = 1800 * 32 * 32, total_pixels = 10 * 768 * 32 * 32; "
        "qwen_vl_utils 0.0.14 sizes the media, the processor does not resize",
        "budget.first_frame": "qwen_vl_utils 0.0.14, fetch_video: frames of a list pass fetch_image with the factor "
        "where the patch size is expected, so on a grid of 64 pixels",
        "budget.frame_filter": "qwen_vl_utils 0.0.14, fetch_video: torchvision.transforms.functional.resize of the "
        "stacked frames, bicubic with antialias",
        "sampling": "FPS = 1, MAX_FRAMES = 64; a list is taken to have 2 frames per second",
        "max_length": "MAX_LENGTH = 8192",
    },
)
