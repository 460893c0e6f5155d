"""What the configured providers serve."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from perdure.api.errors import json_response
from perdure.api.resources import embedding_model_json, model_json
from perdure.api.services import services

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", operation_id="list_models")
async def list_models(
    request: Request,
    provider_category: Annotated[list[str] | None, Query()] = None,
    provider_name: str | None = None,
    provider_type: str | None = None,
) -> Response:
    """A provider that cannot be reached adds none and is named in `x-unreachable-providers`; the others are listed."""
    found = [info for info in await services(request).registry.models() if info.kind == "llm"]
    if provider_category:
        found = [info for info in found if info.category in provider_category]
    if provider_name is not None:
        found = [info for info in found if info.provider_name == provider_name]
    if provider_type is not None:
        found = [info for info in found if provider_type in (info.provider_type, info.provider_name)]
    return json_response([model_json(info) for info in found], headers=_missing(request))


@router.get("/embedding", operation_id="list_embedding_models")
async def list_embedding_models(request: Request) -> Response:
    """What every provider serves, and the embedded model where it is installed."""
    found = await services(request).embeddings.models()
    return json_response([embedding_model_json(info) for info in found], headers=_missing(request))


def _missing(request: Request) -> dict[str, str]:
    """Whose models are not in the list. What is wrong with each: `/v1/providers`."""
    names = ", ".join(services(request).registry.errors)
    return {"x-unreachable-providers": names} if names else {}
