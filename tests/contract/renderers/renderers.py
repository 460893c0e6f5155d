"""The renderers under contract, on tokenizers that need no download."""

from collections.abc import Callable

from perdure.tokens.base import Renderer
from perdure.tokens.chatml import ChatMlRenderer
from perdure.tokens.families import renderer_for
from perdure.tokens.generic import GenericRenderer
from perdure.tokens.qwen3 import Qwen3Renderer
from tests.doubles.tokenizers import small_tokenizer, smollm2

# no family we know natively: roles as bare words, its own end token, answers of tools as turns of their own
BRACKETS = """{{ '<|endoftext|>' }}{% for m in messages %}
{%- if m.role == 'system' %}[system]{{ m.content | trim }}<|im_end|>
{% elif m.role == 'assistant' %}[assistant]{{ m.content }}
    {%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% else %}[{{ m.role }}]{{ m.content | trim }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if tools %}[tools]{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}[assistant]{% endif %}"""
PLAIN = """{% for m in messages %}{{ '<|im_start|>' + m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant: ' }}{% endif %}"""


def _smollm2() -> Renderer:
    found = smollm2()
    return renderer_for("smollm2", found.tokenizer, found.chat_template, stop_token_ids=found.stop_token_ids)


def _generic(template: str) -> Renderer:
    return GenericRenderer(small_tokenizer(), template, model_name="small", special={})


RENDERERS: dict[str, Callable[[], Renderer]] = {
    "qwen3": lambda: Qwen3Renderer(small_tokenizer()),
    "chatml": lambda: ChatMlRenderer(small_tokenizer(), default_system="You help."),
    "smollm2": _smollm2,
    "generic": lambda: _generic(PLAIN),
}
