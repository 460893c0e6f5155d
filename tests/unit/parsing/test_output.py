"""A model's output as reasoning, text and calls, wherever it is cut."""

import itertools
import json
import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.dialect import OutputDialect
from perdure.core.messages import ReasoningPart, TextPart
from perdure.core.model import Chunk, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.parsing.output import CUT_OFF, IN_THOUGHT, OutputParser, ParsedOutput

MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
IDS = {marker: 256 + at for at, marker in enumerate(MARKERS)}
STOP = 300


class Bytes:
    """One id for each byte, and ids of their own for the markers and the end of a turn."""

    def token_bytes(self, token_id: int) -> bytes:
        special = {number: marker.encode() for marker, number in IDS.items()} | {STOP: b"<|im_end|>"}
        return special[token_id] if token_id in special else bytes([token_id])


AS_IDS = OutputDialect(marker_ids=IDS)
AS_TEXT = OutputDialect()


def spelt(text: str) -> list[int]:
    return list(text.encode("utf-8", "surrogateescape"))


def marked(text: str) -> list[int]:
    """Ids with every marker its own id."""
    ids: list[int] = []
    for part in _parts(text):
        ids += [IDS[part]] if part in IDS else spelt(part)
    return ids


def _parts(text: str) -> list[str]:
    return [part for part in re.split(f"({'|'.join(MARKERS)})", text) if part]


def parse(
    ids: Sequence[int], dialect: OutputDialect, cuts: Sequence[int] = (), **options: object
) -> tuple[ParsedOutput, list[Chunk]]:
    number = itertools.count()
    parser = OutputParser(dialect, Bytes(), stop_token_ids=(STOP,), call_id=lambda: f"call_{next(number)}", **options)  # type: ignore[arg-type]
    chunks: list[Chunk] = []
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(ids)]):
        chunks += parser.feed(ids[begin:end])
    output = parser.finish()
    return output, chunks + output.chunks


def both(text: str, **options: object) -> ParsedOutput:
    """The result, which must not depend on whether markers are ids or text."""
    by_id, _ = parse(marked(text), AS_IDS, **options)
    by_text, _ = parse(spelt(text), AS_TEXT, **options)
    assert (by_id.content, by_id.tool_calls, by_id.unparsed) == (by_text.content, by_text.tool_calls, by_text.unparsed)
    return by_id


def summary(output: ParsedOutput) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    said = [
        ("reasoning" if isinstance(part, ReasoningPart) else "text", getattr(part, "text", ""))
        for part in output.content
    ]
    return said, [(call.name, call.arguments) for call in output.tool_calls]


WHOLE = (
    '<think>\nHm.\n</think>\n\nI look.\n<tool_call>\n{"name": "look", "arguments": {"at": ["}", 1]} }\n</tool_call>\n'
    '<tool_call>\n{"name":"go"}\n</tool_call>\nDone.'
)


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("Hello.\n", [("text", "Hello.\n")], []),
        ("", [], []),
        ("<think>\n\n</think>\n\n", [], []),
        ("<think>a</think>b", [("reasoning", "a"), ("text", "b")], []),
        ("<think>\n\na\n\n</think>\n\n\nb", [("reasoning", "\na\n"), ("text", "\nb")], []),
        ("<think>\na\n</think>\nb", [("reasoning", "a"), ("text", "b")], []),
        ("<think>\ncut o", [("reasoning", "cut o")], []),
        ("<think>\ncut\n", [("reasoning", "cut\n")], []),
        (
            WHOLE,
            [("reasoning", "Hm."), ("text", "I look."), ("text", "Done.")],
            [("look", '{"at": ["}", 1]}'), ("go", "{}")],
        ),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [], [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": "{}" }</tool_call>', [], [("f", '"{}"')]),
        (
            '<tool_call>{"name": "f\\u0041", "arguments": {"é\\n": "\\"}"}}</tool_call>',
            [],
            [("fA", '{"é\\n": "\\"}"}')],
        ),
        ('<tool_call>{"name": "f", "arguments": {}, "id": 7}</tool_call>', [], [("f", "{}")]),
        ('x\n\n<tool_call>{"name": "f"}</tool_call>\n\ny', [("text", "x\n"), ("text", "\ny")], [("f", "{}")]),
        ("x</think>y", [("text", "x</think>y")], []),
        ("x</tool_call>", [("text", "x</tool_call>")], []),
    ],
)
def test_what_is_said_and_called(text: str, said: list[tuple[str, str]], calls: list[tuple[str, str]]) -> None:
    output = both(text)
    assert summary(output) == (said, calls)
    assert output.unparsed == ()


@pytest.mark.parametrize(
    ("text", "kept", "why", "calls"),
    [
        ('a\n<tool_call>{"name": "f", "arguments": {"x": "y', None, CUT_OFF, []),
        ("<tool_call>", None, CUT_OFF, []),
        ('<tool_call>\n{"na', None, CUT_OFF, []),
        ("<tool_call>nothing</tool_call>", None, "not valid JSON", []),
        ('<tool_call>{"name": "f", "arguments": {}}}</tool_call>!', None, "Extra data", []),
        ("<tool_call>[1]</tool_call>", None, "not a JSON object", []),
        ('<tool_call>{"arguments": {}}</tool_call>', None, "no `name`", []),
        ('<tool_call>{"name": 3}</tool_call>', None, "no `name`", []),
        ('<tool_call>{"name": "f", "name": "g"}</tool_call>', None, "two names", []),
        ('<tool_call>{"name": "f", "arguments": {}, "arguments": {}}</tool_call>', None, "two `arguments`", []),
        ('<tool_call>{"name": "f", "arguments": {\'a\': True}}</tool_call>', None, "not valid JSON", []),
        ("<tool_call>" + '{"a":' * 5000 + "</tool_call>", None, "not valid JSON|too deeply", []),
        (
            '<tool_call>{"name": "f", "arguments": {"x": "a}</tool_call>\n<tool_call>{"name": "g"}</tool_call>',
            '<tool_call>{"name": "f", "arguments": {"x": "a}</tool_call>',
            "a string in it is not closed",
            [("g", "{}")],
        ),
        (
            '<tool_call>{"name": "f", "arguments": {"x": "a}</tool_call><tool_call>{"name": "g"}</tool_call>',
            '<tool_call>{"name": "f", "arguments": {"x": "a}</tool_call>',
            "a value in it is not closed",
            [("g", "{}")],
        ),
        (
            '<tool_call>{"name": "f"<tool_call>{"name": "g"}</tool_call>',
            '<tool_call>{"name": "f"',
            "not valid JSON|ended",
            [("g", "{}")],
        ),
    ],
)
def test_a_call_that_cannot_be_read_stays_in_the_text(
    text: str, kept: str | None, why: str, calls: list[tuple[str, str]]
) -> None:
    output = both(text)
    assert summary(output)[1] == calls
    [(found, reason)] = output.unparsed
    assert re.search(why, reason)
    assert found in "".join(part.text for part in output.content if isinstance(part, TextPart))
    assert kept is None or found == kept
    if kept is None:
        assert "".join(part.text for part in output.content if isinstance(part, TextPart)) == text
    assert output.parse["tool_calls"][0]["status"] == "invalid"


def test_tags_inside_a_string_are_part_of_it() -> None:
    inside = "write <tool_call> and </tool_call> and </think>"
    text = f'<tool_call>{{"name": "f", "arguments": {{"x": "{inside}"}}}}</tool_call>then'
    output = both(text)
    assert summary(output) == ([("text", "then")], [("f", json.dumps({"x": inside}))])


def test_a_call_without_its_closing_tag_counts_when_it_is_whole() -> None:
    output = both('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n<tool_call>\n{"name": "g"}')
    assert summary(output)[1] == [("f", '{"a": 1}'), ("g", "{}")]
    assert [call["status"] for call in output.parse["tool_calls"]] == ["unclosed", "unclosed"]


def test_markers_spelt_out_are_text_where_the_model_has_tokens_for_them() -> None:
    text = "say <think> or <tool_call>{}</tool_call>"
    output, _ = parse(spelt(text), AS_IDS)
    assert summary(output) == ([("text", text)], [])


def test_spelt_out_thinking_only_counts_at_the_start() -> None:
    output, _ = parse(spelt("The tag <think> opens it"), AS_TEXT)
    assert summary(output)[0] == [("text", "The tag <think> opens it")]
    output, _ = parse(spelt("\n<think>a</think>b"), AS_TEXT)
    assert summary(output)[0] == [("reasoning", "a"), ("text", "b")]


def test_thinking_opened_by_the_prompt() -> None:
    output = both("Hm.\n</think>\n\nok", reasoning_open=True)
    assert summary(output)[0] == [("reasoning", "Hm."), ("text", "ok")]
    assert output.parse["reasoning_span"][0] == 0
    assert output.parse["reasoning_complete"]


def test_a_call_inside_thinking_is_not_made() -> None:
    output = both('<think>\nmaybe <tool_call>{"name": "f"}</tool_call> no</think>ok')
    assert output.tool_calls == () and output.unparsed == ()
    output = both('<think>\nnow <tool_call>{"name": "f"}</tool_call>')
    assert output.tool_calls == ()
    assert output.unparsed == (('<tool_call>{"name": "f"}</tool_call>', IN_THOUGHT),)
    assert not output.parse["reasoning_complete"]


def test_the_end_of_turn_is_no_text_unless_more_follows() -> None:
    output, chunks = parse([*spelt("a"), STOP], AS_IDS)
    assert summary(output)[0] == [("text", "a")] and chunks == [TextChunk("a")]
    output, _ = parse([*spelt("a"), STOP, *spelt("b")], AS_IDS, cuts=[2])
    assert summary(output)[0] == [("text", "a<|im_end|>b")]


def test_a_model_without_tools_has_no_calls() -> None:
    dialect = OutputDialect(tool_format="none", marker_ids=IDS)
    output, _ = parse(marked("<think>a</think><tool_call>{}</tool_call>"), dialect)
    assert summary(output) == ([("reasoning", "a"), ("text", "<tool_call>{}</tool_call>")], [])


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    output, chunks = parse([0xF0, 0x9F, IDS["<think>"], 0x80, IDS["</think>"], 0xC3], AS_IDS)
    assert summary(output)[0] == [("text", "�"), ("reasoning", "�"), ("text", "�")]
    _, chunks = parse(spelt("🙂"), AS_IDS, cuts=[1, 2, 3])
    assert chunks == [TextChunk("🙂")]


def test_a_call_is_given_out_while_it_is_written() -> None:
    ids = marked('<tool_call>{"name": "f", "arguments": {"a": "long text"}}</tool_call>')
    parser = OutputParser(AS_IDS, Bytes())
    given_out = [chunk for one in ids for chunk in parser.feed([one])]
    first = given_out[0]
    assert isinstance(first, ToolCallChunk) and first.name == "f" and first.id and first.id.startswith("call_")
    assert len(first.id) == len("call_") + 24
    assert len(given_out) > 10
    assert "".join(chunk.arguments for chunk in given_out if isinstance(chunk, ToolCallChunk)) == '{"a": "long text"}'


def test_text_alone_can_be_fed() -> None:
    parser = OutputParser(AS_TEXT, Bytes())
    chunks = [chunk for piece in ("<thi", "nk>\nHm", ".\n</think>\n\nok") for chunk in parser.feed_text(piece)]
    assert [type(chunk) for chunk in chunks] == [ReasoningChunk, ReasoningChunk, TextChunk]
    assert summary(parser.finish())[0] == [("reasoning", "Hm."), ("text", "ok")]


def test_the_record_says_which_ids_are_what() -> None:
    ids = marked(WHOLE)
    output, _ = parse(ids, AS_IDS)
    record = output.parse
    text = [Bytes().token_bytes(one).decode() for one in ids]

    def of(span: list[int]) -> str:
        return "".join(text[span[0] : span[1]])

    assert of(record["reasoning_span"]) == "\nHm.\n"
    assert of(record["content_span"]).startswith("I look.") and of(record["content_span"]).endswith("Done.")
    assert [of(call["span"]) for call in record["tool_calls"]] == [
        '<tool_call>\n{"name": "look", "arguments": {"at": ["}", 1]} }\n</tool_call>',
        '<tool_call>\n{"name":"go"}\n</tool_call>',
    ]
    assert record["trimmed"] == [[7, "\n"], [11, "\n"], [20, "\n\n"], [29, "\n"], *record["trimmed"][4:]]
    assert all(WHOLE[at : at + len(cut)] == cut for at, cut in record["trimmed"])


def _random_output() -> st.SearchStrategy[str]:
    call = st.sampled_from(
        [
            '{"name": "f", "arguments": {"a": "b"}}',
            '\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n',
            '{"name": "f", "arguments": {"a": "b',
            '{"arguments": [1, {"b": "\\\\\\""}], "name":"g"}',
            "no",
        ]
    )
    piece = st.one_of(
        st.sampled_from(MARKERS), st.sampled_from(["\n", "\n\n", "é🙂", "<", "</", "text", '"', "}"]), call
    )
    return st.lists(piece, max_size=12).map("".join)


@given(text=_random_output(), data=st.data(), opened=st.booleans(), encode=st.sampled_from([marked, spelt]))
def test_cutting_anywhere_gives_the_same(
    text: str, data: st.DataObject, opened: bool, encode: Callable[[str], list[int]]
) -> None:
    ids = encode(text)
    dialect = AS_IDS if encode is marked else AS_TEXT
    whole, _ = parse(ids, dialect, reasoning_open=opened)
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=len(ids)))
    for where in (cuts, range(1, len(ids))):
        output, chunks = parse(ids, dialect, where, reasoning_open=opened)
        assert (output.content, output.tool_calls, output.unparsed, output.parse) == (
            whole.content,
            whole.tool_calls,
            whole.unparsed,
            whole.parse,
        )
        _consistent(output, chunks)


def _consistent(output: ParsedOutput, chunks: list[Chunk]) -> None:
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


@given(_random_output().map(lambda text: text.replace("<think>", "").replace("</think>", "")))
def test_nothing_the_model_wrote_is_lost(text: str) -> None:
    """Parts, calls and what was trimmed add up to every character."""
    ids = marked(text)
    output, _ = parse(ids, AS_IDS)
    kept = sum(len(part.text) for part in output.content if isinstance(part, TextPart))
    trimmed = sum(len(cut) for _, cut in output.parse["trimmed"])
    called = (ids[slice(*call["span"])] for call in output.parse["tool_calls"] if call["status"] != "invalid")
    in_calls = sum(len(b"".join(map(Bytes().token_bytes, call)).decode()) for call in called)
    assert kept + trimmed + in_calls == len(text)
