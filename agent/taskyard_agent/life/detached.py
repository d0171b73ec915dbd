"""An agent in the background: started so, looked at, and stopped."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskyard_agent.errors import SettingsError

from . import log_file
from .running import LOG, LOOK_SECONDS, RunningAgent, is_in_job, is_kept, on_this_machine, read, runs_in

KNOWN_SECONDS = 60.0
PATIENT_SECONDS = 3.0
"""A person is told what is waited for after so long."""
LAST_LINES = 5
STOPPED, NONE_RUNS = 0, 1


def go_on_in_background(folder: Path, work: Callable[[], int], say: Callable[[str], None]) -> int:
    """Does `work` in a process of its own, without a terminal, its output in a file of the agent's folder.

    In this process, returns 0 once the server knows the agent there. When that has ended before, or has not got
    so far in a minute (which ends it), says its last words and returns its exit code, or 1. What ends this process
    before ends that one, too. In the other process, returns what `work` returns.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = folder / LOG
    log_file.trim(log)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    begin = os.fstat(descriptor).st_size
    say(f"log: {log}")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _leave_terminal(descriptor)
        return work()
    os.close(descriptor)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        code = _wait_until_known(folder, child, say)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise
    if code is None:
        return 0
    words = log.read_bytes()[begin:].decode(errors="replace").splitlines()
    for line in words[-LAST_LINES:]:
        say(line)
    return code or 1


def _leave_terminal(log: int) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)


def _wait_until_known(folder: Path, child: int, say: Callable[[str], None]) -> int | None:
    """None once the server knows the agent; else the exit code."""
    began, told = time.monotonic(), False
    while time.monotonic() < began + KNOWN_SECONDS:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        agent = read(folder)
        if agent is not None and agent.pid == child and agent.known:
            say(f"{agent.name} runs with pid {agent.pid}; end it with: taskyard agent daemon --stop {agent.name}")
            return None
        if not told and time.monotonic() > began + PATIENT_SECONDS:
            told = True
            say(f"the server has not heard of it yet; waiting up to {KNOWN_SECONDS:.0f} s, Ctrl-C ends it")
        time.sleep(LOOK_SECONDS)
    os.kill(child, signal.SIGTERM)
    say(f"the server has not heard of it within {KNOWN_SECONDS:.0f} s")
    return 1


# --- others


def stop(local_dir: Path, name: str | None, *, everything: bool, say: Callable[[str], None]) -> int:
    """Tells agents to drain, as one SIGTERM does, and waits for their end. Returns 1 where none runs.

    Raises SettingsError where several run and none is named.
    """
    chosen = _chosen(local_dir, name, everything=everything)
    if not chosen:
        say(f"no agent named {name!r} runs here" if name else "no agent runs here")
        return NONE_RUNS
    for folder, agent in chosen.items():
        runs = ", ".join(runs_in(folder))
        say(f"draining {agent.name} (pid {agent.pid})" + (f", which waits for {runs}" if runs else ""))
        agent.signal(signal.SIGUSR1 if is_in_job(folder) else signal.SIGTERM)
    while any(agent.alive for agent in chosen.values()):
        time.sleep(LOOK_SECONDS)
    return STOPPED


def _chosen(local_dir: Path, name: str | None, *, everything: bool) -> dict[Path, RunningAgent]:
    found = on_this_machine(local_dir)
    if name is not None:
        return {folder: agent for folder, agent in found.items() if agent.name == name}
    own = {folder: agent for folder, agent in found.items() if not is_kept(agent, list(found.values()))}
    if len(own) > 1 and not everything:
        names = ", ".join(agent.name for agent in own.values())
        raise SettingsError(f"several agents run here: {names}; name one, or give --stop --all")
    return own


def rows(found: dict[Path, RunningAgent]) -> list[dict[str, Any]]:
    """What there is to say of each agent."""
    return [
        {
            "name": agent.name,
            "server": agent.server,
            "pid": agent.pid,
            "started_at": agent.started_at,
            "known": agent.known,
            "trouble": agent.trouble or None,
            "runs": list(runs_in(folder)),
            "log": str(folder / LOG) if (folder / LOG).exists() else None,
        }
        for folder, agent in found.items()
    ]
