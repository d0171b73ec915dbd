"""Answers of somebody else's between agent and server, and each of the server's own words on each route."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import TaskState

from tests.faults.conftest import Faulty
from tests.faults.witness import Witness
from tests.support.agents import AgentProcess, wait_until
from tests.support.proxy import FOREIGN, WORDS, Proxy, Rule
from tests.support.servers import ServerProcess

FORGIVING = ("--lease-seconds", "2", "--confirm-seconds", "30", "--lost-after-seconds", "60")
"""A run is soon called unresponsive, and is given up so late that none is in these tests."""
OF_RUN = ("start", "logs", "finish")
AT_START = ("GET .*/info", "GET .*/whoami", "GET .*/queues", "POST .*/beats")
SHORT = ("200 html", "404")
"""Before the routes of an agent's start, which costs a start each."""


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Faulty]:
    with ServerProcess(*FORGIVING) as server, Faulty(server, tmp_path / "witnesses") as yard:
        yield yard


@pytest.fixture
def proxy(yard: Faulty) -> Iterator[Proxy]:
    with Proxy(yard.server.port) as proxy:
        yield proxy


def path_of(witness: Witness, route: str) -> str:
    """The route of the task's first run."""
    return f"POST .*/runs/{witness.task.id}.1/{route}"


def interfere(yard: Faulty, proxy: Proxy, answer: bytes, **how: float | bool) -> tuple[list[Witness], list[Rule]]:
    """A task for each of its routes, before which the answer is given; the agent's own routes are hit besides."""
    rules = [proxy.answer("POST .*/beats", answer, **how), proxy.answer("POST .*/claims", answer, **how)]
    witnesses = []
    for route in OF_RUN:
        witness = yard.witness(lines=3, pause=0.02, queue=None)
        rules.append(proxy.answer(path_of(witness, route), answer, **how))
        witnesses.append(witness)
    for witness in witnesses:
        yard.client.enqueue(witness.task.id, "default")
    return witnesses, rules


def all_end_once(witnesses: list[Witness], rules: list[Rule], *, hint: str, seconds: float = 60.0) -> None:
    try:
        for witness in witnesses:
            witness.ends_once(runs=1, starts=1, seconds=seconds)
        assert all(rule.hits for rule in rules)
    except AssertionError as error:
        hits = [(rule.pattern, rule.hits) for rule in rules]
        raise AssertionError(f"{hint}: {error}; hits {hits}") from error


@pytest.mark.timeout(600)
@pytest.mark.parametrize("behind", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_a_page_in_the_servers_place_ends_nothing_and_loses_nothing(
    yard: Faulty, proxy: Proxy, behind: bool
) -> None:
    """Before the server, which has not got the request then, and behind it: it has done what it was asked to."""
    with yard.agent("--slots", "3", url=proxy.url) as agent:
        for name, answer in FOREIGN.items():
            witnesses, rules = interfere(yard, proxy, answer, behind=behind)
            all_end_once(witnesses, rules, hint=name)
        assert agent.process is not None
        assert agent.process.poll() is None


@pytest.mark.parametrize("name", SHORT)
def test_an_agent_that_starts_while_its_server_stumbles_waits(yard: Faulty, proxy: Proxy, name: str) -> None:
    rules = [proxy.answer(route, FOREIGN[name], times=2) for route in AT_START]
    witness = yard.witness(lines=3)

    with yard.agent(url=proxy.url):
        all_end_once([witness], rules, hint=name)


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FOREIGN)
def test_a_page_that_stays_for_ten_seconds_ends_nothing_and_loses_nothing(
    yard: Faulty, proxy: Proxy, name: str
) -> None:
    at_start = [proxy.answer(route, FOREIGN[name], seconds=3.0) for route in AT_START]
    first = yard.witness(lines=3)

    with yard.agent("--slots", "3", url=proxy.url) as agent:
        all_end_once([first], at_start, hint=name, seconds=120.0)
        witnesses, rules = interfere(yard, proxy, FOREIGN[name], seconds=10.0)
        all_end_once(witnesses, rules, hint=name, seconds=120.0)
        assert agent.process is not None
        assert agent.process.poll() is None


CELLS = [(name, route) for name in WORDS for route in OF_RUN]
GONE = {("stale", route) for route in OF_RUN} | {("not_found", "start"), ("not_found", "finish")}
"""The cells in which the run is not the agent's any more."""


@pytest.mark.timeout(600)
def test_each_word_of_the_server_has_its_effect_on_a_run(yard: Faulty, proxy: Proxy) -> None:
    witnesses: dict[tuple[str, str], Witness] = {}
    rules: dict[tuple[str, str], Rule] = {}
    for name, route in CELLS:
        witness = witnesses[name, route] = yard.witness(lines=3, pause=0.02, queue=None)
        rules[name, route] = proxy.answer(path_of(witness, route), WORDS[name])
    for witness in witnesses.values():
        yard.client.enqueue(witness.task.id, "default")

    with yard.agent("--slots", "6", url=proxy.url) as agent:
        for cell, witness in witnesses.items():
            if cell in GONE:
                wait_until(lambda cell=cell: rules[cell].hits, seconds=60.0, what=f"{cell} said")
                wait_until(lambda witness=witness: gone(yard, agent, witness), what=f"{cell} discarded")
            elif cell == ("not_found", "logs"):
                task = yard.wait_for_state(witness.task, TaskState.COMPLETED)
                assert (task.run_count, len(witness.starts)) == (1, 1), cell
            else:
                witness.ends_once(runs=1, starts=1)

    assert not witnesses["stale", "start"].starts
    assert not witnesses["not_found", "start"].starts


def gone(yard: Faulty, agent: AgentProcess, witness: Witness) -> bool:
    """Whether the agent has the task's run no more, and has reported no end."""
    run = yard.run(witness.task)
    return run.outcome is None and all(run.id not in path.name for path in agent.runs)


@pytest.mark.parametrize(
    "name",
    ["forbidden", *(pytest.param(name, marks=pytest.mark.thorough) for name in WORDS if name != "forbidden")],
)
def test_no_word_on_claims_and_beats_stops_an_agent(yard: Faulty, proxy: Proxy, name: str) -> None:
    running = yard.witness()
    with yard.agent("--slots", "2", url=proxy.url):
        running.wait_for_start(seconds=60.0)
        rules = [proxy.answer(f"POST .*/{route}", WORDS[name]) for route in ("claims", "beats")]
        wait_until(lambda: all(rule.hits for rule in rules), what="both words")
        next_one = yard.witness(lines=2)
        all_end_once([next_one, running], rules, hint=name)


def test_a_line_that_no_store_takes_ends_its_task_once(yard: Faulty) -> None:
    source = "raise ValueError('a NUL \\0, \\udc80 half a pair, \\x1b[31mred\\x1b[0m and ' + 'x' * 5_000)"
    task = yard.python(f"import sys; sys.stderr.reconfigure(errors='surrogateescape'); {source}")

    with yard.agent():
        (ended,) = yard.wait_for_end(task)

    assert (ended.state, ended.run_count) == (TaskState.FAILED, 1)
    outcome = yard.run(task).outcome
    assert outcome is not None
    assert outcome.exit_code == 1
    assert "ValueError: a NUL \ufffd" in outcome.message
    assert "\x1b" not in outcome.message


def test_an_end_that_is_refused_as_invalid_ends_its_task_without_its_texts(yard: Faulty, proxy: Proxy) -> None:
    task = yard.python("raise SystemExit('last words')", queue=None)
    rule = proxy.answer(f"POST .*/runs/{task.id}.1/finish", WORDS["invalid"], times=1)
    yard.client.enqueue(task.id, "default")

    with yard.agent(url=proxy.url):
        (ended,) = yard.wait_for_end(task)

    outcome = yard.run(task).outcome
    assert rule.hits == 1
    assert (ended.state, ended.run_count) == (TaskState.FAILED, 1)
    assert outcome is not None
    assert (outcome.message, outcome.exit_code) == ("", 1)


def test_while_an_end_is_reported_the_next_task_runs_in_its_place(yard: Faulty, proxy: Proxy) -> None:
    first = yard.witness(lines=2, queue=None)
    rule = proxy.answer(path_of(first, "finish"), FOREIGN["413"], times=1000)
    yard.client.enqueue(first.task.id, "default")

    with yard.agent(url=proxy.url) as agent:
        wait_until(lambda: rule.hits, seconds=60.0, what="a report")
        yard.witness(lines=2).ends_once(runs=1, starts=1)
        assert yard.run(first.task).outcome is None
        assert "cannot report the end of run" in agent.log
        rule.times = 0
        first.ends_once(runs=1, starts=1)


@pytest.mark.timeout(600)
def test_a_token_that_was_renewed_keeps_the_runs_of_the_one_before(yard: Faulty, tmp_path: Path) -> None:
    kept = tmp_path / "token"
    kept.write_text(yard.server.issue("agent", name="machine", create_queues=True))
    (before,) = [token for token in yard.client.tokens() if token.name == "machine"]
    running, waiting = yard.witness(), yard.witness(lines=2)

    with yard.agent("--token-file", str(kept), variables={"TASKYARD_TOKEN": ""}) as agent:
        running.wait_for_start(seconds=60.0)
        yard.client.revoke_token(before.id)
        wait_until(lambda: "was revoked" in agent.log, seconds=60.0, what="the trouble in the log")
        wait_until(lambda: "was revoked" in agent.ask("--status").stdout, what="the trouble in the status")
        kept.write_text(yard.server.issue("agent", name="machine", create_queues=True))
        running.ends_once(runs=1, starts=1, seconds=120.0)
        waiting.ends_once(runs=1, starts=1, seconds=120.0)
        assert "was revoked" not in agent.ask("--status").stdout


def test_the_command_line_says_in_one_line_that_no_taskyard_answers(yard: Faulty, proxy: Proxy) -> None:
    proxy.answer(".*", FOREIGN["200 html"], times=1000)
    own = {
        "PATH": os.environ["PATH"],
        "HOME": str(yard.folder),
        "TASKYARD_SERVER": proxy.url,
        "TASKYARD_TOKEN": "t",
    }
    command = [sys.executable, "-m", "taskyard.cli", "ps"]

    own["TASKYARD_SERVER"] = proxy.url
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=30)

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"no Taskyard server answers at {proxy.url} (200 OK, text/html, from nginx)" in done.stderr
