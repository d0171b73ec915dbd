"""An HTTP proxy in front of a server that answers some requests itself, as proxies and portals do."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

MARK = "Taskyard-Version: 1"
PAGE = b"<html><body>an answer of somebody else's</body></html>"
HOP = ("connection", "transfer-encoding", "content-length", "keep-alive")
SERVER_SECONDS = 60.0


def page(status: str, *headers: str, body: bytes = PAGE, length: int | None = None) -> bytes:
    """An answer as its bytes; `length` is what it claims to be long."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def html(status: str, *headers: str) -> bytes:
    """A page of a proxy's."""
    return page(status, "Content-Type: text/html", "Server: nginx", *headers)


def word(status: str, error: str) -> bytes:
    """An error as Taskyard's own server answers it."""
    body = json.dumps({"error": error, "detail": "said by the test"}).encode()
    return page(status, "Content-Type: application/json", MARK, body=body)


RESET = b""
"""In place of an answer: the connection breaks."""
FOREIGN = {
    "200 html": html("200 OK"),
    "301": html("301 Moved Permanently", "Location: https://elsewhere.example/"),
    "401": html("401 Unauthorized", "WWW-Authenticate: Basic"),
    "403": html("403 Forbidden"),
    "404": html("404 Not Found"),
    "413": html("413 Request Entity Too Large"),
    "429": html("429 Too Many Requests"),
    "502": html("502 Bad Gateway"),
    "504": html("504 Gateway Time-out"),
    "empty": page("200 OK", body=b""),
    "half": page("200 OK", "Content-Type: application/json", body=b'{"offset": 1', length=100),
    "json": page("403 Forbidden", "Content-Type: application/json", body=b'{"error": "denied", "detail": "x"}'),
    "reset": RESET,
}
WORDS = {
    "stale": word("409 Conflict", "stale"),
    "not_found": word("404 Not Found", "not_found"),
    "invalid": word("422 Unprocessable Entity", "invalid"),
    "too_large": word("413 Request Entity Too Large", "too_large"),
    "forbidden": word("403 Forbidden", "forbidden"),
    "unauthorised": word("401 Unauthorized", "unauthorised"),
    "conflict": word("409 Conflict", "conflict"),
    "too_many": word("429 Too Many Requests", "too_many"),
    "unavailable": word("503 Service Unavailable", "unavailable"),
    "internal": word("500 Internal Server Error", "internal"),
    "from tomorrow": word("409 Conflict", "from_tomorrow"),
}


@dataclass
class Rule:
    """Answers matching requests itself: `times` of them, or all for `seconds` after the first."""

    pattern: str
    answer: bytes
    times: int | None = None
    seconds: float | None = None
    behind: bool = False
    """The server gets the request; only its answer is replaced."""
    hits: int = 0
    bodies: list[bytes] = field(default_factory=list)
    _until: float = float("inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def takes(self, line: str, body: bytes) -> bool:
        """Whether it answers this request."""
        if not re.search(self.pattern, line):
            return False
        with self._lock:
            if self.hits == 0 and self.seconds is not None:
                self._until = time.monotonic() + self.seconds
            if time.monotonic() > self._until or (self.times is not None and self.hits >= self.times):
                return False
            self.hits += 1
            self.bodies.append(body)
        return True


class Proxy:
    """Forwards to 127.0.0.1:`port` what no rule answers."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.rules: list[Rule] = []
        self.seen: list[str] = []
        """Method and path of every request."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_PUT = do_HEAD = do_PATCH = do_DELETE = handle_any

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, pattern: str, answer: bytes, *, times: int | None = 1, seconds: float | None = None,
               behind: bool = False) -> Rule:  # fmt: skip
        """Answers requests whose `METHOD /path` matches, once unless more or a time is asked for."""
        rule = Rule(pattern, answer, None if seconds else times, seconds, behind)
        self.rules.append(rule)
        return rule

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = _body(request)
        line = f"{request.command} {request.path}"
        self.seen.append(line)
        rule = next((rule for rule in self.rules if rule.takes(line, body)), None)
        with contextlib.suppress(OSError, http.client.HTTPException):
            if rule is None or rule.behind:
                answered = self._forward(request, body)
            raw = answered if rule is None else rule.answer
            if raw == RESET:
                request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.wfile.write(raw)
            request.wfile.flush()
        request.close_connection = rule is not None

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._target, timeout=SERVER_SECONDS)
        with contextlib.closing(connection):
            headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
            connection.request(request.command, request.path, body=body or None, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
            lines += [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in HOP]
            length = answer.getheader("Content-Length") if request.command == "HEAD" else str(len(content))
            lines.append(f"Content-Length: {length}")
            return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    parts = []
    while size := int(request.rfile.readline(), 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(parts)
