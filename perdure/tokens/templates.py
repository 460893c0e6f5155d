"""Chat templates: the Jinja programs models ship with, run in a sandbox the way Hugging Face runs them.

Invariant: a template sees only what it is given; it cannot reach the process.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from perdure.core.errors import Invalid

NO_DAY = date(1970, 1, 1)


def to_json(value: Any, **options: Any) -> str:
    """A value as chat templates write it: keys in their own order, `, ` and `: ` between, nothing escaped needlessly."""
    return json.dumps(value, ensure_ascii=False, **options)


class ChatTemplate:
    """`special`: the texts of the tokens a template may name (bos_token, eos_token, ...)."""

    def __init__(self, source: str, model_name: str, special: Mapping[str, str]) -> None:
        self.source = source
        self._model_name = model_name
        self._special = dict(special)
        try:
            self._template = _compile(source)
        except TemplateError as broken:
            raise Invalid(f"The chat template of {model_name} cannot be read: {broken}") from broken

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        generation: bool,
        enable_thinking: bool | None = None,
        day: date = NO_DAY,
    ) -> str:
        """Invalid if the template refuses the conversation. `day`: what it is told is today."""
        options = {} if enable_thinking is None else {"enable_thinking": enable_thinking, "thinking": enable_thinking}
        try:
            return self._template.render(
                messages=messages,
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=generation,
                strftime_now=day.strftime,
                **self._special,
                **options,
            )
        except (TemplateError, TypeError, LookupError, AttributeError, ValueError, ArithmeticError) as refused:
            raise Invalid(f"The chat template of {self._model_name} refuses this conversation: {refused}") from refused


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for trainers; rendered, it is its body."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    globals_: dict[str, Any] = {"raise_exception": _raise}
    environment.globals.update(globals_)
    return environment.from_string(source)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)
