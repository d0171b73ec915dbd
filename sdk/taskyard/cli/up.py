"""`up`: a server and agents for this machine, as child processes that start and stop together."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from taskyard.cli import certificate, output
from taskyard.config import CA_FILE, INSECURE, Setting, add_settings, connection, is_loopback, resolve, user_file
from taskyard.errors import TaskyardError, Unavailable, UsageError
from taskyard.wire import DEFAULT_PORT, DEFAULT_QUEUES, SERVICES_QUEUE

HOST = Setting(name="host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
PORT = Setting(name="port", kind=int, default=DEFAULT_PORT, help="port to listen on")
DATA = Setting(name="data", kind=Path, metavar="DIR", help="folder of logs, blobs and the embedded store")
STORE = Setting(
    name="store", metavar="URL", secret=True, help="sqlite:///FILE or mongodb://…; default: below --data"
)
TLS_CERT = Setting(name="tls_cert", kind=Path, metavar="FILE", help="certificate chain (PEM)")
TLS_KEY = Setting(name="tls_key", kind=Path, metavar="FILE", help="its private key (PEM)")
QUEUE = Setting(
    name="queue", many=True, default=DEFAULT_QUEUES[:1], metavar="NAME", help="queues that the agent serves"
)
GPUS = Setting(name="gpus", metavar="LIST", help="GPUs to use, like 0,1; default: all")
CPU_ONLY = Setting(name="cpu_only", kind=bool, default=False, help="use no GPU")
LOCAL_DIR = Setting(
    name="local_dir", kind=Path, metavar="DIR", help="the agent's folder for code and environments"
)
SERVICES = Setting(
    name="services", kind=bool, default=True, help="also start an agent for light tasks, from the queue `services`"
)
ALLOW_SHELL = Setting(
    name="allow_shell", kind=bool, default=True, help="let a task's owner open terminals in its runs"
)
SERVER_SETTINGS = (HOST, PORT, DATA, STORE, TLS_CERT, TLS_KEY)
AGENT_SETTINGS = (QUEUE, GPUS, CPU_ONLY, LOCAL_DIR)

NEEDED = ("fastapi", "uvicorn", "psutil", "pynvml")
"""Modules of the extras; the children would each miss only their own."""
HEALTH_SECONDS = 60.0
MOMENT_SECONDS = 1.0
LOOK_SECONDS = 0.2


def add_parser(subparsers: Any) -> None:
    """Adds `up`."""
    text = "run a server and its agents on this machine"
    parser = subparsers.add_parser("up", help=text, description=f"{text.capitalize()}; Ctrl-C stops them all.")
    parser.set_defaults(handler=up)
    add_settings(parser.add_argument_group("connection"), (CA_FILE, INSECURE))
    add_settings(parser.add_argument_group("server"), SERVER_SETTINGS)
    add_settings(parser.add_argument_group("agent"), (*AGENT_SETTINGS, SERVICES, ALLOW_SHELL))


def up(namespace: argparse.Namespace) -> int:
    """Runs them until Ctrl-C or until one of them ends."""
    settings = resolve(
        (*SERVER_SETTINGS, *AGENT_SETTINGS, SERVICES, ALLOW_SHELL, CA_FILE), namespace, user_file=user_file()
    )
    settings.refuse_together("gpus", "cpu_only")
    _check_installed()
    _check_free(settings["host"], settings["port"])
    namespace.server = _address(settings, _inside_name(settings["host"]))
    if _certified(settings):
        name = certificate.local_name(settings["tls_cert"], settings["tls_key"])
        namespace.server = _address(settings, name)
    insecure = connection(namespace, in_project=False).insecure
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    children = _Children({STORE.variable: settings["store"]} if settings["store"] else {})
    try:
        children.start(
            "server",
            *_flags(settings, (*SERVER_SETTINGS, CA_FILE)),
            "--no-log-claims",  # the agents log them
            *(["--insecure"] if insecure else []),
        )
        code = children.until(lambda: _healthy(namespace), HEALTH_SECONDS)
        if code is not None:
            return code
        _start_agents(children, settings, namespace.server)
        _welcome(settings, namespace.server, insecure=insecure)
        return children.watch()
    except KeyboardInterrupt:
        output.note(
            "taskyard: stopping; a running task is waited for. Ctrl-C again stops it and puts it back into its "
            "queue, where the next `taskyard up` finds it; to cancel it, in another terminal: taskyard stop TASK"
        )
        return 0
    finally:
        children.stop()


def _start_agents(children: _Children, settings: Any, server: str) -> None:
    """One for the machine and its GPUs, and one beside it for services, which names itself `HOST:services`."""
    shell = ("--allow-shell" if settings["allow_shell"] else "--no-allow-shell",)
    children.start("agent", "daemon", "--server", server, *shell, *_flags(settings, (*AGENT_SETTINGS, CA_FILE)))
    if settings["services"]:
        beside = _flags(settings, (LOCAL_DIR, CA_FILE))
        services = ("--services-mode", "--queue", SERVICES_QUEUE)
        children.start("agent", "daemon", "--server", server, *shell, *services, *beside, called="services agent")


def _check_installed() -> None:
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name=name)


def _check_free(host: str, port: int) -> None:
    """A server that is there already would pass for ours. Raises UsageError, also for what is no port."""
    if not 0 < port < 65536:
        raise UsageError(f"--port: {port} is not a port: 1 to 65535")
    with contextlib.suppress(OSError):
        socket.create_connection((_inside_name(host), port), timeout=MOMENT_SECONDS).close()
        raise UsageError(f"port {port} on {host} is taken; stop what listens there or give another --port")


class _Children:
    """Processes of our own command line, each in a group of its own, so that Ctrl-C reaches them through us.

    They hold one end of a pipe, by which they notice when this process is killed.
    """

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lifeline = os.pipe()

    def start(self, command: str, *args: str, called: str = "") -> None:
        """Starts `taskyard COMMAND ARGS`; its output is ours. Of two of a kind one is `called` something else."""
        theirs = self._lifeline[0]
        options: dict[str, Any] = {"start_new_session": True, "pass_fds": (theirs,)} if os.name == "posix" else {}
        self._processes[called or command] = subprocess.Popen(
            [sys.executable, "-m", "taskyard.cli.child", str(theirs), command, *args],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self._variables},
            **options,
        )

    def until(self, ready: Any, limit_seconds: float) -> int | None:
        """Waits until it is ready; returns the exit code of a child that ended instead."""
        began, said = time.monotonic(), False
        while not ready():
            code = self._ended()
            if code is not None:
                return code
            waited = time.monotonic() - began
            if waited > MOMENT_SECONDS and not said:
                output.note("taskyard: starting the server …")
                said = True
            if waited > limit_seconds:
                raise TaskyardError(f"the server was not ready after {limit_seconds:.0f} s; its words are above")
            time.sleep(LOOK_SECONDS)
        return None

    def watch(self) -> int:
        """Waits until one of them ends, which is a failure whatever its code."""
        while True:
            code = self._ended()
            if code is not None:
                return code or 1
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """Ends the agents, then the server that they speak to. Each further Ctrl-C is passed on to the agents."""
        self._stop([process for name, process in self._processes.items() if name != "server"])
        self._stop([process for name, process in self._processes.items() if name == "server"])

    def _stop(self, processes: list[subprocess.Popen[bytes]]) -> None:
        """Waits for their end; what a further Ctrl-C makes of running tasks, the agents say."""
        while running := [process for process in processes if process.poll() is None]:
            for process in running:
                process.terminate()
            try:
                for process in running:
                    process.wait()
            except KeyboardInterrupt:
                continue

    def _ended(self) -> int | None:
        for command, process in self._processes.items():
            code = process.poll()
            if code is not None:
                output.note(f"taskyard: the {command} ended with {code}; its words are above")
                return code if code > 0 else 1
        return None


def _healthy(namespace: argparse.Namespace) -> bool:
    """Whether the server answers and lets us in."""
    from taskyard.client import Client

    with Client.of(connection(namespace, in_project=False), patience_seconds=0.0) as client:
        try:
            return client.health() == "ok"
        except Unavailable:
            return False


def _flags(settings: Any, chosen: tuple[Setting, ...]) -> list[str]:
    """The settings that somebody gave, as flags. A store's address holds a password: it travels as a variable."""
    flags: list[str] = []
    for value in settings:
        if value.setting not in chosen or value.origin == "default" or value.setting.secret:
            continue
        if value.setting.kind is bool:
            flags += [value.setting.flag] if value.value else []
        else:
            flags += [value.setting.flag, *map(str, value.value if value.setting.many else (value.value,))]
    return flags


def _address(settings: Any, host: str) -> str:
    scheme = "https" if settings["tls_cert"] else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings['port']}"


def _welcome(settings: Any, server: str, *, insecure: bool) -> None:
    output.note(f"\nTaskyard is up at {server}. In another terminal:  taskyard run -- python train.py")
    outside = _address(settings, _outside_name(settings))
    if is_loopback(_address(settings, settings["host"])):
        return
    flag = " --insecure" if insecure and not settings["tls_cert"] else ""
    output.note("To let others in, paste elsewhere")
    output.note(f"  taskyard login {outside}{flag}          with a code from: taskyard invite user")
    output.note(
        f"  taskyard agent join {outside}{flag}     with a code from: taskyard invite agent --queue default"
    )


def _inside_name(host: str) -> str:
    """The address by which this machine reaches itself."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def _certified(settings: Any) -> bool:
    return bool(settings["tls_cert"] and settings["tls_key"])


def _outside_name(settings: Any) -> str:
    """By which others reach this machine: the certificate's name, else its address where it listens on all."""
    host: str = settings["host"]
    named = certificate.outside_name(settings["tls_cert"], settings["tls_key"]) if _certified(settings) else None
    if named:
        return named
    if _inside_name(host) == host:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the interface
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
