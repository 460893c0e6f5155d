"""Archives by themselves, which agents have them, and the passages in them."""

from typing import Annotated

from fastapi import APIRouter, Query
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents import archive as edits
from perdure.agents.archive import ArchiveChange
from perdure.api.archive_resources import archive_json, passage_json
from perdure.api.errors import json_response
from perdure.api.paging import AgentId, ArchiveId, PassageId
from perdure.api.routes.passages import passage_change, passage_spec, passages_page
from perdure.api.services import services
from perdure.api.wire.archives import (
    CreateArchive,
    CreatePassage,
    CreatePassages,
    ListArchivesQuery,
    ListPassagesQuery,
    UpdateArchive,
    UpdatePassage,
)
from perdure.core.errors import Invalid
from perdure.providers.embeddings import handle_of
from perdure.store import agents as agent_store
from perdure.store import archives as archive_store
from perdure.store import passages as passage_store
from perdure.store.base import Tx
from perdure.store.listing import Page

router = APIRouter(tags=["archives"])


@router.post("/archives", operation_id="create_archive")
async def create(request: Request, body: CreateArchive) -> Response:
    """`embedding` names the model its passages are searched with, for good; without one the server's own is used."""
    parts = services(request)
    embedding = wanted_embedding(body)
    if embedding is not None:
        await parts.embeddings.check(embedding)
    archive = await parts.store.write(
        lambda: edits.create(body.name, description=body.description, embedding=embedding, metadata=body.metadata or {})
    )
    return json_response(archive_json(archive, parts.embeddings))


def wanted_embedding(body: CreateArchive) -> str | None:
    if body.embedding is not None or body.embedding_config is None:
        return body.embedding
    config = body.embedding_config
    return config.handle or handle_of(config.embedding_endpoint_type, config.embedding_model)


@router.get("/archives", operation_id="list_archives")
async def list_archives(request: Request, query: Annotated[ListArchivesQuery, Query()]) -> Response:
    found = await services(request).store.scan(
        lambda: archive_store.list_archives(query.page(), name=query.name, agent_id=query.agent_id)
    )
    return json_response([archive_json(archive, services(request).embeddings) for archive in found])


@router.get("/archives/{archive_id}", operation_id="retrieve_archive")
async def retrieve(request: Request, archive_id: ArchiveId) -> Response:
    archive = await services(request).store.read(lambda: archive_store.archive_by_id(archive_id))
    return json_response(archive_json(archive, services(request).embeddings))


@router.patch("/archives/{archive_id}", operation_id="modify_archive")
async def modify(request: Request, archive_id: ArchiveId, body: UpdateArchive) -> Response:
    fixed = {"embedding", "embedding_config"} & (body.model_extra or {}).keys()
    if fixed:
        raise Invalid(
            f"{', '.join(sorted(fixed))}: an archive keeps its embedding model, as its vectors can only be compared with "
            "that model's. Make a new archive and file its passages there.",
            status=422,
        )
    wanted = ArchiveChange(
        name=body.name if body.name is not None else UNSET,
        description=body.description if "description" in body.model_fields_set else UNSET,
        metadata=body.metadata if body.metadata is not None else UNSET,
    )
    archive = await services(request).store.write(lambda: edits.change(archive_id, wanted))
    return json_response(archive_json(archive, services(request).embeddings))


@router.delete("/archives/{archive_id}", operation_id="delete_archive", status_code=204)
async def delete(request: Request, archive_id: ArchiveId) -> Response:
    await services(request).store.write(lambda: edits.delete(archive_id))
    return Response(status_code=204)


@router.get("/archives/{archive_id}/agents", operation_id="list_agents_for_archive")
async def agents(request: Request, archive_id: ArchiveId) -> Response:
    """The ids of the agents that have it."""

    def tx() -> Tx[list[str]]:
        yield from archive_store.archive_by_id(archive_id)
        return (yield from archive_store.agents_of_archive(archive_id))

    return json_response(await services(request).store.read(tx))


@router.patch("/agents/{agent_id}/archives/attach/{archive_id}", operation_id="attach_archive_to_agent")
async def attach(request: Request, agent_id: AgentId, archive_id: ArchiveId) -> Response:
    """Once is enough: attaching what is attached changes nothing."""
    await services(request).store.write(lambda: edits.attach(agent_id, archive_id))
    return json_response(None)


@router.patch("/agents/{agent_id}/archives/detach/{archive_id}", operation_id="detach_archive_from_agent")
async def detach(request: Request, agent_id: AgentId, archive_id: ArchiveId) -> Response:
    await services(request).store.write(lambda: edits.detach(agent_id, archive_id))
    return json_response(None)


@router.get("/agents/{agent_id}/archives", operation_id="list_archives_for_agent")
async def of_agent(request: Request, agent_id: AgentId) -> Response:
    def tx() -> Tx[list[archive_store.Archive]]:
        yield from agent_store.check_agent(agent_id)
        return (yield from archive_store.list_archives(Page(limit=None, descending=False), agent_id=agent_id))

    return json_response(
        [archive_json(archive, services(request).embeddings) for archive in await services(request).store.scan(tx)]
    )


@router.post("/archives/{archive_id}/passages", operation_id="create_passage_in_archive")
async def create_passage(request: Request, archive_id: ArchiveId, body: CreatePassage) -> Response:
    spec = passage_spec(body)
    (passage,) = await services(request).store.write(lambda: edits.file(archive_id, [spec]))
    services(request).search.filed()
    return json_response(passage_json(passage))


@router.post("/archives/{archive_id}/passages/batch", operation_id="create_passages_in_archive")
async def create_passages(request: Request, archive_id: ArchiveId, body: CreatePassages) -> Response:
    """All of them or none, in the order given."""
    specs = [passage_spec(each, f"passages[{at}].created_at") for at, each in enumerate(body.passages)]
    passages = await services(request).store.write(lambda: edits.file(archive_id, specs, batch=True))
    services(request).search.filed()
    return json_response([passage_json(passage) for passage in passages])


@router.get("/archives/{archive_id}/passages", operation_id="list_passages_in_archive")
async def list_passages(
    request: Request, archive_id: ArchiveId, query: Annotated[ListPassagesQuery, Query()]
) -> Response:
    found = await services(request).store.scan(
        lambda: passage_store.list_passages_of_archive(archive_id, passages_page(query), search=query.search)
    )
    return json_response([passage_json(passage) for passage in found])


@router.patch("/archives/{archive_id}/passages/{passage_id}", operation_id="modify_passage_in_archive")
async def modify_passage(
    request: Request, archive_id: ArchiveId, passage_id: PassageId, body: UpdatePassage
) -> Response:
    wanted = passage_change(body)
    passage = await services(request).store.write(lambda: edits.change_passage([archive_id], passage_id, wanted))
    services(request).search.filed()
    return json_response(passage_json(passage))


@router.delete(
    "/archives/{archive_id}/passages/{passage_id}", operation_id="delete_passage_in_archive", status_code=204
)
async def delete_passage(request: Request, archive_id: ArchiveId, passage_id: PassageId) -> Response:
    await services(request).store.write(lambda: edits.delete_passage(archive_id, passage_id))
    return Response(status_code=204)
