"""Packs and archives of code, under their SHA-256."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Request, Response
from fastapi.responses import StreamingResponse

from taskyard_server.api import body
from taskyard_server.api.route import allow, errors, new_router
from taskyard_server.api.services import InServices
from taskyard_server.auth import Right
from taskyard_server.errors import NotFound

router = new_router("blobs")

RAW = "application/octet-stream"
RAW_BODY = {"content": {RAW: {"schema": {"type": "string", "format": "binary"}}}, "required": True}
RAW_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes.", "content": {RAW: {"schema": {"type": "string", "format": "binary"}}}}
}
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of the bytes")]


@router.put("/blobs/{sha256}", status_code=204, response_class=Response, openapi_extra={"requestBody": RAW_BODY})
@allow(Right.WRITE_BLOBS, repeatable=False)
async def upload_blob(sha256: Digest, request: Request, services: InServices) -> None:
    """Stores the bytes; a repeat is harmless. Bytes with another digest are refused."""
    services.disk.require_room("uploads are refused")
    limit = services.config.max_blob_bytes
    await services.blobs.put(sha256, body.chunks(request, limit), limit=limit)


@router.get("/blobs/{sha256}", response_class=StreamingResponse, responses={**RAW_ANSWER, **errors(422)})
@allow(Right.READ)
async def download_blob(sha256: Digest, services: InServices) -> Response:
    """The bytes."""
    size = await _size(services, sha256)
    headers = {"Content-Length": str(size)}
    return StreamingResponse(services.blobs.get(sha256), media_type=RAW, headers=headers)


@router.head("/blobs/{sha256}", response_class=Response, responses=errors(422))
@allow(Right.READ)
async def measure_blob(sha256: Digest, services: InServices) -> Response:
    """Whether the bytes are held; `Content-Length` says how many."""
    size = await _size(services, sha256)
    return Response(headers={"Content-Length": str(size)}, media_type=RAW)


async def _size(services: InServices, digest: str) -> int:
    size = await services.blobs.size(digest)
    if size is None:
        raise NotFound(f"there is no blob {digest}; upload it with PUT first")
    return size
