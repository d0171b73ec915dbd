"""Each process of a stopped run gets SIGTERM once: at a second one trainers give up their checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from taskyard_agent.held import Cause, HeldRun

from tests.support.keepers import Keepers, ended, output
from tests.support.waiting import becomes_true

TRAINER = """
import pathlib, signal, sys, time
name, work = sys.argv[1], float(sys.argv[2])
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
print(name, "ready", flush=True)
pathlib.Path(__file__).with_name(name + ".ready").touch()
while not asked and work:
    time.sleep(0.02)
until = time.monotonic() + max(work, 1.0)
while time.monotonic() < until:
    time.sleep(0.02)
print(name, "ended after", len(asked), flush=True)
"""
"""Saves for as many seconds once it was asked to stop; with 0 it works for a second whether asked or not."""

PARENT = """
import pathlib, signal, subprocess, sys, time
trainer, waits = sys.argv[1:]
def stop(*_):
    child = subprocess.Popen([sys.executable, trainer, "upload", "0" if waits == "waits" else "1"])
    while not pathlib.Path(trainer).with_name("upload.ready").exists():
        time.sleep(0.02)
    if waits == "waits":
        child.wait()
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
print("parent ready", flush=True)
while True:
    signal.pause()
"""
"""Starts a child when it is asked to stop, and waits for it or not."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def keepers(tmp_path):
    keepers = Keepers(tmp_path)
    yield keepers
    keepers.close()


@pytest.fixture
def trainer(tmp_path: Path) -> str:
    (tmp_path / "trainer.py").write_text(TRAINER)
    (tmp_path / "parent.py").write_text(PARENT)
    return f"{sys.executable} {tmp_path}/trainer.py"


def stopped(held: HeldRun, *ready: bytes) -> bytes:
    """The log of a run that was stopped once all of `ready` stood in it."""
    assert becomes_true(lambda: all(word in output(held) for word in ready)), output(held)
    held.stop(Cause.CANCELLED)
    assert ended(held).cause is Cause.CANCELLED
    return output(held)


@pytest.mark.parametrize("line", ["{} train 1; true", "{} train 1 & wait", "({} train 1; true); true"])
def test_a_program_inside_a_shell_gets_sigterm_once(keepers, trainer, line):
    held = keepers.start("sh", "-c", line.format(trainer))

    log = stopped(held, b"train ready")

    assert b"train ended after 1" in log


def test_a_program_outside_the_group_gets_its_sigterm_when_the_command_has_ended(keepers, trainer):
    held = keepers.start("sh", "-c", f"setsid {trainer} outside 1 & {trainer} inside 1; true")

    log = stopped(held, b"outside ready", b"inside ready")

    assert b"outside ended after 1" in log
    assert b"inside ended after 1" in log


@pytest.mark.parametrize("line", ["exec {}", "{}; true"])
def test_a_child_that_the_handler_started_is_left_to_finish(keepers, trainer, tmp_path, line):
    parent = f"{sys.executable} {tmp_path}/parent.py {tmp_path}/trainer.py waits"
    held = keepers.start("sh", "-c", line.format(parent))

    log = stopped(held, b"parent ready")

    assert b"upload ended after 0" in log


def test_a_child_of_the_handler_that_outlives_it_gets_its_first_sigterm_then(keepers, trainer, tmp_path):
    held = keepers.start(sys.executable, f"{tmp_path}/parent.py", f"{tmp_path}/trainer.py", "leaves")

    log = stopped(held, b"parent ready")

    assert b"upload ended after 1" in log
