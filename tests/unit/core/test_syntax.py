import ast
import gc
import inspect

import pytest

from perdure.core.syntax import parse_python


class _Parses:
    """Parses something when it is collected, as the formatting of a traceback does."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        ast.parse("a = 1")


def _deep(calls: int, source: str) -> ast.Module:
    if calls:
        return _deep(calls - 1, source)
    for _ in range(300):
        _Parses()
    return parse_python(source)


def test_a_source_is_parsed_whatever_is_collected_meanwhile() -> None:
    source = inspect.getsource(ast)
    for _ in range(20):
        assert ast.dump(_deep(20, source).body[0]).startswith("Expr")
    gc.collect()


def test_what_is_no_python_is_told_as_ever() -> None:
    with pytest.raises(SyntaxError):
        parse_python("def")
    with pytest.raises(SyntaxError):
        parse_python("a = 1", "eval")
