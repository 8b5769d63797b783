"""Chat templates of checkpoints, rendered within bounds: a template is a program, and may be a hostile one.

Everything that a template makes is counted, and so is its time, at every step that it takes: each turn of a loop, call,
filter and operator. Templates that are published take a thousandth of what is allowed. The variables and filters are
those that transformers gives to templates.
"""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

try:
    from jinja2 import TemplateError
    from jinja2.compiler import CodeGenerator
    from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace
except ImportError as missing:
    raise ImportError("chat templates need jinja2>=3.1.6: pip install -U jinja2") from missing

from .template_sizes import made_by_filter, made_by_method, made_by_operator, written_size

TEMPLATE_CHARS = 2**18  # of a template; published ones have up to 30,000
MADE_CHARS = 2**20  # that one prompt may have, beside four times its texts
MADE_IN_ALL = 16  # as many times may be made on the way
SECONDS = 1.0  # of the thread's own work for a prompt, and for each 10 MB of its texts


class TemplateLimitError(ValueError):
    """A chat template takes longer, or makes more, than any prompt needs."""


class _Run(threading.local):
    """What the rendering of this thread has made, and what it may make."""

    most = MADE_CHARS
    made = 0
    end = float("inf")

    def begin(self, given: int) -> None:
        self.most = MADE_CHARS + 4 * given
        self.made = 0
        self.end = time.thread_time() + SECONDS * (1 + given / 1e7)


class _Ticking(CodeGenerator):
    """Compiles a step's look at the clock into every block, and a count into every ``~``."""

    def blockvisit(self, nodes: Any, frame: Any) -> None:
        if frame.toplevel is False:
            self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node: Any, frame: Any) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Bounded(ImmutableSandboxedEnvironment):
    """transformers' environment of chat templates, with everything counted."""

    code_generator_class = _Ticking
    intercepted_binops = frozenset(["*", "**", "%", "+"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=self.written,
        )
        self.run = _Run()
        self.globals.pop("lipsum")
        self.globals.update(
            raise_exception=_raise_exception, strftime_now=_strftime_now, dict=dict, namespace=_Namespace
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: self._counted(name, one) for name, one in self.filters.items()}

    def tick(self, made: int = 0) -> None:
        """One step, which makes something of so many characters or entries.

        Raises:
            TemplateLimitError: too much of them, or of time.
        """
        run = self.run
        run.made += made
        if made > run.most or run.made > MADE_IN_ALL * run.most:
            raise TemplateLimitError(
                f"the checkpoint's chat template makes more than {run.most:,} characters: it is broken or hostile"
            )
        if time.thread_time() > run.end:
            raise TemplateLimitError(
                "the checkpoint's chat template does not come to an end: it is broken or hostile"
            )

    def written(self, value: Any) -> Any:
        """A value that is about to be written out; a list that holds one large list many times is small until then."""
        if isinstance(value, (Mapping, list, tuple)):
            self.tick(written_size(value, self.run.most))
        return value

    def joined(self, parts: Sequence[Any]) -> str:
        """``~``."""
        texts = [str(self.written(part)) for part in parts]
        self.tick(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.tick(made_by_operator(operator, left, right, self.run.most))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, (str, bytes, int)) and not isinstance(obj, type):
            name = getattr(method, "__name__", "")
            if name == "join" and args and not isinstance(args[0], (str, list, tuple, dict)):
                args = (list(args[0]), *args[1:])
            self.tick(made_by_method(name, owner, args, kwargs, self.run.most))
        else:
            self.tick()
        return super().call(context, obj, *args, **kwargs)

    def _counted(self, name: str, one: Callable[..., Any]) -> Callable[..., Any]:
        # The first argument is jinja's own where a filter asks for its context.
        first = 1 if hasattr(one, "jinja_pass_arg") else 0

        @functools.wraps(one)
        def counted(*args: Any, **kwargs: Any) -> Any:
            value, given = args[first] if len(args) > first else "", [*args[first + 1 :], *kwargs.values()]
            if name == "join" and not isinstance(value, (str, list, tuple, dict)):
                value = list(value)
                args = (*args[:first], value, *args[first + 1 :])
            self.tick(made_by_filter(name, value, given, self.run.most))
            result = one(*args, **kwargs)
            self.tick(len(result) if isinstance(result, (str, list, tuple)) else 0)
            return result

        return counted


class _Generation(Extension):
    """The tag ``generation``, by which transformers finds the assistant's tokens: here it only shows its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("shown"), [], [], body).set_lineno(line)

    def shown(self, caller: Any) -> Any:
        return caller()


class _Namespace(Namespace):
    """A namespace whose entries cannot be Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        entries = dict(*args[1:], **kwargs)
        for name in entries:
            _check_name(name)
        Namespace.__init__(args[0], entries)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def prompt_of(template: str, messages: Sequence[Any], variables: Mapping[str, Any]) -> str:
    """:func:`render_template` for a prompt that is embedded: a wrong template is told of as such, and an empty one.

    Raises:
        TemplateLimitError: as there.
        ValueError: the template is wrong, or renders to nothing.
        jinja2.TemplateError: it refuses the messages.
    """
    try:
        rendered = render_template(template, messages, variables)
    except TemplateSyntaxError as error:
        raise ValueError(f"the checkpoint's chat template, line {error.lineno}: {error}") from error
    except (UndefinedError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"the checkpoint's chat template cannot be rendered: {told}") from error
    if not rendered:
        raise ValueError("the checkpoint's chat template renders to nothing, so there is nothing to embed")
    return rendered


def render_template(template: str, messages: Sequence[Any], variables: Mapping[str, Any]) -> str:
    """A chat as the text of a prompt.

    Args:
        template: Jinja.
        messages: dicts of role and content; values that are no plain data stand as the name of their type.
        variables: what the template is told beside the messages.

    Raises:
        TemplateLimitError: it takes too long, makes too much, or is too large or too deep to be compiled.
        jinja2.TemplateError: the template is wrong, or refuses the messages.
    """
    plain = _plain(messages)
    given = written_size(plain, 2**62)
    compiled = _compiled(template)
    run = _ENVIRONMENT.run
    run.begin(given)
    parts: list[str] = []
    length = 0
    try:
        for part in compiled.generate(
            messages=plain, tools=None, documents=None, **{"add_generation_prompt": False, **variables}
        ):
            length += len(part)
            if length > run.most:
                _ENVIRONMENT.tick(length)
            parts.append(part)
    except (RecursionError, OverflowError, MemoryError) as error:
        raise TemplateLimitError(f"the checkpoint's chat template cannot be rendered: {error}") from None
    return "".join(parts)


@functools.lru_cache(maxsize=64)
def _compiled(template: str) -> Any:
    if len(template) > TEMPLATE_CHARS:
        raise TemplateLimitError(
            f"the checkpoint's chat template has {len(template):,} characters, more than {TEMPLATE_CHARS:,}"
        )
    _ENVIRONMENT.run.begin(len(template))
    _ENVIRONMENT.run.end += 10 * SECONDS
    try:
        return _ENVIRONMENT.from_string(template)
    except (RecursionError, MemoryError, OverflowError, SyntaxError) as error:
        raise TemplateLimitError(f"the checkpoint's chat template cannot be compiled: {error}") from None


def _plain(value: Any) -> Any:
    """Only data: a template sees no object whose methods it could call."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Iterable) and isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return f"<{type(value).__name__}>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template cannot store {name!r} in a namespace")


def _raise_exception(message: Any) -> Any:
    raise TemplateError(str(message)[:1000])


def _strftime_now(form: str) -> str:
    if len(form) > 100 or re.search(r"\d{3,}", form):
        raise TemplateLimitError("the checkpoint's chat template asks for a date in no usual form")
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


_ENVIRONMENT = _Bounded()
