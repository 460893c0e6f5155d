"""Agents out to a file and back: `GET /v1/agents/{agent_id}/export`, `POST /v1/agents/import`."""

import json
from typing import Annotated, Any, cast

import msgspec
from fastapi import APIRouter, Form, Header, Query, UploadFile
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents.export_file import export_agents
from perdure.agents.file_values import ImportOptions
from perdure.agents.import_file import import_file
from perdure.api.agentfile.legacy import legacy
from perdure.api.agentfile.read import read_file
from perdure.api.agentfile.write import file_json
from perdure.api.errors import json_response
from perdure.api.paging import AgentId
from perdure.api.routes.health import WIRE_VERSION
from perdure.api.services import services
from perdure.api.to_wire import iso
from perdure.core.errors import Invalid
from perdure.core.ids import now_us
from perdure.store.migrate import HEAD

router = APIRouter(tags=["agents"])

COPY_SUFFIX = "_copy"


class ExportQuery(BaseModel):
    """`max_steps` is accepted and means nothing: a file holds the whole conversation."""

    conversation_id: str | None = None
    use_legacy_format: bool = False
    scrub_messages: bool = False
    max_steps: int | None = None


class ImportForm(BaseModel):
    model_config = {"extra": "ignore", "protected_namespaces": ()}

    file: UploadFile
    override_existing_tools: bool = True
    strip_messages: bool = False
    append_copy_suffix: bool = True
    secrets: str | None = None
    env_vars_json: str | None = None
    name: str | None = None
    override_name: str | None = None
    model: str | None = None
    override_model_handle: str | None = None
    embedding: str | None = None
    override_embedding_handle: str | None = None
    project_id: str | None = None


@router.get("/agents/{agent_id}/export", operation_id="export_agent")
async def export(request: Request, agent_id: AgentId, query: Annotated[ExportQuery, Query()]) -> Response:
    """The agent as a file: its settings, memory, tools and one conversation, and the group it manages with its members; of
    secrets only the names. The legacy format holds one agent alone."""
    conversation_id = None if query.conversation_id in (None, "default") else query.conversation_id
    exported = await services(request).store.scan(
        lambda: export_agents(agent_id, conversation_id, with_messages=not query.scrub_messages)
    )
    file = file_json(exported[:1] if query.use_legacy_format else exported, revision=HEAD, now_us=now_us())
    if query.use_legacy_format:
        agent = exported[0].bundle.agent
        file = legacy(file, version=WIRE_VERSION, created_at=iso(agent.created_us), updated_at=iso(agent.updated_us))
    return Response(msgspec.json.format(msgspec.json.encode(file), indent=2), media_type="application/json")


@router.post("/agents/import", operation_id="import_agent")
async def import_agent(
    request: Request,
    form: Annotated[ImportForm, Form()],
    x_override_embedding_model: Annotated[str | None, Header()] = None,
) -> Response:
    """Make the agents of a file, in either format. `notes` says what was not taken over as it stands in the file."""
    parts = services(request)
    options = ImportOptions(
        override_existing_tools=form.override_existing_tools,
        strip_messages=form.strip_messages,
        secrets=_secrets(form.secrets or form.env_vars_json, "secrets" if form.secrets else "env_vars_json"),
        name=form.name or form.override_name or None,
        copy_suffix=COPY_SUFFIX if form.append_copy_suffix else "",
        model=form.model or form.override_model_handle or None,
        embedding=form.embedding or form.override_embedding_handle or x_override_embedding_model or None,
        project_id=form.project_id or request.headers.get("x-project-id") or None,
    )
    file = read_file(await form.file.read())
    imported = await import_file(
        parts.store, parts.registry, parts.vault, file, options, default_model=parts.settings.default_model
    )
    return json_response({"agent_ids": list(imported.agent_ids), "notes": list(imported.notes)})


def _secrets(given: str | None, field: str) -> dict[str, str]:
    if not given:
        return {}
    try:
        found: Any = json.loads(given)
    except ValueError as error:
        raise Invalid(f"{field}: is not valid JSON ({error}); give an object of names and values") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in cast(dict[str, Any], found).values()):
        raise Invalid(f"{field}: must be a JSON object of names and values, all of them strings")
    return cast(dict[str, str], found)
