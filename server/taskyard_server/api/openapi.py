"""The published description of the API."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from taskyard.wire import API_VERSION, IDEMPOTENCY_HEADER, Problem

from taskyard_server.api.route import MUTATING, Route
from taskyard_server.schemas import adapter

_KEY_HEADER = {
    "name": IDEMPOTENCY_HEADER,
    "in": "header",
    "required": False,
    "description": "Drawn by the caller for each request: a repeat within 24 hours is given the first answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[ -~]+$"},
}
_SCHEME = {"type": "http", "scheme": "bearer", "description": "`taskyard login` obtains a token."}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application."""
    document = get_openapi(
        title="Taskyard",
        version=API_VERSION,
        summary="Ordered queues of tasks, and the agents that run them.",
        description="Every error is `{error, detail}`; 409 `stale` means that the run is not yours any more.",
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    document["components"]["schemas"][Problem.__name__] = adapter(Problem).json_schema()
    document["components"]["securitySchemes"] = {"token": _SCHEME}
    for route in app.routes:
        if isinstance(route, Route) and route.access.repeatable:
            for method in MUTATING & set(route.methods or ()):
                operation = document["paths"][route.path_format][method.lower()]
                operation.setdefault("parameters", []).append(_KEY_HEADER)
    return document
