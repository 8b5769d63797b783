"""UME-R1 (XMUDeepLIT) on Qwen2-VL, as its README embeds: directly, or after a thought."""

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
from .templates import ASSISTANT, END, SYSTEM_TURN, USER, gather

TOKEN = 28**2
# With a space before both line breaks, as it was trained.
THINK = (
    "Represent the above input text, images, videos, or any combination of the three as embeddings. \\n"
    "First output the thinking process in <think> </think> tags and then summarize the entire input in a word or "
    "sentence. \\n"
    "Finally, use the <gen_emb> tag to represent the entire input."
)
TEMPLATE = gather() + (
    "{%- set end = ns.instruction[-1:] -%}\n"
    "{%- set gap = ' ' if end and ns.text and end == end.strip() else '' -%}\n"
    f"{{{{- '{SYSTEM_TURN}{USER}' ~ ns.media ~ ns.instruction ~ gap ~ ns.text ~ '\\n<disc_emb>\\n' -}}}}\n"
    f"{{%- if thinking is defined and thinking -%}}{{{{- '{THINK}' -}}}}{{%- endif -%}}\n"
    f"{{{{- '{END}{ASSISTANT}' -}}}}"
)
FIRST = FirstResize(factor=28, least=4 * TOKEN, most=16384 * TOKEN)
ENLARGED = FirstResize(factor=56, least=4 * 56**2, most=16384 * 56**2)


def processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    pixels = (TOKEN, 1536**2)
    return ProcessorSettings(
        family=model_type,
        prompt=PromptSettings(template=TEMPLATE),
        pooling=PoolingRule("token", token="<disc_emb>"),
        budget=PixelBudget(
            image=pixels,
            frame=(128 * TOKEN, 768 * TOKEN),
            video=(128 * TOKEN, 128000 * TOKEN * 9 // 10),
            first_image=FIRST,
            first_frame=FIRST,
            list_frame=pixels,
        ),
        sampling=Sampling(fps=2.0, min_frames=4, max_frames=768, list_frames=768),
    )


def with_enlarged_frames(settings: ProcessorSettings) -> ProcessorSettings:
    """Settings that size a list of frames as qwen_vl_utils 0.0.14 does.

    Since that version frames of a list pass a grid of 56 pixels (the factor where the patch size is expected) and
    then the rule of a video file, which enlarges each to at least 128 tokens. The README names no version; 0.0.11,
    the preset's, keeps small frames small. The choice moves a vector by up to 0.5, so index and queries must share it.
    """
    return replace(
        settings,
        budget=replace(settings.budget, first_frame=ENLARGED, list_frame=None, frame_filter="tensor"),
    )


def official(model: UmeSettings, settings: ProcessorSettings) -> tuple[UmeSettings, ProcessorSettings]:
    return replace(model, thought_end="official"), settings


UME_R1 = Preset(
    name="ume-r1",
    fixture=("ume_r1", "gen_alone"),
    repos=("zhibinlan/UME-R1-2B", "zhibinlan/UME-R1-7B"),
    traces=Traces(tokens=("<disc_emb>", "<gen_emb>")),
    families=("qwen2_vl",),
    model=UmeSettings(
        kind="generative", attention="causal", positions="mrope", pooling="token", max_new_tokens=8192
    ),
    processor=processor,
    model_tokens={"disc_emb": "<disc_emb>", "gen_emb": "<gen_emb>", "im_end": "<|im_end|>"},
    official=official,
    differences=(
        Difference(
            official="a thought that is cut before <gen_emb>, or right at it, gives the state of the last step",
            default="<gen_emb> is forced and its own state is taken; the row is flagged",
            why="the last step's state is that of any word, and nobody would learn of it",
        ),
        Difference(
            official="generation goes on to <|im_end|>, and the last <gen_emb> counts",
            default="the first <gen_emb> ends the thought",
            why="the vector is there already; a trained checkpoint writes one only, so both are the same",
        ),
        Difference(
            official="any id can be generated, media placeholders and rows without a token, too",
            default="these are never chosen, with compat='official' neither",
            why="a placeholder without pixels behind it is no text; greedy decoding of the checkpoints has none",
        ),
    ),
    sources={
        "template": "README, inference: media, text, '\\n<disc_emb>\\n', then in generative mode the fixed "
        "instruction; Qwen2-VL's system turn and generation prompt",
        "pooling": "README: hidden_states[-1] at <disc_emb> of the prompt; the step that reads the completion's "
        "<gen_emb>",
        "positions": "stock Qwen2-VL forward and generate",
        "budget.image": "README, AutoProcessor: max_pixels 2359296; eval_twomode.py: 784..2359296",
        "budget.first_image": "qwen_vl_utils 0.0.11, fetch_image: 28-pixel grid, 4..16384 tokens, before the processor",
        "budget.frame": "qwen_vl_utils 0.0.11: VIDEO_MIN_PIXELS, VIDEO_MAX_PIXELS, VIDEO_TOTAL_PIXELS",
        "budget.first_frame": "qwen_vl_utils 0.0.11, fetch_video: frames of a list are pictures; 0.0.14 differs, see "
        "with_enlarged_frames",
        "sampling": "qwen_vl_utils 0.0.11: FPS = 2, FPS_MIN_FRAMES = 4, FPS_MAX_FRAMES = 768",
        "max_new_tokens": "README: 8192",
    },
)
