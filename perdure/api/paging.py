"""The query parameters that listings share, and which relations of an agent a request asks for."""

import re
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from perdure.store.listing import Page

_UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def _id(prefix: str) -> Any:
    return Path(pattern=f"^{prefix}-{_UUID4}$")


AgentId = Annotated[str, _id("agent")]
BlockId = Annotated[str, _id("block")]
ToolId = Annotated[str, _id("tool")]
ArchiveId = Annotated[str, _id("archive")]
GroupId = Annotated[str, _id("group")]
PassageId = Annotated[str, _id("passage")]
ProviderId = Annotated[str, _id("provider")]
StepId = Annotated[str, _id("step")]

Order = Literal["asc", "desc"]
Limit = Annotated[int | None, Field(ge=0, le=2**31 - 1)]


class PageQuery(BaseModel):
    """`before` and `after` are ids; unknown parameters are ignored."""

    model_config = ConfigDict(extra="ignore")

    before: str | None = None
    after: str | None = None
    limit: Limit = 50
    order: Order = "desc"

    def page(self, order_by: str = "created_us") -> Page:
        return Page(
            before=self.before,
            after=self.after,
            limit=self.limit,
            descending=self.order == "desc",
            order_by=order_by,
        )


class Page100(PageQuery):
    limit: Limit = 100


class Relations(BaseModel):
    """What of an agent's relations is loaded and shown."""

    model_config = ConfigDict(frozen=True)

    blocks: bool = False
    tools: bool = False
    tags: bool = False
    secrets: bool = False
    pending: bool = False
    group: bool = False


EVERYTHING = Relations(blocks=True, tools=True, tags=True, secrets=True, group=True)
_OLD_CLIENT = re.compile(r"letta-client/(\d+)\.")


def relations(request: Request, include: list[str], include_relationships: list[str] | None) -> Relations:
    """Modern clients name what they want (`include`); those before 1.0 get everything unless they name less."""
    if include_relationships is None and not include and is_old_client(request):
        return EVERYTHING
    wanted = {name.removeprefix("agent.") for name in include} | set(include_relationships or ())
    blocks = bool(wanted & {"blocks", "memory"})
    return Relations(
        blocks=blocks,
        tools="tools" in wanted,
        tags=blocks or "tags" in wanted,
        secrets=bool(wanted & {"secrets", "tool_exec_environment_variables"}),
        pending="pending_approval" in wanted,
        group=bool(wanted & {"managed_group", "multi_agent_group"}),
    )


def is_old_client(request: Request) -> bool:
    """A generated client of before 1.0. No user agent, or another one, counts as modern."""
    if "x-stainless-package-version" in request.headers:
        return False
    found = _OLD_CLIENT.search(request.headers.get("user-agent", ""))
    return found is not None and int(found[1]) < 1
