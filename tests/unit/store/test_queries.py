"""The named queries: none that nobody asks, none asked for that is not there."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import perdure
from perdure.core.syntax import parse_python
from perdure.store.sql import Part, combined, queries

SOURCES = Path(perdure.__file__).parent


def named() -> set[str]:
    return queries("sqlite").keys() | queries("postgres").keys()


@cache
def sources() -> list[ast.AST]:
    return [node for file in SOURCES.rglob("*.py") for node in ast.walk(parse_python(file.read_text(encoding="utf-8")))]


def strings() -> set[str]:
    return {node.value for node in sources() if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def asked() -> Iterator[ast.expr]:
    """The names given to Query and Many."""
    for node in sources():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Query", "Many"):
            yield from node.args[:1]


def put_together() -> list[re.Pattern[str]]:
    """Names that are made of parts when they are asked for."""
    return [re.compile("".join(map(_part, name.values))) for name in asked() if isinstance(name, ast.JoinedStr)]


def _part(part: ast.expr) -> str:
    return re.escape(str(part.value)) if isinstance(part, ast.Constant) else "[a-z_]+"


def test_every_named_query_is_asked_for_somewhere() -> None:
    known = strings()
    assert {name for name in named() - known if not any(made.fullmatch(name) for made in put_together())} == set()


def test_every_query_that_is_asked_for_by_name_exists() -> None:
    wanted = {str(name.value) for name in asked() if isinstance(name, ast.Constant)}
    assert len(wanted) > 100
    assert wanted - named() == set()


def test_several_rows_are_written_in_one_statement() -> None:
    texts = {"put": "INSERT INTO t (a, b) VALUES (:a, :b)\nON CONFLICT (a) DO NOTHING", "set": "UPDATE u SET c = :c"}
    made = combined([Part("put", 2), Part("set")], texts)
    assert made.sql == (
        "WITH w0 AS (INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4)\nON CONFLICT (a) DO NOTHING) UPDATE u SET c = $5"
    )
    assert made.names == ((0, 0, "a"), (0, 0, "b"), (0, 1, "a"), (0, 1, "b"), (1, 0, "c"))


def test_a_write_that_is_needed_undoes_the_others_where_it_writes_nothing() -> None:
    texts = {"guard": "UPDATE t SET a = 1 WHERE a = :a RETURNING a", "set": "UPDATE u SET c = :a"}
    made = combined([Part("guard", needed=True), Part("set")], texts)
    assert made.sql == (
        "WITH w0 AS (UPDATE t SET a = 1 WHERE a = $1 RETURNING a), w1 AS (UPDATE u SET c = $2) "
        "SELECT 1 / (SELECT COUNT(*) FROM w0)"
    )


def test_rows_need_values_to_stand_in() -> None:
    with pytest.raises(ValueError, match="pick"):
        combined([Part("pick", 2)], {"pick": "INSERT INTO t SELECT a FROM u WHERE b = :b"})
