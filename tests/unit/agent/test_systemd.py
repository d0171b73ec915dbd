"""What a service manager hears, on a real socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard_agent.life.systemd import Ear, ServiceManager


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(10)
        yield ear


def test_what_is_told_arrives(ear: socket.socket) -> None:
    ServiceManager({"NOTIFY_SOCKET": ear.getsockname()}).tell("READY=1")

    assert ear.recv(100) == b"READY=1"


def test_an_abstract_address_is_one_without_a_file() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0taskyard-{os.getpid()}")
        ear.settimeout(10)
        ServiceManager({"NOTIFY_SOCKET": f"@taskyard-{os.getpid()}"}).tell("WATCHDOG=1")

        assert ear.recv(100) == b"WATCHDOG=1"


def test_a_manager_that_does_not_listen_is_no_harm(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).tell("READY=1")
    ServiceManager({}).tell("READY=1")


def test_the_watchdog_is_the_one_of_this_very_process() -> None:
    asked = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000"}

    assert ServiceManager(asked).patience_seconds == 30.0
    assert ServiceManager({**asked, "WATCHDOG_PID": str(os.getpid())}).patience_seconds == 30.0
    assert ServiceManager({**asked, "WATCHDOG_PID": "1"}).patience_seconds is None
    assert ServiceManager({"NOTIFY_SOCKET": "/run/notify"}).patience_seconds is None


TELL = (
    "import os; from taskyard_agent.life.systemd import ServiceManager; ServiceManager(os.environ).tell('READY=1')"
)


def test_a_pool_hears_who_told_it_something() -> None:
    with Ear(30.0) as ear:
        ServiceManager(ear.variables).tell("WATCHDOG=1")
        other = subprocess.Popen([sys.executable, "-c", TELL], env={**os.environ, **ear.variables})
        other.wait()

        assert list(ear.hear()) == [(os.getpid(), "WATCHDOG=1"), (other.pid, "READY=1")]
        assert list(ear.hear()) == []
        assert ServiceManager(ear.variables).patience_seconds == 30.0
