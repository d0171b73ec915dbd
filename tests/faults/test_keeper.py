"""What becomes of a run when something around it is killed, hides, or is full."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from taskyard_agent import held as held_module
from taskyard_agent.held import Cause, HeldRun

from tests.support.keepers import Keepers, ended, left_of, output
from tests.support.waiting import becomes_true

TREE = """
setsid sh -c 'trap "" TERM HUP; while :; do sleep 1; done' &
(setsid sh -c '(trap "" TERM; while :; do sleep 1; done) & exit' &)
nohup sh -c 'while :; do sleep 1; done' >/dev/null 2>&1 &
echo planted
exec sleep 600
"""
"""Children in sessions of their own, orphans, and some that ignore SIGTERM."""

DAEMON = """
import json, sys, time
from pathlib import Path
from taskyard_agent.held import HeldRun, Launch
run_dir, run, script = sys.argv[1:]
HeldRun.start(Path(run_dir), Launch(run=run, argv=(sys.executable, "-c", script), cwd="/", env={}))
print("started", flush=True)
time.sleep(600)
"""

COUNTING = """
import sys, time
for i in range(3000):
    print(f"line {i}", flush=True)
    time.sleep(0.0002)
sys.exit(5)
"""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def keepers(tmp_path):
    keepers = Keepers(tmp_path)
    yield keepers
    keepers.close()


def kill_keeper(held: HeldRun) -> None:
    os.kill(held.keeper.pid, signal.SIGKILL)
    assert held.wait(10)


# --- The keeper is killed


@linux_only
def test_nothing_of_a_run_survives_its_killed_keeper(keepers):
    held = keepers.start("sh", "-c", TREE)
    assert becomes_true(lambda: b"planted" in output(held) and len(left_of(held)) >= 4)

    kill_keeper(held)

    assert held.lost
    assert held.sweep() == ()
    assert not left_of(held)


@linux_only
def test_the_command_itself_dies_with_its_keeper(keepers):
    held = keepers.start("sleep", "600")

    kill_keeper(held)

    assert becomes_true(lambda: not left_of(held))


@linux_only
def test_without_a_control_group_the_mark_is_enough(keepers, monkeypatch):
    held = keepers.start("sh", "-c", TREE)
    assert becomes_true(lambda: b"planted" in output(held) and len(left_of(held)) >= 4)
    kill_keeper(held)
    monkeypatch.setattr(held_module.cgroups, "kill", lambda folder: None)

    assert held.sweep() == ()

    assert not left_of(held)


def test_a_lost_run_is_still_lost_for_the_next_daemon(keepers):
    held = keepers.start("sleep", "600")
    kill_keeper(held)

    adopted = HeldRun.adopt(held.run_dir)

    assert adopted is not None
    assert adopted.lost


# --- The command ends, its children do not want to


@linux_only
def test_nothing_of_a_run_survives_its_command(keepers):
    held = keepers.start("sh", "-c", TREE.replace("exec sleep 600", "exit 4"), grace_seconds=0.2)

    record = ended(held)

    assert record.exit_code == 4
    assert not left_of(held)


@linux_only
def test_a_child_that_hides_its_mark_ends_too(keepers, tmp_path):
    hidden = "env -i setsid sh -c 'echo $$ > pid; while :; do sleep 1; done'"
    script = f"({hidden} &); while ! [ -s pid ]; do sleep 0.02; done"
    held = keepers.start("sh", "-c", script, grace_seconds=0.2)

    ended(held)

    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


@linux_only
def test_a_fork_storm_is_ended(keepers):
    held = keepers.python(
        """
import os, time
print("storm", flush=True)
for _ in range(30):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork() == 0:
                time.sleep(0.01)
                os._exit(0)
            time.sleep(0.005)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
time.sleep(600)
"""
    )
    assert becomes_true(lambda: b"storm" in output(held))

    held.kill()

    ended(held)
    assert not left_of(held)


def test_a_child_that_keeps_the_pipe_open_does_not_hold_up_the_end(keepers):
    held = keepers.start("sh", "-c", "setsid sleep 600 & echo bye", grace_seconds=0.2)

    assert ended(held).exit_code == 0
    assert output(held) == b"bye\n"


# --- The daemon is killed


@pytest.fixture
def daemon(keepers):
    """A process that starts a run and then does nothing; it gets the script as its argument."""
    started = []

    def start(script: str) -> tuple[subprocess.Popen[bytes], Path, str]:
        run_dir = keepers.run_dir("task.1")
        run = keepers.launch("true").run
        process = subprocess.Popen([sys.executable, "-c", DAEMON, run_dir, run, script], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process, run_dir, run

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_run_outlives_its_killed_daemon_with_every_byte(daemon):
    process, run_dir, _ = daemon(COUNTING)
    process.kill()
    process.wait()

    held = HeldRun.adopt(run_dir)
    assert held is not None
    record = ended(held)

    expected = b"".join(b"line %d\n" % i for i in range(3000))
    assert (record.cause, record.exit_code, record.log_bytes) == (Cause.EXIT, 5, len(expected))
    assert output(held) == expected


def test_an_adopted_run_can_be_stopped(daemon):
    process, run_dir, _ = daemon("import time; time.sleep(600)")
    process.kill()
    process.wait()

    held = HeldRun.adopt(run_dir)
    assert held is not None
    held.stop(Cause.CANCELLED)

    assert ended(held).cause == Cause.CANCELLED


def test_an_ended_run_is_adopted_with_its_record(daemon):
    process, run_dir, _ = daemon("pass")
    process.kill()
    process.wait()
    assert becomes_true((run_dir / "exit.json").exists)

    held = HeldRun.adopt(run_dir)

    assert held is not None
    assert ended(held).exit_code == 0


def test_a_daemon_killed_while_it_starts_a_run_starts_it_once_or_never(keepers):
    """Kills the daemon at moments all over the start; the next one adopts the run, or starts it itself."""
    for moment in range(8):
        name = f"task.{moment}"
        run_dir = keepers.run_dir(name)
        proof = keepers.run_dir("proofs") / name
        prove = f"open({str(proof)!r}, 'a').write('started\\n')"
        launch = keepers.launch(sys.executable, "-c", prove, name=name)
        command = [sys.executable, "-c", DAEMON, run_dir, launch.run, prove]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        becomes_true((run_dir / "ticket").exists)
        becomes_true(lambda: False, seconds=0.008 * moment)
        process.kill()
        process.wait()

        held = HeldRun.adopt(run_dir) or HeldRun.start(run_dir, launch)

        assert ended(held).exit_code == 0
        assert proof.read_text() == "started\n"


# --- The disk is full


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; only root can mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system can be mounted by root alone")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def crowded(small_disk):
    """Runs on the small disk, of which a big file leaves little."""
    (small_disk / "ballast").write_bytes(bytes(800_000))
    keepers = Keepers(small_disk)
    yield keepers
    keepers.close()


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


FILLING = "import sys\nfor i in range(60_000): sys.stdout.write(f'line {i}\\n')"
FILLED = b"".join(b"line %d\n" % i for i in range(60_000))


def test_a_full_disk_holds_the_writer_up_and_loses_nothing(crowded, small_disk):
    held = crowded.python(FILLING, cwd="/")
    assert becomes_true(lambda: "disk is full" in held.note())
    assert held.alive()

    (small_disk / "ballast").unlink()

    record = ended(held)
    assert (record.exit_code, record.message) == (0, "")
    assert output(held) == FILLED
    assert held.note() == ""


def test_on_a_full_disk_the_exit_record_is_still_written(crowded):
    held = crowded.python(FILLING, cwd="/", grace_seconds=0.2)
    assert becomes_true(lambda: "disk is full" in held.note())

    held.stop()

    record = ended(held)
    assert record.cause == Cause.CANCELLED
    assert "disk is full" in record.message
    assert output(held) == FILLED[: record.log_bytes]


def test_on_a_disk_that_is_full_from_the_start_nothing_is_started(small_disk, crowded):
    run_dir = crowded.run_dir("task.1")
    (run_dir / "ticket").write_text("room for the ticket")
    fill(small_disk / "more")

    with pytest.raises(held_module.RunFailed) as failure:
        HeldRun.start(run_dir, crowded.launch("touch", str(small_disk.parent / "started"), cwd="/"))

    assert failure.value.infrastructure
    assert not (small_disk.parent / "started").exists()


# --- Files are torn


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_torn_identity_is_a_lost_run(keepers, content):
    held = keepers.start("sleep", "600")
    kill_keeper(held)
    (held.run_dir / "keeper.json").write_bytes(content)

    adopted = HeldRun.adopt(held.run_dir)

    assert adopted is not None
    assert adopted.lost


def test_a_reboot_is_never_taken_for_a_running_keeper(keepers):
    held = keepers.start("sleep", "600")
    identity = json.loads((held.run_dir / "keeper.json").read_bytes())
    (held.run_dir / "keeper.json").write_text(json.dumps({**identity, "boot_id": "another"}))

    adopted = HeldRun.adopt(held.run_dir)

    assert adopted is not None
    assert not adopted.alive()
