"""The end of a run's log names the files that are removed with its copy of the code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from taskyard_agent.endings import last_exception
from taskyard_agent.held import Cause, HeldRun
from taskyard_agent.keeper import unsaved

from tests.support.keepers import Keepers, ended, output
from tests.support.waiting import becomes_true

WRITES = """
import os, time
os.makedirs("runs/1")
open("runs/1/best.pt", "wb").write(bytes(3 << 20))
open("metrics.json", "w").write("{}")
os.makedirs("__pycache__")
open("__pycache__/x.pyc", "wb").write(bytes(5 << 20))
print("written", end="", flush=True)
"""


@pytest.fixture
def keepers(tmp_path):
    keepers = Keepers(tmp_path)
    yield keepers
    keepers.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "slot/tree"
    made.mkdir(parents=True)
    (made / "train.py").write_text("print(1)\n")
    (made / ".git").mkdir()
    return made


def started(keepers: Keepers, tree: Path, script: str, **changes: object) -> HeldRun:
    return keepers.python(script, cwd=str(tree), tree=str(tree), **changes)


def assert_named(held: HeldRun) -> None:
    lines = output(held).decode().splitlines()
    assert "taskyard: this run wrote 2 files (3 MiB) into its copy of the code, which is removed" in lines[-3]
    assert lines[-2:] == ["taskyard:   runs/1/best.pt (3 MiB)", "taskyard:   metrics.json (2 bytes)"]


def test_new_files_are_named_on_lines_of_their_own(keepers, tree):
    held = started(keepers, tree, WRITES)

    assert ended(held).exit_code == 0
    assert output(held).startswith(b"written\ntaskyard: ")
    assert_named(held)
    assert ended(held).log_bytes == len(output(held))


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (f"{WRITES}\nraise ValueError('no')", Cause.EXIT),
        (f"{WRITES}\nos.kill(os.getpid(), 9)", Cause.EXIT),
        (f"{WRITES}\ntime.sleep(600)", Cause.CANCELLED),
        (f"{WRITES}\ntime.sleep(600)", Cause.TIMEOUT),
    ],
    ids=["failed", "killed", "stopped", "too long"],
)
def test_they_are_named_after_every_ending(keepers, tree, script, cause):
    held = started(keepers, tree, script, timeout_seconds=3.0 if cause is Cause.TIMEOUT else None)
    if cause is Cause.CANCELLED:
        assert becomes_true(lambda: b"written" in output(held))
        held.stop(Cause.CANCELLED)

    assert ended(held).cause is cause
    assert_named(held)


def test_they_are_named_after_a_kill(keepers, tree):
    held = started(keepers, tree, f"{WRITES}\ntime.sleep(600)")
    assert becomes_true(lambda: b"written" in output(held))

    held.kill()

    ended(held)
    assert_named(held)


def test_the_last_exception_is_found_before_them(keepers, tree):
    held = started(keepers, tree, f"{WRITES}\nraise ValueError('no')")

    ended(held)

    assert last_exception(held.run_dir / "output.log") == "ValueError: no"


def test_where_nothing_was_written_nothing_is_said(keepers, tree):
    held = started(keepers, tree, "print('done')")

    ended(held)

    assert output(held) == b"done\n"


def test_a_changed_file_is_named_too(keepers, tree):
    held = started(keepers, tree, "open('train.py', 'a').write('more')")

    ended(held)

    assert b"this run wrote 1 file (13 bytes) into its copy" in output(held)


def test_three_are_named_and_the_others_counted(tree):
    since = unsaved.stamp(str(tree))
    assert becomes_true(lambda: later(tree, since))
    for number in range(5):
        (tree / f"{number}.pt").write_bytes(bytes(1000 + number))

    lines = unsaved.notice(str(tree), since).splitlines()

    assert [line.split()[1] for line in lines[1:]] == ["4.pt", "3.pt", "2.pt", "and"]
    assert lines[-1] == "taskyard:   and 2 more"


def later(tree: Path, since: int) -> bool:
    """Whether the file system's clock has gone on; what is written to find out is a cache."""
    (tree / "x.pyc").touch()
    return os.stat(tree / "x.pyc").st_ctime_ns > since


def test_a_name_cannot_write_on_the_terminal(tree):
    since = unsaved.stamp(str(tree))
    assert becomes_true(lambda: later(tree, since))
    (tree / "a\x1b[2J\nb\udcff").write_bytes(b"x")

    text = unsaved.notice(str(tree), since)

    assert "a\\x1b[2J\\x0ab\\udcff" in text
    assert all(line.isprintable() for line in text.splitlines())
