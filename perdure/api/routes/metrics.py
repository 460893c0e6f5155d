"""What Prometheus asks for: counters and timings of this process. The password, where there is one, is asked for here too."""

from starlette.requests import Request
from starlette.responses import Response

from perdure.api.endpoint import route
from perdure.api.services import services

TEXT = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(request: Request) -> Response:
    """`GET /metrics`."""
    return Response(services(request).metrics(), media_type=TEXT)


routes = [route("GET", "/metrics", metrics, "metrics")]
