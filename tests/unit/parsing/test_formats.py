"""Every family's way of writing calls and thinking, wherever it is cut."""

# ruff: noqa: E501

import itertools
import json
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.dialect import (
    CALL_MARKS,
    MISTRAL_THINK_TAGS,
    PARSER_NAMES,
    TOOL_FORMATS,
    OutputDialect,
    ToolFormat,
)
from perdure.core.messages import ReasoningPart, TextPart
from perdure.core.model import Chunk, ReasoningChunk, TextChunk, ToolCallChunk, ToolSpec
from perdure.parsing.output import CUT_OFF, OutputParser, ParsedOutput

TOOLS = [
    ToolSpec(
        "look",
        "",
        {
            "type": "object",
            "properties": {
                "at": {"type": "string"},
                "n": {"type": "integer"},
                "wide": {"type": "boolean"},
                "spots": {"type": "array"},
                "or": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        },
    ),
    ToolSpec("go", "", {"type": "object", "properties": {}}),
]
STOPS = {"harmony": "<|return|>"}
CLOSES = ("</tool_call>", "<｜tool▁call▁end｜>", "<|call|>")


def dialect(tool_format: ToolFormat, *, with_ids: bool = True) -> OutputDialect:
    opened, closed = MISTRAL_THINK_TAGS if tool_format == "mistral" else ("<think>", "</think>")
    channels = tool_format == "harmony"
    made = OutputDialect(
        tool_format=tool_format,
        reasoning_open=None if channels else opened,
        reasoning_close=None if channels else closed,
    )
    ids = {text: 256 + at for at, text in enumerate(made.marks())}
    return OutputDialect(
        tool_format=tool_format,
        reasoning_open=made.reasoning_open,
        reasoning_close=made.reasoning_close,
        marker_ids=ids if with_ids else {},
    )


class Bytes:
    """One id for each byte, ids of their own for the markers, and one for the end of a turn."""

    STOP = 999

    def __init__(self, found: OutputDialect) -> None:
        self.texts = {token_id: text.encode() for text, token_id in found.marker_ids.items()} | {self.STOP: b"<stop>"}

    def token_bytes(self, token_id: int) -> bytes:
        return self.texts[token_id] if token_id in self.texts else bytes([token_id])


def encode(text: str, found: OutputDialect) -> list[int]:
    if not found.marker_ids:
        return list(text.encode())
    parts = re.split("(" + "|".join(map(re.escape, found.marker_ids)) + ")", text)
    ids: list[int] = []
    for part in parts:
        ids += [found.marker_ids[part]] if part in found.marker_ids else list(part.encode())
    return ids


def parse(
    ids: Sequence[int], found: OutputDialect, cuts: Sequence[int] = (), **options: object
) -> tuple[ParsedOutput, list[Chunk]]:
    number = itertools.count()
    stops = (Bytes.STOP, *(token_id for text, token_id in found.marker_ids.items() if text == "<|call|>"))
    parser = OutputParser(
        found,
        Bytes(found),
        stop_token_ids=stops,
        tools=TOOLS,
        call_id=lambda: f"call_{next(number)}",
        **options,  # type: ignore[arg-type]
    )
    chunks: list[Chunk] = []
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(ids)]):
        chunks += parser.feed(ids[begin:end])
    output = parser.finish()
    return output, chunks + output.chunks


def read(tool_format: ToolFormat, text: str) -> ParsedOutput:
    """The result, which must not depend on whether markers are ids or text, nor on where it is cut."""
    results: list[ParsedOutput] = []
    for with_ids in (True, False):
        found = dialect(tool_format, with_ids=with_ids)
        ids = encode(text, found)
        for cuts in ((), range(1, len(ids)), range(3, len(ids), 7)):
            output, chunks = parse(ids, found, cuts)
            consistent(output, chunks)
            results.append(output)
    assert len({repr((one.content, one.tool_calls, one.unparsed)) for one in results}) == 1
    return results[0]


def consistent(output: ParsedOutput, chunks: list[Chunk]) -> None:
    for chunk_kind, part_kind in ((TextChunk, TextPart), (ReasoningChunk, ReasoningPart)):
        given_out = "".join(chunk.text for chunk in chunks if isinstance(chunk, chunk_kind))
        assert given_out == "".join(part.text for part in output.content if isinstance(part, part_kind))
    written: dict[int, list[str]] = {}
    for chunk in chunks:
        if isinstance(chunk, ToolCallChunk):
            if chunk.index not in written:
                assert chunk.id and chunk.name
                written[chunk.index] = [chunk.id, chunk.name, ""]
            written[chunk.index][2] += chunk.arguments
    for call in output.tool_calls:
        assert [call.id, call.name, call.arguments] in written.values()
    assert len({call.id for call in output.tool_calls}) == len(output.tool_calls)


def said(output: ParsedOutput) -> list[tuple[str, str]]:
    return [
        ("think" if isinstance(part, ReasoningPart) else "text", getattr(part, "text", "")) for part in output.content
    ]


def called(output: ParsedOutput) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in output.tool_calls]


LOOK = '{"at": "the sky", "n": 3}'
XML = "<tool_call>\n<function=look>\n<parameter=at>\nthe sky\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>\n</tool_call>"
XML_GO = "<tool_call>\n<function=go>\n</function>\n</tool_call>"
GLM = "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>the sky</arg_value>\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"
GLM_TIGHT = "<tool_call>look<arg_key>at</arg_key><arg_value>the sky</arg_value><arg_key>n</arg_key><arg_value>3</arg_value></tool_call>"
DS3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n" + LOOK + "\n```<｜tool▁call▁end｜>"
DS31 = "<｜tool▁call▁begin｜>look<｜tool▁sep｜>" + LOOK + "<｜tool▁call▁end｜>"
HARMONY = "<|channel|>commentary to=functions.look <|constrain|>json<|message|>" + LOOK + "<|call|>"
BEGIN, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"


@pytest.mark.parametrize(
    ("tool_format", "text", "parts", "calls"),
    [
        ("qwen_xml", f"<think>\nHm.\n</think>\n\nI look.\n\n{XML}\n{XML_GO}\nok", [("think", "Hm."), ("text", "I look."), ("text", "ok")], [("look", LOOK), ("go", "{}")]),
        ("qwen_xml", "<tool_call><function=look><parameter=at>x</parameter></function></tool_call>", [], [("look", '{"at": "x"}')]),
        ("qwen_xml", "<tool_call>\n<function=look>\n<parameter=at>\n\n</parameter>\n</function>\n</tool_call>", [], [("look", '{"at": ""}')]),
        ("glm_xml", f"\n<think>Hm.</think>\nI look.\n{GLM}\n<tool_call>go\n</tool_call>", [("think", "Hm."), ("text", "I look.")], [("look", LOOK), ("go", "{}")]),
        ("glm_xml", f"<think>Hm.</think>I look.{GLM_TIGHT}<tool_call>go</tool_call>", [("think", "Hm."), ("text", "I look.")], [("look", LOOK), ("go", "{}")]),
        ("llama3_json", '{"name": "look", "parameters": ' + LOOK + "}", [], [("look", LOOK)]),
        ("llama3_json", 'I look.\n{"name": "look", "parameters": ' + LOOK + '}; {"name": "go", "parameters": {}}\nDone.', [("text", "I look."), ("text", "Done.")], [("look", LOOK), ("go", "{}")]),
        ("llama3_json", '<|python_tag|>{"name": "look", "parameters": ' + LOOK + "}", [], [("look", LOOK)]),
        ("llama3_json", "<|python_tag|>look.call(at=\"the sky\", n=3)", [], [("look", LOOK)]),
        ("llama3_json", ' {"type": "function", "name": "look", "parameters": {"at": "{"}}', [("text", " ")], [("look", '{"at": "{"}')]),
        ("llama3_json", '{"a": 1}\n{"name": "Ann", "age": 3}', [("text", '{"a": 1}\n{"name": "Ann", "age": 3}')], []),
        ("llama3_json", 'x {"name": "look", "parameters": {}}', [("text", 'x {"name": "look", "parameters": {}}')], []),
        ("mistral", '[TOOL_CALLS][{"name": "look", "arguments": ' + LOOK + ', "id": "aB3dE5gH7"}, {"name": "go", "arguments": {}, "id": "aB3dE5gH8"}]', [], [("look", LOOK), ("go", "{}")]),
        ("mistral", f"[THINK]Hm.\n[/THINK]I look.[TOOL_CALLS]look[ARGS]{LOOK}[TOOL_CALLS]go[ARGS]{{}}", [("think", "Hm.\n"), ("text", "I look.")], [("look", LOOK), ("go", "{}")]),
        ("mistral", f"[TOOL_CALLS]look[CALL_ID]aB3dE5gH7[ARGS]{LOOK}", [], [("look", LOOK)]),
        ("mistral", f"[TOOL_CALLS]look{LOOK}and more", [("text", "and more")], [("look", LOOK)]),
        ("deepseek", f"<think>\nHm.\n</think>\n\nI look.{BEGIN}{DS3}\n{DS3}{END}", [("think", "Hm."), ("text", "I look.")], [("look", LOOK), ("look", LOOK)]),
        ("deepseek", f"{BEGIN}{DS31}{DS31.replace(LOOK, '{}').replace('look', 'go')}{END}ok", [("text", "ok")], [("look", LOOK), ("go", "{}")]),
        ("harmony", f"<|channel|>analysis<|message|>Hm.\n<|end|><|start|>assistant{HARMONY}", [("think", "Hm.\n")], [("look", LOOK)]),
        ("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello.\n", [("think", "Hm."), ("text", "Hello.\n")], []),
        ("harmony", f" to=functions.look<|channel|>commentary json<|message|>{LOOK}<|call|>", [], [("look", LOOK)]),
        ("harmony", f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{HARMONY}<|start|>assistant to=functions.go<|channel|>commentary<|message|>{{}}<|call|>", [("text", "I look.")], [("look", LOOK), ("go", "{}")]),
        ("harmony", "Hello.", [("text", "Hello.")], []),
    ],
)  # fmt: skip
def test_calls_and_text(
    tool_format: ToolFormat, text: str, parts: list[tuple[str, str]], calls: list[tuple[str, str]]
) -> None:
    output = read(tool_format, text)
    assert (said(output), called(output)) == (parts, calls)
    assert output.unparsed == ()
    assert [call["status"] for call in output.parse["tool_calls"]] == ["ok"] * len(calls)


@pytest.mark.parametrize(
    ("tool_format", "text", "why"),
    [
        ("qwen_xml", XML[:60], CUT_OFF),
        ("qwen_xml", XML[:-30], CUT_OFF),
        ("qwen_xml", "<tool_call>\nlook\n</tool_call>", "<function="),
        ("qwen_xml", "<tool_call>\n<function=>\n</function></tool_call>", "names no function"),
        ("qwen_xml", "<tool_call>\n<function=look>\n<parameter=at>\nx\n</function>\n</tool_call>", "`at` is not closed"),
        ("qwen_xml", XML.replace("<parameter=n>", "<parameter=at>"), "`at` is given twice"),
        ("glm_xml", "<tool_call>loo", CUT_OFF),
        ("glm_xml", GLM[:-30], CUT_OFF),
        ("glm_xml", "<tool_call>look\n<arg_key>at</arg_key>\n</tool_call>", "`at` has no value"),
        ("glm_xml", "<tool_call>look\nnow</tool_call>", "where <arg_key> should stand"),
        ("glm_xml", "<tool_call></tool_call>", "names no function"),
        ("llama3_json", '{"name": "look", "parameters": {"at": "the s', CUT_OFF),
        ("llama3_json", '{"name": "look", "parameters": {at: 1}}', "not valid JSON"),
        ("llama3_json", "<|python_tag|>import os", "it is no call"),
        ("llama3_json", "<|python_tag|>look.call(open('x'))", "have no names"),
        ("llama3_json", "<|python_tag|>look.call(at=open('x'))", "cannot be read"),
        ("mistral", '[TOOL_CALLS][{"name": "look", "arguments": {"at": 1}', CUT_OFF),
        ("mistral", "[TOOL_CALLS]", CUT_OFF),
        ("mistral", "[TOOL_CALLS]look[ARGS]", CUT_OFF),
        ("mistral", '[TOOL_CALLS]look[ARGS]{"at": ', CUT_OFF),
        ("mistral", "[TOOL_CALLS]look[ARGS]{at}", "not valid JSON"),
        ("deepseek", BEGIN, CUT_OFF),
        ("deepseek", f"{BEGIN}well{END}", "is no function's name|names no function|not valid"),
        ("deepseek", BEGIN + DS31[:-30], CUT_OFF),
        ("deepseek", BEGIN + DS3.replace("}", "") + END, "not valid JSON"),
        ("harmony", HARMONY[:-20], CUT_OFF),
        ("harmony", HARMONY.replace('"n": 3', "3"), "not valid JSON"),
        ("harmony", HARMONY.replace(LOOK, "import os").replace("functions.look", "python"), "not valid JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_and_kept(tool_format: ToolFormat, text: str, why: str) -> None:
    output = read(tool_format, text)
    [(found, reason)] = output.unparsed
    assert re.search(why, reason)
    assert called(output) == []
    shown = "".join(part for kind, part in said(output) if kind == "text")
    assert found in shown and found in text
    assert output.parse["tool_calls"][-1]["status"] == "invalid"


@pytest.mark.parametrize(
    "inside", ["a </tool_call> b", "<tool_call>", "</parameter> x", "</arg_value>x", "</think>", "{\n}"]
)
def test_tags_inside_a_value_are_part_of_it(inside: str) -> None:
    expected = [("look", json.dumps({"at": inside}))]
    xml = f"<tool_call>\n<function=look>\n<parameter=at>\n{inside}\n</parameter>\n</function>\n</tool_call>"
    assert called(read("qwen_xml", xml)) == expected
    glm = f"<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>{inside}</arg_value>\n</tool_call>"
    assert called(read("glm_xml", glm)) == expected


@pytest.mark.parametrize(
    ("tool_format", "inside"),
    [
        ("mistral", "[TOOL_CALLS] ]"),
        ("llama3_json", '<|eot_id|> ; {"name"'),
        ("deepseek", "<｜tool▁call▁end｜> ```"),
        ("harmony", "<|end|>x"),
    ],
)
def test_tags_inside_a_json_string_are_part_of_it(tool_format: ToolFormat, inside: str) -> None:
    arguments = json.dumps({"at": inside}, ensure_ascii=False)
    text = {
        "mistral": '[TOOL_CALLS][{"name": "look", "arguments": ' + arguments + "}]",
        "llama3_json": '{"name": "look", "parameters": ' + arguments + "}",
        "deepseek": f"{BEGIN}<｜tool▁call▁begin｜>look<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>{END}",
        "harmony": HARMONY.replace(LOOK, arguments),
    }[tool_format]
    found = dialect(tool_format, with_ids=True)
    ids: list[int] = []
    for part in text.partition(arguments):  # the string's words are spelt out, as an engine's tokenizer would do it
        ids += list(part.encode()) if part == arguments else encode(part, found)
    output, chunks = parse(ids, found)
    consistent(output, chunks)
    assert called(output) == [("look", arguments)]


def test_an_unclosed_value_does_not_swallow_the_next_call() -> None:
    output = read("glm_xml", f"<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>x\n</tool_call>\n{GLM}")
    assert called(output) == [("look", LOOK)]
    assert len(output.unparsed) == 1


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("at", "007", '"007"'),
        ("at", " two\n lines ", '" two\\n lines "'),
        ("n", "3", "3"),
        ("n", "many", '"many"'),
        ("wide", "True", "true"),
        ("wide", "false", "false"),
        ("spots", "[1, {\"a\": 2}]", '[1, {"a": 2}]'),
        ("or", "None", "null"),
        ("or", "5", '"5"'),
        ("other", "5", "5"),
        ("other", "five", '"five"'),
        ("other", '"five"', '"\\"five\\""'),
        ("other", "NaN", '"NaN"'),
    ],
)  # fmt: skip
def test_bare_values_get_the_type_their_schema_asks_for(key: str, written: str, value: str) -> None:
    xml = f"<tool_call>\n<function=look>\n<parameter={key}>\n{written}\n</parameter>\n</function>\n</tool_call>"
    assert called(read("qwen_xml", xml)) == [("look", f'{{"{key}": {value}}}')]


def test_a_string_is_given_out_while_it_is_written() -> None:
    found = dialect("qwen_xml")
    parser = OutputParser(found, Bytes(found), tools=TOOLS)
    pieces = [chunk for one in encode(XML, found) for chunk in parser.feed([one]) if isinstance(chunk, ToolCallChunk)]
    assert pieces[0].name == "look"
    assert [piece.arguments for piece in pieces[1:5]] == ['{"at": "', "t", "h", "e"]


def test_mistrals_own_ids_are_kept() -> None:
    output = read("mistral", '[TOOL_CALLS][{"name": "go", "arguments": {}, "id": "aB3dE5gH7"}]')
    assert [call.id for call in output.tool_calls] == ["aB3dE5gH7"]
    output = read("mistral", "[TOOL_CALLS]go[CALL_ID]aB3dE5gH7[ARGS]{}[TOOL_CALLS]go[CALL_ID]aB3dE5gH7[ARGS]{}")
    assert [call.id for call in output.tool_calls] == ["aB3dE5gH7", "call_1"]


def test_every_parser_name_has_a_format() -> None:
    assert set(PARSER_NAMES.values()) == set(TOOL_FORMATS) == set(CALL_MARKS)


def _pieces(tool_format: ToolFormat) -> list[str]:
    calls = {
        "qwen_xml": [XML, XML_GO, "<function=look>", "<parameter=at>", "</parameter>", "</function>"],
        "glm_xml": [GLM, GLM_TIGHT, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
        "llama3_json": [
            '{"name": "look", "parameters": {"at": "}"}}',
            "; ",
            '{"type": "x"',
            '{"name"',
            "look.call(n=1)",
        ],
        "mistral": ["look", '[{"name": "go", "arguments": {}, "id": "x"}', ", ", "]", LOOK],
        "deepseek": [BEGIN + DS31, DS3, "look", LOOK, "```"],
        "harmony": ["<|channel|>analysis", "<|channel|>final", " to=functions.look", LOOK, HARMONY, "assistant"],
    }
    return calls.get(tool_format, ['{"name": "go"}', LOOK])


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_cutting_anywhere_gives_the_same_and_loses_nothing(tool_format: ToolFormat, data: st.DataObject) -> None:
    found = dialect(tool_format, with_ids=data.draw(st.booleans()))
    marks = list(found.marks())
    piece = st.sampled_from([*marks, *_pieces(tool_format), "\n", " ", "é🙂", "text", '"', "}", "<", "["])
    text = "".join(data.draw(st.lists(piece, max_size=12)))
    ids = encode(text, found)
    opened = found.reasoning_open is not None and data.draw(st.booleans())
    whole, whole_chunks = parse(ids, found, reasoning_open=opened)
    consistent(whole, whole_chunks)
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=len(ids)))
    for where in (cuts, range(1, len(ids))):
        output, chunks = parse(ids, found, where, reasoning_open=opened)
        consistent(output, chunks)
        assert (output.content, output.tool_calls, output.unparsed, output.parse) == (
            whole.content,
            whole.tool_calls,
            whole.unparsed,
            whole.parse,
        )
    for kept, _ in whole.unparsed:
        assert kept in text
