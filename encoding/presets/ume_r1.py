"""UME-R1 (XMUDeepLIT) on Qwen2-VL, as its README embeds: directly, or after a thought."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
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
# With a space before both line breaks, as it was trained.
THINK = (
    "Represent the above input text, images, videos, or any combination of the three as embeddings. \\n"
    "First output the thinking process in <think> </think> tags and then summarize the entire input in a word or "
    "sentence. \\n"
    "Finally, use the <gen_emb> tag to represent the entire input."
)
# One instruction in three wordings. "training" has README's, with the picture that text alone is then led by.
WORDINGS = {
    "readme": "README, inference",
    "training": "data_qwen.py: README's words; a text alone is led by blank.jpg; min_pixels 768, no resize before it",
    "evaluation": "eval_twomode.py and mteb: in one line; the collator puts blank.jpg before a text alone",
    "rl": "grpo_embed.py: in one line, a space before that of <disc_emb>; blank.jpg before a text alone",
}
BLANK = 28
LEAST = 768  # pixels of a picture in the cold start, which has no resize before the processor's


def template(wording: str = "readme") -> str:
    """The chat template: evaluation and RL join the sentences by spaces, RL has one before ``<disc_emb>``'s line."""
    think = THINK if wording in ("readme", "training") else THINK.replace(" \\n", " ")
    space = " " if wording == "rl" else ""
    return gather() + (
        "{%- set end = ns.instruction[-1:] -%}\n"
        "{%- set gap = ' ' if end and ns.text and end == end.strip() else '' -%}\n"
        f"{{{{- '{SYSTEM_TURN}{USER}' ~ ns.media ~ ns.instruction ~ gap ~ ns.text ~ '{space}\\n<disc_emb>\\n' -}}}}\n"
        f"{{%- if thinking is defined and thinking -%}}{{{{- '{think}' -}}}}{{%- endif -%}}\n"
        f"{{{{- '{END}{ASSISTANT}' -}}}}"
    )


FIRST = FirstResize(factor=28, least=4 * TOKEN, most=16384 * TOKEN)
ENLARGED = FirstResize(factor=56, least=4 * 56**2, most=16384 * 56**2)


def processor(model_type: str, image_processor: Any) -> ProcessorSettings:
    pixels = (TOKEN, 1536**2)
    return ProcessorSettings(
        family=model_type,
        prompt=PromptSettings(template=template()),
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


def with_wording(
    settings: ProcessorSettings, wording: str, blank_image: int | None = None
) -> ProcessorSettings:
    """Settings with one of :data:`WORDINGS`.

    The README's has no blank picture, the others have one of 28 x 28 pixels before a text alone, with which the
    published numbers were made; ``"training"`` leaves it at that size (1 token), the others enlarge it (4 tokens).

    Args:
        blank_image: side in pixels; 0 for none, None for the wording's own.

    Raises:
        ValueError: another wording.
    """
    if wording not in WORDINGS:
        raise ValueError(f"no wording {wording!r}; known are {', '.join(WORDINGS)}")
    if blank_image is None:
        blank_image = 0 if wording == "readme" else BLANK
    budget = settings.budget
    if wording == "training":
        budget = replace(budget, image=(LEAST, budget.image[1]), first_image=None)
    prompt = replace(settings.prompt, template=template(wording))
    return replace(settings, prompt=prompt, blank_image=blank_image, budget=budget)


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
    tokens=(
        AddedToken("<gen_emb>", "copy", of="<|object_ref_end|>"),
        AddedToken("<disc_emb>", "copy", of="<|object_ref_start|>"),
    ),
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
        "tokens": "train_qwen.py: of a backbone without them, in this order; the matrix is not resized",
    },
)

# The README's wording is the preset itself.
UME_R1_WORDINGS = tuple(
    UME_R1.variant(f"ume-r1-{wording}", source, change=partial(with_wording, wording=wording))
    for wording, source in WORDINGS.items()
    if wording != "readme"
)
