"""What waits for its vector, and the vectors it gets.

A passage is stored without one, in whatever transaction files it, and embedded afterwards; a vector is only written for the
text it was made of. Messages are embedded up to a mark, one an agent and model, and only those of agents that are searched.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.core.archives import Vector
from perdure.core.messages import Message
from perdure.store.archives import decide_embedding
from perdure.store.base import Query, Tx
from perdure.store.message_search import searchable_text
from perdure.store.sign_index import Vectors

_decode = msgspec.json.Decoder(Message).decode

EMBEDDED, UNFIT = 1, 2


class Pending(Struct, frozen=True):
    """An archive with passages that wait. `made`: without anybody having asked for its model, so it may be another's."""

    archive_id: str
    embedding: str | None
    dim: int | None
    made: bool


class Waiting(Struct, frozen=True):
    """A passage as it was read: a vector of its text is void if it has changed since."""

    pos: int
    passage_id: str
    updated_us: int
    text: str


def archives_to_embed(limit: int = 1_000) -> Tx[list[Pending]]:
    rows = yield Query("archives_to_embed", {"limit": limit})
    return [Pending(row[0], row[1], row[2], row[3] is not None) for row in rows]


def waits_for_vectors(archive_ids: Sequence[str]) -> Tx[bool]:
    for archive_id in archive_ids:
        if (yield Query("waits_for_vectors", {"archive_id": archive_id})):
            return True
    return False


def passages_to_embed(archive_id: str, limit: int) -> Tx[list[Waiting]]:
    rows = yield Query("passages_to_embed", {"archive_id": archive_id, "limit": limit})
    return [Waiting(*row) for row in rows]


def embedded(vectors: Vectors, archive_id: str, handle: str, done: Sequence[tuple[Waiting, Vector | None]]) -> Tx[None]:
    """Keep the vectors of these passages; None: the model cannot take its text. The first decides the archive's model."""
    kept: list[tuple[int, Vector]] = []
    for waiting, vector in done:
        state = UNFIT if vector is None else EMBEDDED
        still = yield Query(
            "mark_embedded",
            {"pos": waiting.pos, "id": waiting.passage_id, "updated_us": waiting.updated_us, "embedded": state},
        )
        if still and vector is not None:
            kept.append((waiting.pos, vector))
    if kept:
        yield from decide_embedding(archive_id, handle, len(kept[0][1]))
        yield from vectors.put(archive_id, kept)


def models_of(archive_ids: Sequence[str] | None) -> Tx[dict[str, list[str]]]:
    """The archives that have vectors, by their model's handle. None: of all archives."""
    found: dict[str, list[str]] = {}
    if archive_ids is None:
        rows = yield Query("embedding_models")
        for archive_id, handle in rows:
            found.setdefault(handle, []).append(archive_id)
        return found
    for archive_id in archive_ids:
        rows = yield Query("embedding_model_of", {"id": archive_id})
        for (handle,) in rows:
            found.setdefault(handle, []).append(archive_id)
    return found


def messages_to_embed(agent_id: str, handle: str, limit: int) -> Tx[list[tuple[int, str]]]:
    """(position, text) of the agent's next messages; the text is empty where nothing was said."""
    marks = yield Query("message_vector_marks", {"agent_id": agent_id})
    seen = next((row[1] for row in marks if row[0] == _mark(agent_id, handle)), 0)
    rows = yield Query("messages_to_embed", {"agent_id": agent_id, "seen": seen, "limit": limit})
    return [(pos, searchable_text(_decode(body))) for pos, body in rows]


def messages_embedded(
    vectors: Vectors, agent_id: str, handle: str, upto: int, done: Sequence[tuple[int, Vector]]
) -> Tx[None]:
    """Keep them, and note how far the agent's messages are embedded. Another model's vectors go."""
    marks = yield Query("message_vector_marks", {"agent_id": agent_id})
    mark = _mark(agent_id, handle)
    if any(row[0] != mark for row in marks):
        yield Query("delete_scope_vectors", {"id": agent_id})
        yield Query("delete_marks", {"agent_id": agent_id})
    yield from vectors.put(agent_id, done)
    yield Query("set_mark", {"name": mark, "pos": upto})


def message_scopes(agent_id: str | None, handle: str) -> Tx[list[str]]:
    """The agents whose messages have vectors of this model; None: of all agents."""
    if agent_id is not None:
        marks = yield Query("message_vector_marks", {"agent_id": agent_id})
    else:
        marks = yield Query("all_message_vector_marks")
    return [name.split(":")[1] for name, _ in marks if name.split(":", 2)[2] == handle]


def agent_ids() -> Tx[list[str]]:
    rows = yield Query("agent_ids")
    return [row[0] for row in rows]


def _mark(agent_id: str, handle: str) -> str:
    return f"messages:{agent_id}:{handle}"
