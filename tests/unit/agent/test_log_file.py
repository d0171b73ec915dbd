"""The log of an agent in the background stays small, whoever writes to it."""

from __future__ import annotations

import os
from pathlib import Path

from taskyard_agent.life.log_file import kept_small, older, trim

from tests.support.waiting import becomes_true


def appending(log: Path) -> int:
    return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def test_a_large_log_begins_anew_and_others_go_on_at_its_end(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    writer = appending(log)
    os.write(writer, b"older\n")

    trim(log, most_bytes=6)
    kept = log.read_bytes()
    trim(log, most_bytes=5)
    os.write(writer, b"newer\n")
    os.close(writer)

    assert (kept, log.read_bytes(), older(log).read_bytes()) == (b"older\n", b"newer\n", b"older\n")
    assert older(log).stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_kept_is_emptied_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_bytes(b"large")
    older(log).mkdir()

    trim(log, most_bytes=1)

    assert log.read_bytes() == b""


def test_the_log_is_looked_at_while_this_process_writes_to_it(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    own = appending(log)

    with kept_small(log, descriptor=own, most_bytes=5, look_seconds=0.01):
        os.write(own, b"larger\n")
        begun_anew = becomes_true(lambda: older(log).exists() and log.stat().st_size == 0)
    os.close(own)

    assert begun_anew


def test_a_log_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    log, other = tmp_path / "agent.log", tmp_path / "other.log"
    own = appending(other)
    log.write_bytes(b"large")

    with kept_small(log, descriptor=own, most_bytes=1, look_seconds=0.0):
        os.write(own, b"something")
    os.close(own)

    assert log.read_bytes() == b"large"
