"""Agents inside the jobs of a real Slurm: no task is lost, none runs twice, no process outlives its job."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import OutcomeKind, Policy, Reason, Run, TaskState
from taskyard_agent.keeper.processes import marked

from tests.faults.conftest import QUICK, Faulty
from tests.faults.witness import Witness
from tests.support.agents import end_leftovers, wait_until
from tests.support.servers import ServerProcess
from tests.support.slurm import NODES, Slurm, cluster

PAGE = Path(__file__).resolve().parents[2] / "docs/howto/slurm.md"

SCRIPT = """#!/bin/bash
cd {folder}
exec {python} -m taskyard.cli agent {verb} --cpu-only --local-dir {folder}/$SLURMD_NODENAME {flags}
"""


class Site:
    """A yard whose agents live in batch jobs, each node with a folder of its own."""

    def __init__(self, slurm: Slurm, yard: Faulty, token: str) -> None:
        """`token` is the agents': they share a home folder."""
        self.slurm = slurm
        self.yard = yard
        self.jobs: list[str] = []
        self.witnesses: list[Witness] = []
        self.variables = {
            "TASKYARD_SERVER": yard.server.url,
            "TASKYARD_TOKEN": token,
            "XDG_CONFIG_HOME": str(yard.folder / "config"),
        }

    def witness(self, **options: object) -> Witness:
        """A new task."""
        self.witnesses.append(self.yard.witness(**options))
        return self.witnesses[-1]

    def execute(self, witness: Witness, *flags: str, own: str = "") -> str:
        """A job for one task."""
        return self._submit("execute", f"--id {witness.task.id} {own}", *flags)

    def pilot(self, *flags: str, own: str = "") -> str:
        """A job that serves the queue `default`."""
        return self._submit("daemon", own, *flags)

    def _submit(self, verb: str, own: str, *flags: str) -> str:
        place = self.yard.folder / "nodes"
        place.mkdir(exist_ok=True, parents=True)
        script = SCRIPT.format(python=sys.executable, verb=verb, folder=place, flags=own)
        self.jobs.append(self.slurm.submit(script, *flags, variables=self.variables))
        return self.jobs[-1]

    def started(self, witness: Witness, number: int = 1) -> None:
        """Waits until its command began so often: an agent has to start before."""
        witness.wait_for_start(number, seconds=90)

    def first_run(self, witness: Witness) -> Run:
        """Of a task that has had a second one, or waits."""
        return self.yard.runs(witness.task)[0]

    def state(self, witness: Witness) -> TaskState:
        return self.yard.task(witness.task).state

    def assert_nothing_left(self) -> None:
        """No process of a job, nor of a run, is there any more."""
        runs = [run.id for witness in self.witnesses for run in self.yard.runs(witness.task)]
        wait_until(
            lambda: not [pid for job in self.jobs for pid in self.slurm.processes(job=job)], what="end of all jobs"
        )
        wait_until(lambda: not [pid for run in runs for pid in marked(run)], what="end of all runs")

    def clear(self) -> None:
        """Ends what a test left, and lets all nodes work again."""
        for job in self.jobs:
            self.slurm.ask("scancel", job)
        for witness in self.witnesses:
            if not self.state(witness).terminal:
                self.yard.client.stop_task(witness.task.id)
            for run in self.yard.runs(witness.task):
                end_leftovers(run.id)
        for node in NODES:
            self.slurm.revive_node(node)
        wait_until(
            lambda: set(self.slurm.states().values()) == {"idle"}, what=f"idle nodes: {self.slurm.states()}"
        )


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with cluster() as slurm:
        yield slurm


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    with ServerProcess(*QUICK) as server, Faulty(server, tmp_path_factory.mktemp("site")) as yard:
        yield yard


@pytest.fixture(scope="module")
def token(yard: Faulty) -> str:
    return yard.server.issue("agent", name="site")


@pytest.fixture
def site(slurm: Slurm, yard: Faulty, token: str) -> Iterator[Site]:
    site = Site(slurm, yard, token)
    try:
        yield site
    finally:
        print(*(f"job {job}: {site.slurm.output(job)}" for job in site.jobs))
        site.clear()


def outcome(run: Run) -> tuple[OutcomeKind, Reason]:
    assert run.outcome is not None
    return run.outcome.kind, run.outcome.why


PREEMPTED = (OutcomeKind.LOST, Reason.PREEMPTED)


# --- One task for a job: `agent execute`


def test_of_three_jobs_for_one_task_one_runs_it_and_the_others_end_well(site: Site) -> None:
    witness = site.witness(queue=None)
    first = site.execute(witness)
    site.started(witness)
    node = site.yard.run(witness.task).worker.partition(":")[0]
    site.slurm.ask("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    others = [site.execute(witness), site.execute(witness)]
    for job in others:
        site.slurm.wait_for(job, "COMPLETED")
        assert "nothing to do: task" in site.slurm.output(job)
        assert f"worker {node}:job{first}:" in site.slurm.output(job)

    witness.ends_once(starts=1)
    site.slurm.wait_for(first, "COMPLETED")
    late = site.execute(witness)

    site.slurm.wait_for(late, "COMPLETED")
    assert "it is completed" in site.slurm.output(late)
    assert len([line for line in site.slurm.output(late).splitlines() if "nothing to do" in line]) == 1
    site.assert_nothing_left()


def test_a_cancelled_job_costs_no_task_and_the_next_step_is_named(site: Site) -> None:
    witness = site.witness(queue=None)
    job = site.execute(witness)
    site.started(witness)

    site.slurm.ask("scancel", job)

    site.yard.wait_for_state(witness.task, TaskState.WAITING)
    assert outcome(site.first_run(witness)) == PREEMPTED
    explained = site.yard.client.explain(witness.task.id).summary
    assert f"taskyard agent execute --id {witness.task.id}" in explained
    assert "taskyard enqueue --queue" in explained
    site.assert_nothing_left()
    site.execute(witness)
    site.started(witness, 2)
    witness.ends_once(runs=2, starts=2)


def test_a_requeued_job_takes_its_task_up_again(site: Site) -> None:
    witness = site.witness(queue=None)
    job = site.execute(witness)
    site.started(witness)

    site.slurm.ask("scontrol", "requeue", job)
    site.yard.wait_for_state(witness.task, TaskState.WAITING)
    site.slurm.start_again(job)

    site.started(witness, 2)
    witness.ends_once(runs=2, starts=2)
    assert outcome(site.first_run(witness)) == PREEMPTED
    site.assert_nothing_left()


def test_a_task_that_was_given_a_queue_goes_back_to_it(site: Site) -> None:
    witness = site.witness(queue=None)
    job = site.execute(witness, own="--queue default")
    site.started(witness)

    site.slurm.ask("scancel", job)
    site.yard.wait_for_state(witness.task, TaskState.QUEUED)
    site.pilot()

    site.started(witness, 2)
    witness.ends_once(runs=2, starts=2)


def test_the_job_of_a_node_that_died_waits_until_its_first_run_is_known_to_be_lost(site: Site) -> None:
    witness = site.witness(queue=None)
    job = site.execute(witness)
    site.started(witness)

    site.slurm.kill_node(site.yard.run(witness.task).worker.partition(":")[0])
    site.slurm.start_again(job)

    site.started(witness, 2)
    assert not marked(site.first_run(witness).id)
    witness.ends_once(runs=2, starts=2)
    assert outcome(site.first_run(witness)) == (OutcomeKind.LOST, Reason.LEASE)


# --- Pilots: `agent daemon`


def end_job(site: Site, job: str, event: str, node: str) -> None:
    if event == "preempted":
        site.jobs.append(site.slurm.submit("#!/bin/sh\nexit 0\n", "-p", "high", "-w", node, "--exclusive"))
    elif event == "node_down":
        site.slurm.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    elif event == "node_killed":
        site.slurm.kill_node(node)
    else:
        site.slurm.ask(*{"cancelled": ("scancel", job), "requeued": ("scontrol", "requeue", job)}[event])


@pytest.mark.parametrize("event", ["cancelled", "requeued", "preempted", "node_down", "node_killed"])
def test_what_a_pilot_ran_goes_back_to_its_queue(site: Site, event: str) -> None:
    witness = site.witness(policy=Policy(grace_seconds=60), stubborn=event == "requeued")
    job = site.pilot()
    site.started(witness)
    node = site.yard.run(witness.task).worker.partition(":")[0]

    end_job(site, job, event, node)
    if event == "cancelled":
        site.pilot()
    else:
        site.slurm.start_again(job, lambda: len(witness.starts) > 1)

    site.started(witness, 2)
    assert not marked(site.first_run(witness).id)
    witness.ends_once(runs=2, starts=2)
    lost = (OutcomeKind.LOST, Reason.LEASE)
    assert outcome(site.first_run(witness)) == (lost if event == "node_killed" else PREEMPTED)


def test_a_pilot_of_a_drained_node_ends_what_it_runs(site: Site) -> None:
    witness = site.witness()
    job = site.pilot(own="--idle-timeout 1s")
    site.started(witness)
    node = site.yard.run(witness.task).worker.partition(":")[0]

    site.slurm.ask("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")

    witness.ends_once(starts=1)
    site.slurm.wait_for(job, "COMPLETED")
    site.assert_nothing_left()


def test_the_runs_of_a_killed_pilot_end_with_it_and_the_next_agent_gives_them_back(site: Site) -> None:
    witness = site.witness()
    job = site.pilot("-w", "n1")
    site.started(witness)

    site.slurm.ask("scancel", "--signal=KILL", "--full", job)

    site.assert_nothing_left()
    site.pilot("-w", "n1")
    site.started(witness, 2)
    witness.ends_once(runs=2, starts=2)
    assert outcome(site.first_run(witness)) == PREEMPTED


def test_an_end_at_the_time_limit_is_charged(site: Site) -> None:
    witness = site.witness(policy=Policy(retries=1))
    job = site.pilot("--time=1", own="--endless-until 0")
    site.started(witness)

    site.slurm.ask("scancel", job)  # less than 90 s before its end

    wait_until(lambda: site.first_run(witness).outcome is not None)
    assert outcome(site.first_run(witness)) == (OutcomeKind.FAILED, Reason.TIME_LIMIT)
    assert site.yard.task(witness.task).retries_used == 1
    site.pilot()
    witness.ends_once(runs=2, starts=2)


@pytest.mark.thorough
def test_slurm_itself_ends_a_job_at_its_limit(site: Site) -> None:
    witness = site.witness(queue=None)
    job = site.execute(witness, "--time=1")

    site.slurm.wait_for(job, "TIMEOUT", seconds=150)

    site.yard.wait_for_state(witness.task, TaskState.FAILED)
    assert outcome(site.first_run(witness)) == (OutcomeKind.FAILED, Reason.TIME_LIMIT)
    assert b"line 0" in site.yard.output(site.first_run(witness))
    site.assert_nothing_left()


def test_nothing_is_taken_that_cannot_end_with_the_job(site: Site) -> None:
    long = site.witness(policy=Policy(timeout_seconds=3600))
    endless = site.witness()
    short = site.witness(policy=Policy(timeout_seconds=20, grace_seconds=1), lines=1)
    site.pilot("--time=2")

    short.ends_once(starts=1)

    said = [site.yard.client.explain(task.task.id).summary for task in (long, endless)]
    assert "may run for" in said[0]
    assert "has no time limit (--timeout)" in said[1]
    assert site.state(long) is site.state(endless) is TaskState.QUEUED
    named = site.execute(long, "--time=2")
    site.slurm.wait_for(named, "FAILED")
    assert "may run for" in site.slurm.output(named)
    for witness in (long, endless):
        site.yard.client.stop_task(witness.task.id)


def test_trees_are_on_the_nodes_own_disk_and_gone_at_the_end(site: Site, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    task = site.yard.python("import os; print(os.getcwd(), os.environ['SLURM_TMPDIR'])", queue=None)
    script = SCRIPT.format(python=sys.executable, verb="execute", folder=tmp_path, flags=f"--id {task.id}")
    script = script.replace("exec", f"export SLURM_TMPDIR={tmp_path}/scratch\nexec", 1)

    job = site.slurm.submit(script, variables=site.variables)

    site.slurm.wait_for(job, "COMPLETED")
    where, scratch = site.yard.text(task).split()
    assert where.startswith(f"{tmp_path}/scratch/taskyard-job-")
    assert scratch == f"{tmp_path}/scratch"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_scripts_of_the_documentation_run(site: Site) -> None:
    one, pilot = re.findall(r"^```bash\n(#!/bin/bash\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    small = ("--time=120", "--mem=500", "--cpus-per-task=1")  # SIGUSR1 comes an hour before the end
    variables = {
        **site.variables,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TASKYARD_LOCAL_DIR": str(site.yard.folder / "documented"),
    }
    named, served = site.witness(queue=None, lines=1), site.witness(lines=1)

    site.jobs.append(site.slurm.submit(one, *small, variables=variables, arguments=[named.task.id]))
    site.jobs.append(site.slurm.submit(pilot, *small, variables=variables))

    named.ends_once(seconds=90)
    served.ends_once(seconds=90)
    assert "write `exec`" not in "".join(map(site.slurm.output, site.jobs))
