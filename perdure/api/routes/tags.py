"""The tags agents have."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from perdure.api.errors import json_response
from perdure.api.paging import Order, PageQuery
from perdure.api.services import services
from perdure.store.tags import list_tags

router = APIRouter(prefix="/tags", tags=["tags"])


class ListTagsQuery(PageQuery):
    """The cursors are tags."""

    order: Order = "asc"
    query_text: str | None = None
    name: str | None = None


@router.get("", operation_id="list_tags")
async def tags(request: Request, query: Annotated[ListTagsQuery, Query()]) -> Response:
    found = await services(request).store.scan(
        lambda: list_tags(
            "agent",
            after=query.after,
            before=query.before,
            limit=query.limit,
            descending=query.order == "desc",
            query_text=query.name or query.query_text,
        )
    )
    return json_response(found)
