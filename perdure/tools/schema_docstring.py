"""Reads Google-style docstrings: what a function is for, and what its parameters mean.

Sections begin at the docstring's own margin with a known heading; a heading that is not known is ordinary text.
"""

import inspect
import re
from typing import NamedTuple

_PARAMETERS = {"args", "arguments", "parameters", "params"}
_EXAMPLES = {"example", "examples"}
_OTHERS = {"raises", "exceptions", "except", "attributes", "returns", "return", "yields", "yield"}
_HEADING = re.compile(r"^([A-Za-z]+):\s*$")
_PARAMETER = re.compile(r"^\*{0,2}(\w+)\s*(?:\(([^)]*(?:\([^)]*\)[^)]*)*)\))?\s*:\s?(.*)$")


class Docstring(NamedTuple):
    """`description`: short text, blank line, long text, and the examples if there are any."""

    description: str
    parameters: dict[str, str]


def parse_docstring(text: str) -> Docstring:
    before, sections = _sections(inspect.cleandoc(text).splitlines())
    parts = ["\n".join(before).strip()]
    parameters: dict[str, str] = {}
    for heading, lines in sections:
        if heading in _PARAMETERS:
            parameters.update(_parameters(lines))
        elif heading in _EXAMPLES:
            examples = inspect.cleandoc("\n" + "\n".join(lines)).strip()
            parts.append(f"Examples:\n{_indented(examples)}")
    return Docstring("\n\n".join(part for part in parts if part), parameters)


def _sections(lines: list[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The lines before the first section, and each section's heading (lower case) and lines."""
    before: list[str] = []
    sections: list[tuple[str, list[str]]] = []
    for line in lines:
        found = _HEADING.match(line)
        heading = found.group(1).lower() if found else ""
        if heading in _PARAMETERS | _EXAMPLES | _OTHERS:
            sections.append((heading, []))
        elif sections and (not line.strip() or line[:1].isspace()):
            sections[-1][1].append(line)
        elif sections:
            # back at the margin: what follows belongs to no section
            sections.append(("", [line]))
        else:
            before.append(line)
    return before, sections


def _parameters(lines: list[str]) -> dict[str, str]:
    """Name to description. What is indented deeper than the first name continues a description."""
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    found: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        body = line[margin:]
        entry = _PARAMETER.match(body) if body[:1].strip() else None
        if entry is not None:
            name = entry.group(1)
            found[name] = [entry.group(3).strip()]
        elif name and line.strip():
            found[name].append(line.strip())
    return {key: "\n".join(line for line in value if line) for key, value in found.items()}


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in text.splitlines())
