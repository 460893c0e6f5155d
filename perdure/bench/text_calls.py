"""What reading a token costs in each family's way of writing tool calls in text: CPU from ids to chunks, nothing else.

An answer is half words and half one call with a long argument, replayed a token at a time and many at once.
"""

import json
import time
from collections.abc import Sequence

from perdure.bench.translators import A_READ, TOKENS, Cost
from perdure.core.dialect import MISTRAL_THINK_TAGS, THINK_TAGS, OutputDialect, ToolFormat
from perdure.core.model import ToolSpec
from perdure.parsing.output import OutputParser

WORD = " token"
TOOL = ToolSpec("write", "", {"type": "object", "properties": {"text": {"type": "string"}}})


class _Tokens:
    """Ids of an answer's pieces: its markers first, then whatever else it is made of."""

    def __init__(self, markers: Sequence[str]) -> None:
        self._texts: dict[str, int] = {text: at for at, text in enumerate(markers)}
        self._bytes = [text.encode() for text in markers]

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes[token_id]

    def id(self, text: str) -> int:
        if text not in self._texts:
            self._texts[text] = len(self._bytes)
            self._bytes.append(text.encode())
        return self._texts[text]


def measure_form(tool_format: ToolFormat, *, tokens: int = TOKENS, rounds: int = 5) -> Cost:
    """The cheapest of some rounds, as `translators.measure`."""
    tags = MISTRAL_THINK_TAGS if tool_format == "mistral" else THINK_TAGS
    found = OutputDialect(tool_format=tool_format, reasoning_open=tags[0], reasoning_close=tags[1])
    vocabulary = _Tokens(list(found.marks()))
    dialect = OutputDialect(
        tool_format=tool_format,
        reasoning_open=tags[0],
        reasoning_close=tags[1],
        marker_ids={text: vocabulary.id(text) for text in found.marks()},
    )
    ids = [vocabulary.id(piece) for piece in _answer(tool_format, tokens)]
    costs = (
        min(_once(dialect, vocabulary, ids, size, tokens // 2) for _ in range(rounds)) / len(ids)
        for size in (1, A_READ)
    )
    return Cost(f"calls: {tool_format}", *costs)


def _once(dialect: OutputDialect, vocabulary: _Tokens, ids: Sequence[int], size: int, words: int) -> float:
    parser = OutputParser(dialect, vocabulary, tools=[TOOL])
    batches = [ids[at : at + size] for at in range(0, len(ids), size)]
    started = time.process_time_ns()
    for batch in batches:
        parser.feed(batch)
    output = parser.finish()
    spent_us = (time.process_time_ns() - started) / 1_000
    written = [json.loads(call.arguments) for call in output.tool_calls]
    expected = [] if dialect.tool_format == "none" else [{"text": WORD * words}]
    if written != expected or output.unparsed:
        raise AssertionError(f"{written} calls were read, not {expected}: {output.unparsed}")
    return spent_us


def _answer(tool_format: ToolFormat, tokens: int) -> list[str]:
    """Its tokens' texts."""
    words = [WORD] * (tokens // 2)
    value = ['{"', "text", '": "', *words, '"}']
    match tool_format:
        case "hermes_json":
            return [*words, "<tool_call>", '\n{"name": "write", "arguments": ', *value, "}\n", "</tool_call>"]
        case "qwen_xml":
            opening = ["<tool_call>", "\n<function=", "write", ">\n<parameter=", "text", ">\n"]
            return [*words, *opening, *words, "\n</", "parameter", ">\n</", "function", ">\n", "</tool_call>"]
        case "glm_xml":
            opening = ["<tool_call>", "write", "\n", "<arg_key>", "text", "</arg_key>", "\n", "<arg_value>"]
            return [*words, *opening, *words, "</arg_value>", "\n", "</tool_call>"]
        case "llama3_json":
            return [*words, "\n", '{"', "name", '": "', "write", '", "parameters": ', *value, "}"]
        case "mistral":
            return [*words, "[TOOL_CALLS]", "write", "[ARGS]", *value]
        case "deepseek":
            opening = ["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "write", "<｜tool▁sep｜>"]
            return [*words, *opening, *value, "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"]
        case "harmony":
            before = ["<|channel|>", "analysis", "<|message|>", *words, "<|end|>", "<|start|>", "assistant"]
            header = ["<|channel|>", "commentary", " to=functions.write ", "<|constrain|>", "json", "<|message|>"]
            return [*before, *header, *value, "<|call|>"]
        case "none":
            return [*words, *words]
