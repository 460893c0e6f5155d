"""Passages filed before there were archives move into a default archive of each agent."""

import json
import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config

from perdure.core.ids import new_id
from perdure.store import archives, migrate, passages
from perdure.store.listing import Page
from perdure.store.passage_search import PassageSearch, search_passages
from perdure.store.sqlite import SqliteStore


def _at_0003(path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}")
    command.upgrade(config, "0003")


async def test_passages_of_agents_move_into_archives_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    _at_0003(path)
    connection = sqlite3.connect(path)
    agents = [new_id("agent") for _ in range(3)]
    for at, agent_id in enumerate(agents):
        body = {"id": agent_id, "name": f"agent {at}", "embedding": "p/m" if at else None}
        connection.execute(
            "INSERT INTO agents (id, name, created_us, updated_us, body) VALUES (?, ?, 1, 1, ?)",
            (agent_id, f"agent {at}", json.dumps(body).encode()),
        )
    for at in range(6):
        connection.execute(
            "INSERT INTO passages (pos, id, agent_id, created_us, text, body) VALUES (?, ?, ?, ?, ?, ?)",
            (10 + at, f"passage-{at}", agents[at % 2], at, f"fox {at}", json.dumps({"tags": ["a", f"t{at}"]}).encode()),
        )
    connection.commit()
    connection.close()

    assert migrate.migrate_sqlite(path)
    store = SqliteStore(path)
    for at in (0, 1):
        (archive_id,) = await store.read(lambda at=at: archives.archive_ids_of_agent(agents[at]))
        archive = await store.read(lambda archive_id=archive_id: archives.archive_by_id(archive_id))
        assert (archive.name, archive.made_for, archive.passages) == (f"agent {at}'s archive", agents[at], 3)
        assert archive.embedding == ("p/m" if at else None)
        page = Page(descending=False)
        kept = await store.scan(lambda at=at, page=page: passages.list_passages_of_agent(agents[at], page))
        assert [(each.id, each.text, each.created_us, each.updated_us) for each in kept] == [
            (f"passage-{n}", f"fox {n}", n, n) for n in range(at, 6, 2)
        ]
        assert kept[0].tags == ("a", f"t{at}")
        tags = ("a", *(f"t{n}" for n in range(at, 6, 2)))
        assert await store.read(lambda at=at: archives.filed_by(agents[at])) == (3, tags)
    assert await store.read(lambda: archives.archive_ids_of_agent(agents[2])) == []
    for wanted, count in ((PassageSearch(query="fox"), 6), (PassageSearch(query="fox", tags=("t3",)), 1)):
        assert len(await store.scan(lambda wanted=wanted: search_passages(wanted))) == count
    await store.close()
