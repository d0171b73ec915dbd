"""A container as a process: attaches, starts it, copies what it writes, and exits with its code.

Run as `python -I -S attach.py SOCKET CONTAINER GRACE_SECONDS` by whatever holds a program: a keeper, or an
installer. The container is made beforehand; SIGTERM stops it with the grace period. Where the engine goes away and
takes the container along, it ends by SIGHUP, which no code of a container's can be mistaken for. Standard library
alone, and no HTTP library of it, to start in 15 ms.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes 4 ms
    from collections.abc import Callable
    from typing import NoReturn

FAILED = 125
"""Exit code when the container could not be started, as that of `docker run`; its record tells the two apart."""
STOPPED = 143
SIGNAL_BASE = 128
READ_BYTES = 1 << 18
FRAME_HEADER = 8
ENGINE_SECONDS = 1.0
DEATH_OF = "%7B%22container%22:%5B%22{}%22%5D,%22event%22:%5B%22die%22%5D%7D"
"""Filters of the engine's events, as JSON in an address."""


class TakenAlong(Exception):
    """The container ended because its engine did."""


class Refused(Exception):
    """The engine did not do what it was asked; the text is its own."""


def main() -> NoReturn:
    """Exits with the container's code, or by SIGHUP."""
    path, container, grace_seconds = sys.argv[1:4]
    try:
        code = Attached(path, container, float(grace_seconds)).run()
    except TakenAlong:
        os.write(1, b"taskyard: the container engine went away, and the container with it\n")
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))
        signal.raise_signal(signal.SIGHUP)
        raise
    except (Refused, OSError) as error:
        os.write(1, f"taskyard: {error}\n".encode())
        code = FAILED
    os._exit(code)


class Attached:
    """One container, from its start to its exit."""

    def __init__(self, path: str, container: str, grace_seconds: float) -> None:
        self._path = path
        self._container = container
        self._grace = max(0, round(grace_seconds))
        self._told_to_stop = False
        self._ended_unseen = False
        self._frames = Frames(_write)
        self._answer = self._event = b""
        self._open: list[socket.socket] = []

    def run(self) -> int:
        """Starts the container and returns its exit code.

        Raises Refused or OSError when it cannot be started, TakenAlong when its engine ended it with itself.
        """
        wakeup, wakeup_end = os.pipe()
        os.set_blocking(wakeup_end, False)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        self._wakeup = wakeup
        self._attach()
        if select.select([wakeup], [], [], 0)[0]:
            return STOPPED
        self._ask("start", expected=(204, 304))
        while (code := self._follow()) is None:
            self._find_again()
        if code and not self._told_to_stop and self._was_taken_along(code):
            raise TakenAlong
        return code

    def _was_taken_along(self, code: int) -> bool:
        """An engine that stops hears nobody any more, then ends its containers, some by their own code.

        What ended while there was no engine may have lived on without it: there a signal alone tells.
        """
        return code > SIGNAL_BASE if self._ended_unseen else not self._engine_hears()

    def _engine_hears(self) -> bool:
        with socket.socket(socket.AF_UNIX) as link:
            try:
                link.connect(self._path)
            except OSError:
                return False
        return True

    def _attach(self) -> None:
        """Takes the output and waits for the exit before there is either, so that nothing is missed."""
        headers = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
        self._output, early = self._ask("attach?stream=1&stdout=1&stderr=1", headers, expected=(101, 200))
        self._frames.feed(early)
        self._event = b""
        self._events = self._send(f"GET /events?filters={DEATH_OF.format(self._container)}")
        self._exit, self._answer = self._ask("wait?condition=next-exit", expected=(200,))

    def _follow(self) -> int | None:
        """Copies until the container has ended; None when the engine hung up before that."""
        poll = select.poll()
        for fd in (self._wakeup, self._output.fileno(), self._exit.fileno(), self._events.fileno()):
            poll.register(fd, select.POLLIN)
        writing = True
        code: int | None = None
        waiting = True
        while writing or waiting:
            for fd, _ in poll.poll():
                if fd == self._wakeup:
                    os.read(self._wakeup, 64)
                    self._stop()
                elif fd == self._output.fileno() and not self._copy():
                    writing = False
                    poll.unregister(fd)
                elif fd == self._exit.fileno() and not self._hear():
                    waiting = False
                    poll.unregister(fd)
                elif fd == self._events.fileno() and not self._overhear():
                    poll.unregister(fd)
            code = self._code()
            waiting = waiting and code is None
        return code

    def _copy(self) -> bool:
        chunk = self._output.recv(READ_BYTES)
        self._frames.feed(chunk)
        return bool(chunk)

    def _hear(self) -> bool:
        piece = self._exit.recv(READ_BYTES)
        self._answer += piece
        return bool(piece)

    def _overhear(self) -> bool:
        piece = self._events.recv(READ_BYTES)
        self._event += piece
        return bool(piece)

    def _code(self) -> int | None:
        """A success is known from the event, which comes before the network is taken down, the answer after it.

        With a failure, the engine's record has to be complete when somebody looks at it next.
        """
        code = exit_code(self._answer)
        return 0 if code is None and exit_code(self._event) == 0 else code

    def _stop(self) -> None:
        """The engine counts the grace period itself, so that it is kept even when this process is killed."""
        if not self._told_to_stop:
            self._told_to_stop = True
            self._send(f"POST /containers/{self._container}/stop?t={self._grace}")

    def _find_again(self) -> None:
        """After a restart of the engine: takes up a container that lives on, else reads how it ended."""
        while True:
            try:
                link = self._send(f"GET /containers/{self._container}/json")
                status, record = _whole(link)
            except OSError:
                time.sleep(ENGINE_SECONDS)
                continue
            if status != 200:
                raise Refused(f"the container is gone: {message_of(record)}")
            if b'"Running":true' in record.replace(b" ", b""):
                self._attach()
            else:
                self._answer = record
                self._ended_unseen = True
            return

    def _ask(self, verb: str, headers: str = "", *, expected: tuple[int, ...]) -> tuple[socket.socket, bytes]:
        """Sends a request; returns the connection and what came with the answer's head."""
        link = self._send(f"POST /containers/{self._container}/{verb}", headers)
        status, rest = _head(link)
        if status not in expected:
            link.settimeout(ENGINE_SECONDS)
            raise Refused(message_of(rest + _rest(link)))
        return link, rest

    def _send(self, request: str, headers: str = "") -> socket.socket:
        link = socket.socket(socket.AF_UNIX)
        link.connect(self._path)
        link.sendall(f"{request} HTTP/1.1\r\nHost: engine\r\nContent-Length: 0\r\n{headers}\r\n".encode())
        self._open.append(link)  # one that is closed takes its request back
        return link


class Frames:
    """Takes the engine's frames apart and writes what they hold; both streams go to one, as on a machine."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._rest = b""
        self._left = 0

    def feed(self, chunk: bytes) -> None:
        """Writes as much as there is of the current frame, be it whole or not."""
        data = self._rest + chunk
        place = 0
        while place < len(data):
            if self._left:
                piece = data[place : place + self._left]
                self._write(piece)
                self._left -= len(piece)
                place += len(piece)
                continue
            if len(data) - place < FRAME_HEADER:
                break
            self._left = int.from_bytes(data[place + 4 : place + FRAME_HEADER], "big")
            place += FRAME_HEADER
        self._rest = data[place:]


def exit_code(answer: bytes) -> int | None:
    """The code in the engine's answer to `wait`, in its record of a container, or in what it tells of its end."""
    for name in (b'"StatusCode":', b'"ExitCode":', b'"exitCode":'):
        _, found, after = answer.partition(name)
        digits = after.lstrip()[:12].split(b",")[0].split(b"}")[0].strip(b' "')
        if found and digits.isdigit() and len(after) > len(digits) + 1:
            return int(digits) & 0xFF
    return None


def message_of(answer: bytes) -> str:
    """The engine's words in the answer that refuses something."""
    import json

    start, end = answer.find(b"{"), answer.rfind(b"}")
    try:
        return str(json.loads(answer[start : end + 1])["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip() or "the engine hung up"


def _head(link: socket.socket) -> tuple[int, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = link.recv(4096)
        if not piece:
            raise ConnectionResetError("the container engine hung up")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return int(head.split(None, 2)[1]), rest


def _whole(link: socket.socket) -> tuple[int, bytes]:
    status, rest = _head(link)
    link.settimeout(ENGINE_SECONDS)
    return status, rest + _rest(link)


def _rest(link: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := link.recv(READ_BYTES):
            pieces.append(piece)
    except TimeoutError:
        pass  # the connection is kept open behind a whole answer
    return b"".join(pieces)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
