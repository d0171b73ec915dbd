"""Tasks in containers, on a real engine: C07, C12, C13, C23."""

from __future__ import annotations

import os
import pwd
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from taskyard.wire import (
    Code,
    Command,
    CommandKind,
    Container,
    Environment,
    Manager,
    NewTask,
    Outcome,
    OutcomeKind,
    Phase,
    Policy,
    Reason,
    RequirementsKind,
    Task,
    TaskSpec,
    TaskState,
)
from taskyard_agent.containers.workshop import agents_user

from tests.support.agents import AgentProcess, wait_until
from tests.support.docker import IMAGE, bare_image, connect, containers_of, derive, ensure_image
from tests.support.person import Person
from tests.support.registry import registry
from tests.support.repositories import Repository
from tests.support.servers import ServerProcess
from tests.support.yard import INHERIT, Yard

SLOW = 120.0
NONE = Environment()
OBEYS = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('told to end'), sys.exit(0)))\n"
    "print('ready')\n"
    "time.sleep(100)"
)

POETRY_PROJECT = """\
[tool.poetry]
name = "mine"
version = "1"
description = ""
authors = []
package-mode = false
[tool.poetry.dependencies]
python = "^3.8"
six = "1.16.0"
"""
POETRY_LOCK = """\
[[package]]
name = "six"
version = "1.16.0"
description = ""
optional = false
python-versions = "*"
groups = ["main"]
[[package.files]]
file = "six-1.16.0-py2.py3-none-any.whl"
hash = "sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"
[metadata]
lock-version = "2.1"
python-versions = "^3.8"
content-hash = "0"
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = connect()
    ensure_image(client)
    yield client
    client.close()


@pytest.fixture(scope="module")
def boxes(engine: docker.DockerClient) -> Iterator[Boxes]:
    """A server with an agent that runs everything in containers."""
    with ServerProcess() as server, Boxes(server) as yard, yard.agent("--docker", IMAGE):
        yield yard


class Boxes(Yard):
    """A yard whose tasks run in containers."""

    def put(self, *argv: str, **spec: object) -> Task:
        """Enqueues a command in the agent's image."""
        return self.submit(*argv, **spec)  # type: ignore[arg-type]

    def inside(self, source: str, **spec: object) -> Task:
        """Enqueues a Python program for the image's own Python."""
        return self.put("python3", "-c", source, **spec)

    def outcome(self, task: Task, seconds: float = SLOW) -> Outcome:
        """How it ended; a retry of what is the machine's fault is not waited for."""
        wait_until(lambda: (run := self.task(task).run) and run.outcome, seconds=seconds, what=f"end of {task.id}")
        outcome = self.run(task).outcome
        assert outcome is not None
        return outcome

    def said(self, task: Task) -> str:
        """The whole log of its latest run."""
        return self.client.read_log(self.run(task).id).data.decode()


# --- what a task finds


def test_a_task_runs_in_the_agents_default_image(boxes: Boxes, engine: docker.DockerClient) -> None:
    task = boxes.inside("print(open('/etc/debian_version').read()[:2])")

    (ended,) = boxes.wait_for_end(task, seconds=SLOW)

    assert ended.state is TaskState.COMPLETED, boxes.said(task)
    assert boxes.text(task) == "12\n"
    assert boxes.run(task).image_digest == engine.images.get(IMAGE).id
    wait_until(lambda: not containers_of(engine, boxes.run(task).id), what="the container's removal")


def test_the_same_task_runs_with_and_without_a_container(boxes: Boxes, tmp_path: Path) -> None:
    repository = Repository.create(
        tmp_path / "code",
        {
            "lib.py": "word = 'hello'\n",
            "train.py": "import lib, sys, taskyard\nprint(lib.word, sys.argv[1:], taskyard.__name__)\n",
        },
    )
    code = Code(repository=str(repository.root), commit=repository.head)
    spec = TaskSpec(code=code, command=Command(kind=CommandKind.SCRIPT, target="train.py", args=("--lr", "1")))
    boxes.queue("machine")

    inside = boxes.client.create_task(NewTask(spec=spec, queue="default"))
    with boxes.agent("--queue", "machine", name="plain"):
        outside = boxes.client.create_task(NewTask(spec=spec, queue="machine"))
        boxes.wait_for_end(inside, outside, seconds=SLOW)

    assert boxes.text(inside) == boxes.text(outside) == "hello ['--lr', '1'] taskyard\n"


def test_phases_come_in_their_order_and_are_timed(boxes: Boxes) -> None:
    task = boxes.put("true")

    boxes.wait_for_end(task, seconds=SLOW)
    phases = boxes.run(task).phases

    assert [time.phase for time in phases] == list(Phase)
    assert all(time.seconds is not None for time in phases)


def test_what_a_task_writes_comes_through_byte_by_byte_and_in_order(boxes: Boxes) -> None:
    source = (
        "import os\n"
        "for number in range(200):\n"
        "    os.write(1, bytes([number]) * 700)\n"
        "    os.write(2, bytes([255 - number]) * 3)\n"
    )
    task = boxes.inside(source)

    boxes.wait_for_end(task, seconds=SLOW)

    expected = b"".join(bytes([number]) * 700 + bytes([255 - number]) * 3 for number in range(200))
    assert boxes.output(boxes.run(task)) == expected


def test_secrets_are_masked_and_variables_seen(boxes: Boxes) -> None:
    command = Command(kind=CommandKind.EXECUTABLE, target="sh", args=("-c", "echo $API_KEY $COLOUR ${#API_KEY}"))
    spec = TaskSpec(command=command, environment=INHERIT, env={"COLOUR": "green"})
    task = boxes.client.create_task(NewTask(spec=spec, queue="default", secret_values={"API_KEY": "s3cr3t-value"}))

    boxes.wait_for_end(task, seconds=SLOW)

    assert boxes.text(task) == "*** green 12\n"


def test_the_code_may_be_changed_but_the_mirror_may_not(boxes: Boxes, tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "code", {"a.txt": "a\n"})
    code = Code(repository=str(repository.root), commit=repository.head)
    source = "echo new > b.txt; git status --short; touch $(cat .git/objects/info/alternates)/x || echo refused"
    task = boxes.put("sh", "-c", source, code=code)

    boxes.wait_for_end(task, seconds=SLOW)

    assert boxes.text(task).splitlines()[0] == "?? b.txt"
    assert boxes.text(task).splitlines()[-1] == "refused"


def test_what_the_image_has_is_not_installed_again(boxes: Boxes, engine: docker.DockerClient) -> None:
    script = (
        "cd /usr/lib/python3/dist-packages; mkdir six-1.15.0.dist-info;"
        "echo 'version = \"of the image\"' > six.py;"
        "printf 'Metadata-Version: 2.1\nName: six\nVersion: 1.15.0\n' > six-1.15.0.dist-info/METADATA"
    )
    image = derive(engine, "taskyard-test/six:1", script)
    wanted = Environment(requirements=RequirementsKind.PACKAGES, packages=("six>=1.10",))
    task = boxes.inside("import six; print(six.version)", container=Container(image=image), environment=wanted)

    boxes.wait_for_end(task, seconds=SLOW)

    assert boxes.text(task) == "of the image\n"
    assert "six==1.15.0" in boxes.run(task).packages


def test_packages_are_installed_once_for_the_images_own_python(boxes: Boxes) -> None:
    wanted = Environment(requirements=RequirementsKind.PACKAGES, packages=("six==1.16.0",))
    tasks = [boxes.inside("import six; print(six.__version__)", environment=wanted) for _ in range(2)]

    boxes.wait_for_end(*tasks, seconds=SLOW)
    first, second = (boxes.run(task) for task in tasks)

    assert [boxes.text(task) for task in tasks] == ["1.16.0\n", "1.16.0\n"]
    assert (first.environment_reused, second.environment_reused) == (False, True)
    assert first.environment_key == second.environment_key


def test_what_pip_is_asked_for_is_installed_in_a_container_too(boxes: Boxes) -> None:
    wanted = Environment(manager=Manager.PIP, requirements=RequirementsKind.PACKAGES, packages=("six==1.16.0",))
    task = boxes.inside("import six; print(six.__version__)", environment=wanted)

    boxes.wait_for_end(task, seconds=SLOW)

    assert boxes.text(task) == "1.16.0\n", boxes.said(task)


def test_a_lock_of_poetry_is_installed_in_a_container(boxes: Boxes, tmp_path: Path) -> None:
    repository = Repository.create(
        tmp_path / "code", {"pyproject.toml": POETRY_PROJECT, "poetry.lock": POETRY_LOCK}
    )
    wanted = Environment(manager=Manager.POETRY, requirements=RequirementsKind.POETRY_LOCK, path="poetry.lock")
    code = Code(repository=str(repository.root), commit=repository.head)
    task = boxes.inside("import six; print(six.__version__)", environment=wanted, code=code)

    boxes.wait_for_end(task, seconds=SLOW)

    assert boxes.text(task) == "1.16.0\n", boxes.said(task)


def test_what_a_task_writes_belongs_to_the_agents_user(boxes: Boxes, engine: docker.DockerClient) -> None:
    image = derive(engine, "taskyard-test/user:1", "useradd -u 4321 trainer", User="trainer")
    task = boxes.put("sh", "-c", "touch left; stat -c %u:%g left; echo $HOME", container=Container(image=image))

    boxes.wait_for_end(task, seconds=SLOW)

    assert boxes.text(task).splitlines() == [agents_user(), "/tmp"]


def test_what_runs_in_a_container_is_measured(boxes: Boxes) -> None:
    task = boxes.inside("block = bytearray(200_000_000); print('ready')\nimport time; time.sleep(100)")

    boxes.wait_for_output(task, "ready", seconds=SLOW)
    wait_until(lambda: _largest(boxes, task) > 200_000_000, seconds=SLOW, what="the container's memory")
    boxes.client.stop_task(task.id)


# --- images and set-ups


@pytest.mark.usefixtures("images_alone")
def test_a_set_up_is_made_once_and_seen_by_the_task(boxes: Boxes) -> None:
    word = f"preparing {uuid.uuid4()}"
    script = f"echo made > /etc/marker; echo {word}"
    wanted = Container(image=IMAGE, setup_script=script, apt=("hello",))
    tasks = [boxes.put("sh", "-c", "cat /etc/marker; hello", container=wanted) for _ in range(2)]

    boxes.wait_for_end(*tasks, seconds=SLOW)

    assert [boxes.text(task) for task in tasks] == ["made\nHello, world!\n"] * 2
    assert word in boxes.said(tasks[0])
    assert word not in boxes.said(tasks[1])


def test_a_failing_set_up_tells_its_words_and_its_code(boxes: Boxes) -> None:
    task = boxes.put("true", container=Container(image=IMAGE, setup_script="echo no such driver; exit 9"))

    outcome = boxes.outcome(task)

    assert (outcome.phase, outcome.reason, outcome.infrastructure) == (Phase.CONTAINER, Reason.CONTAINER, False)
    assert outcome.message == "the set-up script in the container ended with 9:\nno such driver"


def test_an_image_is_fetched_from_its_registry_and_its_digest_recorded(
    boxes: Boxes, engine: docker.DockerClient
) -> None:
    with registry() as address:
        task = boxes.put("nothing", container=Container(image=f"{address}/tiny:1"), environment=NONE)
        outcome = boxes.outcome(task)
    digest = boxes.run(task).image_digest or ""
    engine.images.remove(f"{address}/tiny:1", force=True)

    assert digest.startswith(f"{address}/tiny@sha256:")
    assert (outcome.reason, outcome.infrastructure) == (Reason.COMMAND, False)


def test_a_missing_image_is_the_tasks_fault_and_named(boxes: Boxes) -> None:
    with registry() as address:
        task = boxes.put("true", container=Container(image=f"{address}/absent:2"))
        outcome = boxes.outcome(task)

    assert (outcome.phase, outcome.reason, outcome.infrastructure) == (Phase.CONTAINER, Reason.IMAGE, False)
    assert f"{address}/absent:2" in outcome.message


def test_the_task_of_a_registry_that_is_down_waits_for_it(boxes: Boxes) -> None:
    task = boxes.put("true", container=Container(image="127.0.0.1:9/absent:2"))

    outcome = boxes.outcome(task)
    waiting = boxes.task(task)
    boxes.client.stop_task(task.id)

    assert (outcome.phase, outcome.reason, outcome.infrastructure) == (Phase.CONTAINER, Reason.IMAGE, True)
    assert "127.0.0.1:9" in outcome.target
    assert not waiting.state.terminal


def test_an_image_without_python_runs_programs_but_no_scripts(boxes: Boxes, engine: docker.DockerClient) -> None:
    image = derive(engine, "taskyard-test/no-python:1", "rm -f /usr/bin/python3*")
    program = boxes.put("echo", "fine", container=Container(image=image))
    spec = TaskSpec(command=Command(kind=CommandKind.MODULE, target="this"), container=Container(image=image))
    module = boxes.client.create_task(NewTask(spec=spec, queue="default"))

    boxes.wait_for_end(program, module, seconds=SLOW)
    outcome = boxes.outcome(module)

    assert boxes.text(program) == "fine\n"
    assert (outcome.reason, outcome.infrastructure) == (Reason.IMAGE, False)
    assert "has no Python" in outcome.message


def test_an_image_with_another_python_than_asked_for_is_refused(boxes: Boxes) -> None:
    other, patch = (
        boxes.put("true", environment=Environment(python=version, requirements=RequirementsKind.NONE))
        for version in ("3.12", "3.11.0")
    )

    outcome = boxes.outcome(other)
    (ended,) = boxes.wait_for_end(patch, seconds=SLOW)

    assert (outcome.phase, outcome.reason, outcome.infrastructure) == (Phase.ENVIRONMENT, Reason.IMAGE, False)
    assert "--python 3.11" in outcome.message
    assert ended.state is TaskState.COMPLETED


def test_an_image_for_another_processor_is_told_apart(boxes: Boxes, engine: docker.DockerClient) -> None:
    image = bare_image(engine, "taskyard-test/foreign:1", {"/bin/sh": b"\x7fELF no program of ours"})
    task = boxes.put("true", container=Container(image=image))

    outcome = boxes.outcome(task)

    assert (outcome.reason, outcome.infrastructure) == (Reason.IMAGE, False)
    assert "another processor" in outcome.message


# --- arguments and limits


@pytest.mark.parametrize("argument", ["--privileged", "--volume=/:/host", "--network=host", "--pid=host"])
def test_an_argument_outside_the_list_is_refused_by_name(boxes: Boxes, argument: str) -> None:
    task = boxes.put("true", container=Container(image=IMAGE, args=(argument,)))

    outcome = boxes.outcome(task)

    assert (outcome.reason, outcome.infrastructure) == (Reason.CONTAINER, False)
    assert argument in outcome.message
    assert "--docker-allow" in outcome.message


def test_arguments_on_the_list_reach_the_container(boxes: Boxes) -> None:
    arguments = ("--env", "A=b", "--shm-size=8m", "--hostname=box", "--tmpfs", "/fast", "--ulimit=nofile=99:99")
    source = "echo $A; df -k /dev/shm | tail -1 | awk '{print $2}'; hostname; ulimit -n; df /fast | grep -c tmpfs"
    task = boxes.put("sh", "-c", source, container=Container(image=IMAGE, args=arguments))

    boxes.wait_for_end(task, seconds=SLOW)

    assert boxes.text(task).splitlines() == ["b", "8192", "box", "99", "1"]


def test_a_container_may_not_gain_privileges_and_has_a_limit_of_processes(boxes: Boxes) -> None:
    task = boxes.put(
        "sh",
        "-c",
        "grep NoNewPrivs /proc/self/status; cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max",
    )

    boxes.wait_for_end(task, seconds=SLOW)

    assert boxes.text(task).split() == ["NoNewPrivs:", "1", "4096"]


def test_too_much_memory_is_told_as_such(boxes: Boxes) -> None:
    task = boxes.inside(
        "print(len(bytearray(300 << 20)))", container=Container(image=IMAGE, args=("--memory=64m",))
    )

    outcome = boxes.outcome(task)

    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, Reason.MEMORY)


def test_exit_code_signal_and_missing_executable_are_told_apart(boxes: Boxes) -> None:
    code = boxes.inside("import sys; sys.exit(3)")
    killed = boxes.inside("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    absent = boxes.put("no-such-program")

    boxes.wait_for_end(code, killed, absent, seconds=SLOW)

    assert boxes.outcome(code).exit_code == 3
    assert boxes.outcome(killed).signal == signal.SIGSEGV
    assert boxes.outcome(absent).reason is Reason.COMMAND
    assert "no-such-program" in boxes.outcome(absent).message


# --- the end


def test_a_cancel_reaches_the_program_as_sigterm(boxes: Boxes, engine: docker.DockerClient) -> None:
    task = boxes.inside(OBEYS)

    boxes.wait_for_output(task, "ready", seconds=SLOW)
    boxes.client.stop_task(task.id)
    (ended,) = boxes.wait_for_end(task, seconds=SLOW)

    assert ended.state is TaskState.CANCELLED
    assert "told to end" in boxes.text(task)
    wait_until(lambda: not containers_of(engine, boxes.run(task).id), what="the container's removal")


def test_a_program_that_ignores_a_cancel_is_killed_after_the_grace(
    boxes: Boxes, engine: docker.DockerClient
) -> None:
    source = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready')\ntime.sleep(100)"
    task = boxes.inside(source, policy=Policy(grace_seconds=1.0))

    boxes.wait_for_output(task, "ready", seconds=SLOW)
    boxes.client.stop_task(task.id)
    (ended,) = boxes.wait_for_end(task, seconds=SLOW)

    assert ended.state is TaskState.CANCELLED
    wait_until(lambda: not containers_of(engine, boxes.run(task).id), what="the container's removal")


def test_a_killed_daemon_changes_nothing_for_its_containers(yard: Yard, engine: docker.DockerClient) -> None:
    source = (
        "import os, time\nprint('ready')\nwhile not os.path.exists('/tmp/go'): time.sleep(0.05)\nprint('done')"
    )
    task = yard.submit("python3", "-c", source)

    with yard.agent("--docker", IMAGE) as agent:
        yard.wait_for_output(task, "ready", seconds=SLOW)
        agent.restart()
        (container,) = containers_of(engine, yard.run(task).id)
        container.exec_run(["touch", "/tmp/go"])
        (ended,) = yard.wait_for_end(task, seconds=SLOW)
        wait_until(lambda: not containers_of(engine, yard.run(task).id), what="the container's removal")

    assert ended.state is TaskState.COMPLETED
    assert yard.text(task) == "ready\ndone\n"
    assert len(yard.runs(task)) == 1


@pytest.mark.parametrize("victim", ["keeper", "client"])
def test_what_held_a_container_is_killed_and_takes_it_along(
    yard: Yard, engine: docker.DockerClient, victim: str
) -> None:
    task = yard.submit("python3", "-c", OBEYS, policy=Policy(on_lost="fail"))  # type: ignore[arg-type]

    with yard.agent("--docker", IMAGE) as agent:
        yard.wait_for_output(task, "ready", seconds=SLOW)
        (keeper,) = agent.keepers()
        os.kill(keeper if victim == "keeper" else _child_of(keeper), signal.SIGKILL)
        yard.wait_for_end(task, seconds=SLOW)
        wait_until(lambda: not containers_of(engine, yard.run(task).id), what="the container's removal")
    outcome = yard.run(task).outcome

    assert outcome is not None
    assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, Reason.KEEPER)


def test_containers_that_a_killed_agent_left_are_removed_at_its_start(
    yard: Yard, engine: docker.DockerClient
) -> None:
    agent = yard.agent("--docker", IMAGE)
    place = next_folder(agent)
    left = engine.containers.create(
        IMAGE, ["sleep", "100"], labels={"taskyard.agent": place, "taskyard.run": "gone.1"}
    )

    with agent:
        wait_until(lambda: not containers_of(engine, "gone.1"), what="the container's removal")

    assert left.id not in {container.id for container in engine.containers.list(all=True)}


def test_a_task_with_a_container_waits_for_an_agent_that_runs_containers(
    yard: Yard, engine: docker.DockerClient
) -> None:
    task = yard.submit("true", container=Container(image=IMAGE))

    with yard.agent(name="plain"):
        wait_until(lambda: yard.client.explain(task.id).workers, what="the worker's verdict")
        (verdict,) = yard.client.explain(task.id).workers
        with yard.agent("--docker", name="able"):
            (ended,) = yard.wait_for_end(task, seconds=SLOW)
    (able,) = (worker for worker in yard.client.workers() if worker.name == "able")

    assert "agent daemon --docker" in verdict.reason
    assert (ended.state, yard.run(task).worker) == (TaskState.COMPLETED, "able")
    assert able.labels["container"] == "docker"


def test_without_an_engine_the_failure_is_the_machines(yard: Yard, tmp_path: Path) -> None:
    task = yard.submit("true", container=Container(image=IMAGE))

    with yard.agent("--docker", variables={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}):
        wait_until(lambda: (run := yard.task(task).run) and run.outcome, what="an outcome")
    outcome = yard.run(task).outcome

    assert outcome is not None
    assert (outcome.reason, outcome.infrastructure) == (Reason.CONTAINER, True)


def test_the_operators_arguments_and_leave_hold(yard: Yard, engine: docker.DockerClient, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("of the machine\n")
    asked = Container(image=IMAGE, args=("--volume", f"{tmp_path}:/data:ro"))
    task = yard.submit("sh", "-c", "cat /data/data; cat /proc/sys/kernel/hostname", container=asked)

    with yard.agent(
        "--docker", "--docker-args", "--network none --hostname operators", "--docker-allow", "volume"
    ):
        yard.wait_for_end(task, seconds=SLOW)

    assert yard.text(task) == "of the machine\noperators\n"


def test_a_task_in_a_container_reports_to_the_server(yard: Yard, engine: docker.DockerClient) -> None:
    source = (
        "import os, urllib.request as u\nprint(u.urlopen(os.environ['TASKYARD_SERVER'] + '/api/v1/health').status)"
    )
    task = yard.submit("python3", "-c", source)

    with yard.agent("--docker", IMAGE, "--docker-args", "--network host --init"):
        yard.wait_for_end(task, seconds=SLOW)

    assert yard.text(task) == "200\n"


def test_the_sdk_in_a_container_speaks_to_the_server(yard: Yard, engine: docker.DockerClient) -> None:
    source = (
        "import os\nfrom taskyard import Task\ntask = Task.get(os.environ['TASKYARD_TASK'])\n"
        "print(task.name, task.status.value)"
    )
    task = yard.submit("python3", "-c", source, name="reporter")

    with yard.agent("--docker", IMAGE, "--docker-args", "--network host --init"):
        yard.wait_for_end(task, seconds=SLOW)

    assert yard.text(task) == "reporter running\n"


def test_a_script_is_sent_into_a_container_from_the_command_line(
    yard: Yard, engine: docker.DockerClient, tmp_path: Path
) -> None:
    repository = Repository.create(tmp_path / "project", {"train.py": "print(open('/etc/marker').read())\n"})
    (tmp_path / "setup.sh").write_text("echo from the command line > /etc/marker\n")
    person = Person(tmp_path / "person").log_in(yard.server)
    asked = ("--image", IMAGE, "--setup-script", str(tmp_path / "setup.sh"), "--docker-args=--shm-size=8m")

    with yard.agent("--docker"):
        wait_until(yard.client.workers, what="the agent")
        done = person.types("run", "--wait", *asked, "--ship-code", "--", "train.py", folder=repository.root)
    assert done.returncode == 0, done.stdout + done.stderr
    story = person.types("story", "@last")
    (task,) = yard.client.tasks().tasks

    assert (done.returncode, "from the command line" in done.stdout) == (0, True), done.stdout + done.stderr
    assert "container" in story.stdout
    assert f"in the image {yard.run(task).image_digest}" in story.stdout


def test_in_a_container_too_tasks_run_as_the_user_that_they_are_to_run_as(
    yard: Yard, engine: docker.DockerClient, tmp_path: Path
) -> None:
    if os.getuid():
        pytest.skip("only root runs tasks as somebody else")
    user = pwd.getpwnam("nobody")
    task = yard.submit("sh", "-c", "id -u; touch here && stat -c %u here")

    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with yard.agent("--docker", IMAGE, "--run-as", "nobody", folder=Path(folder)):
            yard.wait_for_end(task, seconds=SLOW)

    assert yard.text(task).split() == [str(user.pw_uid)] * 2


def test_wrong_arguments_of_the_operator_are_refused_at_the_start(yard: Yard) -> None:
    with yard.agent("--docker", "--docker-args=--no-such-argument") as agent:
        code = agent.wait()

    assert code == 2
    assert "--no-such-argument" in agent.log


def _largest(boxes: Boxes, task: Task) -> float:
    series = boxes.client.run_metrics(boxes.run(task).id)
    values = [point.maximum for one in series if one.name == "memory_bytes" for point in one.points]
    return max(values, default=0.0)


def next_folder(agent: AgentProcess) -> str:
    """The folder by which an agent that is not started yet will mark its containers."""
    server = agent.client()
    place = str(server.transport.server).partition("://")[2].replace(":", "_")  # type: ignore[attr-defined]
    return str(agent.folder / "cache" / "agents" / place / agent.name)


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_outputs_of_a_container_are_kept(boxes: Boxes) -> None:
    write = "import os; os.makedirs('out'); open('out/model', 'w').write('inside')"
    source = f"{write}; os.symlink('/etc/hostname', 'out/x')"
    task = boxes.inside(source, outputs=("out",))
    (ended,) = boxes.wait_for_end(task, seconds=SLOW)
    assert ended.state is TaskState.COMPLETED, boxes.said(task)

    wait_until(lambda: (found := boxes.run(task).outputs) and found.state == "kept", what="outputs")

    run = boxes.run(task)
    assert [(each.name, each.size) for each in boxes.client.artifacts(run.id).artifacts] == [("out/model", 6)]
    assert "not kept: out/x: it is a link that leads out of the code" in boxes.said(task)
