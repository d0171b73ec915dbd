"""Files that runs keep: after every ending but a lost one, through kills, and nothing that is not theirs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.errors import NotFound, Refused
from taskyard.wire import OutputsState, Policy, Run, Task, TaskState

from tests.support.agents import AgentProcess, wait_until
from tests.support.person import Person
from tests.support.relay import Relay
from tests.support.servers import ServerProcess
from tests.support.yard import Yard

WRITES = "import os, sys, time; os.makedirs('out'); open('out/model.pt', 'w').write('weights')\n"
PLANTED = """
os.symlink('/etc/passwd', 'out/passwd'); os.mkfifo('out/pipe'); os.symlink('../../../outside', 'out/up')
open('left.bin', 'w').write('left'); open('out/too_large', 'w').truncate(2 << 20)
"""
UPLOADED = b"PUT /api/v1/artifacts/parts/"


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    """A server with an agent that runs four tasks at once."""
    with ServerProcess("--max-output-file-bytes", "1048576") as server, Yard(server) as yard:
        with yard.agent("--slots", "4"):
            yield yard


def kept(yard: Yard, task: Task) -> Run:
    """The latest run, once all that it keeps is on the server."""
    wait_until(
        lambda: (found := yard.run(task).outputs) and found.state is OutputsState.KEPT,
        seconds=90.0,
        what="outputs",
    )
    return yard.run(task)


def names(yard: Yard, run: Run) -> list[str]:
    return [artifact.name for artifact in yard.client.artifacts(run.id).artifacts]


def fetched(yard: Yard, run: Run, name: str = "out/model.pt", **headers: str) -> bytes:
    with yard.server.client() as client:
        answer = client.get(f"/runs/{run.id}/artifacts/content", params={"name": name}, headers=headers)
    answer.raise_for_status()
    return answer.content


def test_every_ending_but_a_lost_one_keeps_them(yard: Yard) -> None:
    waits = f"{WRITES}print('written', flush=True); time.sleep(600)"
    outputs = ("out/*.pt",)
    done = yard.python(WRITES, outputs=outputs)
    failed = yard.python(f"{WRITES}sys.exit(3)", outputs=outputs)
    stopped = yard.python(waits, outputs=outputs)
    too_long = yard.python(waits, outputs=outputs, policy=Policy(timeout_seconds=3.0))
    yard.wait_for_output(stopped, "written", seconds=90.0)
    yard.client.stop_task(stopped.id)

    states = [task.state for task in yard.wait_for_end(done, failed, stopped, too_long)]

    assert states == [TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED, TaskState.FAILED]
    for task in (done, failed, stopped, too_long):
        assert fetched(yard, kept(yard, task)) == b"weights"


def test_what_is_planted_or_too_large_is_named_and_left(yard: Yard) -> None:
    task = yard.python(WRITES + PLANTED, outputs=("out", "no/such/*"))
    yard.wait_for_end(task)
    run = kept(yard, task)

    assert names(yard, run) == ["out/model.pt"]
    assert run.outputs is not None
    reasons = {skipped.name: skipped.reason for skipped in run.outputs.skipped}
    assert reasons == {
        "out/passwd": "it is a link that leads out of the code",
        "out/up": "it is a link that leads out of the code",
        "out/pipe": "it is a named pipe",
        "out/too_large": "one output file may have 1 MiB",
    }
    log = yard.output(run).decode()
    assert "this run wrote 1 file (4 bytes) into its copy of the code, which is removed" in log
    assert "to keep such files: --output '*.bin'" in log
    assert "taskyard: no file that this run wrote matches --output 'no/such/*'" in log
    assert all(f"taskyard: not kept: {name}" in log for name in reasons)


def test_they_are_read_in_ranges_by_those_who_may_read_the_task(yard: Yard) -> None:
    task = yard.python(f"{WRITES}open('out/empty', 'w')", outputs=("out",))
    yard.wait_for_end(task)
    run = kept(yard, task)
    tag = f'"{hashlib.sha256(b"weights").hexdigest()}"'

    assert fetched(yard, run, Range="bytes=3-") == b"ghts"
    assert fetched(yard, run, Range="bytes=1-2", **{"If-Range": tag}) == b"ei"
    assert fetched(yard, run, "out/empty", Range="bytes=5-") == b""
    assert fetched(yard, run, Range="bytes=1-2", **{"If-Range": '"of another file"'}) == b"weights"
    place = f"/runs/{run.id}/artifacts/content"
    with yard.server.client() as client:
        beyond = client.get(place, params={"name": "out/model.pt"}, headers={"Range": "bytes=7-"})
        assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, "bytes */7")
        whole = client.get(place, params={"name": "out/model.pt"})
        assert whole.headers["Content-Disposition"] == "attachment; filename*=UTF-8''model.pt"
        assert whole.headers["ETag"] == tag
        assert client.get(place, params={"name": "../x"}).status_code == 404
    with yard.server.client("") as stranger:
        assert stranger.get(place, params={"name": "out/model.pt"}).status_code == 401
    yard.client.delete_task(task.id)
    with pytest.raises(NotFound):
        yard.client.artifacts(run.id)


def test_a_person_lists_and_fetches_them(yard: Yard, tmp_path: Path) -> None:
    ada = Person(tmp_path / "ada").log_in(yard.server)
    (ada.work / "train.py").write_text(f"{WRITES}open('out/log.txt', 'w').write('loss')\n")
    ran = ada.types("run", "--output", "out/**", "--wait", "--", "python", "train.py")
    assert ran.returncode == 0, ran.stderr
    assert "keeps         out/**" in ran.stderr

    got = ada.types("artifact", "get", "@last", "-o", "results")

    assert got.stdout.split() == ["results/out/log.txt", "results/out/model.pt"], got.stderr
    assert (ada.work / "results/out/model.pt").read_text() == "weights"
    shown = ada.types("show", "@last").stdout
    assert "outputs\t2 files, 11 B\n  kept\tout/log.txt (4 B)\n  kept\tout/model.pt (7 B)\n" in shown
    assert [each["name"] for each in json.loads(ada.types("show", "--json", "@last").stdout)["artifacts"]] == [
        "out/log.txt",
        "out/model.pt",
    ]
    assert ada.types("artifact", "list", "@last").stdout.splitlines()[0].startswith("out/log.txt\t4 B\toutput\t")

    (ada.work / "results/out/log.txt").write_text("mine")
    refused = ada.types("artifact", "get", "@last", "-o", "results")
    assert (refused.returncode, (ada.work / "results/out/log.txt").read_text()) == (2, "mine")
    assert "would be overwritten" in refused.stderr
    again = ada.types("artifact", "get", "@last", "-o", "results", "--overwrite", "out/log*")
    assert (again.stdout, (ada.work / "results/out/log.txt").read_text()) == ("results/out/log.txt\n", "loss")
    unknown = ada.types("artifact", "get", "@last", "nothing")
    assert (unknown.returncode, "it keeps out/log.txt, out/model.pt" in unknown.stderr) == (2, True)
    cloned = ada.types("clone", "@last", "--output", "none", "--json")
    assert json.loads(cloned.stdout)[0]["spec"]["outputs"] == []


@pytest.fixture
def slow() -> Iterator[tuple[Yard, Relay, AgentProcess]]:
    """A server, and an agent whose way to it can be held up."""
    with ServerProcess() as server, Yard(server) as yard, Relay(server.port) as relay:
        with yard.agent("--slots", "2", url=relay.url) as agent:
            yield yard, relay, agent


def test_an_agent_that_is_killed_during_the_upload_goes_on_with_it(
    slow: tuple[Yard, Relay, AgentProcess],
) -> None:
    yard, relay, agent = slow
    snag = relay.hold(UPLOADED)
    task = yard.python(WRITES, outputs=("out",))
    yard.wait_for_state(task, TaskState.COMPLETED, seconds=90.0)  # final first
    assert snag.caught.wait(90)
    uploading = yard.run(task).outputs
    assert uploading is not None
    assert (uploading.state, uploading.files) == (OutputsState.UPLOADING, 1)
    assert agent.runs

    agent.kill()
    snag.loosen()
    relay.reset()
    agent.start()

    run = kept(yard, task)
    assert fetched(yard, run) == b"weights"
    wait_until(lambda: not agent.runs, what="the run's folder to be closed")
    after = yard.python("import os; print(os.listdir())")  # the tree is free again, and clean
    yard.wait_for_end(after)
    assert yard.text(after) == "[]\n"


def test_the_slot_is_free_and_the_tree_is_not_while_outputs_are_sent(
    slow: tuple[Yard, Relay, AgentProcess],
) -> None:
    yard, relay, agent = slow
    snag = relay.hold(UPLOADED)
    first = yard.python(f"{WRITES}open('out/where', 'w').write(os.getcwd())", outputs=("out",))
    yard.wait_for_end(first)
    assert snag.caught.wait(90)

    for _ in range(2):
        following = yard.python("import os; open('mine', 'w').write(os.getcwd())")
        yard.wait_for_end(following)

    snag.loosen()
    run = kept(yard, first)
    assert names(yard, run) == ["out/model.pt", "out/where"]
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0


def test_a_server_that_is_killed_during_the_upload_gets_the_rest(
    slow: tuple[Yard, Relay, AgentProcess],
) -> None:
    yard, relay, _ = slow
    snag = relay.hold(UPLOADED)
    writes = f"{WRITES}\nfor n in range(20): open(f'out/{{n:02}}', 'w').write(str(n))"
    task = yard.python(writes, outputs=("out",))
    yard.wait_for_state(task, TaskState.COMPLETED, seconds=90.0)
    assert snag.caught.wait(90)

    yard.server.kill()
    snag.loosen()
    relay.reset()
    yard.server.start()

    run = kept(yard, task)
    assert len(names(yard, run)) == 21
    assert fetched(yard, run, "out/07") == b"7"


def test_a_run_that_is_lost_keeps_nothing(slow: tuple[Yard, Relay, AgentProcess]) -> None:
    yard, _, agent = slow
    task = yard.python(f"{WRITES}print('written', flush=True); time.sleep(600)", outputs=("out",))
    yard.wait_for_output(task, "written", seconds=90.0)
    (keeper,) = agent.keepers()
    first = yard.run(task)

    os.kill(keeper, signal.SIGKILL)

    wait_until(lambda: yard.client.run(first.id).outcome is not None, what="the end of the first run")
    assert yard.client.run(first.id).outputs is None
    assert names(yard, first) == []
    yard.client.stop_task(task.id)


def test_a_pattern_that_leads_out_is_refused_before_it_is_sent(yard: Yard, tmp_path: Path) -> None:
    ada = Person(tmp_path / "ada").log_in(yard.server)
    (ada.work / "train.py").write_text("pass")

    refused = ada.types("run", "--output", "../**", "--", "python", "train.py")

    assert refused.returncode == 2
    assert "--output '../**': name files relative to the working folder" in refused.stderr
    with pytest.raises(Refused, match="outputs"):
        yard.python("pass", outputs=("/etc/*",))
