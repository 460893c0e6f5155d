"""Python source to syntax trees."""

import ast
from typing import Literal, overload

_TRIES = 8


@overload
def parse_python(source: str) -> ast.Module: ...
@overload
def parse_python(source: str, mode: Literal["eval"]) -> ast.Expression: ...
def parse_python(source: str, mode: Literal["exec", "eval"] = "exec") -> ast.Module | ast.Expression:
    """`ast.parse`, and what it raises on sources that are no Python.

    Python 3.11 counts a tree's depth in one place for all that is being parsed: a garbage collection in the middle, whose
    finalizers parse something too (formatting a traceback does), fails a good source with SystemError. So it is tried again.
    """
    for _ in range(_TRIES - 1):
        try:
            return _parse(source, mode)
        except SystemError:
            continue
    return _parse(source, mode)


def _parse(source: str, mode: Literal["exec", "eval"]) -> ast.Module | ast.Expression:
    return ast.parse(source) if mode == "exec" else ast.parse(source, mode="eval")
