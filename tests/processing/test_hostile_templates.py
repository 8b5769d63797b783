"""Chat templates that would never end or fill the memory end at once, and published ones are rendered as ever."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers import AutoProcessor
from transformers.utils.chat_template_utils import render_jinja_template

import umekit
from umekit.encoding.presets import PRESETS
from umekit.processing import templates as templates_module
from umekit.processing.prompts import PromptSettings
from umekit.processing.templates import TemplateLimitError, render_template

GOLDEN = Path(__file__).parent.parent / "golden"
CHAT = [
    {"role": "system", "content": [{"type": "text", "text": "Find it."}]},
    {
        "role": "user",
        "content": [
            {"type": "image", "image": "a.png"},
            {"type": "video", "video": "a.mp4"},
            {"type": "text", "text": "a {{ text }} with <b> & 'quotes'\n and  lines."},
        ],
    },
]
PAIR = [{**CHAT[0]}, {**CHAT[1], "role": "query"}, {**CHAT[1], "role": "document"}]

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) "
HOSTILE = {
    "width": '{{ "%0999999999d" % 1 }}',
    "width given": '{{ "%0*d" % (999999999, 1) }}',
    "width of a filter": '{{ "%0999999999d"|format(1) }}',
    "width of a method": '{{ "{:999999999}".format(1) }}',
    "width in a width": '{{ "{:{}}".format(1, 999999999) }}',
    "ten megabytes": "{{ 'a' * 10000000 }}",
    "times": "{{ 'a' * 10**9 }}",
    "times from the left": "{{ 10**9 * 'a' }}",
    "lists": "{{ [1] * 10**9 }}",
    "power": "{{ 10**(10**10) }}",
    "nested loops": LOOPS + "%}{% endfor %}{% endfor %}",
    "loops that set": LOOPS + "%}{% set x = a + b %}{% endfor %}{% endfor %}",
    "loops with a condition": LOOPS + "if b < 0 %}x{% endfor %}{% endfor %}",
    "output": "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "doubling": "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling by plus": "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling by join": "{% set n = namespace(x='ab') %}{% for a in range(60) %}"
    "{% set n.x = [n.x, n.x]|join %}{% endfor %}",
    "doubling lists": "{% set n = namespace(x=[1]) %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "recursion": "{% macro m(a) %}{{ m(a + 1) }}{% endmacro %}{{ m(1) }}",
    "two calls each": "{% macro m(a) %}{% if a %}{{ m(a - 1) }}{{ m(a - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ 'a'.zfill(999999999) }}",
    "replace": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "join": "{{ ('a' * 100000).join(range(99999)|map('string')) }}",
    "center": "{{ 'a'|center(999999999) }}",
    "indent": "{{ ('a\\n' * 10000)|indent(1000000) }}",
    "batch": "{{ [1]|batch(999999999, 'a')|list }}",
    "tojson": "{{ [[[1]]]|tojson(indent=999999999) }}",
    "replace of a filter": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "map": "{{ range(99999)|map('center', 1000000)|list|length }}",
    "to_bytes": "{{ (1).to_bytes(999999999, 'big') }}",
    "many expressions": "{% set x = range(99999)|map('string')|list|length %}" * 4000,
    "too long": "a" * 2**19,
    "too deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "blocks in blocks": "{% for a in [1] %}" * 60 + "{% endfor %}" * 60,
    "date": "{{ strftime_now('%0999999999d') }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends(name: str) -> None:
    began = time.monotonic()
    with pytest.raises((TemplateLimitError, TemplateError)):
        render_template(HOSTILE[name], CHAT, {})
    assert time.monotonic() - began < 30  # a busy machine; alone all take about a second at most


@pytest.mark.parametrize(
    "form", ["{{ x }}", "{{ 'a' ~ x }}", "{{ x|upper }}", "{{ x|e }}", "{{ x|trim|length }}"]
)
def test_a_list_that_grows_as_it_is_written_out_ends(form: str) -> None:
    began = time.monotonic()
    with pytest.raises(TemplateLimitError, match="hostile"):
        render_template("{% set x = [[1] * 1000] * 300000 %}" + form, CHAT, {})
    assert time.monotonic() - began < 10  # written out they take a minute


def test_an_item_says_so_at_every_door(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen3_vl", positions="1d"))
    template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    processor = encoder.processor.with_settings(prompt=PromptSettings(template=template))
    encoder.model.save_pretrained(tmp_path / "hostile")
    processor.save_pretrained(tmp_path / "hostile")
    with pytest.raises(ValueError, match="item 0: the checkpoint's chat template does not come to an end"):
        umekit.load(tmp_path / "hostile").encode(["a"])
    stock = AutoProcessor.from_pretrained(tmp_path / "hostile", trust_remote_code=True)
    for tokenize in (False, True):
        with pytest.raises(ValueError, match="chat template does not come to an end"):
            stock.apply_chat_template([{"role": "user", "content": "a"}], tokenize=tokenize)


def published_templates() -> dict[str, str]:
    found = {
        folder.name: json.loads((folder / "checkpoint" / "chat_template.json").read_text())["chat_template"]
        for folder in sorted(GOLDEN.iterdir())
        if (folder / "checkpoint").is_dir()
    }
    for name, preset in PRESETS.items():
        module = __import__(preset.processor.__module__, fromlist=["x"])
        made = getattr(module, "TEMPLATE", None)
        found[name] = made or (
            module.template("x") if name.startswith("u-marvel") and "re" not in name[-8:] else ""
        )
    return {name: template for name, template in found.items() if template}


@pytest.mark.parametrize("name", published_templates())
def test_published_templates_are_rendered_as_transformers_does(name: str) -> None:
    template = published_templates()[name]
    long = [CHAT[0], {"role": "user", "content": [{"type": "text", "text": "word " * 400_000}]}]
    for chat in (CHAT, CHAT[1:], PAIR, long):
        for told in ({}, {"thinking": True}, {"add_vision_id": True}):
            expected, _ = render_jinja_template([chat], chat_template=template, **told)
            assert render_template(template, chat, told) == expected[0]


ORDINARY = [
    "{%- for m in messages -%}{{ m.role|upper }}: {{ m.content|tojson(indent=2) }}{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index ~ '. ' ~ m['content']|length }}\n{% endfor %}",
    "{{ messages|map(attribute='role')|join(', ') }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}",
    "{% macro f(x, y=2) %}[{{ x * y }}]{% endmacro %}{{ f('ab') }}{{ f(3, y=4) }}{{ '%s-%05.1f' % ('a', 2) }}",
    "{{ '{}: {:>5}'.format('a', 3) }}{{ 'a,b'.split(',')|join('/') }}{{ ' x '.strip().replace('x', 'yy') }}",
    "{% generation %}{{ messages[0].role }}{% endgeneration %}{% for i in range(5) %}{% if i == 3 %}{% break %}"
    "{% endif %}{{ i }}{% endfor %}",
    "{% set ns = namespace(found=false) %}{% for m in messages %}{% set ns.found = true %}{% endfor %}{{ ns.found }}",
    "{{ dict(a=1)|dictsort }}{{ [3, 1]|sort|first }}{{ none|default('d', true) }}{{ 'a\nb'|indent(2) }}{{ 2**10 }}",
    "{% filter upper %}a{{ 'b'|trim }}{% endfilter %}{% call(x) f2('q') %}{{ x }}{% endcall %}"
    "{% macro f2(a) %}{{ caller(a) }}{% endmacro %}",
    "{{ messages|tojson }}{{ 'ab'[::-1] }}{{ 7 % 3 }}{{ [1] + [2] }}{{ 'x' in 'xy' }}"
    "{{ messages[-1]['role'] is string }}",
]


@pytest.mark.parametrize("template", ORDINARY)
def test_ordinary_templates_too(template: str) -> None:
    try:
        expected = render_jinja_template([CHAT], chat_template=template)[0][0]
    except TemplateError as error:
        with pytest.raises(type(error)):
            render_template(template, CHAT, {})
        return
    assert render_template(template, CHAT, {}) == expected


def test_a_template_may_refuse() -> None:
    with pytest.raises(TemplateError, match="no roles"):
        render_template("{{ raise_exception('no roles') }}", CHAT, {})


def test_threads_have_bounds_of_their_own() -> None:
    outcomes: list[str] = []

    def run(template: str) -> None:
        try:
            outcomes.append(render_template(template, CHAT, {}))
        except TemplateLimitError:
            outcomes.append("stopped")

    threads = [threading.Thread(target=run, args=(HOSTILE["nested loops"],)) for _ in range(2)]
    threads += [
        threading.Thread(target=run, args=("{% for i in range(3) %}ok{% endfor %}",)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["okokok"] * 6 + ["stopped"] * 2


def test_objects_stand_as_their_types() -> None:
    chat: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image", "image": Path("x")}]}]
    assert render_template("{{ messages[0].content[0].image }}", chat, {}).startswith("<PosixPath") or (
        templates_module.SECONDS
        and render_template("{{ messages[0].content[0].image }}", chat, {}) == "<WindowsPath>"
    )
