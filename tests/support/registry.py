"""A container registry on loopback that gives one tiny image, or refuses all: engines trust it without TLS."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest(content: bytes) -> str:
    """As registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def tiny_image() -> tuple[bytes, dict[str, bytes]]:
    """The manifest of an image that holds one empty file, and its blobs by digest."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as members:
        members.addfile(tarfile.TarInfo("empty"))
    packed = gzip.compress(layer.getvalue(), mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer.getvalue())]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "size": len(config), "digest": digest(config)},
        "layers": [{"mediaType": LAYER, "size": len(packed), "digest": digest(packed)}],
    }
    return json.dumps(manifest).encode(), {digest(config): config, digest(packed): packed}


@contextmanager
def registry() -> Iterator[str]:
    """Serves `tiny:1`, and knows no other image; yields its host and port."""
    manifest, blobs = tiny_image()
    known = {"/v2/": b"{}", "/v2/tiny/manifests/1": manifest, f"/v2/tiny/manifests/{digest(manifest)}": manifest}
    known |= {f"/v2/tiny/blobs/{name}": content for name, content in blobs.items()}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(known))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(known: dict[str, bytes]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            absent = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}).encode()
            body = known.get(self.path, absent)
            self.send_response(200 if self.path in known else 404)
            self.send_header("Content-Type", MANIFEST if "/manifests/" in self.path else "application/json")
            self.send_header("Docker-Content-Digest", digest(body))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
