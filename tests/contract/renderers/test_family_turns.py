"""How each native family writes turns, to the character, and what its bridges add. No download is needed."""

# ruff: noqa: E501

import pytest

from perdure.core.messages import Message, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.tokens.base import NoBridge, Rendered, Renderer
from tests.contract.renderers.renderers import RENDERERS
from tests.doubles.conversations import TOOLS, message

CALLS = (ToolCall("c0", "look", '{"at": "up", "all": true}'), ToolCall("c1", "go", "{}"))
RETURNED = message(
    "tool",
    tool_returns=(ToolReturn("c0", "look", "success", 'blue "x"'), ToolReturn("c1", "go", "success", "done")),
)
CONVERSATION = [
    message("user", "Look."),
    message("assistant", content=(ReasoningPart("Hm."), TextPart("I look.")), tool_calls=CALLS),
    RETURNED,
    message("user", "And?"),
]

TURNS = {
    "qwen35": (
        "\n\nBe brief.<|im_end|>\n<|im_start|>user\nLook.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nHm.\n</think>\n\nI look.\n\n"
        "<tool_call>\n<function=look>\n<parameter=at>\nup\n</parameter>\n<parameter=all>\nTrue\n</parameter>\n</function>\n"
        "</tool_call>\n<tool_call>\n<function=go>\n</function>\n</tool_call><|im_end|>\n"
        '<|im_start|>user\n<tool_response>\nblue "x"\n</tool_response>\n<tool_response>\ndone\n</tool_response><|im_end|>\n'
        "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    ),
    "glm45": (
        "</tool_call><|system|>\nBe brief.<|user|>\nLook.<|assistant|>\n<think>Hm.</think>\nI look.\n"
        "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>up</arg_value>\n<arg_key>all</arg_key>\n"
        "<arg_value>true</arg_value>\n</tool_call>\n<tool_call>go\n</tool_call>"
        '<|observation|>\n<tool_response>\nblue "x"\n</tool_response>\n<tool_response>\ndone\n</tool_response>'
        "<|user|>\nAnd?<|assistant|>"
    ),
    "glm47": (
        "</tool_call><|system|>Be brief.<|user|>Look.<|assistant|><think>Hm.</think>I look."
        "<tool_call>look<arg_key>at</arg_key><arg_value>up</arg_value><arg_key>all</arg_key><arg_value>true</arg_value>"
        '</tool_call><tool_call>go</tool_call><|observation|><tool_response>blue "x"</tool_response>'
        "<tool_response>done</tool_response><|user|>And?<|assistant|><think>"
    ),
    "llama3": (
        "Look.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "look", "parameters": {"at": "up", "all": true}}; {"name": "go", "parameters": {}}<|eot_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n"blue \\"x\\""<|eot_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n"done"<|eot_id|>'
        "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "deepseek": (
        "<｜User｜>Look.<｜Assistant｜><think>Hm.</think>I look.<｜tool▁calls▁begin｜>"
        '<｜tool▁call▁begin｜>look<｜tool▁sep｜>{"at": "up", "all": true}<｜tool▁call▁end｜>'
        "<｜tool▁call▁begin｜>go<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
        '<｜tool▁output▁begin｜>blue "x"<｜tool▁output▁end｜><｜tool▁output▁begin｜>done<｜tool▁output▁end｜>'
        "<｜User｜>And?<｜Assistant｜></think>"
    ),
    "mistral_v11": (
        "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Look.[/INST]"
        '[TOOL_CALLS]look[CALL_ID]D37XNk8cj[ARGS]{"at": "up", "all": true}[TOOL_CALLS]go[CALL_ID]XdQuk2KUI[ARGS]{}</s>'
        '[TOOL_RESULTS]D37XNk8cj[TOOL_CONTENT]blue "x"[/TOOL_RESULTS]'
        "[TOOL_RESULTS]XdQuk2KUI[TOOL_CONTENT]done[/TOOL_RESULTS][AVAILABLE_TOOLS]"
        '[{"type": "function", "function": {"name": "go", "description": "Goes.", "parameters": {"type": "object", '
        '"properties": {}}}}][/AVAILABLE_TOOLS][INST]And?[/INST]'
    ),
    "mistral_v13": (
        "[/AVAILABLE_TOOLS][INST]Look.[/INST][THINK]Hm.[/THINK]I look."
        '[TOOL_CALLS]look[ARGS]{"at": "up", "all": true}[TOOL_CALLS]go[ARGS]{}</s>'
        '[TOOL_RESULTS]blue "x"[/TOOL_RESULTS][TOOL_RESULTS]done[/TOOL_RESULTS][INST]And?[/INST]'
    ),
    "harmony": (
        "# Instructions\n\nBe brief.\n\n# Tools\n\n## functions\n\nnamespace functions {\n\n// Goes.\ntype go = () => any;\n\n"
        "} // namespace functions<|end|><|start|>user<|message|>Look.<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        '<|start|>assistant to=functions.look<|channel|>commentary json<|message|>{"at": "up", "all": true}<|call|>'
        "<|start|>assistant to=functions.go<|channel|>commentary json<|message|>{}<|call|>"
        '<|start|>functions.look to=assistant<|channel|>commentary<|message|>"blue \\"x\\""<|end|>'
        '<|start|>functions.go to=assistant<|channel|>commentary<|message|>"done"<|end|>'
        "<|start|>user<|message|>And?<|end|><|start|>assistant"
    ),
}


@pytest.mark.parametrize("name", TURNS)
def test_a_conversation_with_tools_keeps_all_thinking(name: str) -> None:
    renderer = RENDERERS[name]()
    shown = renderer.tokenizer.decode(renderer.render("Be brief.", CONVERSATION, TOOLS[1:]).ids)
    assert shown.endswith(TURNS[name])


@pytest.mark.parametrize("name", ["qwen35", "glm45", "glm47", "deepseek", "harmony"])
def test_the_templates_own_retention_drops_thinking_of_earlier_questions(name: str) -> None:
    renderer = RENDERERS[name]()
    said = [message("user", "a"), message("assistant", content=(ReasoningPart("Hm."), TextPart("b")))]
    rendered = renderer.render("", [*said, message("user", "c")], [], retention="tool_cycle")
    assert "Hm." not in renderer.tokenizer.decode(rendered.ids)
    assert "Hm." in renderer.tokenizer.decode(renderer.render("", [*said, message("user", "c")], []).ids)


def _bridged(renderer: Renderer, answer: str, new: list[Message], **more: object) -> Rendered | NoBridge:
    start = renderer.render("Be brief.", [message("user", "Hi.")], []).ids
    ids = list(start)
    for piece in renderer.tokenizer.split(answer):
        ids += [piece] if isinstance(piece, int) else renderer.tokenizer.encode(piece)
    return renderer.bridge(ids, len(start), new, [], **more)  # type: ignore[arg-type]


USER = [message("user", "And?")]


@pytest.mark.parametrize(
    ("name", "answer", "new", "added"),
    [
        ("qwen35", "Hm.\n</think>\n\nok<|im_end|>", USER, "\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n<think>\n"),
        ("qwen35", "Hm", USER, "</think><|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n<think>\n"),
        ("glm45", "\n<think></think>\nok<|user|>", USER, "\nAnd?<|assistant|>"),
        ("glm45", "\n<think></think>\nok<|endoftext|>", USER, "<|user|>\nAnd?<|assistant|>"),
        ("glm45", "\n<think></think>\nok", USER, "<|endoftext|><|user|>\nAnd?<|assistant|>"),
        ("glm45", "<tool_call>go\n</tool_call><|observation|>", [RETURNED], '\n<tool_response>\nblue "x"\n</tool_response>\n<tool_response>\ndone\n</tool_response><|assistant|>'),
        ("glm45", "ok<|user|>", [RETURNED], '<|observation|>\n<tool_response>\nblue "x"\n</tool_response>\n<tool_response>\ndone\n</tool_response><|assistant|>'),
        ("glm47", "Hm", USER, "</think><|endoftext|><|user|>And?<|assistant|><think>"),
        ("llama3", "ok<|eom_id|>", USER, "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("llama3", "ok<|end_of_text|>", USER, "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("deepseek", "ok<｜end▁of▁sentence｜>", [RETURNED], '<｜tool▁output▁begin｜>blue "x"<｜tool▁output▁end｜><｜tool▁output▁begin｜>done<｜tool▁output▁end｜>'),
        ("deepseek", "ok", [message("system", "Late.")], "<｜end▁of▁sentence｜><｜User｜>Late.<｜Assistant｜></think>"),
        ("mistral_v13", "ok</s>", [RETURNED, *USER], '[TOOL_RESULTS]blue "x"[/TOOL_RESULTS][TOOL_RESULTS]done[/TOOL_RESULTS][INST]And?[/INST]'),
        ("mistral_v13", "[THINK]Hm", USER, "[/THINK]</s>[INST]And?[/INST]"),
        ("harmony", "<|channel|>final<|message|>ok<|return|>", USER, "<|start|>user<|message|>And?<|end|><|start|>assistant"),
        ("harmony", "<|channel|>analysis<|message|>Hm", USER, "<|end|><|start|>user<|message|>And?<|end|><|start|>assistant"),
        ("harmony", " to=functions.look<|channel|>commentary json<|message|>{}<|call|>", [RETURNED], '<|start|>functions.look to=assistant<|channel|>commentary<|message|>"blue \\"x\\""<|end|><|start|>functions.go to=assistant<|channel|>commentary<|message|>"done"<|end|><|start|>assistant'),
    ],
)  # fmt: skip
def test_what_a_bridge_adds(name: str, answer: str, new: list[Message], added: str) -> None:
    renderer = RENDERERS[name]()
    bridged = _bridged(renderer, answer, new)
    assert isinstance(bridged, Rendered)
    assert renderer.tokenizer.decode(bridged.ids) == added
    put_in = sum(one.length for one in bridged.synthesized)
    closed = answer.endswith(("|>", "｜>", "</s>")) and not answer.endswith("<|end_of_text|>")
    assert (put_in == 0) == closed


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("qwen35", "Hm<|im_end|>"),
        ("glm45", "\n<think>Hm<|user|>"),
        ("mistral_v13", "[THINK]Hm</s>"),
        ("harmony", "<|channel|>analysis<|message|>Hm<|return|>"),
    ],
)
def test_a_turn_ended_inside_its_thinking_begins_a_new_segment(name: str, answer: str) -> None:
    bridged = _bridged(RENDERERS[name](), answer, USER)
    assert bridged == NoBridge("renderer_fallback", "the model ended its turn inside its thinking")


def test_arguments_that_are_no_json_are_shown_as_they_were_written() -> None:
    said = [message("user", "a"), message("assistant", tool_calls=(ToolCall("c0", "look", '{"at": "u'),)), RETURNED]
    for name in TURNS:
        renderer = RENDERERS[name]()
        assert '{"at": "u' in renderer.tokenizer.decode(renderer.render("", said, TOOLS).ids)


def test_the_date_is_the_day_the_conversation_began() -> None:
    renderer = RENDERERS["harmony"]()
    said = message("user", "a", created_us=1_790_000_000_000_000)
    assert "Current date: 2026-09-21\n" in renderer.tokenizer.decode(renderer.render("", [said], []).ids)


def test_a_mistral_models_own_call_ids_go_back_as_they_were() -> None:
    renderer = RENDERERS["mistral_v11"]()
    told = message("tool", tool_returns=(ToolReturn("aB3dE5gH7", "go", "success", "ok"),))
    bridged = _bridged(renderer, "[TOOL_CALLS]go[CALL_ID]aB3dE5gH7[ARGS]{}</s>", [told])
    assert isinstance(bridged, Rendered)
    assert renderer.tokenizer.decode(bridged.ids) == "[TOOL_RESULTS]aB3dE5gH7[TOOL_CONTENT]ok[/TOOL_RESULTS]"


def test_a_harmony_header_that_was_cut_off_is_no_thinking() -> None:
    renderer = RENDERERS["harmony"]()
    answer = "<|channel|>analysis<|end|><|start|>user<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>"
    assert isinstance(_bridged(renderer, answer, USER, retention="tool_cycle"), Rendered)
    stopped = answer.replace("analysis<|end|>", "analysis<|return|>")
    assert isinstance(_bridged(renderer, stopped, USER, retention="tool_cycle"), Rendered)
    thought = answer.replace("analysis", "analysis<|message|>Hm.")
    assert isinstance(_bridged(renderer, thought, USER, retention="tool_cycle"), NoBridge)
