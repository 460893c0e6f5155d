"""Grammars that force the form of an answer, tool calls or JSON, for engines that take one.

Invariant: what a grammar lets through, `parsing/` reads as calls of the tools given, whose arguments are JSON objects with the
right keys and types of values; or as an answer that is JSON, likewise.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from perdure.core.dialect import THINK_TAGS, OutputDialect, ToolFormat
from perdure.core.model import ToolSpec

_JSON_RULES = {
    "ws": "[ \\t\\n]{0,8}",
    "string": r'"\"" ( [^"\\\x00-\x1f] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} ) )* "\""',
    "integer": '"-"? ( "0" | [1-9] [0-9]{0,15} )',
    "number": 'integer ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,3} )?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "member": 'string ws ":" ws value',
    "object": '"{" ws ( member ( ws "," ws member )* )? ws "}"',
    "array": '"[" ws ( value ( ws "," ws value )* )? ws "]"',
}
_PRIMITIVES = {"string": "string", "integer": "integer", "number": "number", "boolean": "boolean", "null": "null"}
_MAX_DEPTH = 12

# what an engine's grammar backend keeps: any grammar with markers in it, JSON schemas alone, or nothing
Grammars = Literal["any", "schemas", "none"]


def answer_grammar(
    engine: str,
    dialect: OutputDialect,
    tools: Sequence[ToolSpec],
    tool_choice: str,
    *,
    parallel: bool,
    reasoning_open: bool,
    response_format: dict[str, Any] | None,
    may_think: bool = True,
    keeps: Grammars = "any",
) -> dict[str, Any] | None:
    """The grammar of one call to an engine: of an answer in the wanted form or, where there are tools, calls instead.

    None where no grammar is wanted, or none can be written for this dialect or kept by the engine (`keeps`): then the form is
    only checked afterwards. `may_think`: the model is not told to leave thinking be. Where `<tool_call>` is one token of the
    model, a grammar lets its letters through too; no model that was taught the token writes them.
    """
    form = _form(response_format)
    if form is None or tool_choice not in ("auto", "none") or dialect.tool_format == "harmony" or keeps == "none":
        return tool_grammar(
            engine, dialect, tools, tool_choice, parallel=parallel, reasoning_open=reasoning_open, keeps=keeps
        )
    callable_tools = tools if tool_choice == "auto" else ()
    thinks = reasoning_open or (may_think and _thinks(dialect))
    if thinks and (dialect.reasoning_open, dialect.reasoning_close) != THINK_TAGS:
        return None
    if not callable_tools and not thinks:
        return {"kind": "json_schema", "schema": form}
    if keeps != "any" or (callable_tools and dialect.tool_format != "hermes_json"):
        return None
    thought = "open" if reasoning_open else "may" if thinks else ""
    return {"kind": "gbnf", "grammar": gbnf(callable_tools, parallel=parallel, thought=thought, form=form)}


def _form(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    """The schema an answer must fit; None for any text."""
    match (response_format or {}).get("type"):
        case "json_object":
            return {"type": "object"}
        case "json_schema":
            return ((response_format or {}).get("json_schema") or {}).get("schema") or {}
        case _:
            return None


def _thinks(dialect: OutputDialect) -> bool:
    return dialect.reasoning_open is not None and dialect.reasoning_open in dialect.marker_ids


def tool_grammar(
    engine: str,
    dialect: OutputDialect,
    tools: Sequence[ToolSpec],
    tool_choice: str,
    *,
    parallel: bool,
    reasoning_open: bool,
    keeps: Grammars = "any",
) -> dict[str, Any] | None:
    """The grammar of one call to an engine, or None where none is wanted or the engine cannot keep it exactly.

    llama.cpp matches special tokens by their text and may hold calls to their form once one begins. The other engines match text
    that is no special token, from the first token on: there only a call that must come is forced, where it is written so.
    Nowhere so for calls with tagged text and gpt-oss's channels.
    """
    written = dialect.tool_format
    if not tools or tool_choice == "none" or written not in _FRAMES:
        return None
    if engine != "llamacpp" and not _forces(dialect, tool_choice, keeps):
        return None
    if tool_choice == "auto":
        if not (trigger := _FRAMES[written].trigger):
            return None
        return {
            "kind": "gbnf_lazy",
            "grammar": gbnf(tools, parallel=parallel, written=written),
            "rest": gbnf(tools, parallel=parallel, opened=True, written=written),
            "triggers": [trigger],
        }
    named = [tool for tool in tools if tool.name == tool_choice] or list(tools)
    thinks = _thinks(dialect) and dialect.reasoning_open == THINK_TAGS[0]
    thought = "open" if reasoning_open else "may" if thinks else ""
    return {"kind": "gbnf", "grammar": gbnf(named, parallel=parallel, thought=thought, written=written)}


def _forces(dialect: OutputDialect, tool_choice: str, keeps: Grammars) -> bool:
    """Whether xgrammar can be given the form of the calls: in Qwen's tokenizers `<tool_call>` is a token, but no special one."""
    if tool_choice == "auto" or keeps != "any" or dialect.tool_format not in ("hermes_json", "llama3_json"):
        return False
    return not _thinks(dialect) or (dialect.reasoning_open, dialect.reasoning_close) == THINK_TAGS


def gbnf(
    tools: Sequence[ToolSpec],
    *,
    parallel: bool,
    thought: str = "",
    opened: bool = False,
    form: dict[str, Any] | None = None,
    written: ToolFormat = "hermes_json",
) -> str:
    """A grammar of one or more calls, as llama.cpp and xgrammar read it. `thought`: "may" come first, or stands "open".

    `opened`: what triggers a lazy grammar has been written, maybe with the line end after it. `form`: the schema of JSON that
    may stand instead of calls, or alone where there are no tools. `written`: the form of the calls.
    """
    frame = _FRAMES[written]
    rules = _Rules()
    calls: list[str] = []
    firsts: list[str] = []
    for at, tool in enumerate(tools):
        arguments = rules.schema({"type": "object"} | tool.parameters, f"arguments-{at}", tool.parameters, 0)
        head = (json.dumps(tool.name, ensure_ascii=False) if frame.quotes else tool.name) + frame.after_name
        tail = f"{arguments} {literal(frame.after)}"
        calls.append(rules.add(f"call-{at}", f"{literal(frame.before + head)} {tail}"))
        if opened:
            begun = (frame.begin + frame.before).removeprefix(frame.trigger)
            line = "[\\n]? " if begun.startswith("\n") else ""
            firsts.append(rules.add(f"first-{at}", f"{line}{literal(begun.removeprefix(chr(10)) + head)} {tail}"))
    body = ""
    if calls:
        rules.add("call", " | ".join(calls))
        first = rules.add("first", " | ".join(firsts)) if opened else _in_row(frame.begin, "call")
        body = f"{first} ( {_in_row(frame.between, 'call')} )*" if parallel else first
        body += f" {literal(frame.end)}" if frame.end else ""
    if form is not None:
        answer = rules.schema(form, "answer", form, 1)
        body = f"( {answer} | {body} )" if body else answer
    if thought:
        rules.add("thought", '( [^<] | "<" [^/] | "</" [^t] | "</t" [^h] )* "</think>" [\\n]{0,2}')
        body = f"thought {body}" if thought == "open" else f'( "<think>" thought )? {body}'
    return rules.text(body)


class _Frame(NamedTuple):
    """What stands around a call's name and its JSON. `trigger`: the text from which on a lazy grammar holds; "" if none."""

    before: str
    after_name: str
    after: str
    between: str
    trigger: str = ""
    begin: str = ""
    end: str = ""
    quotes: bool = False


_FRAMES: dict[ToolFormat, _Frame] = {
    "hermes_json": _Frame(
        '<tool_call>\n{"name": ', ', "arguments": ', "}\n</tool_call>", "\n", "<tool_call>", quotes=True
    ),
    "llama3_json": _Frame('{"name": ', ', "parameters": ', "}", "; ", quotes=True),
    "mistral": _Frame("[TOOL_CALLS]", "[ARGS]", "", "", "[TOOL_CALLS]"),
    "deepseek": _Frame(
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "",
        "<｜tool▁calls▁begin｜>",
        begin="<｜tool▁calls▁begin｜>",
        end="<｜tool▁calls▁end｜>",
    ),
}


class _Rules:
    def __init__(self) -> None:
        self._rules: dict[str, str] = {}
        self._refs: dict[tuple[int, str], str] = {}

    def add(self, name: str, body: str) -> str:
        self._rules[name] = body
        return name

    def text(self, root: str) -> str:
        lines = [f"root ::= {root}"]
        lines += [f"{name} ::= {body}" for name, body in (self._rules | _JSON_RULES).items()]
        return "\n".join(lines) + "\n"

    def schema(self, schema: Any, name: str, root: Any, depth: int) -> str:
        """The rule for values of a schema; what a schema says beyond types, keys, enums and choices is left to validation."""
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            return "value"
        if "$ref" in schema:
            return self._reference(schema["$ref"], root, depth)
        if "const" in schema:
            return self.add(name, literal(_json(schema["const"])))
        if schema.get("enum"):
            return self.add(name, " | ".join(literal(_json(choice)) for choice in schema["enum"]))
        for choice in ("anyOf", "oneOf"):
            if schema.get(choice):
                kinds = [self.schema(one, f"{name}-{at}", root, depth + 1) for at, one in enumerate(schema[choice])]
                return self.add(name, " | ".join(dict.fromkeys(kinds)))
        if len(schema.get("allOf") or ()) == 1:
            return self.schema(schema["allOf"][0], name, root, depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = [
                self.schema(schema | {"type": one}, f"{name}-{at}", root, depth + 1) for at, one in enumerate(kind)
            ]
            return self.add(name, " | ".join(dict.fromkeys(kinds)))
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema, name, root, depth)
        if kind == "array":
            item = self.schema(schema.get("items"), f"{name}-item", root, depth + 1)
            return self.add(name, f'"[" ws ( {item} ( ws "," ws {item} )* )? ws "]"')
        return _PRIMITIVES.get(kind or "", "value")

    def _reference(self, reference: Any, root: Any, depth: int) -> str:
        """A definition becomes one rule, so that it may name itself."""
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return "value"
        key = id(root), reference
        if key in self._refs:
            return self._refs[key]
        target: Any = root
        for step in reference[2:].split("/"):
            target = target.get(step) if isinstance(target, dict) else None
        name = self._refs[key] = f"ref-{len(self._refs)}"
        body = self.schema(target, f"{name}-body", root, depth + 1)
        return self.add(name, body)

    def _object(self, schema: dict[str, Any], name: str, root: Any, depth: int) -> str:
        """Keys in the schema's order; those not required may be left out. Without declared keys: any object."""
        properties: dict[str, Any] = schema.get("properties") or {}
        if not properties:
            return "object" if depth or schema.get("additionalProperties") else self.add(name, '"{" ws "}"')
        required: list[str] = schema.get("required") or []
        pairs = [
            (f"{literal(_json(key) + ':')} ws {self.schema(value, f'{name}-{at}', root, depth + 1)}", key in required)
            for at, (key, value) in enumerate(properties.items())
        ]
        return self.add(name, f'"{{" ws {self._members(name, pairs)} ws "}}"')

    def _members(self, name: str, pairs: Sequence[tuple[str, bool]]) -> str:
        """`rest-n`: a comma and pair n or, if that may be left out, what follows it."""
        after = '""'
        firsts: list[str] = []
        for at in range(len(pairs) - 1, -1, -1):
            pair, is_required = pairs[at]
            firsts.append(f"{pair} {after}")
            rest = f'ws "," ws {pair} {after}' if is_required else f'( ws "," ws {pair} )? {after}'
            after = self.add(f"{name}-rest-{at}", rest)
        until_required = next((at for at, (_, needed) in enumerate(pairs) if needed), None)
        starts = firsts[::-1][: len(pairs) if until_required is None else until_required + 1]
        group = " | ".join(starts)
        return f"( {group} )" if until_required is not None else f"( {group} )?"


def _in_row(text: str, rule: str) -> str:
    return f"{literal(text)} {rule}" if text else rule


def literal(text: str) -> str:
    """A text as a GBNF string."""
    escaped = (
        text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    )
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", escaped) + '"'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
