"""A git host for tests: git's own http-backend behind TLS and basic authentication, and a stand-in for ssh."""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class GitHost:
    """Serves the bare repositories of a folder."""

    folder: Path
    port: int = 0
    certificate: Path = Path()
    password: str | None = None
    """`user:token` that is asked for; None lets everybody in."""
    asked: list[str | None] = field(default_factory=list)
    """The Authorization header of each request."""

    @property
    def address(self) -> str:
        """URL of the folder."""
        return f"https://localhost:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """Variables under which git trusts it."""
        return {**os.environ, "GIT_SSL_CAINFO": str(self.certificate)}


@contextlib.contextmanager
def serving(folder: Path, password: str | None = None) -> Iterator[GitHost]:
    """Runs a host for as long as the block lasts."""
    host = GitHost(folder=folder, password=password, certificate=_certificate(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(host))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(host.certificate, folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    host.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fake_ssh(path: Path, hosted: Path) -> Path:
    """A program in the place of ssh: runs the remote command here and notes how it was called."""
    path.write_text(f'#!/bin/sh\necho "$@" >> {path}.calls\nfor last; do :; done\ncd {hosted} && eval "$last"\n')
    path.chmod(0o755)
    return path


def refusing_ssh(path: Path) -> Path:
    """A program in the place of ssh that has no key."""
    path.write_text("#!/bin/sh\necho 'git@host: Permission denied (publickey).' >&2\nexit 255\n")
    path.chmod(0o755)
    return path


def _certificate(folder: Path) -> Path:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", "key.pem", "-out", "certificate.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "certificate.pem"


def _handler(host: GitHost) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host.asked.append(self.headers["Authorization"])
            if host.password is not None and host.asked[-1] != _basic(host.password):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._answer()

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            """Says nothing."""

        def _answer(self) -> None:
            path, _, query = self.path.partition("?")
            done = subprocess.run(
                ["git", "http-backend"],
                input=self._body(),
                env=self._cgi(path, query),
                capture_output=True,
                check=True,
            )
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for name, value in {**fields, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _cgi(self, path: str, query: str) -> dict[str, str]:
            return {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(host.folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers["Content-Type"] or "",
                "HTTP_CONTENT_ENCODING": self.headers["Content-Encoding"] or "",
                "GIT_PROTOCOL": self.headers["Git-Protocol"] or "",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            }

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"] or 0))

    return Handler


def _basic(password: str) -> str:
    return "Basic " + base64.b64encode(password.encode()).decode()
