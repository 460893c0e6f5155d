"""Is it there, and is it ready: the two questions that need no password."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

import perdure
from perdure.api.errors import json_response
from perdure.api.services import services
from perdure.store.base import Query, Tx

router = APIRouter(tags=["health"])

# clients parse it, to know which routes there are; ours are those of this release
WIRE_VERSION = "0.16.7"


@router.get("/health", operation_id="check_health")
async def health(request: Request) -> Response:
    parts = services(request)
    sandbox = parts.sandbox
    warnings = [warning for warning in (parts.store.warning, sandbox.warning) if warning is not None]
    return json_response(
        {
            "version": WIRE_VERSION,
            "status": "ok",
            "perdure_version": perdure.__version__,
            "tool_isolation": sandbox.isolation,
            "warning": " ".join(warnings) or None,
        }
    )


@router.get("/ready", operation_id="check_ready")
async def ready(request: Request) -> Response:
    """As health, once the database has answered."""
    await services(request).store.read(_ping)
    return json_response({"version": WIRE_VERSION, "status": "ok"})


def _ping() -> Tx[None]:
    yield Query("agent_exists", {"id": ""})
