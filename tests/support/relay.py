"""A TCP relay in front of a server: the network, which a test can cut."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

BUFFER_BYTES = 1 << 16


class Snag:
    """Requests with certain bytes in them, which stop at the relay or whose answers do, until it is loosened."""

    def __init__(self, patterns: Sequence[bytes], *, answers: bool) -> None:
        self._patterns = patterns
        self._answers = answers
        self._loose = threading.Event()
        self.caught = threading.Event()
        """Set once there was such a request."""

    def loosen(self) -> None:
        """Catches no more; what is caught already goes its way."""
        self._loose.set()

    def catch(self, data: bytes, forward: Callable[[bytes], None]) -> bool:
        """Forwards a piece of a request, late if it is one of the wanted ones; whether its answer must wait.

        A request comes in several pieces: where only the answer waits, what follows must pass.
        """
        wanted = not self._loose.is_set() and any(pattern in data for pattern in self._patterns)
        if wanted and not self._answers:
            self.caught.set()
            self.wait()
        forward(data)
        if wanted:
            self.caught.set()
        return wanted and self._answers

    def wait(self) -> None:
        """Returns once it is loosened."""
        self._loose.wait()


class Relay:
    """Forwards connections to 127.0.0.1:`port`. While it is cut, nothing passes and nobody is told."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._cut = threading.Event()
        self._closed = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._snag: Snag | None = None
        self.port = int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._snag is not None:
            self._snag.loosen()
        self._listener.close()
        self._drop_all()

    def cut(self) -> None:
        """From now on every byte is lost, and new connections hang, as behind a firewall that drops."""
        self._cut.set()

    def mend(self) -> None:
        """Lets new connections pass. The old ones are reset: their bytes are gone."""
        self._drop_all()
        self._cut.clear()

    def reset(self) -> None:
        """Breaks every connection once, in the middle of whatever it carries."""
        self._drop_all()

    def hold(self, *patterns: bytes) -> Snag:
        """Requests with any of these bytes wait here until the snag is loosened."""
        self._snag = Snag(patterns, answers=False)
        return self._snag

    def hold_answers(self, *patterns: bytes) -> Snag:
        """Such requests reach the server, but its answers wait here until the snag is loosened."""
        self._snag = Snag(patterns, answers=True)
        return self._snag

    def _drop_all(self) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._pairs.append((client, server))
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        held: Snag | None = None
        with client, server, selectors.DefaultSelector() as waiting, contextlib.suppress(OSError):
            for end in other:
                waiting.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in waiting.select():
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    data = end.recv(BUFFER_BYTES)
                    if not data:
                        return
                    if self._cut.is_set():
                        continue
                    if end is client and self._snag is not None:
                        held = self._snag if self._snag.catch(data, server.sendall) else held
                        continue
                    if held is not None:
                        held.wait()
                        held = None
                    other[end].sendall(data)
