"""Archives and their passages as people make, fill and prune them.

An edit that changes what agents are shown of their archives (which they have, its tags) raises their revision; where a person
changed which archives an agent has, its prompt is compiled at once.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.agents.recompile import recompile_agents
from perdure.core.archives import Archive, Passage
from perdure.core.errors import Invalid
from perdure.core.ids import new_id, now_us
from perdure.store import agents as agent_store
from perdure.store import archives as archive_store
from perdure.store import passages as passage_store
from perdure.store.base import Tx

MAX_NAME_CHARS = 1_000
MAX_PASSAGE_CHARS = 32_768
MAX_BATCH = 1_000


class PassageSpec(Struct, frozen=True, kw_only=True):
    """A passage to be filed. `created_us` None: now."""

    text: str
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    created_us: int | None = None


class PassageChange(Struct, frozen=True, kw_only=True):
    """UNSET: stays as it is."""

    text: str | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class ArchiveChange(Struct, frozen=True, kw_only=True):
    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


def create(name: str, *, description: str | None, embedding: str | None, metadata: dict[str, Any]) -> Tx[Archive]:
    now = now_us()
    archive = Archive(
        id=new_id("archive"),
        name=_checked_name(name),
        description=description,
        embedding=embedding,
        metadata=metadata,
        created_us=now,
        updated_us=now,
    )
    yield from archive_store.create_archive(archive)
    return archive


def change(archive_id: str, wanted: ArchiveChange) -> Tx[Archive]:
    archive = yield from archive_store.archive_by_id(archive_id)
    fields = {key: value for key in wanted.__struct_fields__ if (value := getattr(wanted, key)) is not UNSET}
    if "name" in fields:
        _checked_name(fields["name"])
    changed = msgspec.structs.replace(archive, **fields, updated_us=now_us())
    yield from archive_store.replace_archive(changed)
    return changed


def delete(archive_id: str) -> Tx[None]:
    agent_ids = yield from archive_store.delete_archive(archive_id, now_us())
    yield from recompile_agents(agent_ids, "an archive was deleted")


def attach(agent_id: str, archive_id: str) -> Tx[None]:
    yield from agent_store.check_agent(agent_id)
    if (yield from archive_store.attach_archive(agent_id, archive_id)):
        yield from agent_store.bump_agent(agent_id, now_us())
        yield from recompile_agents([agent_id], "an archive was attached")


def detach(agent_id: str, archive_id: str) -> Tx[None]:
    yield from agent_store.check_agent(agent_id)
    if (yield from archive_store.detach_archive(agent_id, archive_id)):
        yield from agent_store.bump_agent(agent_id, now_us())
        yield from recompile_agents([agent_id], "an archive was detached")


def file_for_agent(agent_id: str, spec: PassageSpec) -> Tx[Passage]:
    """Into the agent's archive. Its prompt, which tells how many passages there are, is not compiled again for it."""
    yield from agent_store.check_agent(agent_id)
    filed = yield from passage_store.file_for_agent(agent_id, [_passage(spec, "text")], now_us())
    return filed[0]


def file(archive_id: str, specs: Sequence[PassageSpec], *, batch: bool = False) -> Tx[list[Passage]]:
    """All of them, or none. `batch`: how the fields are named in an error."""
    yield from archive_store.archive_by_id(archive_id)
    if len(specs) > MAX_BATCH:
        raise Invalid(
            f"passages: {len(specs)} at once; at most {MAX_BATCH}. Send them in several requests.", status=422
        )
    passages = [_passage(spec, f"passages[{at}].text" if batch else "text") for at, spec in enumerate(specs)]
    return (yield from passage_store.insert_passages(archive_id, passages, now_us()))


def change_passage(archive_ids: Sequence[str], passage_id: str, wanted: PassageChange) -> Tx[Passage]:
    pos, before = yield from passage_store.passage_of_archives(passage_id, archive_ids)
    fields: dict[str, Any] = {
        key: value for key in wanted.__struct_fields__ if (value := getattr(wanted, key)) is not UNSET
    }
    if "text" in fields:
        _checked_text(fields["text"], "text")
    if "tags" in fields:
        fields["tags"] = tuple(dict.fromkeys(fields["tags"]))
    now = now_us()
    after = msgspec.structs.replace(before, **fields, updated_us=now)
    yield from passage_store.replace_passage(pos, before, after, now)
    return after


def change_passage_of_agent(agent_id: str, passage_id: str, wanted: PassageChange) -> Tx[Passage]:
    yield from agent_store.check_agent(agent_id)
    archive_ids = yield from archive_store.archive_ids_of_agent(agent_id)
    return (yield from change_passage(archive_ids, passage_id, wanted))


def delete_passage(archive_id: str, passage_id: str) -> Tx[None]:
    yield from archive_store.archive_by_id(archive_id)
    yield from passage_store.delete_passage([archive_id], passage_id, now_us())


def delete_passage_of_agent(agent_id: str, passage_id: str) -> Tx[None]:
    yield from agent_store.check_agent(agent_id)
    archive_ids = yield from archive_store.archive_ids_of_agent(agent_id)
    yield from passage_store.delete_passage(archive_ids, passage_id, now_us())


def _passage(spec: PassageSpec, field: str) -> Passage:
    _checked_text(spec.text, field)
    return Passage(
        id=new_id("passage"),
        text=spec.text,
        tags=spec.tags,
        metadata=spec.metadata,
        created_us=spec.created_us or 0,
    )


def _checked_text(text: str, field: str) -> None:
    if not text.strip():
        raise Invalid(f"{field}: must not be empty", status=422)
    if len(text) > MAX_PASSAGE_CHARS:
        raise Invalid(
            f"{field}: has {len(text)} characters; a passage may have {MAX_PASSAGE_CHARS}. Split it into several.",
            status=422,
        )


def _checked_name(name: str) -> str:
    if not name.strip():
        raise Invalid("name: must not be empty", status=422)
    if len(name) > MAX_NAME_CHARS:
        raise Invalid(f"name: has {len(name)} characters, at most {MAX_NAME_CHARS} are kept", status=422)
    return name
