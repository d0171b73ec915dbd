"""A SOCKS5 proxy that leads every name to this machine."""

from __future__ import annotations

import socket
import socketserver
import threading
from types import TracebackType


class SocksProxy:
    """Listens from `with` to its end; `names` are those that it was asked for."""

    def __init__(self) -> None:
        names: list[str] = []
        self.names = names

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                client: socket.socket = self.request
                with client.makefile("rb") as file:
                    file.read(file.read(2)[1])  # the ways to log in that the client knows
                    client.sendall(b"\x05\x00")
                    file.read(4)  # version, CONNECT, reserved, "a name follows"
                    names.append(file.read(file.read(1)[0]).decode())
                    port = int.from_bytes(file.read(2), "big")
                with socket.create_connection(("127.0.0.1", port)) as server:
                    client.sendall(b"\x05\x00\x00\x01" + bytes(6))
                    back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                    back.start()
                    _copy(client, server)
                    back.join(5)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"socks5h://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> SocksProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one side is gone: so is the connection
        return
