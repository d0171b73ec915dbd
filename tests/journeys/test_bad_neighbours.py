"""One person's mistakes take no machine from the others, and what is away for a while fails nobody's task."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from taskyard.client import Client
from taskyard.config import Connection
from taskyard.errors import Refused
from taskyard.wire import (
    Code,
    Command,
    CommandKind,
    Environment,
    NewTask,
    Policy,
    Reason,
    RequirementsKind,
    Run,
    Task,
    TaskSpec,
    TaskState,
    WorkerState,
)

from tests.support.agents import wait_until
from tests.support.git_host import serving
from tests.support.relay import Relay
from tests.support.repositories import Repository
from tests.support.servers import ServerProcess
from tests.support.slowness import Slowness
from tests.support.wheels import package_index
from tests.support.yard import INHERIT, Yard

PATIENCE = Policy(give_up_after_seconds=6.0)
"""Of the bad tasks: what takes half an hour in production."""
FIRST_IN_LINE_SECONDS = 10.0
"""On a machine that does nothing else; on others as much longer as any work takes there at that moment."""
NOTHING = Command(kind=CommandKind.EXECUTABLE, target="true")


@dataclass(frozen=True)
class Bad:
    """A mistake, and how it must end."""

    spec: TaskSpec
    reason: Reason | None
    """None: it is refused when it is submitted."""
    words: str


def spec(code: Code | None = None, environment: Environment = INHERIT, command: Command = NOTHING) -> TaskSpec:
    return TaskSpec(code=code or Code(), environment=environment, command=command, policy=PATIENCE)


def repository(url: str) -> Code:
    return Code(repository=url, commit="a" * 40)


def packages(*names: str) -> Environment:
    return Environment(requirements=RequirementsKind.PACKAGES, packages=names)


def bomb() -> bytes:
    """An archive that unpacks to a thousand times its size."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        member = tarfile.TarInfo("zeros")
        member.size = 11_000_000
        tar.addfile(member, io.BytesIO(b"\0" * member.size))
    return gzip.compress(raw.getvalue())


@dataclass
class Street:
    """A server, its agents, and who lives there."""

    yard: Yard
    bad: Client
    good: Client
    mistakes: Sequence[Bad]
    watched: threading.Event
    paused: list[str]
    slowness: Slowness

    def submit_bad(self, number: int) -> tuple[Task, Bad] | None:
        """One more mistake; None where the server refuses it at once, with its reason."""
        mistake = self.mistakes[number % len(self.mistakes)]
        if mistake.reason is not None:
            return self.bad.create_task(NewTask(spec=mistake.spec, queue="default")), mistake
        with pytest.raises(Refused, match=mistake.words):
            self.bad.create_task(NewTask(spec=mistake.spec, queue="default"))
        return None

    def submit_good(self) -> Task:
        return self.good.create_task(NewTask(spec=spec(), queue="default"))

    def watch(self) -> None:
        """Looks again and again whether a worker is paused, or has a failure of its own."""
        while not self.watched.wait(0.1):
            for worker in self.yard.client.workers():
                if worker.state is WorkerState.PAUSED or worker.paused_reason or worker.infrastructure_failures:
                    self.paused.append(f"{worker.name}: {worker.state} {worker.paused_reason}")


@contextlib.contextmanager
def street(tmp_path: Path, agents: int) -> Iterator[Street]:
    with contextlib.ExitStack() as stack:
        index = stack.enter_context(package_index(tmp_path / "wheels"))
        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = stack.enter_context(ServerProcess())
        yard = stack.enter_context(Yard(server))
        variables = {"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
        for _ in range(agents):
            stack.enter_context(yard.agent("--git-stall", "1s", variables=variables))
        bad, good = (
            stack.enter_context(Client.of(Connection(server=server.url, token=server.issue("user", name=name))))
            for name in ("bea", "gil")
        )
        slowness = stack.enter_context(Slowness())
        found = Street(yard, bad, good, mistakes(bad, mute, tmp_path), threading.Event(), [], slowness)
        wait_until(lambda: len(yard.client.workers()) == agents, what="workers")
        watcher = threading.Thread(target=found.watch)
        watcher.start()
        try:
            yield found
        finally:
            found.watched.set()
            watcher.join()
        assert not found.paused
        assert "worker_paused" not in server.log


def mistakes(client: Client, mute: socket.socket, tmp_path: Path) -> list[Bad]:
    archive = bomb()
    digest = hashlib.sha256(archive).hexdigest()
    (tmp_path / "bomb").write_bytes(archive)
    client.put_blob(digest, tmp_path / "bomb")
    silent = f"https://localhost:{mute.getsockname()[1]}/a/b.git"
    large = Command(kind=CommandKind.EXECUTABLE, target="true", args=("x" * 140_000,))
    raising = r"raise SystemError('the last words \x00 of it')"
    last_words = Command(kind=CommandKind.EXECUTABLE, target="python3", args=("-c", raising))
    return [
        Bad(spec(repository("https://no-such-host.invalid/a/b.git")), Reason.CHECKOUT, "--ship-code"),
        Bad(spec(repository("git@github-work:a/b.git")), Reason.CHECKOUT, "--ship-code"),
        Bad(spec(environment=Environment(python="3.99")), Reason.ENVIRONMENT, "--python"),
        Bad(spec(environment=packages("no_such_package_1")), Reason.ENVIRONMENT, "no_such_package_1"),
        Bad(spec(Code(archive=digest)), Reason.CHECKOUT, "unpacks to more than"),
        Bad(spec(command=Command(kind=CommandKind.EXECUTABLE, target="nosuch")), Reason.COMMAND, "nosuch"),
        Bad(spec(command=last_words), Reason.EXIT, "the last words"),
        Bad(spec(command=large), None, "longer than|too large|too long|argument"),
        Bad(spec(repository(silent)), Reason.GIT_HOST, "--ship-code"),
    ]


def alternating(street: Street, number: int) -> tuple[list[tuple[Task, Bad]], list[Task]]:
    bad, good = [], []
    for place in range(number):
        bad.append(street.submit_bad(place))
        good.append(street.submit_good())
    return [one for one in bad if one is not None], good


def all_bad_first(street: Street, number: int) -> tuple[list[tuple[Task, Bad]], list[Task]]:
    bad = [street.submit_bad(place) for place in range(number)]
    return [one for one in bad if one is not None], [street.submit_good() for _ in range(number)]


def arriving(seconds: float, every: float) -> Callable[[Street, int], tuple[list[tuple[Task, Bad]], list[Task]]]:
    """Bad ones over that time, and a good one at regular times."""

    def order(street: Street, number: int) -> tuple[list[tuple[Task, Bad]], list[Task]]:
        began, bad, good = time.monotonic(), [], []
        clock = threading.Event()
        while (now := time.monotonic() - began) < seconds:
            while len(bad) < number and now >= len(bad) * seconds / number:
                bad.append(street.submit_bad(len(bad)))
            while now >= len(good) * every:
                good.append(street.submit_good())
            clock.wait(0.05)
        return [one for one in bad if one is not None], good

    return order


def check_good(street: Street, good: Sequence[Task], bad: Sequence[Task]) -> None:
    """Each one started soon after it was first in line: since the claim before its own, or since it was queued."""
    claims = sorted(run.claimed_at for task in (*good, *bad) for run in street.yard.runs(task))
    for task in good:
        (run,) = street.yard.runs(task)
        assert run.started_at is not None
        before = [at for at in claims if at < run.claimed_at]
        first_in_line = max(task.created_at, before[-1] if before else 0.0)
        slower = street.slowness.between(first_in_line, run.started_at)
        assert run.started_at - first_in_line < FIRST_IN_LINE_SECONDS * slower


def check_bad(street: Street, task: Task, mistake: Bad) -> None:
    ended = street.yard.task(task)
    assert ended.state is TaskState.FAILED
    assert ended.run is not None
    assert ended.run.outcome is not None
    assert ended.run.outcome.reason is mistake.reason
    assert mistake.words in ended.run.outcome.message
    assert ended.retries_used == 0


def live_through(
    tmp_path: Path,
    agents: int,
    order: Callable[[Street, int], tuple[list[tuple[Task, Bad]], list[Task]]],
    number: int,
) -> None:
    with street(tmp_path, agents) as found:
        bad, good = order(found, number)
        for task in found.yard.wait_for_end(*good, seconds=180):
            assert task.state is TaskState.COMPLETED
        found.yard.wait_for_end(*(task for task, _ in bad), seconds=180)
        check_good(found, good, [task for task, _ in bad])
        for task, mistake in bad:
            check_bad(found, task, mistake)


def test_each_kind_of_mistake_before_all_good_tasks_on_one_worker(tmp_path: Path) -> None:
    live_through(tmp_path, 1, all_bad_first, 9)


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("agents", [1, 2])
@pytest.mark.parametrize("order", [alternating, all_bad_first, arriving(60, 5)])
def test_twenty_mistakes_among_twenty_good_tasks(
    tmp_path: Path, agents: int, order: Callable[[Street, int], tuple[list[tuple[Task, Bad]], list[Task]]]
) -> None:
    live_through(tmp_path, agents, order, 20)


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("agents", [1, 2])
def test_mistakes_that_arrive_for_ten_minutes(tmp_path: Path, agents: int) -> None:
    live_through(tmp_path, agents, arriving(600, 20), 20)


# --- The mirror case: the tasks are right, and what they need is away for a while


def sit_out(tmp_path: Path, number: int, seconds: float, stall: int) -> None:
    """`stall`: after how many seconds of silence a host counts as away, also on a machine that is slow itself."""
    code = Repository.create(tmp_path / "code", {"train.py": "import speck\nprint('trained')\n"})
    code.publish(tmp_path / "hosted" / "code.git")
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(serving(tmp_path / "hosted"))
        index = stack.enter_context(package_index(tmp_path / "wheels"))
        index.add("speck")
        git_way, index_way = (stack.enter_context(Relay(port)) for port in (host.port, _port(index.url)))
        server = stack.enter_context(ServerProcess())
        yard = stack.enter_context(Yard(server))
        variables = {
            "GIT_SSL_CAINFO": str(host.certificate),
            "PIP_INDEX_URL": f"http://127.0.0.1:{index_way.port}/simple",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": "",
            "UV_HTTP_TIMEOUT": f"{stall}",
            "UV_HTTP_RETRIES": "0",
        }
        stack.enter_context(yard.agent("--git-stall", f"{stall}s", variables=variables))
        git_way.cut()
        index_way.cut()
        url = f"https://localhost:{git_way.port}/code.git"
        needs_git = TaskSpec(code=Code(repository=url, commit=code.head), environment=INHERIT, command=NOTHING)
        needs_index = spec(environment=packages("speck"))
        needs_index = TaskSpec(environment=needs_index.environment, command=NOTHING)
        kinds = (needs_git, needs_index)
        tasks = [
            yard.client.create_task(NewTask(spec=kinds[place % 2], queue="default")) for place in range(number)
        ]

        threading.Event().wait(seconds)  # as long as they are away: what is waited for is that nothing comes of it
        git_way.mend()
        index_way.mend()
        ended = yard.wait_for_end(*tasks, seconds=600)

        assert {task.state for task in ended} == {TaskState.COMPLETED}
        assert {(task.retries_used, task.losses, task.unstarted) for task in ended} == {(0, 0, 0)}
        assert [worker.paused_reason for worker in yard.client.workers()] == [""]
        assert max(_most_in_a_minute(yard.runs(task)) for task in tasks[1::2]) <= 2


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def _most_in_a_minute(runs: Sequence[Run]) -> int:
    """Of failed attempts of a task for which the machine itself was to blame."""
    times = [run.claimed_at for run in runs if run.outcome is not None and run.outcome.confirmed]
    return max((sum(at <= other < at + 60 for other in times) for at in times), default=0)


def test_a_host_and_an_index_that_are_away_for_a_while_fail_no_task(tmp_path: Path) -> None:
    sit_out(tmp_path, 6, 5.0, stall=2)


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_host_and_an_index_that_are_away_for_two_minutes_fail_none_of_fifty_tasks(tmp_path: Path) -> None:
    sit_out(tmp_path, 50, 120.0, stall=10)
