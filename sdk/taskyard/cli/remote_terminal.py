"""This end of a terminal in a run: what is typed here goes there, what it shows comes here. Not on Windows."""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import queue
import select
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from taskyard.cli import output
from taskyard.cli.logs import as_it_is, follow_run, say_detached
from taskyard.cli.session import find_task, open_client
from taskyard.errors import TaskyardError
from taskyard.exit_codes import TASKYARD, exit_code

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import Task, TerminalScreen

assert sys.platform != "win32"  # noqa: S101 - the type checker reads it

READ_BYTES = 16 << 10
END_OF_INPUT = b"\x04"
INTERRUPT = b"\x03"
ESCAPE = b"~"
FAREWELL_SECONDS = 2.0
PATIENCE_SECONDS = 30.0
"""The server and the agent hold a terminal a little longer."""


def shell(namespace: argparse.Namespace) -> int:
    """Opens a terminal and stays until it ends; returns the shell's or command's own exit code."""
    from taskyard.wire import NewTerminal

    rows, columns = window_size()
    term = os.environ.get("TERM", "") if sys.stdin.isatty() else "dumb"
    new = NewTerminal(command=tuple(namespace.command), rows=rows, columns=columns, term=term)
    with open_client(namespace, patience_seconds=PATIENCE_SECONDS) as client:
        task = find_task(client, namespace.task)
        opened = client.open_terminal(task.id, new)
        end = Session(client, opened.id).run()
    if end.message:
        output.note(f"taskyard: {output.clean(end.message)}")
    return TASKYARD if end.exit_code is None else end.exit_code


def attach(namespace: argparse.Namespace) -> int:
    """Follows the run's output to its end, and returns its exit code."""
    from taskyard.wire import NewTerminal, TerminalKind

    with open_client(namespace, patience_seconds=PATIENCE_SECONDS) as client:
        task = find_task(client, namespace.task)
        opened = client.open_terminal(task.id, NewTerminal(kind=TerminalKind.SIGNALS))
        output.note("taskyard: Ctrl-C interrupts the task, Ctrl-\\ leaves it alone")
        return followed(client, task, opened.run, Typed(client, opened.id), lines=max(0, namespace.tail))


class Escape:
    """Finds ~. at the beginning of a line, as ssh does; a ~ there waits for the key behind it."""

    def __init__(self) -> None:
        self.given = False
        self._fresh_line = True
        self._waits = False

    def feed(self, data: bytes) -> bytes:
        """Returns what is to be sent of these keys; what follows the escape is not."""
        keys = bytearray()
        for key in (data[index : index + 1] for index in range(len(data))):
            if self._waits and key == b".":
                self.given = True
                break
            if self._waits:
                keys += ESCAPE
            self._waits = self._fresh_line and key == ESCAPE and not self._waits
            self._fresh_line = key in (b"\r", b"\n")
            keys += b"" if self._waits else key
        return bytes(keys)


class Session:
    """One terminal, from here: what is typed goes there, what it shows comes here."""

    def __init__(self, client: Client, terminal: str) -> None:
        self._client = client
        self._id = terminal
        self._typed = Typed(client, terminal)
        self._end: TerminalScreen | None = None
        self._trouble: TaskyardError | None = None
        self._wake, self._wake_end = os.pipe()
        self._left = False

    def run(self) -> TerminalScreen:
        """Returns how it ended. Raises TaskyardError where the server went away."""
        showing = threading.Thread(target=self._show, name="screen", daemon=True)
        with _raw(sys.stdin.fileno()), self._watching_size():
            showing.start()
            try:
                self._type()
            finally:
                leaves = self._end is None and self._trouble is None
                if leaves:
                    self._typed.close()
                    showing.join(FAREWELL_SECONDS)
        if leaves:
            return _gone()
        if self._trouble is not None:
            raise self._trouble
        return self._end or _gone()

    def _show(self) -> None:
        offset = 0
        try:
            while self._end is None:
                screen = self._client.read_screen(self._id, offset)
                data = base64.b64decode(screen.data)
                _write_all(sys.stdout.fileno(), data)
                offset = screen.offset + len(data)
                self._end = screen if screen.ended else None
        except TaskyardError as error:
            self._trouble = error
        except OSError:
            self._left = True  # no one reads what it shows
        os.write(self._wake_end, b"!")

    def _type(self) -> None:
        """Until it has ended, or the person has left."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(sys.stdin.fileno(), select.POLLIN)
        leave = Escape() if sys.stdin.isatty() else None
        while not (self._end or self._trouble or self._left):
            ready = {fd for fd, _ in poll.poll()}
            if self._wake in ready:
                os.read(self._wake, READ_BYTES)
                self._typed.resize(*window_size())
                continue
            data = os.read(sys.stdin.fileno(), READ_BYTES)
            if not data:
                poll.unregister(sys.stdin.fileno())
            keys = leave.feed(data) if leave and data else data or END_OF_INPUT
            self._typed.send(keys)
            if leave and leave.given:
                return

    @contextlib.contextmanager
    def _watching_size(self) -> Iterator[None]:
        def changed(_number: int, _frame: FrameType | None) -> None:
            os.write(self._wake_end, b"s")

        before = signal.signal(signal.SIGWINCH, changed)
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)


class Typed:
    """What is typed, sent in order and each byte once."""

    def __init__(self, client: Client, terminal: str) -> None:
        self._client = client
        self._id = terminal
        self._offset = 0
        self._size = window_size()

    def send(self, data: bytes, *, closed: bool = False, patience_seconds: float | None = None) -> None:
        """Waits until the server has all of it."""
        from taskyard.wire import TerminalKeys

        while True:
            keys = TerminalKeys(
                offset=self._offset,
                data=base64.b64encode(data).decode(),
                rows=self._size[0],
                columns=self._size[1],
                closed=closed,
            )
            taken = self._client.type_keys(self._id, keys, patience_seconds=patience_seconds).offset
            data, self._offset = data[taken - self._offset :], taken
            if not data or closed:
                return

    def resize(self, rows: int, columns: int) -> None:
        """Tells of another size of the window."""
        if (rows, columns) != self._size:
            self._size = (rows, columns)
            self.send(b"")

    def close(self) -> None:
        """Says that no one is here any more; a server that is away finds out by itself."""
        with contextlib.suppress(TaskyardError):
            self.send(b"", closed=True, patience_seconds=0.0)


def _gone() -> TerminalScreen:
    from taskyard.wire import TerminalScreen

    return TerminalScreen(ended=True, exit_code=0, message="left; what the terminal started is ended")


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Passes every key on as it is typed; on what is no terminal, does nothing."""
    if not os.isatty(descriptor):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)  # what was typed ahead stays
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def window_size() -> tuple[int, int]:
    """Rows and columns of the window here."""
    try:
        size = os.get_terminal_size(sys.stdin.fileno())  # asked again where it changes, unlike a variable
    except OSError:
        size = shutil.get_terminal_size()
    return max(1, size.lines), max(1, size.columns)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


class _Detached(Exception):
    """The person leaves."""


def followed(client: Client, task: Task, run: str, typed: Typed, *, lines: int) -> int:
    """Writes the run's output to its end and returns its exit code, or 0 where the person leaves."""
    pressed: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    sending = threading.Thread(target=_pass_on, args=(pressed, typed), name="keys", daemon=True)

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise _Detached

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda _number, _frame: pressed.put(INTERRUPT)),
        signal.SIGQUIT: signal.signal(signal.SIGQUIT, leave),
    }
    sending.start()
    write = as_it_is(sys.stdout)
    try:
        tail = client.tail_log(run, lines)
        write(tail.data, tail.offset)
        return exit_code(follow_run(client, run, write, offset=tail.offset + len(tail.data)).outcome)
    except _Detached:
        say_detached(task)
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        pressed.put(b"")
        sending.join(FAREWELL_SECONDS)


def _pass_on(pressed: queue.SimpleQueue[bytes], typed: Typed) -> None:
    """Sends each key in a thread of its own: a signal may arrive in the middle of another request."""
    try:
        while key := pressed.get():
            typed.send(key)
        typed.close()
    except TaskyardError as error:
        output.note(f"taskyard: Ctrl-C is not passed on any more: {error}")
