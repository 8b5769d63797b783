"""Prompt settings and the chat template that they compile to.

Native sentence-transformers and vLLM read ``chat_template.jinja`` and nothing else, so the template holds all of a
prompt's form: where the instruction stands, what is appended, how media are marked. It does not depend on
``add_generation_prompt``, because engines disagree on that flag's default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ROLES = ("query", "document")  # of an item in a search
MODES = ("discriminative", "generative", "adaptive")  # how an item is embedded


@dataclass(frozen=True)
class PromptSettings:
    """Form of the prompt around an item.

    Attributes:
        system: text of the system turn when no instruction stands there; "" for no system turn.
        instruction_in: ``"system"``: the instruction is the system turn (Qwen3-VL-Embedding, and what
            sentence-transformers does with prompts); ``"user"``: it leads the user turn.
        before_instruction, after_instruction: written around an instruction in the user turn.
        after_content: appended to the user turn's content.
        assistant: what follows ``<|im_start|>assistant\\n``; the pooled token is usually here. None for no
            assistant turn at all.
        instructions: default instruction per role, ``query`` and ``document``, and of items of neither role
            (``default``); "" for none.
        thinking: appended to the user turn after ``after_content`` where a thought is asked for (the template's
            variable ``thinking`` is true); what stands before it does not change.
        template: a Jinja template that is used as it stands, in place of one compiled from the fields above.
    """

    system: str = ""
    instruction_in: Literal["system", "user"] = "user"
    before_instruction: str = ""
    after_instruction: str = "\n"
    after_content: str = ""
    assistant: str | None = "<|endoftext|>"
    instructions: dict[str, str] = field(default_factory=dict)
    thinking: str = ""
    template: str = ""

    def __post_init__(self) -> None:
        if self.instruction_in not in ("system", "user"):
            raise ValueError(f"instruction_in is {self.instruction_in!r}; use 'system' or 'user'")
        unknown = set(self.instructions) - {*ROLES, "default"}
        if unknown:
            raise ValueError(
                f"instructions for unknown roles {sorted(unknown)}; use 'query', 'document' and 'default'"
            )


_MACROS = """\
{%- macro text_of(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}{%- for part in content -%}{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro render(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}{%- for part in content -%}
{%- if part['type'] == 'text' -%}{{- part['text'] -}}
{%- elif part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}{{- raise_exception('content of type ' ~ part['type'] ~ ' cannot be embedded') -}}
{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(instruction='') -%}
{%- for message in messages -%}{%- if message['role'] == 'system' -%}
{%- set ns.instruction = text_of(message['content']) -%}
{%- endif -%}{%- endfor -%}
"""


def compile_template(settings: PromptSettings) -> str:
    """The Jinja chat template of these settings.

    Messages: an optional ``system`` one, whose text is the instruction, and one of role ``user``, ``query`` or
    ``document`` with text, image and video parts in order.
    """
    if settings.template:
        return settings.template
    turns = [_MACROS]
    fixed = _quote(settings.system)
    if settings.instruction_in == "system":
        turns.append(f"{{%- set system = ns.instruction if ns.instruction else {fixed} -%}}\n")
        lead = ""
    else:
        turns.append(f"{{%- set system = {fixed} -%}}\n")
        before, after = _quote(settings.before_instruction), _quote(settings.after_instruction)
        lead = f"{{%- if ns.instruction -%}}{{{{- {before} ~ ns.instruction ~ {after} -}}}}{{%- endif -%}}\n"
    turns.append("{%- if system -%}{{- '<|im_start|>system\\n' ~ system ~ '<|im_end|>\\n' -}}{%- endif -%}\n")
    turns.append("{%- for message in messages -%}{%- if message['role'] != 'system' -%}\n")
    turns.append("{{- '<|im_start|>user\\n' -}}\n")
    turns.append(lead)
    turns.append("{{- render(message['content']) -}}\n")
    if settings.thinking:
        turns.append(f"{{{{- {_quote(settings.after_content)} -}}}}\n")
        turns.append(
            f"{{%- if thinking is defined and thinking -%}}{{{{- {_quote(settings.thinking)} -}}}}{{%- endif -%}}\n"
        )
        turns.append("{{- '<|im_end|>\\n' -}}\n")
    else:
        turns.append(f"{{{{- {_quote(settings.after_content + '<|im_end|>')} ~ '\\n' -}}}}\n")
    turns.append("{%- endif -%}{%- endfor -%}\n")
    if settings.assistant is not None:
        turns.append(f"{{{{- '<|im_start|>assistant\\n' ~ {_quote(settings.assistant)} -}}}}")
    return "".join(turns)


def _quote(text: str) -> str:
    """A Jinja string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
