"""The renderers under contract, on tokenizers that need no download."""

from collections.abc import Callable

from perdure.tokens.base import Renderer
from perdure.tokens.chatml import ChatMlRenderer
from perdure.tokens.deepseek import DeepSeekRenderer
from perdure.tokens.families import renderer_for
from perdure.tokens.generic import GenericRenderer
from perdure.tokens.glm import GlmRenderer
from perdure.tokens.harmony import HarmonyRenderer
from perdure.tokens.llama3 import Llama3Renderer
from perdure.tokens.mistral import MistralRenderer
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.qwen35 import VARIANTS, Qwen35Renderer
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
# tagged arguments as Qwen3-Coder has them, which has no renderer of its own
TAGGED = """{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>{% else %}{{ m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}{{ '\n<tool_call>\n<function=' + call.function.name + '>\n' }}
{%- for key, value in call.function.arguments | items %}{{ '<parameter=' + key + '>\n' + value | string + '\n</parameter>\n' }}
{%- endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
PLAIN = """{% for m in messages %}{{ '<|im_start|>' + m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant: ' }}{% endif %}"""


def _smollm2() -> Renderer:
    found = smollm2()
    return renderer_for("smollm2", found.tokenizer, found.chat_template, stop_token_ids=found.stop_token_ids)


def _generic(template: str) -> Renderer:
    return GenericRenderer(small_tokenizer(), template, model_name="small", special={})


RENDERERS: dict[str, Callable[[], Renderer]] = {
    "qwen3": lambda: Qwen3Renderer(small_tokenizer()),
    "qwen35": lambda: Qwen35Renderer(small_tokenizer()),
    "qwen38": lambda: Qwen35Renderer(small_tokenizer(), variant=VARIANTS[-1]),
    "glm45": lambda: GlmRenderer(small_tokenizer("glm")),
    "glm47": lambda: GlmRenderer(small_tokenizer("glm"), lines=False),
    "llama3": lambda: Llama3Renderer(small_tokenizer("llama3"), dated=True),
    "deepseek": lambda: DeepSeekRenderer(small_tokenizer("deepseek")),
    "mistral_v11": lambda: MistralRenderer(small_tokenizer("mistral"), form="v11"),
    "mistral_v13": lambda: MistralRenderer(small_tokenizer("mistral"), default_system="You help."),
    "harmony": lambda: HarmonyRenderer(small_tokenizer("harmony")),
    "chatml": lambda: ChatMlRenderer(small_tokenizer(), default_system="You help."),
    "smollm2": _smollm2,
    "generic": lambda: _generic(PLAIN),
    "generic_tagged": lambda: _generic(TAGGED),
}
