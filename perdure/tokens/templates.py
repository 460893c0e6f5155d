"""Chat templates: the Jinja programs models ship with, run in a sandbox the way Hugging Face runs them.

Invariant: a template sees only what it is given; it cannot reach the process.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from perdure.core.errors import Invalid

NO_DAY = date(1970, 1, 1)


def to_json(value: Any, **options: Any) -> str:
    """A value as chat templates write it: keys in their own order, `, ` and `: ` between, nothing escaped needlessly."""
    return json.dumps(value, ensure_ascii=False, **options)


class ChatTemplate:
    """`special`: the texts of the tokens a template may name (bos_token, eos_token, ...)."""

    def __init__(self, source: str, model_name: str, special: Mapping[str, str]) -> None:
        from perdure.tokens import jinja  # only where there is a template

        self.source = source
        self._model_name = model_name
        self._special = dict(special)
        self._refusals = (jinja.TemplateError, TypeError, LookupError, AttributeError, ValueError, ArithmeticError)
        try:
            self._template = jinja.compiled(source)
        except jinja.TemplateError as broken:
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
        except self._refusals as refused:
            raise Invalid(f"The chat template of {self._model_name} refuses this conversation: {refused}") from refused
