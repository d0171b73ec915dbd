"""What a keeper does for a command that behaves."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from taskyard_agent.held import Cause, HeldRun, KeeperRefused, WarmKeeper, boot_clock

from tests.support.keepers import Keepers, ended, left_of, output
from tests.support.waiting import becomes_true

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready'); time.sleep(600)"
POLITE = """
import signal, sys, time
def leave(*_):
    print("leaving")
    sys.exit(7)
signal.signal(signal.SIGTERM, leave)
print("ready")
time.sleep(600)
"""


@pytest.fixture
def keepers(tmp_path):
    keepers = Keepers(tmp_path)
    yield keepers
    keepers.close()


def printed(held: HeldRun, text: bytes) -> bool:
    return becomes_true(lambda: text in output(held))


# --- The command


def test_output_and_exit_code_are_kept(keepers):
    held = keepers.start("sh", "-c", "echo out; echo err >&2; exit 3")

    record = ended(held)

    assert (record.cause, record.exit_code, record.signal) == (Cause.EXIT, 3, None)
    assert output(held) == b"out\nerr\n"
    assert record.log_bytes == 8


def test_a_signal_is_told_apart_from_an_exit_code(keepers):
    record = ended(keepers.start("sh", "-c", "kill -SEGV $$"))

    assert (record.cause, record.exit_code, record.signal) == (Cause.EXIT, None, signal.SIGSEGV)


def test_the_log_goes_on_where_the_agent_stopped_writing(keepers):
    (keepers.run_dir("task.1") / "output.log").write_bytes(b"checkout\n")

    held = keepers.start("echo", "hello")

    assert ended(held).log_bytes == len(b"checkout\nhello\n")
    assert output(held) == b"checkout\nhello\n"


def test_much_output_arrives_whole(keepers):
    held = keepers.python("import sys\nfor i in range(200_000): sys.stdout.write(f'line {i}\\n')", env={})

    ended(held)

    assert output(held) == b"".join(b"line %d\n" % i for i in range(200_000))


def test_output_without_a_newline_shows_at_once(keepers):
    held = keepers.python("import sys, time; sys.stdout.write('50 %'); sys.stdout.flush(); time.sleep(600)")

    assert printed(held, b"50 %")


@pytest.mark.parametrize("command", ["no-such-command", "/etc/passwd", "/"])
def test_a_command_that_cannot_be_started_says_why(keepers, command):
    record = ended(keepers.start(command))

    assert record.cause == Cause.NOT_STARTED
    assert command in record.message


def test_a_working_folder_that_is_gone_says_so(keepers, tmp_path):
    record = ended(keepers.start("true", cwd=str(tmp_path / "gone")))

    assert record.cause == Cause.NOT_STARTED
    assert "gone" in record.message


def test_the_command_starts_as_from_a_fresh_login(keepers):
    script = """
import json, os, signal, resource, stat
ignored = [s for s in signal.valid_signals() if s != signal.SIGINT and signal.getsignal(s) is signal.SIG_IGN]
mask = os.umask(0); os.umask(mask)
print(json.dumps({
    "stdin": os.read(0, 1).decode(), "umask": mask, "leader": os.getsid(0) == os.getpid() == os.getpgrp(),
    "ignored": [int(s) for s in ignored if s not in (signal.SIGPIPE, signal.SIGXFSZ)],
    "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd")), "mark": os.environ["TASKYARD_RUN"],
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
}))
"""
    held = keepers.python(script)
    ended(held)
    seen = json.loads(output(held))

    assert seen["stdin"] == ""
    assert seen["leader"]
    assert seen["ignored"] == []
    assert seen["blocked"] == 0
    assert seen["mark"] == held.run
    assert seen["files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert len(seen["open"]) == 4  # the three standard ones and the listed folder itself


def test_sigpipe_ends_a_pipeline_as_usual(keepers):
    held = keepers.start("bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}")

    ended(held)

    assert output(held) == b"y\n141\n"


# --- Secrets


def test_secrets_never_reach_the_disk(keepers, tmp_path):
    secret = "correct horse battery"
    encoded = base64.b64encode(f"user:{secret}".encode()).decode()
    script = f"import os, sys; print(os.environ['API_TOKEN'], {encoded!r}, sys.argv[1])"
    environment = {"API_TOKEN": "named-by-its-variable", "PATH": os.environ["PATH"]}

    held = keepers.start(sys.executable, "-c", script, secret, masks=(secret,), env=environment)
    ended(held)

    everything = b"".join(path.read_bytes() for path in held.run_dir.iterdir() if path.is_file())
    assert output(held).count(b"***") == 3
    assert secret.encode() not in everything
    assert b"named-by" not in everything
    assert encoded[8:20].encode() not in everything


def test_a_secret_can_be_added_while_the_command_runs(keepers):
    held = keepers.start("sh", "-c", "echo ready; while ! [ -e go ]; do sleep 0.02; done; echo late-secret")
    assert printed(held, b"ready")

    held.add_masks(["late-secret"])
    (held.run_dir.parent / "go").touch()

    ended(held)
    assert output(held) == b"ready\n***\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_keeper_hides_its_memory_and_the_command_does_not(keepers):
    held = keepers.start("sleep", "600")

    # An undumpable process's files in /proc belong to root, and opening them takes the right to trace it.
    readable = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", "cat", f"/proc/{held.keeper.pid}/environ"],
        capture_output=True,
        check=False,
    )

    assert os.stat(f"/proc/{held.keeper.pid}/environ").st_uid == 0
    assert readable.returncode != 0
    assert b"TASKYARD_RUN" in Path(f"/proc/{held.child_pid}/environ").read_bytes()


# --- The end


def test_a_stop_is_a_sigterm_and_the_command_may_still_speak(keepers):
    held = keepers.python(POLITE)
    assert printed(held, b"ready")

    held.stop(Cause.AGENT_STOPPED)

    record = ended(held)
    assert (record.cause, record.exit_code) == (Cause.AGENT_STOPPED, 7)
    assert output(held) == b"ready\nleaving\n"


def test_the_grace_period_ends_in_a_sigkill(keepers):
    held = keepers.python(STUBBORN)
    assert printed(held, b"ready")

    held.stop(grace_seconds=0.1)

    record = ended(held)
    assert (record.cause, record.signal) == (Cause.CANCELLED, signal.SIGKILL)


def test_a_kill_hastens_a_stop(keepers):
    held = keepers.python(STUBBORN, grace_seconds=600)
    assert printed(held, b"ready")
    held.stop()

    held.kill()

    assert ended(held).signal == signal.SIGKILL


def test_a_sigterm_to_the_keeper_is_a_stop(keepers):
    held = keepers.python(POLITE)
    assert printed(held, b"ready")

    os.kill(held.keeper.pid, signal.SIGTERM)

    assert ended(held).cause == Cause.CANCELLED


def test_a_stop_that_comes_after_the_end_changes_nothing(keepers):
    held = keepers.start("true")
    record = ended(held)

    held.stop()
    held.kill()

    assert held.exit_record() == record
    assert record.cause == Cause.EXIT


def test_the_time_limit_ends_the_command(keepers):
    record = ended(keepers.start("sleep", "600", timeout_seconds=0.1))

    assert (record.cause, record.signal) == (Cause.TIMEOUT, signal.SIGTERM)


def test_an_exclusive_run_ends_before_its_lease(keepers):
    held = keepers.start("sleep", "600", exclusive=True, lease_seconds=60.0, lease_at=boot_clock() - 55.0)

    assert ended(held).cause == Cause.EXCLUSIVE


def test_a_renewed_lease_lets_an_exclusive_run_go_on(keepers):
    held = keepers.start(
        "sh", "-c", "sleep 2; echo done", exclusive=True, lease_seconds=2.0, lease_at=boot_clock()
    )

    while not becomes_true(lambda: not held.alive(), seconds=0.2):
        held.renew_lease(boot_clock())

    assert ended(held).cause == Cause.EXIT
    assert output(held) == b"done\n"


def test_leftovers_are_asked_to_leave_and_then_made_to(keepers):
    leftover = "trap 'echo asked' TERM; touch up; while :; do sleep 0.05; done"
    script = f'setsid sh -c "{leftover}" & while ! [ -e up ]; do sleep 0.02; done'

    held = keepers.start("sh", "-c", script, grace_seconds=0.5)

    record = ended(held)

    assert (record.cause, record.exit_code) == (Cause.EXIT, 0)
    assert b"asked" in output(held)
    assert not left_of(held)


@pytest.mark.parametrize("garbage", [b"?\n", b"[]\n", b'{"stop": "for fun"}\n', b'{"masks": 3}\n', b"{" * 9000])
def test_garbage_among_the_orders_does_no_harm(keepers, garbage):
    held = keepers.start("sh", "-c", "while ! [ -e go ]; do sleep 0.02; done")

    (held.run_dir / "control").write_bytes(garbage)
    (held.run_dir.parent / "go").touch()

    assert ended(held).cause == Cause.EXIT


# --- Only once


def test_a_run_is_never_started_twice(keepers):
    held = keepers.start("sleep", "600")

    with pytest.raises(KeeperRefused, match="another keeper"):
        HeldRun.start(held.run_dir, keepers.launch("echo", "second"))
    held.kill()
    ended(held)
    with pytest.raises(KeeperRefused, match="never started twice"):
        HeldRun.start(held.run_dir, keepers.launch("echo", "second"))

    assert b"second" not in output(held)


def test_locks_are_held_until_the_run_ends_and_never_by_the_command(keepers, tmp_path):
    lock = os.open(tmp_path / "gpu.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    held = keepers.start("sleep", "600", lock_fds=(lock,))
    os.close(lock)

    again = os.open(tmp_path / "gpu.lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(held.keeper.pid, signal.SIGKILL)
    held.wait(10)

    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)


def test_a_warm_keeper_holds_a_run_like_any_other(keepers):
    warm = WarmKeeper()

    held = HeldRun.start(keepers.run_dir("task.1"), keepers.launch("echo", "hello"), keeper=warm)

    assert ended(held).exit_code == 0
    assert output(held) == b"hello\n"


def test_a_run_without_trouble_has_nothing_to_note(keepers, caplog):
    held = keepers.python("import time; time.sleep(60)")

    assert held.note() == ""
    assert not caplog.records


# --- Its memory

LIMIT = 200 << 20
HOG = "held = []\nwhile True: held.append(bytearray(5 << 20))"
SHARING = """
import os, time
held = bytearray(150 << 20)
for _ in range(4):
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
for _ in range(4):
    os.wait()
print("done")
"""
SPLIT = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        held = bytearray(80 << 20)
        time.sleep(600)
time.sleep(600)
"""
MAPPING = """
import mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    held = mmap.mmap(file.fileno(), 0)
    print(sum(held[place] for place in range(0, len(held), 4096)))
    time.sleep(3)
"""


def test_a_command_that_takes_too_much_memory_is_ended_at_once(keepers):
    record = ended(keepers.python(HOG, memory_bytes=LIMIT, grace_seconds=600))

    assert (record.cause, record.signal) == (Cause.MEMORY, signal.SIGKILL)
    assert "of the 200 MiB it was given; ask for more with --memory" in record.message


def test_the_memory_of_all_its_processes_counts_together(keepers):
    held = keepers.python(SPLIT, memory_bytes=LIMIT)

    assert ended(held).cause is Cause.MEMORY
    assert not left_of(held)


def test_memory_that_its_processes_share_counts_once(keepers):
    held = keepers.python(SHARING, memory_bytes=LIMIT)

    assert ended(held).cause is Cause.EXIT
    assert output(held) == b"done\n"


def test_a_file_that_it_maps_is_not_its_memory(keepers, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(bytes(300 << 20))

    held = keepers.start(sys.executable, "-c", MAPPING, str(data), memory_bytes=LIMIT)

    assert (ended(held).cause, output(held)) == (Cause.EXIT, b"0\n")


def test_a_kill_by_somebody_else_is_not_taken_for_want_of_memory(keepers):
    record = ended(keepers.start("sh", "-c", "kill -KILL $$", memory_bytes=LIMIT))

    assert (record.cause, record.signal) == (Cause.EXIT, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux chooses by this number")
def test_the_kernel_ends_the_command_before_its_keeper(keepers):
    held = keepers.start("cat", "/proc/self/oom_score_adj")

    ended(held)

    assert int(output(held)) >= 500
