"""Archives, who has them, and where what an agent files goes.

An agent writes to the archive that was made for it, else to the first it was attached to; with none yet, one is made with
the first passage. A tag that is new to an archive, or gone from it, raises the revision of every agent that has it.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.core.archives import Archive, Filed
from perdure.core.errors import NotFound
from perdure.core.ids import new_id
from perdure.store.base import Query, Row, Tx
from perdure.store.codec import agent_from_row
from perdure.store.listing import Filters, Page, Source, list_rows

_COLUMNS = "a.id, a.name, a.created_us, a.updated_us, a.embedding, a.embedding_dim, a.made_for, a.passages, a.body"
_ARCHIVES = Source(_COLUMNS, "archives", "a")
_ARCHIVES_OF_AGENT = Source(_COLUMNS, "archives", "a", "JOIN agent_archives l ON l.archive_id = a.id")
_encode = msgspec.json.Encoder().encode
_OF_AN_ARCHIVE = (
    "delete_archive_links",
    "delete_archive_passages",
    "delete_archive_passage_tags",
    "delete_archive_tags",
    "delete_scope_vectors",
)


class _Body(Struct, omit_defaults=True):
    description: str | None = None
    metadata: dict[str, object] = {}


_body = msgspec.json.Decoder(_Body).decode


def _archive(row: Row) -> Archive:
    body = _body(row[8])
    return Archive(
        id=row[0],
        name=row[1],
        created_us=row[2],
        updated_us=row[3],
        embedding=row[4],
        embedding_dim=row[5],
        made_for=row[6],
        passages=row[7],
        description=body.description,
        metadata=body.metadata,
    )


def _params(archive: Archive) -> dict[str, object]:
    return {
        "id": archive.id,
        "name": archive.name,
        "created_us": archive.created_us,
        "updated_us": archive.updated_us,
        "embedding": archive.embedding,
        "embedding_dim": archive.embedding_dim,
        "made_for": archive.made_for,
        "body": _encode(_Body(archive.description, archive.metadata)),
    }


def create_archive(archive: Archive) -> Tx[None]:
    yield Query("insert_archive", _params(archive))


def archive_by_id(archive_id: str) -> Tx[Archive]:
    rows = yield Query("archive_by_id", {"id": archive_id})
    if not rows:
        raise NotFound(f"Archive {archive_id} not found")
    return _archive(rows[0])


def replace_archive(archive: Archive) -> Tx[None]:
    """Its name, description and metadata; the embedding model is decided by `decide_embedding`, once."""
    if not (yield Query("update_archive", _params(archive))):
        raise NotFound(f"Archive {archive.id} not found")


def decide_embedding(archive_id: str, embedding: str | None, dim: int | None) -> Tx[None]:
    """The archive's model, and with `dim` for good; without effect once it has vectors."""
    yield Query("decide_archive_embedding", {"id": archive_id, "embedding": embedding, "embedding_dim": dim})


def delete_archive(archive_id: str, now: int) -> Tx[list[str]]:
    """With its passages. Answers the agents that had it; their revision goes up."""
    agent_ids = yield from agents_of_archive(archive_id)
    yield Query("bump_agents_of_archive", {"archive_id": archive_id, "now": now})
    if not (yield Query("delete_archive", {"id": archive_id})):
        raise NotFound(f"Archive {archive_id} not found")
    for name in _OF_AN_ARCHIVE:
        yield Query(name, {"id": archive_id})
    return agent_ids


def list_archives(page: Page, *, name: str | None = None, agent_id: str | None = None) -> Tx[list[Archive]]:
    filters = Filters()
    if name is not None:
        filters.add("a.name = :name", name=name)
    if agent_id is not None:
        filters.add("l.agent_id = :agent_id", agent_id=agent_id)
    source = _ARCHIVES if agent_id is None else _ARCHIVES_OF_AGENT
    rows = yield from list_rows(source, filters, page, what="Archive")
    return [_archive(row) for row in rows]


def attach_archive(agent_id: str, archive_id: str) -> Tx[bool]:
    """False if the agent had it already."""
    yield from archive_by_id(archive_id)
    return bool((yield Query("attach_archive", {"agent_id": agent_id, "archive_id": archive_id})))


def detach_archive(agent_id: str, archive_id: str) -> Tx[bool]:
    """False if the agent did not have it. The archive and its passages stay."""
    yield from archive_by_id(archive_id)
    return bool((yield Query("detach_archive", {"agent_id": agent_id, "archive_id": archive_id})))


def archive_ids_of_agent(agent_id: str) -> Tx[list[str]]:
    """The first is the one the agent writes to."""
    rows = yield Query("archive_ids_of_agent", {"agent_id": agent_id})
    return [row[0] for row in rows]


def agents_of_archive(archive_id: str) -> Tx[list[str]]:
    rows = yield Query("agents_of_archive", {"archive_id": archive_id})
    return [row[0] for row in rows]


def archive_for_writing(agent_id: str, now: int) -> Tx[str]:
    """Where the agent files a passage. NotFound for an agent that is gone."""
    archive_ids = yield from archive_ids_of_agent(agent_id)
    if archive_ids:
        return archive_ids[0]
    rows = yield Query("agent_by_id", {"id": agent_id})
    if not rows:
        raise NotFound("Agent not found")
    agent = agent_from_row(rows[0])
    archive = Archive(
        id=new_id("archive"),
        name=f"{agent.name}'s archive",
        embedding=agent.embedding,
        made_for=agent_id,
        created_us=now,
        updated_us=now,
    )
    yield from create_archive(archive)
    yield from attach_archive(agent_id, archive.id)
    return archive.id


def delete_archives_of_agent(agent_id: str, now: int) -> Tx[None]:
    """What was made for the agent and no other has goes with it; every other archive stays."""
    rows = yield Query("archives_made_only_for", {"agent_id": agent_id})
    for row in rows:
        yield from delete_archive(row[0], now)
    yield Query("delete_agent_links_archives", {"id": agent_id})
    yield Query("disown_archives", {"id": agent_id})


def filed_by(agent_id: str) -> Tx[Filed]:
    """What all the agent's archives hold."""
    counted = yield Query("archived_of_agent", {"agent_id": agent_id})
    if not counted[0][0]:
        return Filed()
    tags = yield Query("archive_tags_of_agent", {"agent_id": agent_id})
    return Filed(int(counted[0][0]), tuple(row[0] for row in tags))


def count_tags(archive_id: str, added: Sequence[str], removed: Sequence[str], now: int) -> Tx[None]:
    """Keep the archive's tags up to date; agents are told (by their revision) where the set of them changed."""
    changed = False
    for tag in added:
        rows = yield Query("count_archive_tag", {"archive_id": archive_id, "tag": tag})
        changed |= rows[0][0] == 1
    gone = False
    for tag in removed:
        rows = yield Query("uncount_archive_tag", {"archive_id": archive_id, "tag": tag})
        gone |= bool(rows) and rows[0][0] <= 0
    if gone:
        yield Query("forget_unused_tags", {"archive_id": archive_id})
    if changed or gone:
        yield Query("bump_agents_of_archive", {"archive_id": archive_id, "now": now})
