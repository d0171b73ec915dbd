"""A pool: keeps several agents of this machine running, each a process, and splits what there is among them."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from taskyard.wire import Gpu

from taskyard_agent.config import AgentSettings
from taskyard_agent.errors import SettingsError
from taskyard_agent.journal import Journal

from .running import LOOK_SECONDS, Announcement, read
from .systemd import LIVES, READY, STOPPING, VARIABLES, Ear, ServiceManager

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = (1.0, 60.0)
QUIET_SECONDS = 60.0
"""An agent that lived so long starts again at once, the next time."""
SILENT_SECONDS = 120.0
"""An agent that gave no sign of life for so long hangs, unless the pool's own manager is less patient."""
PREDECESSOR_SECONDS = 30.0
"""How long an agent of a pool that was killed may take to hand over."""
MISTAKE = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """What one agent of a pool is started with."""

    folder: Path
    flags: tuple[str, ...]


def places(settings: AgentSettings, devices: Sequence[Gpu], agents: Path) -> list[Place]:
    """Splits GPUs and amounts as evenly as they go, in their order, and the memory evenly.

    Raises SettingsError where they do not suffice, or cannot be split.
    """
    number = settings.workers
    if devices and number > len(devices):
        raise SettingsError(f"--workers {number}: there are only {len(devices)} GPUs; or give --cpu-only")
    edges = [index * len(devices) // number for index in range(number + 1)]
    shares = [devices[begin:end] for begin, end in itertools.pairwise(edges)]
    amounts = _split_amounts(settings.resources, number)
    return [
        _place(settings, index, (*_gpu_flags(share), *_memory_flags(settings), *own_amounts), agents)
        for index, (share, own_amounts) in enumerate(zip(shares, amounts, strict=True))
    ]


def _place(settings: AgentSettings, index: int, share: Sequence[str], agents: Path) -> Place:
    name = f"{settings.name}:{index + 1}"
    flags = ["--name", name, "--workers", "0", "--foreground", "--no-detached", *share]
    if settings.http is not None:
        host, port = settings.http
        flags += ["--http", f"{host}:{port + index}"]
    return Place(folder=Journal(agents, name).folder, flags=tuple(flags))


def _gpu_flags(share: Sequence[Gpu]) -> tuple[str, ...]:
    return ("--gpus", ",".join(gpu.uuid for gpu in share), "--no-cpu-only") if share else ("--cpu-only",)


def _memory_flags(settings: AgentSettings) -> tuple[str, ...]:
    """A part of the machine's memory is by itself one of the agent's part; bytes are split here."""
    part = ("--machine-part", f"{settings.machine_part / settings.workers:.6f}")
    if isinstance(settings.memory, float) or not settings.memory:
        return part
    return (*part, "--memory", f"{settings.memory // settings.workers}B")


def _split_amounts(amounts: Mapping[str, float], number: int) -> list[tuple[str, ...]]:
    """Flags for each agent. An amount is of things that nobody can halve, such as licences."""
    for name, amount in amounts.items():
        if not amount.is_integer():
            raise SettingsError(
                f"--workers {number}: {name}={amount:g} cannot be split among agents; give a whole amount, or one "
                "agent with --slots"
            )
    return [
        ("--resources", *(f"{name}={_part(int(amount), index, number)}" for name, amount in amounts.items()))
        if amounts
        else ()
        for index in range(number)
    ]


def _part(amount: int, index: int, number: int) -> int:
    """The first ones have one more, where it does not go evenly."""
    return amount // number + (index < amount % number)


class Member:
    """One agent of a pool: its process, and when it is to be started again."""

    def __init__(self, place: Place, command: Sequence[str]) -> None:
        self.folder = place.folder
        self._command = (*command, *place.flags)
        self._process: subprocess.Popen[bytes] | None = None
        self._pause = BACKOFF_SECONDS[0]
        self._started_at = 0.0
        self._lives = 0
        self._heard_at: float | None = None
        """The last sign of life; None until the server knows the agent, and once that is about to end."""
        self.known = False
        """Whether the server knows the agent that runs."""
        self.due_at: float | None = 0.0
        """When it is started next; None while it runs, and once it has ended for good."""
        self.mistaken = False
        """Whether its very first start was refused: a pool cannot mend what it was told."""

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self, lifeline: int, environ: Mapping[str, str]) -> None:
        """Starts the agent, in a group of its own: Ctrl-C reaches it through the pool alone."""
        argv = [sys.executable, "-m", "taskyard.cli.child", str(lifeline), *self._command]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, env=environ, pass_fds=(lifeline,), start_new_session=True
        )
        self._started_at, self.due_at = time.monotonic(), None
        self._heard_at, self.known = None, False
        self._lives += 1

    def signal(self, number: int) -> None:
        """Sends the agent a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def hear(self, word: str) -> None:
        """Notes what the agent tells."""
        if word == READY:
            self.known = True
        self._heard_at = time.monotonic() if self.known and word != STOPPING else None

    def patience(self, patience_seconds: float) -> float:
        """How long the agent may be silent yet."""
        if self._process is None or self._heard_at is None:
            return float("inf")
        return self._heard_at + patience_seconds - time.monotonic()

    def end_if_silent(self, patience_seconds: float) -> None:
        """Kills an agent that hangs: its keepers hold what it runs until it is back."""
        if self.patience(patience_seconds) > 0:
            return
        logger.error(
            "agent %s has given no sign of life for %.0f s: it is killed", self.folder.name, patience_seconds,
            extra={"action": "pool_agent_silent"},
        )  # fmt: skip
        self._heard_at = None
        self.signal(signal.SIGKILL)

    def look(self) -> None:
        """Notes the agent's end, if it has ended, and decides when it starts again."""
        code = self._process.poll() if self._process is not None else None
        if code is None:
            return
        self._process = None
        if code == 0:
            return  # it was drained, or had done what it was to do
        self.mistaken = code == MISTAKE and self._lives == 1
        if time.monotonic() - self._started_at >= QUIET_SECONDS:
            self._pause = BACKOFF_SECONDS[0]
        self.due_at = time.monotonic() + self._pause
        logger.error(
            "agent %s ended with %d; it starts again in %.0f s", self.folder.name, code, self._pause,
            extra={"action": "pool_agent_ended", "code": code},
        )  # fmt: skip
        self._pause = min(self._pause * 2, BACKOFF_SECONDS[1])


class Pool:
    """Keeps its agents running until it is told to end; then each ends as a single agent would.

    They hold one end of a pipe: when the pool is killed they hand over, and the next pool's agents carry their
    runs on.
    """

    def __init__(self, settings: AgentSettings, members: Sequence[Member], journal: Journal) -> None:
        self._settings = settings
        self._members = members
        self._journal = journal
        self._manager = ServiceManager(settings.environ)
        self._patience_seconds = self._manager.patience_seconds or SILENT_SECONDS
        self._ending = False

    def run(self) -> int:
        """Runs until every agent has ended for good; returns the exit code."""
        self._journal.open()
        announcement = Announcement(
            self._journal.folder, str(self._settings.name), self._settings.connection.server
        )
        announcement.make()
        lifeline, own_end = os.pipe()
        try:
            with _Signals() as signals, Ear(self._patience_seconds) as ear:
                self._await_predecessors()
                return self._keep(signals, ear, lifeline, announcement)
        finally:
            announcement.withdraw()
            os.close(own_end)
            os.close(lifeline)
            self._journal.close()

    def _await_predecessors(self) -> None:
        deadline = time.monotonic() + PREDECESSOR_SECONDS
        while any(read(member.folder) for member in self._members) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)

    def _keep(self, signals: _Signals, ear: Ear, lifeline: int, announcement: Announcement) -> int:
        known = False
        environ = {name: value for name, value in self._settings.environ.items() if name not in VARIABLES}
        while True:
            self._listen(ear)
            for member in self._members:
                member.end_if_silent(self._patience_seconds)
                member.look()
                if self._is_due(member):
                    member.start(lifeline, environ | ear.variables)
            if any(member.mistaken for member in self._members):
                return self._give_up()
            if not any(member.runs or self._comes_back(member) for member in self._members):
                return 0
            if not known and all(member.known for member in self._members):
                known = True
                announcement.make(known=True)
                self._manager.tell(READY)
            self._manager.tell(LIVES)
            for number in signals.wait(self._rest(), ear):
                self._obey(number)

    def _listen(self, ear: Ear) -> None:
        for pid, word in ear.hear():
            for member in self._members:
                if member.pid == pid:
                    member.hear(word)

    def _comes_back(self, member: Member) -> bool:
        return member.due_at is not None and not self._ending

    def _is_due(self, member: Member) -> bool:
        return self._comes_back(member) and (member.due_at or 0.0) <= time.monotonic()

    def _rest(self) -> float | None:
        """How long nothing is to be done unless a signal, or a word of an agent, comes."""
        due = [member.due_at for member in self._members if self._comes_back(member) and member.due_at is not None]
        pauses = [max(0.0, at - time.monotonic()) for at in due]
        pauses += [max(0.0, member.patience(self._patience_seconds)) for member in self._members if member.known]
        watchdog = self._manager.patience_seconds
        pauses += [watchdog / 3] if watchdog else []
        rest = min(pauses, default=float("inf"))
        return None if rest == float("inf") else rest

    def _obey(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        self._ending = True
        passed_on = signal.SIGUSR1 if number == signal.SIGUSR1 else signal.SIGTERM
        logger.info("passing %s on to every agent", signal.Signals(number).name, extra={"action": "pool_told"})
        for member in self._members:
            member.signal(passed_on)

    def _give_up(self) -> int:
        """What one agent refused, all of them will: its words say what."""
        self._ending = True
        for member in self._members:
            member.signal(signal.SIGTERM)
        while any(member.runs for member in self._members):
            time.sleep(LOOK_SECONDS)
            for member in self._members:
                member.look()
        return MISTAKE


class _Signals:
    """The signals that came, one by one: a pipe keeps them while nobody waits."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)

    def __enter__(self) -> _Signals:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in self.NUMBERS}
        self._wakeup = signal.set_wakeup_fd(self._inside.fileno())
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._inside.close()
        self._outside.close()

    def wait(self, seconds: float | None, ear: Ear) -> bytes:
        """The numbers of those that came; empty when none did in time, or an agent told something first."""
        own = self._outside.fileno()
        readable, _, _ = select.select([own, ear.fileno()], [], [], seconds)
        return self._outside.recv(64) if own in readable else b""
