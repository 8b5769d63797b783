"""RzenEmbed (360CVGroup), as its released inference file embeds."""

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
from .preset import Difference, Preset
from .templates import ASSISTANT, END, SYSTEM_TURN, USER, gather

TOKEN = 28**2
# Instruction and text are joined without a separator: the published instructions bring their own last space.
TEMPLATE = gather() + (
    f"{{{{- '{SYSTEM_TURN}{USER}' ~ ns.media ~ ns.instruction ~ ns.text ~ '{END}{ASSISTANT}<|endoftext|>' -}}}}"
)
# What the paper trains with: the published instructions bring their own last space, others get one here.
_TRAINED_ITEM = (
    "{%- set item = ns.media ~ ns.instruction ~ "
    "(' ' if ns.instruction and ns.text and ns.instruction[-1] not in ' \\n' else '') ~ ns.text -%}\n"
)
_TRAINED_SYSTEM = (
    "<|im_start|>system\\nGiven an image, summarize the provided image in one word. "
    "Given only text, describe the text in one word.<|im_end|>\\n"
)
_REPRESENT = "\\nRepresent the given ' ~ ('image' if ns.media else 'text') ~ ' in one word."


def _trained(system: str, request: str) -> str:
    tail = f"{request}{END}{ASSISTANT}<|endoftext|>"
    return gather() + _TRAINED_ITEM + f"{{{{- '{system}{USER}' ~ item ~ '{tail}' -}}}}"


def processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    frames = (160 * TOKEN, 180 * TOKEN)
    return ProcessorSettings(
        family=model_type,
        prompt=PromptSettings(template=TEMPLATE),
        pooling=PoolingRule("last"),
        budget=PixelBudget(
            image=(256 * TOKEN, 1280 * TOKEN),
            frame=frames,
            video=(160 * TOKEN, 2**40),
            first_image=FirstResize(factor=28, least=4 * TOKEN, most=16384 * TOKEN),
            listed=frames,
        ),
        sampling=Sampling(fps=2.0, min_frames=8, max_frames=8, list_frames=768),
        max_length=2000,
        video_as_images=True,
    )


def official(model: UmeSettings, settings: ProcessorSettings) -> tuple[UmeSettings, ProcessorSettings]:
    budget = replace(settings.budget, listed_scope="call")
    return model, replace(settings, budget=budget, truncation="right")


RZENEMBED = Preset(
    name="rzenembed",
    fixture=("rzenembed", "alone"),
    repos=("qihoo360/RzenEmbed", "RzenAI/RzenEmbed-v2-7B", "qihoo360/RzenEmbed-v1-7B"),
    families=("qwen2_vl",),
    model=UmeSettings(kind="discriminative", attention="causal", positions="1d", pooling="last"),
    processor=processor,
    official=official,
    differences=(
        Difference(
            official="one list of pictures in a call gives every picture of the call the video budget",
            default="each item by itself: a list or a video has the video budget, one picture the image budget",
            why="the vector of a picture would depend on its neighbours (by up to 0.28)",
        ),
        Difference(
            official="over 2000 tokens the prompt loses its end, <|endoftext|> with it, and a text token is pooled; "
            "with pictures it may crash",
            default="the item's text is shortened; <|endoftext|> stays and is pooled",
            why="the pooled state would not be the one that was trained",
        ),
    ),
    sources={
        "positions": "forward(): base.model(inputs_embeds=..., position_ids=None)",
        "pooling": "forward(): last attended token, the <|endoftext|> that embed() appends",
        "template": "embed(): the prompt is one f-string; get_fused_embeddings(): instruction + text",
        "budget.image": "__init__: min_image_tokens=256, max_image_tokens=1280",
        "budget.listed": "__init__: min_video_tokens=160, max_video_tokens=180; embed(): any list is a video",
        "budget.first_image": "fetch_image(): smart_resize on 28 pixels, 4..16384 tokens, before the processor's own",
        "sampling": "README: 8 frames, evenly spaced; a list is taken whole",
        "max_length": "__init__: max_length=2000",
    },
)

RZENEMBED_TRAINED = RZENEMBED.variant(
    "rzenembed",
    "RzenEmbed section 3.4.4: system prompt, query, representation prompt by modality",
    template=_trained(_TRAINED_SYSTEM, _REPRESENT),
)
RZENEMBED_TRAINED_PLAIN = RZENEMBED.variant(
    "rzenembed-plain",
    "RzenEmbed section 4.4, ablation: the same without system and representation prompt",
    template=_trained("", ""),
)
