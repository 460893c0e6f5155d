"""Answers as models of each family write them, in ids: thinking, words and calls between the family's own markers."""

import json
from collections.abc import Sequence

from perdure.core.dialect import ToolFormat
from perdure.tokens.base import Renderer
from perdure.tokens.native import thinking_ids

Call = tuple[str, str]
"""(name, arguments as JSON text)"""


def answer_ids(
    renderer: Renderer, text: str, calls: Sequence[Call] = (), *, thought: str | None = None, opened: bool = False
) -> list[int]:
    """Without the token that ends it. `opened`: the prompt opened the thinking."""
    ids: list[int] = []
    for piece, is_own in _pieces(renderer, text, calls, thought, opened):
        for part in [piece] if is_own else renderer.tokenizer.split(piece):
            ids += [part] if isinstance(part, int) else renderer.tokenizer.encode(part)
    return ids


def end_id(renderer: Renderer, calls: Sequence[Call]) -> int:
    """The token a model of the family ends such an answer with."""
    end = {"glm_xml": ("<|user|>", "<|observation|>"), "harmony": ("<|return|>", "<|call|>")}.get(
        renderer.dialect.tool_format
    )
    found = renderer.tokenizer.special_id(end[bool(calls)]) if end else None
    return renderer.stop_token_ids[0] if found is None else found


def opens_thought(renderer: Renderer, ids: Sequence[int]) -> bool:
    """Whether a prompt ends inside the thinking."""
    opened, closed = thinking_ids(renderer.dialect)
    marks = [one for one in ids[-4:] if one in (opened, closed)]
    return opened is not None and marks[-1:] == [opened]


def _pieces(
    renderer: Renderer, text: str, calls: Sequence[Call], thought: str | None, opened: bool
) -> list[tuple[str, bool]]:
    """(text, whether it is the model's own words, not its markers)"""
    dialect = renderer.dialect
    if dialect.tool_format == "harmony":
        return _harmony(text, calls, thought)
    pieces: list[tuple[str, bool]] = []
    if thought is not None or opened:
        line = "" if dialect.tool_format == "mistral" else "\n"
        pieces += [
            ("" if opened else f"{dialect.reasoning_open}{line}", False),
            (thought or "", True),
            (f"{line}{dialect.reasoning_close}{line}{line}", False),
        ]
    return [*pieces, (text, True), *_calls(dialect.tool_format, calls)]


def _harmony(text: str, calls: Sequence[Call], thought: str | None) -> list[tuple[str, bool]]:
    pieces: list[tuple[str, bool]] = []
    if thought is not None:
        pieces += [("<|channel|>analysis<|message|>", False), (thought, True), ("<|end|><|start|>assistant", False)]
    if not calls:
        return [*pieces, ("<|channel|>final<|message|>", False), (text, True)]
    if text:
        pieces += [("<|channel|>commentary<|message|>", False), (text, True), ("<|end|><|start|>assistant", False)]
    name, arguments = calls[0]
    header = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return [*pieces, (header, False), (arguments, True)]


def _calls(tool_format: ToolFormat, calls: Sequence[Call]) -> list[tuple[str, bool]]:
    pieces: list[tuple[str, bool]] = []
    for at, (name, arguments) in enumerate(calls):
        match tool_format:
            case "qwen_xml":
                inner = [(f"\n<tool_call>\n<function={name}>\n", False)]
                for key, value in json.loads(arguments).items():
                    inner += [(f"<parameter={key}>\n", False), (str(value), True), ("\n</parameter>\n", False)]
                pieces += [*inner, ("</function>\n</tool_call>", False)]
            case "glm_xml":
                pieces.append((f"\n<tool_call>{name}\n", False))
                for key, value in json.loads(arguments).items():
                    pieces += [(f"<arg_key>{key}</arg_key>\n<arg_value>", False), (str(value), True)]
                    pieces.append(("</arg_value>\n", False))
                pieces.append(("</tool_call>", False))
            case "llama3_json":
                pieces.append((("; " if at else "\n") + f'{{"name": "{name}", "parameters": {arguments}}}', True))
            case "mistral":
                pieces += [(f"[TOOL_CALLS]{name}[ARGS]", False), (arguments, True)]
            case "deepseek":
                begin = "" if at else "<｜tool▁calls▁begin｜>"
                pieces += [(f"{begin}<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>", False), (arguments, True)]
                pieces.append(("<｜tool▁call▁end｜>" + ("<｜tool▁calls▁end｜>" if at + 1 == len(calls) else ""), False))
            case _:
                pieces += [(f'\n<tool_call>\n{{"name": "{name}", "arguments": ', False), (arguments, True)]
                pieces.append(("}\n</tool_call>", False))
    return pieces
