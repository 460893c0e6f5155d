"""Grammars let through calls that fit the schema, and no others. Checked with a small reader of llama.cpp's grammar language."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.dialect import OutputDialect
from perdure.core.model import ToolSpec
from perdure.parsing.output import OutputParser
from perdure.tokens.grammar import answer_grammar, gbnf, literal, tool_grammar

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "first": {"type": "string"},
        "count": {"type": "integer"},
        "kind": {"enum": ["a", 'b"\\', 3, None]},
        "place": {"$ref": "#/$defs/Place"},
        "list": {"type": "array", "items": {"type": ["number", "null"]}},
        "either": {"anyOf": [{"type": "boolean"}, {"const": "é\n"}]},
        "any": {},
        "free": {"type": "object", "additionalProperties": True},
    },
    "required": ["count", "place"],
    "$defs": {
        "Place": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "inside": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
            },
            "required": ["name"],
        }
    },
}
TOOL = ToolSpec("find", "Finds.", SCHEMA)

places = st.recursive(
    st.fixed_dictionaries({"name": st.text(max_size=5)}),
    lambda inner: st.tuples(st.text(max_size=5), st.none() | inner).map(
        lambda made: {"name": made[0], "inside": made[1]}
    ),
    max_leaves=3,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9999, 9999) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
OPTIONAL = {
    "first": st.text(max_size=5),
    "kind": st.sampled_from(["a", 'b"\\', 3, None]),
    "list": st.lists(st.none() | st.integers(-99, 99) | st.just(1.5), max_size=3),
    "either": st.booleans() | st.just("é\n"),
    "any": anything,
    "free": st.dictionaries(st.text(max_size=4), anything, max_size=2),
}


@st.composite
def fitting(draw: st.DrawFn) -> dict[str, Any]:
    given_too = draw(st.sets(st.sampled_from(sorted(OPTIONAL))))
    values = {"count": draw(st.integers(-99, 99)), "place": draw(places)} | {
        key: draw(OPTIONAL[key]) for key in given_too
    }
    return {key: values[key] for key in SCHEMA["properties"] if key in values}


def called(arguments: Any, name: str = "find") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments, ensure_ascii=False)}}}\n</tool_call>'


@given(fitting())
@settings(max_examples=60, deadline=None)
def test_fitting_calls_pass_and_are_read(arguments: dict[str, Any]) -> None:
    text = called(arguments)
    assert accepts(gbnf([TOOL], parallel=False), text)

    class NoTokens:
        def token_bytes(self, token_id: int) -> bytes:
            raise AssertionError

    parser = OutputParser(OutputDialect(), NoTokens())
    parser.feed_text(text)
    [made] = parser.finish().tool_calls
    assert made.name == "find" and json.loads(made.arguments) == arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"count": 1},
        {"count": "1", "place": {"name": "x"}},
        {"count": 1.5, "place": {"name": "x"}},
        {"count": 1, "place": {}},
        {"count": 1, "place": {"name": "x", "inside": 3}},
        {"count": 1, "kind": "c", "place": {"name": "x"}},
        {"count": 1, "place": {"name": "x"}, "list": ["x"]},
        {"count": 1, "place": {"name": "x"}, "either": "e"},
        {"count": 1, "place": {"name": "x"}, "free": []},
        {"count": 1, "place": {"name": "x"}, "unknown": 1},
        [],
        "text",
    ],
)
def test_calls_that_do_not_fit_are_stopped(arguments: Any) -> None:
    assert not accepts(gbnf([TOOL], parallel=False), called(arguments))


def test_only_the_tools_given_and_as_many_as_allowed() -> None:
    other = ToolSpec("ping", "", {"type": "object", "properties": {}})
    fits = called({"count": 1, "place": {"name": "x"}})
    both = f"{fits}\n{called({}, 'ping')}"
    assert accepts(gbnf([TOOL, other], parallel=True), both)
    assert not accepts(gbnf([TOOL, other], parallel=False), both)
    assert not accepts(gbnf([other], parallel=True), fits)
    assert not accepts(gbnf([other], parallel=True), called({"a": 1}, "ping"))
    assert not accepts(gbnf([other], parallel=True), "text")
    assert accepts(gbnf([ToolSpec("ping", "", {})], parallel=True), called({}, "ping"))


def test_the_rest_of_a_call_whose_marker_is_written() -> None:
    fits = called({"count": 1, "place": {"name": "x"}})
    rest = fits.removeprefix("<tool_call>")
    for parallel in (True, False):
        grammar = gbnf([TOOL], parallel=parallel, opened=True)
        assert accepts(grammar, rest) and accepts(grammar, rest.removeprefix("\n"))
        assert not accepts(grammar, fits)
        assert accepts(grammar, f"{rest}\n{fits}") is parallel


def test_thinking_may_come_first_where_the_model_thinks() -> None:
    other = ToolSpec("ping", "", {"type": "object", "properties": {}})
    thought = "\nI <b>think</b> 1 < 2.\n</think>\n\n"
    made = called({}, "ping")
    for how, text, passes in [
        ("may", f"<think>{thought}{made}", True),
        ("may", made, True),
        ("open", f"{thought}{made}", True),
        ("open", made, False),
        ("", f"<think>{thought}{made}", False),
    ]:
        assert accepts(gbnf([other], parallel=False, thought=how), text) == passes


def test_which_engine_and_choice_gets_what() -> None:
    def kind(engine: str, choice: str, **more: Any) -> str | None:
        dialect = more.pop("dialect", OutputDialect())
        made = tool_grammar(engine, dialect, [TOOL], choice, parallel=True, reasoning_open=False, **more)
        return None if made is None else made["kind"]

    assert kind("llamacpp", "auto") == "gbnf_lazy"
    assert kind("llamacpp", "required") == kind("llamacpp", "find") == "gbnf"
    assert kind("llamacpp", "none") is None
    assert kind("sglang", "required") == kind("vllm", "find") == "gbnf"
    assert kind("sglang", "auto") is kind("vllm", "none") is None
    assert kind("sglang", "required", keeps="schemas") is kind("vllm", "required", keeps="none") is None
    other = OutputDialect(reasoning_open="[THINK]", reasoning_close="[/THINK]", marker_ids={"[THINK]": 1})
    assert kind("sglang", "required", dialect=other) is None
    assert kind("vllm", "find", dialect=OutputDialect(tool_format="llama3_json", reasoning_open=None)) == "gbnf"
    assert kind("vllm", "find", dialect=OutputDialect(tool_format="mistral")) is None
    assert kind("llamacpp", "auto", dialect=OutputDialect(tool_format="none")) is None
    lazy = tool_grammar("llamacpp", OutputDialect(), [TOOL], "auto", parallel=True, reasoning_open=False)
    assert lazy is not None and lazy["triggers"] == ["<tool_call>"]


FORM = {"type": "json_schema", "json_schema": {"name": "found", "schema": SCHEMA}}
THINKER = OutputDialect(marker_ids={"<think>": 1, "</think>": 2})


def formed(choice: str = "auto", dialect: OutputDialect = OutputDialect(), **more: Any) -> dict[str, Any] | None:
    asked: dict[str, Any] = {
        "tools": [TOOL],
        "parallel": True,
        "reasoning_open": False,
        "response_format": FORM,
        **more,
    }
    return answer_grammar(asked.pop("engine", "sglang"), dialect, asked.pop("tools"), choice, **asked)


@given(fitting())
@settings(max_examples=30, deadline=None)
def test_an_answer_in_the_wanted_form_passes_and_so_does_a_call(answer: dict[str, Any]) -> None:
    made = formed()
    assert made is not None and made["kind"] == "gbnf"
    assert accepts(made["grammar"], json.dumps(answer, ensure_ascii=False))
    assert accepts(made["grammar"], f"{called(answer)}\n{called(answer)}")
    assert not accepts(made["grammar"], f"Here: {json.dumps(answer, ensure_ascii=False)}")
    assert not accepts(made["grammar"], "{}")


def test_without_tools_the_engine_keeps_the_schema_itself() -> None:
    for engine in ("sglang", "vllm", "llamacpp"):
        assert formed(tools=[], engine=engine) == {"kind": "json_schema", "schema": SCHEMA}
        assert formed("none", engine=engine) == {"kind": "json_schema", "schema": SCHEMA}
    any_object = formed(tools=[], response_format={"type": "json_object"})
    assert any_object == {"kind": "json_schema", "schema": {"type": "object"}}


def test_a_model_that_thinks_may_think_before_its_formed_answer() -> None:
    for more in ({"tools": []}, {}):
        made = formed(dialect=THINKER, response_format={"type": "json_object"}, **more)
        assert made is not None and made["kind"] == "gbnf"
        for text, passes in (('{"a": [1]}', True), ('<think>\nhm\n</think>\n\n{"a": 1}', True), ("<think>hm", False)):
            assert accepts(made["grammar"], text) is passes
        opened = formed(dialect=THINKER, reasoning_open=True, response_format={"type": "json_object"}, **more)
        assert opened is not None
        assert accepts(opened["grammar"], "hm</think>{}") and not accepts(opened["grammar"], "{}")


def test_where_no_grammar_can_be_written_or_wanted_there_is_none() -> None:
    assert formed(dialect=OutputDialect(tool_format="qwen_xml")) is None
    assert formed(dialect=OutputDialect(tool_format="harmony"), tools=[]) is None
    other_tags = OutputDialect(reasoning_open="[THINK]", reasoning_close="[/THINK]", marker_ids={"[THINK]": 1})
    assert formed(dialect=other_tags, tools=[]) is None
    assert formed(response_format=None) is formed(response_format={"type": "text"}) is None
    assert formed("required") == tool_grammar(
        "sglang", OutputDialect(), [TOOL], "required", parallel=True, reasoning_open=False
    )
    lazy = formed(engine="llamacpp", response_format=None)
    assert lazy is not None and lazy["kind"] == "gbnf_lazy"


def test_two_tools_may_call_different_things_by_one_name() -> None:
    def tool(name: str, kind: str) -> ToolSpec:
        place = {"type": "object", "properties": {"at": {"type": kind}}, "required": ["at"]}
        return ToolSpec(
            name,
            "",
            {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}, "required": ["p"], "$defs": {"P": place}},
        )

    grammar = gbnf([tool("one", "string"), tool("two", "integer")], parallel=False)
    assert accepts(grammar, called({"p": {"at": 3}}, "two")) and accepts(grammar, called({"p": {"at": "x"}}, "one"))
    assert not accepts(grammar, called({"p": {"at": "x"}}, "two"))


def test_literals_are_escaped() -> None:
    assert literal('a"\\\n\x01é') == '"a\\"\\\\\\n\\x01é"'


def test_a_schema_that_nests_without_end_is_cut_short() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        deep = {"type": "object", "properties": {"a": deep}}
    assert len(gbnf([ToolSpec("f", "", deep)], parallel=False)) < 20_000


# A reader of the part of the grammar language that we write: enough to say whether a whole text is accepted.

_TOKEN = re.compile(
    r'\s*(?:(?P<literal>"(?:[^"\\]|\\.)*")|(?P<set>\[(?:[^\]\\]|\\.)*\])|(?P<name>[a-z][a-z0-9-]*)|(?P<repeat>\{\d+(?:,\d*)?\}|[*?+])|(?P<mark>[()|]))'
)


def accepts(grammar: str, text: str) -> bool:
    rules = {}
    for line in grammar.splitlines():
        name, _, body = line.partition(" ::= ")
        rules[name] = _alternatives(_tokens(body))
    return any(end == len(text) for end in _match(rules["root"], text, 0, rules))


def _tokens(body: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    while at < len(body.rstrip()):
        found = _TOKEN.match(body, at)
        assert found, body[at:]
        tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
        at = found.end()
    return tokens[::-1]


def _alternatives(tokens: list[tuple[str, str]]) -> Any:
    choices: list[Any] = [[]]
    while tokens and tokens[-1] != ("mark", ")"):
        kind, text = tokens.pop()
        if kind == "mark" and text == "|":
            choices.append([])
        elif kind == "mark":
            choices[-1].append(_alternatives(tokens))
            assert tokens.pop()[1] == ")"
        elif kind == "literal":
            choices[-1].append(("literal", _unescape(text[1:-1])))
        elif kind == "set":
            choices[-1].append(("set", re.compile(text, re.DOTALL)))
        elif kind == "repeat":
            low, high = {"*": (0, 10**9), "?": (0, 1), "+": (1, 10**9)}.get(text) or _bounds(text)
            choices[-1].append(("repeat", choices[-1].pop(), low, high))
        else:
            choices[-1].append(("rule", text))
    return ("choice", choices)


def _bounds(text: str) -> tuple[int, int]:
    low, comma, high = text[1:-1].partition(",")
    return int(low), int(high) if high else 10**9 if comma else int(low)


def _unescape(text: str) -> str:
    plain = {"n": "\n", "r": "\r", "t": "\t"}
    return re.sub(
        r"\\(x[0-9a-f]{2}|.)", lambda m: chr(int(m[1][1:], 16)) if len(m[1]) > 1 else plain.get(m[1], m[1]), text
    )


def _match(node: Any, text: str, at: int, rules: dict[str, Any]) -> Iterator[int]:
    match node:
        case ("literal", wanted):
            if text.startswith(wanted, at):
                yield at + len(wanted)
        case ("set", pattern):
            if at < len(text) and pattern.match(text, at):
                yield at + 1
        case ("rule", name):
            yield from _match(rules[name], text, at, rules)
        case ("choice", choices):
            ends: set[int] = set()
            for sequence in choices:
                reached = {at}
                for part in sequence:
                    reached = {end for start in reached for end in _match(part, text, start, rules)}
                ends |= reached
            yield from ends
        case ("repeat", inner, low, high):
            reached, seen, count = {at}, set(), 0
            if low == 0:
                yield at
            while reached and count < high:
                reached = {end for start in reached for end in _match(inner, text, start, rules)} - seen
                seen |= reached
                count += 1
                if count >= low:
                    yield from reached


WRITTEN = {
    "llama3_json": ("", '{"name": "find", "parameters": ', "}", "; ", ""),
    "mistral": ("", "[TOOL_CALLS]find[ARGS]", "", "", "[TOOL_CALLS]"),
    "deepseek": (
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>find<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "",
        "<｜tool▁calls▁begin｜>",
    ),
}


@pytest.mark.parametrize("written", WRITTEN)
@given(arguments=fitting())
@settings(max_examples=20, deadline=None)
def test_other_families_calls_pass_and_are_read(written: Any, arguments: dict[str, Any]) -> None:
    begin, before, after, between, trigger = WRITTEN[written]
    end = "<｜tool▁calls▁end｜>" if begin else ""
    call = f"{before}{json.dumps(arguments, ensure_ascii=False)}{after}"
    text = f"{begin}{call}{between}{call}{end}"
    assert accepts(gbnf([TOOL], parallel=True, written=written), text)
    assert not accepts(gbnf([TOOL], parallel=False, written=written), text)
    assert not accepts(gbnf([TOOL], parallel=True, written=written), called(arguments))
    if trigger:
        assert accepts(gbnf([TOOL], parallel=True, opened=True, written=written), text.removeprefix(trigger))

    class NoTokens:
        def token_bytes(self, token_id: int) -> bytes:
            raise AssertionError

    parser = OutputParser(OutputDialect(tool_format=written), NoTokens(), tools=[TOOL])
    parser.feed_text(text)
    made = parser.finish().tool_calls
    assert [(one.name, json.loads(one.arguments)) for one in made] == [("find", arguments)] * 2


def test_which_form_of_calls_is_forced() -> None:
    def kind(written: Any, choice: str) -> str | None:
        dialect = OutputDialect(tool_format=written)
        made = tool_grammar("llamacpp", dialect, [TOOL], choice, parallel=True, reasoning_open=False)
        return None if made is None else made["kind"]

    assert [kind("llama3_json", choice) for choice in ("auto", "required")] == [None, "gbnf"]
    assert [kind("mistral", choice) for choice in ("auto", "required")] == ["gbnf_lazy", "gbnf"]
    assert [kind("deepseek", choice) for choice in ("auto", "required")] == ["gbnf_lazy", "gbnf"]
    assert [kind(written, "required") for written in ("qwen_xml", "glm_xml", "harmony", "none")] == [None] * 4
