"""VLM2Vec-V2 (TIGER-AI-Lab) on Qwen2-VL: raw text, one placeholder per medium, no chat template."""

from __future__ import annotations

from typing import Any

from ...modeling.settings import UmeSettings
from ...processing.first_resize import FirstResize
from ...processing.prompts import PromptSettings
from ...processing.settings import ProcessorSettings
from ...processing.tokenizing import PoolingRule
from ...processing.video import Sampling
from ...processing.vision import PixelBudget
from .preset import Preset
from .templates import gather

TOKEN = 28**2
TINY = FirstResize(under=28, square=56)
# A text may bring its own separator (MMEB's grounding texts begin with a line break).
TEMPLATE = gather("<|image_pad|>", "<|video_pad|>") + (
    "{%- set body = ns.instruction ~ (' ' if ns.instruction and ns.text else '') ~ ns.text -%}\n"
    "{{- ns.media ~ (' ' if ns.media and body[:1] == body[:1].strip() else '') ~ body -}}"
)


def processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    pixels = (4 * TOKEN, 1280 * TOKEN)
    return ProcessorSettings(
        family=model_type,
        prompt=PromptSettings(template=TEMPLATE),
        pooling=PoolingRule("last"),
        budget=PixelBudget(
            image=pixels,
            frame=pixels,
            video=(4 * TOKEN, 2**40),
            first_image=TINY,
            first_frame=TINY,
            list_frame=pixels,
        ),
        sampling=Sampling(fps=2.0, min_frames=8, max_frames=8, list_frames=768),
        limits={"text": 512},
        truncation="right",
        strip_marks=True,
    )


VLM2VEC_V2 = Preset(
    name="vlm2vec-v2",
    fixture=("vlm2vec_v2", "alone"),
    repos=("VLM2Vec/VLM2Vec-V2.0",),
    families=("qwen2_vl",),
    model=UmeSettings(kind="discriminative", attention="causal", positions="1d", pooling="last"),
    processor=processor,
    sources={
        "positions": "the repository's own modeling file finds pictures by <|vision_start|>, which the prompts lack",
        "template": "process_input_text: placeholder, space, instruction, space, text",
        "pooling": "MMEBModel: last token, L2",
        "budget": "resize_min_pixels=3136, resize_max_pixels=1003520; a side under 28 becomes 56 x 56",
        "limits": "Qwen2_VL_process_fn: max_length applies to texts without media",
    },
)
