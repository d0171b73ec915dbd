"""What is answered beside the API: `/`, `/docs`, and `/health` and `/metrics` for monitoring."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import anyio
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from taskyard.wire import API_PREFIX

from taskyard_server.api import description_page
from taskyard_server.api.route import admit
from taskyard_server.api.server import VERSION
from taskyard_server.api.services import services_of
from taskyard_server.auth import Right
from taskyard_server.errors import Unavailable
from taskyard_server.exposition import CONTENT_TYPE

HEALTH_SECONDS = 5.0
"""A store that takes longer is not reachable for those who ask."""
_STYLE_HASH = b64encode(hashlib.sha256(description_page.STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
"""Nothing is loaded and nothing runs: a page has its one style sheet, known by its hash."""


async def read_health(request: Request) -> Response:
    """200 while the store answers, else 503; says nothing else, since anybody may ask."""
    try:
        with anyio.fail_after(HEALTH_SECONDS):
            await services_of(request).store.generation()
    except (Unavailable, TimeoutError):
        return JSONResponse({"status": "unavailable", "store": "unreachable"}, 503, {"Retry-After": "1"})
    return JSONResponse({"status": "ok", "store": "reachable"})


async def read_metrics(request: Request) -> Response:
    """The server's metrics, for a user's or administrator's token unless they are public."""
    services = services_of(request)
    if not services.config.public_metrics:
        await admit(request, services, Right.READ_METRICS)
    return Response(await services.exposition.text(), headers={"Content-Type": CONTENT_TYPE})


async def show_docs(request: Request) -> Response:
    """The published description for people."""
    state = request.app.state
    if not hasattr(state, "description_page"):
        state.description_page = description_page.page(request.app.openapi(), server=VERSION)
    return _page(state.description_page)


async def show_front(_: Request) -> Response:
    """Says what answers here, and where to go."""
    return _page(
        description_page.document(
            "Taskyard",
            f"<h1>Taskyard {description_page.text(VERSION)}</h1>"
            "<p>This is a Taskyard server. People and agents reach it by the command line:"
            " <code>taskyard login URL</code>, <code>taskyard agent join URL</code>.</p>"
            '<ul><li><a href="/docs">The API</a>, also as'
            f' <a href="{API_PREFIX}/openapi.json">OpenAPI description</a></li>'
            '<li><a href="/health">Health</a>; metrics for Prometheus under <code>/metrics</code></li></ul>',
        )
    )


def _page(content: str) -> Response:
    return HTMLResponse(content, headers={"Content-Security-Policy": POLICY})


ROUTES = [
    Route("/", show_front),
    Route("/docs", show_docs),
    Route("/health", read_health),
    Route("/metrics", read_metrics),
]
