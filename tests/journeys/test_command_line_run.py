"""`run`, `logs` and `up` as a person uses them: real server, real agent, real git, real processes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from taskyard.config import Credentials

from tests.support.agents import AgentProcess, wait_until
from tests.support.certificates import self_made_certificate
from tests.support.repositories import Repository
from tests.support.servers import ServerProcess, free_port

TASKYARD = (sys.executable, "-m", "taskyard.cli")
LIMIT_SECONDS = 60
SCRIPT = """
import argparse, os, signal, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--lr", default="0.01")
parser.add_argument("--code", type=int, default=0)
parser.add_argument("--sleep", type=float, default=0)
parser.add_argument("--signal", type=int, default=0)
options = parser.parse_args()
print("lr is", options.lr, flush=True)
time.sleep(options.sleep)
if options.signal:
    os.kill(os.getpid(), options.signal)
sys.exit(options.code)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as started:
        yield started


@pytest.fixture(scope="module")
def agent(server: ServerProcess) -> Iterator[AgentProcess]:
    with AgentProcess(server, name="runner") as started:
        yield started


@pytest.fixture
def variables(server: ServerProcess, tmp_path: Path) -> dict[str, str]:
    """What the person's shell holds."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKYARD_")}
    Credentials(tmp_path / "config" / "taskyard" / "credentials.json").save(
        server.url, server.admin_token, default=True
    )
    return kept | {"XDG_CONFIG_HOME": str(tmp_path / "config"), "TASKYARD_MANAGER": "inherit"}


@pytest.fixture
def checkout(tmp_path: Path) -> Repository:
    repository = Repository.create(tmp_path / "project", {"train.py": "print('committed')\n"})
    repository.write({"train.py": SCRIPT})  # what is run was never committed
    return repository


@pytest.fixture
def type_in(variables: dict[str, str], checkout: Repository) -> object:
    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*TASKYARD, *words],
            cwd=checkout.root,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT_SECONDS,
        )

    return typed


def test_the_plan_names_what_goes_where_and_what_stays(
    server: ServerProcess, type_in, checkout: Repository
) -> None:
    checkout.write({"notes.txt": "hello", ".env": "KEY=1"})
    type_in("queue", "create", "nobody")

    result = type_in("run", "--queue", "nobody", "--set", "lr=0.5", "--", "python", "train.py", "--lr", "0.01")

    task = json.loads(type_in("show", "@last", "--json").stdout)
    assert result.stdout.strip() == task["id"]
    assert task["state"] == "queued"
    assert task["spec"]["parameters"]["Args"] == {"lr": "0.5"}
    for words in (
        "python train.py --lr 0.5",
        checkout.head[:12],
        "1 new, 1 modified",
        "notes.txt 5 B",
        ".env",
        "nobody, 0 before it",
    ):
        assert words in result.stderr
    assert "taskyard agent daemon --queue nobody" in result.stderr
    assert f"taskyard logs -f {task['id'][:8]}" in result.stderr


def test_a_cloned_repository_sends_nothing_to_its_own_server(
    server: ServerProcess, type_in, checkout: Repository
) -> None:
    type_in("queue", "create", "nobody")
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        theirs.settimeout(0)
        address = f"http://127.0.0.1:{theirs.getsockname()[1]}"
        checkout.write({"pyproject.toml": f'[tool.taskyard]\nserver = "{address}"\n'})

        result = type_in("run", "--queue", "nobody", "--secret", "HOME", "--", "python", "train.py")
        meant = type_in("run", "--server", f"{server.url}/", "--queue", "nobody", "--", "python", "train.py")

        with pytest.raises(BlockingIOError):
            theirs.accept()
    assert result.returncode == 0, result.stderr
    assert f"{address}, to which you have not logged in: {server.url} is used" in result.stderr
    assert f"taskyard login {address}" in result.stderr
    assert "have not logged in" not in meant.stderr


def test_the_plan_names_a_server_that_is_not_the_usual_one(
    server: ServerProcess, variables: dict[str, str], type_in
) -> None:
    type_in("queue", "create", "nobody")
    usual = type_in("run", "--queue", "nobody", "--", "python", "train.py")
    file = Path(variables["XDG_CONFIG_HOME"]) / "taskyard" / "config.toml"
    file.write_text('server = "http://elsewhere.example"\n')

    other = type_in("run", "--server", server.url, "--queue", "nobody", "--", "python", "train.py")

    assert "server  " not in usual.stderr
    assert f"server        {server.url}, not your usual http://elsewhere.example" in other.stderr


def test_what_a_task_asks_for_is_in_the_plan_and_in_the_task(type_in, checkout: Repository) -> None:
    checkout.write({"setup.sh": "make all\n"})
    asks = (
        "--image",
        "python:3.12",
        "--docker-args",
        "--shm-size 8g",
        "--setup-script",
        "setup.sh",
        "--apt",
        "git",
    )
    needs = ("--memory", "8GB", "--resource", "licence=1", "--require", "arch=a100", "--on-worker", "there")
    times = ("--max-idle-gpu", "30m", "--timeout", "2h")

    build = ("--torch-backend", "cu126")

    result = type_in("run", *asks, *needs, *times, *build, "--", "python", "train.py")
    spec = json.loads(type_in("show", "@last", "--json").stdout)["spec"]

    assert "PyTorch's build: cu126" in result.stderr
    assert "python:3.12; apt git; a setup script; --shm-size 8g" in result.stderr
    assert "8 GiB of memory, 1 licence, arch=a100, on worker there" in result.stderr
    assert spec["container"]["setup_script"] == "make all\n"
    assert spec["resources"]["custom"] == {"licence": 1.0}
    assert (spec["policy"]["max_idle_gpu_seconds"], spec["policy"]["timeout_seconds"]) == (1800.0, 7200.0)
    assert spec["environment"]["torch_backend"] == "cu126"


def test_a_clone_changes_what_is_asked_for(type_in) -> None:
    type_in("run", "--image", "python:3.12", "--gpus", "2", "--on-worker", "there", "--", "python", "train.py")

    type_in(
        *("clone", "@last", "--image", "none", "--gpu-memory", "10GB"),
        *("--on-worker", "", "--torch-backend", "cpu"),
    )
    spec = json.loads(type_in("show", "@new", "--json").stdout)["spec"]

    assert spec["container"] is None
    assert (spec["environment"]["torch_backend"], spec["environment"]["manager"]) == ("cpu", "inherit")
    assert (spec["resources"]["gpus"], spec["resources"]["worker"]) == (None, None)
    assert spec["resources"]["gpu_memory_bytes"] == 10 * 1024**3


@pytest.mark.parametrize(
    "words",
    [("--memory", "much"), ("--docker-args", "shm"), ("--resource", "licence"), ("--require", "arch"),
     ("--torch-backend", "cuda"), ("--gpus", "1", "--gpu-memory", "1GB"), ("--setup-script", "gone.sh"),
     ("--max-idle-gpu", "soon")],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_refused_before_anything_is_sent(type_in, words: tuple[str, ...]) -> None:
    result = type_in("run", *words, "--", "python", "train.py")

    assert (result.returncode, result.stdout) == (2, "")
    assert words[-2] in result.stderr


def test_what_the_server_finds_wrong_is_a_mistake_too(type_in) -> None:
    result = type_in("run", "--wait", "--env", "LD_PRELOAD=x", "--", "python", "train.py")

    assert (result.returncode, result.stdout) == (2, "")
    assert "a task may not set LD_PRELOAD" in result.stderr


@pytest.mark.parametrize("flags", [(), ("--wait",)], ids=["submitted", "waited for"])
def test_on_a_terminal_the_unusual_is_asked_about_and_no_is_no(
    variables: dict[str, str], checkout: Repository, type_in, flags: tuple[str, ...]
) -> None:
    type_in("queue", "create", "nobody here")
    for name in ("one.bin", "two.bin"):
        (checkout.root / name).write_bytes(os.urandom(6_000_000))
    outer, inner = pty.openpty()
    process = subprocess.Popen(
        [*TASKYARD, "run", *flags, "--queue", "nobody here", "--name", "unwanted", "--", "python", "train.py"],
        cwd=checkout.root,
        env=variables,
        stdin=inner,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(outer, 1024)

    os.write(outer, b"n\n")
    code = process.wait(LIMIT_SECONDS)
    os.close(outer)

    assert code == 1
    assert b"no worker can take it" in shown
    assert b"2 untracked files (12.0 MB) will be uploaded for the first time; 12.0 MB will be uploaded" in shown
    assert type_in("ps", "--name", "unwanted").stdout == ""


def test_what_is_not_there_is_not_sent(type_in) -> None:
    result = type_in("run", "--", "python", "missing.py")

    assert result.returncode == 2
    assert "missing.py does not exist" in result.stderr


def test_a_folder_is_its_main_script_as_python_has_it(type_in, checkout: Repository) -> None:
    checkout.write({"package/__main__.py": "", "data/a.csv": ""})

    package = type_in("run", "--", "python", "package", "--lr", "1")
    data = type_in("run", "--", "python", "data")

    assert "python package/__main__.py --lr 1\n" in package.stderr
    assert (package.returncode, data.returncode) == (0, 2)
    assert "data/__main__.py does not exist" in data.stderr


def test_a_script_outside_the_repository_is_not_sent(type_in, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("")

    result = type_in("run", "--", "python", "../outside.py")

    assert result.returncode == 2
    assert f"outside.py lies outside {tmp_path / 'project'}" in result.stderr


@pytest.mark.parametrize("rules", [".gitignore", ".taskyardignore"])
def test_a_script_that_is_left_out_is_missed_before_it_is_sent(type_in, checkout: Repository, rules: str) -> None:
    checkout.write({"own script.py": "", rules: "own*\n"})

    refused = type_in("run", "--", "python", "own script.py")
    included = type_in("run", "--include", "own script.py", "--", "python", "own script.py")

    assert refused.returncode == 2
    assert "--include 'own script.py'" in refused.stderr
    assert included.returncode == 0, included.stderr


def test_a_task_that_cannot_be_remembered_is_submitted_all_the_same(type_in, tmp_path: Path) -> None:
    (
        tmp_path / "config" / "taskyard" / "last_tasks.json"
    ).mkdir()  # root may write any file, but not into a folder

    result = type_in("run", "--", "python", "train.py")

    assert result.returncode == 0, result.stderr
    assert len(result.stdout.strip()) == 32
    assert "@last does not name it" in result.stderr


@pytest.mark.parametrize(("with_git", "words"), [(True, ", without a commit yet"), (False, " as an archive")])
def test_the_plan_tells_a_repository_without_commits_from_a_folder_without_git(
    type_in, checkout: Repository, with_git: bool, words: str
) -> None:
    shutil.rmtree(checkout.root / ".git")
    if with_git:
        subprocess.run(["git", "init", "--quiet"], cwd=checkout.root, check=True)

    result = type_in("run", "--", "python", "train.py", "--lr", "0.1")

    assert f"{checkout.root}{words}" in result.stderr
    assert ("changes       1 untracked, " in result.stderr) is with_git
    assert "python train.py --lr 0.1\n" in result.stderr


@pytest.mark.usefixtures("agent")
class TestWithAnAgent:
    """`run --wait` ends as the command ends."""

    @pytest.mark.parametrize(
        ("flags", "args", "code"),
        [
            ((), (), 0),
            ((), ("--code", "7"), 7),
            ((), ("--signal", "9"), 128 + 9),
            (("--timeout", "1s"), ("--sleep", "60"), 124),
            (("--manager", "uv", "--package", "a=="), (), 125),
        ],
    )
    def test_the_exit_code_is_the_commands_own(
        self, type_in, flags: tuple[str, ...], args: tuple[str, ...], code: int
    ) -> None:
        result = type_in("run", "--wait", *flags, "--", "python", "train.py", *args)

        assert result.returncode == code, result.stderr

    def test_an_unmodified_script_sees_the_changed_parameter(self, type_in) -> None:
        result = type_in("run", "--wait", "--set", "lr=0.5", "--", "python", "train.py", "--lr=0.01")

        assert "lr is 0.5" in result.stdout
        assert "lr is 0.5" in type_in("logs", "@last").stdout
        assert type_in("logs", "--tail", "1", "@last").stdout == "lr is 0.5\n"

    @pytest.mark.parametrize("command", [("-m", "train"), ("bash", "-c", "exit 5")])
    def test_modules_and_programs_run_too(self, type_in, command: tuple[str, ...]) -> None:
        result = type_in("run", "--wait", "--", *command)

        assert result.returncode == (5 if command[0] == "bash" else 0), result.stderr

    def test_a_cancelled_task_is_130(self, type_in, variables: dict[str, str], checkout: Repository) -> None:
        process = waiting_run(variables, checkout)

        type_in("stop", "@last")

        assert process.wait(LIMIT_SECONDS) == 130
        process.communicate()

    def test_ctrl_c_detaches_and_says_how_to_go_on(
        self, type_in, variables: dict[str, str], checkout: Repository
    ) -> None:
        process = waiting_run(variables, checkout)

        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT_SECONDS)

        assert process.returncode == 130
        assert "taskyard logs -f" in said
        assert "taskyard stop" in said
        assert type_in("show", "@last").stdout.count("running") >= 1
        type_in("stop", "@last")

    def test_a_reader_that_has_read_enough_detaches_too(
        self, type_in, variables: dict[str, str], checkout: Repository
    ) -> None:
        waits = shlex.join([*TASKYARD, "run", "--wait", "--", "sh", "-c", "while sleep 0.1; do echo line; done"])

        done = subprocess.run(
            ["bash", "-c", f"{waits} | head -n 1; exit ${{PIPESTATUS[0]}}"],
            cwd=checkout.root,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )
        type_in("stop", "@last")

        assert (done.returncode, done.stdout.count("\n")) == (1, 1)
        assert "The task goes on" in done.stderr
        assert "Broken pipe" not in done.stderr

    def test_a_followed_log_ends_with_the_run(self, type_in) -> None:
        type_in("run", "--", "python", "train.py", "--sleep", "0.5")

        assert type_in("logs", "-f", "@last").stdout.endswith("lr is 0.01\n")

    def test_a_log_is_also_records_of_bytes_at_their_offsets(self, type_in) -> None:
        type_in("run", "--wait", "--", "python", "train.py")

        lines = [type_in("logs", "--json", *how, "@last").stdout.splitlines() for how in ((), ("-f",))]
        (tail,) = map(json.loads, type_in("logs", "--json", "--tail", "1", "@last").stdout.splitlines())

        raw = type_in("logs", "@last").stdout
        assert [joined(map(json.loads, each)).decode() for each in lines] == [raw, raw]
        assert (tail["offset"], base64.b64decode(tail["data"])) == (
            len(raw) - len("lr is 0.01\n"),
            b"lr is 0.01\n",
        )

    def test_what_was_waited_for_is_a_record_beside_its_log(self, type_in) -> None:
        result = type_in("run", "--wait", "--json", "--", "python", "train.py", "--code", "7")

        assert result.returncode == 7
        assert json.loads(result.stdout)["run"]["outcome"]["exit_code"] == 7
        assert "lr is 0.01\n" in result.stderr

    def test_a_story_shows_the_phases(self, type_in) -> None:
        type_in("run", "--wait", "--", "python", "train.py")

        told = type_in("story", "@last").stdout

        assert "completed (exit, exit code 0)" in told
        for phase in ("claimed", "checkout", "environment", "running"):
            assert f"\n  {phase} " in told

    def test_python_programs_do_the_same(self, variables: dict[str, str], checkout: Repository) -> None:
        program = (
            "from taskyard import Task\n"
            "options = {'parameters': {'lr': 2}, 'manager': 'inherit', 'queue': 'default'}\n"
            "task = Task.create('train.py', args=['--lr', 1], **options)\n"
            "print(''.join(task.logs(follow=True)), task.wait(60).status, task.outcome.exit_code)\n"
        )

        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=checkout.root,
            env=variables,
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT_SECONDS,
        )

        assert "lr is 2" in done.stdout
        assert "completed 0" in done.stdout


def joined(chunks: Iterable[dict[str, Any]]) -> bytes:
    """The log that consists of these records, each at its place."""
    log = b""
    for chunk in chunks:
        assert chunk["offset"] == len(log)
        log += base64.b64decode(chunk["data"])
    return log


def waiting_run(variables: dict[str, str], checkout: Repository) -> subprocess.Popen[str]:
    """A `run --wait` whose script has printed its line and sleeps."""
    process = subprocess.Popen(
        [*TASKYARD, "run", "--wait", "--", "python", "train.py", "--sleep", "60"],
        cwd=checkout.root,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("lr is"):
        assert process.poll() is None
    return process


def test_an_execution_that_is_refused_leaves_no_worker_behind(type_in, tmp_path: Path) -> None:
    options = ("--local-dir", str(tmp_path / "local"), "--name", "refused")

    result = type_in("agent", "execute", "--id", "0" * 32, *options)

    workers = json.loads(type_in("workers", "--json").stdout)
    assert result.returncode == 1
    assert "there is no task" in result.stderr
    assert "refused" not in {worker["name"] for worker in workers}


# --- up


@contextlib.contextmanager
def up(variables: dict[str, str], folder: Path, port: int, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """`taskyard up` with a worker that is ready, ended by Ctrl-C."""
    folders = ["--data", str(folder / "data"), "--local-dir", str(folder / "local")]
    with (folder / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [*TASKYARD, "up", "--port", str(port), "--cpu-only", *folders, *flags],
            cwd=folder,
            env=variables,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_SECONDS)


def listening(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def test_up_is_server_and_agents_and_ctrl_c_ends_them(variables: dict[str, str], type_in, tmp_path: Path) -> None:
    port = free_port()
    at = ("--server", f"http://127.0.0.1:{port}")
    with up(variables, tmp_path, port) as process:
        wait_until(lambda: len(type_in("workers", *at).stdout.splitlines()) == 2, what="two workers")

        result = type_in("run", *at, "--wait", "--", "python", "train.py", "--code", "4")
        service = type_in("run", *at, "--queue", "services", "--wait", "--", "python", "train.py", "--code", "5")
        names = [worker["name"] for worker in json.loads(type_in("workers", *at, "--json").stdout)]

    assert result.returncode == 4, result.stderr
    assert service.returncode == 5, service.stderr
    assert [name.endswith(":services") for name in names].count(True) == 1
    assert process.returncode == 0, (tmp_path / "up.log").read_text()
    assert not listening(port)


def test_up_without_services_is_a_server_and_one_agent_whatever_a_cloned_repository_says(
    variables: dict[str, str], type_in, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.taskyard]\nhost = "0.0.0.0"\nstore = "mongodb://elsewhere"\ngpus = "0"\nname = "theirs"\n'
    )
    port = free_port()
    at = ("--server", f"http://127.0.0.1:{port}")
    with up(variables, tmp_path, port, "--no-services"):
        wait_until(lambda: "idle" in type_in("workers", *at).stdout, what="a worker")
        type_in("run", *at, "--wait", "--", "python", "train.py")  # by now a second one would be there, too

        (worker,) = json.loads(type_in("workers", *at, "--json").stdout)

    assert worker["queues"] == ["default"]
    assert worker["name"] != "theirs"


def test_a_second_ctrl_c_puts_the_task_back_and_says_so(
    variables: dict[str, str], type_in, tmp_path: Path
) -> None:
    port = free_port()
    at = ("--server", f"http://127.0.0.1:{port}")
    log = tmp_path / "up.log"
    with up(variables, tmp_path, port, "--no-services") as process:
        wait_until(lambda: type_in("workers", *at).stdout, what="a worker")
        type_in("run", *at, "--", "python", "train.py", "--sleep", "60")
        wait_until(lambda: type_in("logs", *at, "@last").stdout, what="a line of the run")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: "goes on (once more to stop it and put it back into its queue" in log.read_text())
    said = log.read_text()
    with up(variables, tmp_path, port, "--no-services"):
        wait_until(lambda: type_in("show", *at, "--json", "@last").stdout, what="the server")
        task = json.loads(type_in("show", *at, "--json", "@last").stdout)
        type_in("stop", *at, "@last")

    assert "Ctrl-C again stops it and puts it back into its queue" in said
    assert "which goes back into its queue; once more to kill" in said
    in_words = re.sub(r"\[\w+\]$", "", said, flags=re.MULTILINE)  # without the names of actions
    assert "cancel" not in in_words.replace("to cancel it, in another terminal: taskyard stop TASK", "")
    assert task["state"] in ("queued", "running")


def test_a_killed_up_takes_its_children_along_but_not_the_run(
    variables: dict[str, str], type_in, tmp_path: Path
) -> None:
    port = free_port()
    at = ("--server", f"http://127.0.0.1:{port}")
    with up(variables, tmp_path, port) as process:
        wait_until(lambda: type_in("workers", *at).stdout, seconds=90, what="a worker")
        type_in("run", *at, "--", "python", "train.py", "--sleep", "4")
        wait_until(lambda: type_in("logs", *at, "@last").stdout, seconds=90, what="a line of the run")

        process.kill()

        wait_until(lambda: not listening(port), seconds=90, what="the server's end")
    with up(variables, tmp_path, port):
        wait_until(lambda: listening(port), seconds=90, what="the server")
        followed = type_in("logs", "-f", *at, "@last")
        task = json.loads(type_in("show", *at, "--json", "@last").stdout)

    assert followed.stdout.count("lr is") == 1
    assert (task["state"], task["run_count"]) == ("completed", 1)


def test_up_under_a_certificate_of_ones_own_is_the_server_that_is_meant_from_then_on(
    variables: dict[str, str], type_in, tmp_path: Path
) -> None:
    port = free_port()
    cert, key = self_made_certificate(tmp_path, "DNS:yard.example.org", "DNS:localhost")
    (tmp_path / "config" / "taskyard" / "credentials.json").unlink()
    with up(variables, tmp_path, port, "--no-services"):
        wait_until(lambda: type_in("workers").stdout, what="a worker without a certificate")

    tls = ("--host", "0.0.0.0", "--tls-cert", str(cert), "--tls-key", str(key), "--ca-file", str(cert))
    with up(variables, tmp_path, port, "--no-services", *tls) as process:
        wait_until(lambda: "idle" in type_in("workers").stdout, what="a worker under the certificate")
        result = type_in("run", "--wait", "--", "python", "train.py", "--code", "4")

    assert result.returncode == 4, result.stderr
    assert process.returncode == 0
    assert f"taskyard agent join https://yard.example.org:{port}" in (tmp_path / "up.log").read_text()


def test_up_on_a_port_that_is_taken_ends_with_the_servers_words(
    server: ServerProcess, variables: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [*TASKYARD, "up", "--port", str(server.port), "--data", str(tmp_path / "data")],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )

    assert done.returncode == 2
    assert "is taken" in done.stderr


@pytest.mark.parametrize("port", ["0", "99999"])
def test_up_refuses_what_is_no_port_instead_of_waiting_for_it(type_in, port: str) -> None:
    result = type_in("up", "--port", port)

    assert result.returncode == 2
    assert f"--port: {port} is not a port: 1 to 65535" in result.stderr


def test_a_server_serves_also_where_no_login_can_be_kept(
    variables: dict[str, str], type_in, tmp_path: Path
) -> None:
    port = free_port()
    homeless = variables | {"XDG_CONFIG_HOME": "/proc/nowhere"}
    words = [*TASKYARD, "server", "--port", str(port), "--data", str(tmp_path / "data")]
    log = tmp_path / "server.log"

    with log.open("w") as file, subprocess.Popen(words, env=homeless, stderr=file) as process:
        wait_until(lambda: f"see {tmp_path / 'data' / 'admin-token'}" in log.read_text(), what="a word about it")
        looked = type_in("doctor", "--server", f"http://127.0.0.1:{port}")
        process.terminate()

    assert "server: version" in looked.stdout
    assert process.returncode == 0


# --- extras


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (("agent", "daemon"), "psutil", "agent"),
        (("server",), "uvicorn", "server"),
        (("up",), "psutil", "agent,server"),
    ],
)
def test_a_missing_extra_is_named(words: tuple[str, ...], module: str, extra: str) -> None:
    absent = f"import sys; sys.modules[{module!r}] = None"
    code = f"{absent}; from taskyard.cli.app import execute; sys.exit(execute({words}))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)

    assert done.returncode == 2
    assert f'pip install "taskyard[{extra}]"' in done.stderr
