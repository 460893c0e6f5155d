"""No named query walks over everything there ever was: what a server asks all day costs the same after a million runs."""

import re
import sqlite3

import pytest

from perdure.store.migrate import SQLITE_SCHEMA
from perdure.store.sql import queries

# Tables and indices that stay small, or hold only what is under way.
SMALL = {
    "search_state",
    "providers",
    "cleanup_left",
    "rollout_jobs",
    "rollout_jobs_created",
    "group_conversations_group",
    "runs_active",
    "passages_pending",
    "tools",
}
# Asked for by a person or when a batch is forgotten, about all there are.
ABOUT_ALL = {"agent_ids", "count_agents", "count_blocks", "count_groups", "embedding_models", "delete_batch_calls"}
_SCAN = re.compile(r"^SCAN (\S+)(?: USING (?:COVERING )?INDEX (\S+))?$")
_ALIAS = re.compile(r"\b(\w+) (?:AS )?(\w+)\b")


@pytest.fixture(scope="module")
def connection() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:")
    made.executescript(SQLITE_SCHEMA.read_text(encoding="utf-8"))
    return made


def walks(connection: sqlite3.Connection, text: str) -> set[str]:
    """The indices, or tables without one, that are read from end to end."""
    parameters = dict.fromkeys(re.findall(r":(\w+)", text), 1)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", parameters).fetchall()
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    named = {alias: table for table, alias in _ALIAS.findall(text) if table in tables} | {name: name for name in tables}
    found = {match for row in plan if (match := _SCAN.match(row[3]))}
    return {match[2] or named[match[1]] for match in found if match[1] in named}


@pytest.mark.parametrize("name", sorted(queries("sqlite").keys() - ABOUT_ALL))
def test_it_walks_over_nothing_that_grows(connection: sqlite3.Connection, name: str) -> None:
    assert walks(connection, queries("sqlite")[name]) <= SMALL


def test_walks_are_seen(connection: sqlite3.Connection) -> None:
    assert walks(connection, "SELECT r.id FROM runs r WHERE r.stop_reason = :reason") == {"runs"}
    assert walks(connection, "SELECT id FROM runs ORDER BY created_us, id") == {"runs_created"}
    assert walks(connection, "SELECT id FROM runs WHERE id = :id") == set()
