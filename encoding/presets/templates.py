"""Pieces of the Jinja templates of published systems.

A preset's template is :data:`GATHER`, a body that the preset writes with the variables below, and nothing else.
After ``GATHER`` there are, for one chat (an optional ``system`` message and one of any other role):

* ``ns.instruction``: text of the ``system`` message;
* ``ns.media``: the placeholders of the media, in order, each between its vision tokens;
* ``ns.text``: the texts, joined;
* ``sentence(text)``: the sentence form of M-BEIR's code (UniIR's ``format_string``).

Media therefore come before text, wherever the item has them: the systems were trained so and have no other form.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
SYSTEM_TURN = (
    "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n"  # what Qwen2-VL's own template adds
)
USER, END, ASSISTANT = "<|im_start|>user\\n", "<|im_end|>\\n", "<|im_start|>assistant\\n"

SENTENCE = """\
{%- macro sentence(raw) -%}
{%- set text = raw.replace('\\r', '').strip().strip('"') -%}
{%- if text -%}{{- text[0].upper() ~ text[1:] ~ ('' if text[-1] in '.?!' else '.') -}}{%- endif -%}
{%- endmacro -%}
"""

_GATHER = """\
{%- set ns = namespace(instruction='', media='', videos='', text='') -%}
{%- for message in messages -%}
{%- set content = message['content'] -%}
{%- if content is string -%}{%- set content = [{'type': 'text', 'text': content}] -%}{%- endif -%}
{%- for part in content -%}
{%- if message['role'] == 'system' -%}{%- set ns.instruction = ns.instruction ~ part['text'] -%}
{%- elif part['type'] == 'text' -%}{%- set ns.text = ns.text ~ part['text'] -%}
{%- elif part['type'] == 'image' -%}{%- set ns.media = ns.media ~ 'IMAGE' -%}
{%- elif part['type'] == 'video' -%}{%- set ns.VIDEOS = ns.VIDEOS ~ 'VIDEO' -%}
{%- else -%}{{- raise_exception('content of type ' ~ part['type'] ~ ' cannot be embedded') -}}
{%- endif -%}{%- endfor -%}{%- endfor -%}
"""


def gather(image: str = IMAGE, video: str = VIDEO, *, videos_first: bool = False) -> str:
    """The head of a template.

    Args:
        image, video: what stands for a picture and for a video.
        videos_first: videos before pictures; in content order otherwise.
    """
    text = _GATHER.replace("ns.VIDEOS", "ns.videos" if videos_first else "ns.media")
    if videos_first:
        text += "{%- set ns.media = ns.videos ~ ns.media -%}\n"
    return SENTENCE + text.replace("'IMAGE'", f"'{image}'").replace("'VIDEO'", f"'{video}'")


@cache
def punctuation() -> str:
    """Every character whose Unicode category is punctuation, as the text of a Jinja literal in single quotes."""
    found = [chr(n) for n in range(sys.maxunicode + 1) if unicodedata.category(chr(n)).startswith("P")]
    return "".join(found).replace("\\", "\\\\").replace("'", "\\'")
