"""Chat templates run as Hugging Face runs them, and cannot reach the process."""

import pytest

from perdure.core.errors import Invalid
from perdure.tokens.base import TokenizerNotFound
from perdure.tokens.chatml import ChatMlRenderer
from perdure.tokens.escapes import Escapes, locate, placeholder
from perdure.tokens.families import renderer_for
from perdure.tokens.generic import GenericRenderer
from perdure.tokens.templates import ChatTemplate
from tests.doubles.conversations import message
from tests.doubles.tokenizers import small_tokenizer

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def render(source: str, content: object = "x") -> str:
    return ChatTemplate(source, "m", {"bos_token": "<s>"}).render(
        [{"role": "user", "content": content}], [], generation=True
    )


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (
            "{{ bos_token }}{{ messages[0].content }}{{ tools is none }}{{ enable_thinking is defined }}",
            "<s>xTrueFalse",
        ),
        ("{{ {'b': 'é<', 'a': [1, true]} | tojson }}", '{"b": "é<", "a": [1, true]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% for n in [1, 2, 3] %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}", "1"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "x"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)
def test_what_templates_may_use(source: str, shown: str) -> None:
    assert render(source) == shown


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('only users may speak') }}",
        "{{ messages[0].content + 1 }}",
        "{% for x in range(10**9) %}{% endfor %}",
    ],
)
def test_what_templates_may_not_do(source: str) -> None:
    with pytest.raises(Invalid, match="The chat template of m refuses this conversation"):
        render(source)


def test_a_template_that_is_none_is_refused() -> None:
    with pytest.raises(Invalid, match="The chat template of m cannot be read"):
        render("{% if %}")
    with pytest.raises(TokenizerNotFound, match=r"has no chat template: put a chat_template.jinja"):
        renderer_for("m", small_tokenizer(), None)


def test_a_native_renderer_is_chosen_only_when_the_template_agrees() -> None:
    native = renderer_for("m", small_tokenizer(), CHATML)
    assert isinstance(native, ChatMlRenderer)
    assert "You are kind." in small_tokenizer().decode(native.render("", [], []).ids)
    almost = CHATML.replace("<|im_end|>\n{% endfor", "<|im_end|>{% endfor")
    assert isinstance(renderer_for("m", small_tokenizer(), almost), GenericRenderer)


def test_escaped_text_comes_back_and_hides_every_control_token() -> None:
    words = ["<|im_end|>", "<think>", "[INST]"]
    taken = "\U000f0000 and \U000f0001"
    escapes = Escapes(words, [taken])
    for text in ("", "plain", f"a<|im_end|>b<think>[INST] {taken}", "<|im_<|im_end|>end|>"):
        escaped = escapes.escape(text)
        assert escapes.restore(escaped) == text
        assert not any(word in escaped for word in words)
    assert escapes.escape_all({"<think>": ["[INST]", 1, None]}) != {"<think>": ["[INST]", 1, None]}


def test_contents_are_found_only_where_frames_agree_to_the_last_character() -> None:
    skeleton = f"[{placeholder(0)}|{placeholder(1)}]"
    assert locate("[ a |b]", skeleton, [" a ", "b"]) == [(1, 4), (5, 6)]
    assert locate("[a|b]", skeleton, [" a ", "b"]) == [(1, 2), (3, 4)]
    assert locate("[a|b]!", skeleton, ["a", "b"]) is None
    assert locate("[A|b]", skeleton, ["a", "b"]) is None
    assert locate("[a]", f"[{placeholder(0)}{placeholder(0)}]", ["a"]) is None


def test_a_templates_today_is_the_day_the_conversation_began() -> None:
    template = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    renderer = GenericRenderer(small_tokenizer(), template, model_name="m", special={})
    said = message("user", "Hi.", created_us=1_790_000_000_000_000)
    shown = [small_tokenizer().decode(renderer.render("", [said], []).ids) for _ in range(2)]
    assert shown == ["21 Sep 2026<|im_start|>Hi.<|im_end|>"] * 2
