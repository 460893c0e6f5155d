"""What prompts look like, turn by turn."""

import re

import pytest

from perdure.core.messages import Approval, ImagePart, Message, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.core.tokens import ROLES, Span
from perdure.tokens.base import NoBridge, Rendered, Renderer
from tests.contract.renderers.renderers import BRACKETS, RENDERERS, _generic
from tests.doubles.answers import answer_ids, end_id, opens_thought
from tests.doubles.conversations import TOOLS, message

QWEN3 = RENDERERS["qwen3"]()


def text_of(renderer: Renderer, rendered: Rendered | NoBridge) -> str:
    assert isinstance(rendered, Rendered), rendered
    assert sum(span.length for span in rendered.spans) == len(rendered.ids)
    return renderer.tokenizer.decode(rendered.ids)


def called(text: str = "", *calls: tuple[str, str], thought: str = "") -> Message:
    content = (*([ReasoningPart(thought)] if thought else []), *([TextPart(text)] if text else []))
    return message("assistant", content=content, tool_calls=tuple(ToolCall(f"c{n}", *c) for n, c in enumerate(calls)))


def returned(*texts: str) -> Message:
    return message(
        "tool", tool_returns=tuple(ToolReturn(f"c{n}", "look", "success", text) for n, text in enumerate(texts))
    )


def bridged(
    renderer: Renderer, answer: str, new: list[Message], *, closed: bool = True, **options: object
) -> Rendered | NoBridge:
    """The bridge after a short prompt and an answer, whose markers are control tokens."""
    start = renderer.render("Be brief.", [message("user", "Hi.")], []).ids
    ids = list(start)
    for piece in renderer.tokenizer.split(answer):
        ids += [piece] if isinstance(piece, int) else renderer.tokenizer.encode(piece)
    if closed:
        ids.append(renderer.stop_token_ids[0])
    return renderer.bridge(ids, len(start), new, [], **options)  # type: ignore[arg-type]


def test_a_whole_conversation_with_tools() -> None:
    messages = [
        message("user", "Look."),
        called("I look.", ("look", '{"at":1}'), ("go", "{}"), thought="Hm."),
        returned("blue", "done"),
        message("system", "It is late."),
        message("summary", "Earlier: nothing."),
    ]
    shown = text_of(QWEN3, QWEN3.render("Be brief.", messages, TOOLS[1:]))
    assert shown == (
        "<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "go", "description": "Goes.", '
        '"parameters": {"type": "object", "properties": {}}}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
        'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nLook.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nHm.\n</think>\n\nI look.\n"
        '<tool_call>\n{"name": "look", "arguments": {"at":1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "go", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nblue\n</tool_response>\n<tool_response>\ndone\n</tool_response><|im_end|>\n"
        "<|im_start|>system\nIt is late.<|im_end|>\n<|im_start|>user\nEarlier: nothing.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_thinking_of_earlier_questions_is_kept_or_dropped_as_asked() -> None:
    messages = [message("user", "a"), called("b", thought="Hm."), message("user", "c")]
    assert "Hm." in text_of(QWEN3, QWEN3.render("", messages, []))
    assert "Hm." not in text_of(QWEN3, QWEN3.render("", messages, [], retention="tool_cycle"))
    cycle = [message("user", "a"), called("", ("go", "{}"), thought="Hm."), returned("ok")]
    assert "Hm." in text_of(QWEN3, QWEN3.render("", cycle, [], retention="tool_cycle"))


def test_thinking_switched_off_is_an_empty_thought_before_the_answer() -> None:
    shown = text_of(QWEN3, QWEN3.render("", [message("user", "a")], [], enable_thinking=False))
    assert shown.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    after = bridged(QWEN3, "ok", [message("user", "b")], enable_thinking=False)
    assert text_of(QWEN3, after).endswith("<think>\n\n</think>\n\n")


def test_only_a_missing_system_prompt_gets_the_models_own() -> None:
    chatml = RENDERERS["chatml"]()
    assert text_of(chatml, chatml.render("", [message("user", "a")], [])).startswith(
        "<|im_start|>system\nYou help.<|im_end|>"
    )
    assert "You help." not in text_of(chatml, chatml.render("Mine.", [message("user", "a")], []))


@pytest.mark.parametrize("name", RENDERERS)
def test_a_closed_answer_is_followed_by_what_is_new(name: str) -> None:
    renderer = RENDERERS[name]()
    start = renderer.render("Be brief.", [message("user", "Hi.")], []).ids
    ids = [*start, *answer_ids(renderer, "ok", opened=opens_thought(renderer, start)), end_id(renderer, [])]
    new = [message("user", "One."), message("user", "Two.")]
    shown = text_of(renderer, renderer.bridge(ids, len(start), new, []))
    assert shown.index("One.") < shown.index("Two.")
    assert "ok" not in shown


def test_answers_of_tools_share_a_turn_and_a_new_question_follows() -> None:
    after = bridged(
        QWEN3, "<think>\nHm.\n</think>\n\n<tool_call>\n{}\n</tool_call>", [returned("a", "b"), message("user", "c")]
    )
    assert text_of(QWEN3, after) == (
        "\n<|im_start|>user\n<tool_response>\na\n</tool_response>\n<tool_response>\nb\n</tool_response><|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_cut_answer_is_closed_and_the_closing_is_on_record() -> None:
    after = bridged(QWEN3, "I was about", [message("user", "Go on.")], closed=False)
    assert isinstance(after, Rendered)
    assert text_of(QWEN3, after).startswith("<|im_end|>\n<|im_start|>user\nGo on.")
    assert [(put.at, put.length) for put in after.synthesized] == [(0, 1)]


def test_an_answer_cut_inside_its_thinking_gets_the_thinking_closed_too() -> None:
    after = bridged(QWEN3, "<think>\nI was", [message("user", "Go on.")], closed=False)
    assert isinstance(after, Rendered)
    assert text_of(QWEN3, after).startswith("</think><|im_end|>\n")
    assert [(put.at, put.length) for put in after.synthesized] == [(0, 1), (1, 1)]


def test_an_answer_that_ended_with_another_token_gets_its_turn_closed() -> None:
    start = QWEN3.render("", [message("user", "a")], []).ids
    ids = [*start, *QWEN3.tokenizer.encode("b"), QWEN3.stop_token_ids[1]]
    assert text_of(QWEN3, QWEN3.bridge(ids, len(start), [message("user", "c")], [])).startswith("<|im_end|>\n")


def test_nothing_sampled_at_all_is_closed_like_a_cut_answer() -> None:
    start = QWEN3.render("", [message("user", "a")], []).ids
    assert text_of(QWEN3, QWEN3.bridge(start, len(start), [message("user", "c")], [])).startswith("<|im_end|>\n")


def test_a_turn_ended_inside_its_thinking_begins_a_new_segment() -> None:
    after = bridged(QWEN3, "<think>\nI stop", [message("user", "Go on.")])
    assert after == NoBridge("renderer_fallback", "the model ended its turn inside its thinking")


@pytest.mark.parametrize(
    ("answer", "new", "cause"),
    [
        ("<think>\nHm.\n</think>\n\nok", [message("user", "b")], "thinking_drop"),
        ("<think>\nHm.\n</think>\n\nok", [returned("b")], None),
        ("<think>\nHm.\n</think>\n\nok", [returned("b"), message("summary", "c")], "thinking_drop"),
        ("<think>\n\n</think>\n\nok", [message("user", "b")], None),
        ("ok", [message("user", "b")], None),
    ],
)
def test_thinking_dropped_by_the_template_begins_a_new_segment(
    answer: str, new: list[Message], cause: str | None
) -> None:
    after = bridged(QWEN3, answer, new, retention="tool_cycle")
    assert (after.cause if isinstance(after, NoBridge) else None) == cause
    assert isinstance(bridged(QWEN3, answer, new), Rendered)


def test_approvals_show_as_the_call_and_the_answer_they_stand_for() -> None:
    asked = message("approval", tool_calls=(ToolCall("c0", "go", "{}"),))
    refused = message("approval", approvals=(Approval("c0", False, "not today"),))
    shown = text_of(QWEN3, QWEN3.render("", [message("user", "a"), asked, refused], []))
    assert '<|im_start|>assistant\n<tool_call>\n{"name": "go", "arguments": {}}\n</tool_call><|im_end|>' in shown
    assert "denied. Reason: not today" in shown
    told = text_of(QWEN3, QWEN3.render("", [message("user", "a"), asked, refused, returned("told")], []))
    assert "not today" not in told and "told" in told
    by_client = message("approval", tool_returns=(ToolReturn("c0", "go", "success", "gone"),))
    assert text_of(QWEN3, bridged(QWEN3, "x", [by_client])).count("gone") == 1
    assert text_of(QWEN3, bridged(QWEN3, "x", [by_client, returned("gone")])).count("gone") == 1


def test_an_image_of_the_history_leaves_a_note_and_never_blocks_the_conversation() -> None:
    picture = message("user", content=(TextPart("see "), ImagePart(media_type="image/png", data="AAAA")))
    shown = text_of(QWEN3, QWEN3.render("", [picture], []))
    assert "see [An image was here; this model reads text only.]<|im_end|>" in shown


def test_spans_name_the_message_and_tell_its_words_from_the_frame() -> None:
    said, done = message("user", "quick fox"), returned("brown")
    rendered = QWEN3.render("Be brief.", [said, done], [], system_message_id="message-s")
    roles = [(span.message_id, ROLES[span.role], span.is_content) for span in rendered.spans]
    assert roles == [
        ("message-s", "system", False),
        ("message-s", "system", True),
        ("message-s", "system", False),
        (said.id, "user", False),
        (said.id, "user", True),
        (said.id, "user", False),
        (done.id, "tool", False),
        (done.id, "tool", True),
        (done.id, "tool", False),
        ("", "scaffold", False),
    ]


def _content(renderer: Renderer, rendered: Rendered) -> list[str]:
    texts, at = [], 0
    for span in rendered.spans:
        if span.is_content:
            texts.append(renderer.tokenizer.decode(rendered.ids[at : at + span.length]))
        at += span.length
    return texts


def test_an_id_across_frame_and_content_counts_as_content() -> None:
    rendered = QWEN3.render("", [message("user", "\n\nx")], [])
    assert "x" in _content(QWEN3, rendered)[0]
    assert "".join(_content(QWEN3, rendered)).endswith("\n\nx")


def test_the_generic_renderer_gives_each_message_its_own_words_too() -> None:
    renderer = _generic(BRACKETS)
    said = [message("user", "  quick <|im_end|> fox "), called("yes", ("look", '{"at": "<think>"}')), returned("brown")]
    rendered = renderer.render("Be brief.", said, TOOLS, system_message_id="s")
    shown = text_of(renderer, rendered)
    assert "[user]quick <|im_end|> fox<|im_end|>\n" in shown
    assert '<tool_call>\n{"name": "look", "arguments": {"at": "<think>"}}\n</tool_call>' in shown
    assert _content(renderer, rendered) == ["Be brief.", "quick <|im_end|> fox", "yes", "brown"]
    assert rendered.ids.count(renderer.tokenizer.special_id("<|im_end|>")) == 4
    assert renderer.tokenizer.special_id("<think>") not in rendered.ids
    owners = {span.message_id for span in rendered.spans if span.is_content}
    assert owners == {"s", *(one.id for one in said)}
    assert Span(1, "", 0, False) not in rendered.spans


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "does not close"),
        (
            "{% for m in messages %}<|im_start|>{{ messages | length }}{{ m.content }}<|im_end|>{% endfor %}",
            "writes earlier turns otherwise",
        ),
        (
            "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}{{ messages | length }}",
            "depends on earlier ones|writes earlier turns otherwise",
        ),
        (
            "{% for m in messages %}{% if loop.index0 > 3 %}{{ raise_exception('no') }}{% endif %}"
            "<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
            "refuses this conversation: no",
        ),
    ],
)
def test_a_template_that_cannot_be_extended_says_why(template: str, why: str) -> None:
    renderer = _generic(template)
    start = renderer.render("", [message("user", "Hi.")], []).ids
    ids = [*start, *renderer.tokenizer.encode("ok"), *renderer.stop_token_ids[:1]]
    after = renderer.bridge(ids, len(start), [message("user", "b")], [])
    assert isinstance(after, NoBridge)
    assert after.cause == "renderer_fallback"
    assert re.search(why, after.detail)


def test_a_template_that_drops_thinking_says_so_only_where_it_matters() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    renderer = _generic(template)
    answered = bridged(renderer, "<think>Hm.</think>ok", [message("user", "b")], retention="tool_cycle")
    assert answered == NoBridge("thinking_drop", "the template drops earlier thinking here")
    assert isinstance(bridged(renderer, "<think>Hm.</think>ok", [message("user", "b")]), Rendered)
    assert isinstance(bridged(renderer, "ok", [message("user", "b")], retention="tool_cycle"), Rendered)


def test_a_template_without_system_turns_gets_the_text_in_the_first_question() -> None:
    renderer = _generic(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    shown = text_of(renderer, renderer.render("Be brief.", [message("user", "Hi."), called("ok")], TOOLS[1:]))
    assert shown.startswith("<|im_start|>user\nBe brief.\n\n# Tools")
    assert "</tool_call>\n\nHi.<|im_end|>\n<|im_start|>assistant\nok<|im_end|>\n" in shown
    assert isinstance(bridged(renderer, "ok", [message("user", "b")]), Rendered)


def test_a_prompt_that_ends_inside_the_thinking_says_so() -> None:
    renderer = _generic(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    rendered = renderer.render("", [message("user", "a")], [])
    assert rendered.reasoning_open
    cut = [*rendered.ids, *renderer.tokenizer.encode("Hm")]
    after = renderer.bridge(cut, len(rendered.ids), [message("user", "b")], [])
    assert isinstance(after, Rendered)
    assert text_of(renderer, after).startswith("</think><|im_end|>\n")
    assert not RENDERERS["generic"]().render("", [message("user", "a")], []).reasoning_open
