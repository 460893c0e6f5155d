"""Every promise of docs/promises.md names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

from perdure.core.syntax import parse_python

ROOT = Path(__file__).resolve().parents[2]
PROMISED = [f"R{number}" for number in (*range(1, 14), 15, 17)]
_ROW = re.compile(r"^\| (R\d+) \| (.*) \| (.*) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[^`]+)::(\w+)`")


def rows() -> dict[str, str]:
    text = (ROOT / "docs" / "promises.md").read_text()
    return {name: tests for name, _, tests in _ROW.findall(text)}


def test_every_promise_is_listed() -> None:
    assert list(rows()) == PROMISED


@pytest.mark.parametrize("promise", PROMISED)
def test_its_tests_exist(promise: str) -> None:
    named = _TEST.findall(rows()[promise])
    assert named
    for path, name in named:
        tree = parse_python((ROOT / path).read_text())
        defined = {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        defined |= {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert name in defined, f"{promise}: there is no {name} in {path}"
