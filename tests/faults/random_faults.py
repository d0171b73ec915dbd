"""Many short tasks under random faults: daemons, keepers and the server killed, connections broken.

`python -m tests.faults.random_faults --tasks 300 --seed 7` is the long form; a seed repeats the choices, not the
moments at which real processes feel them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from taskyard.wire import OnLost, Policy, TaskState

from tests.faults.witness import Witness
from tests.support.agents import AgentProcess
from tests.support.relay import Relay
from tests.support.servers import ServerProcess
from tests.support.yard import Yard

FLAGS = ("--lease-seconds", "3", "--confirm-seconds", "3", "--lost-after-seconds", "10")
PAUSE_SECONDS = (0.1, 0.6)
SECONDS_PER_TASK = 3.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What happened, and what is wrong with it."""

    seed: int
    tasks: int
    seconds: float
    faults: Counter[str]
    runs: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        faults = ", ".join(f"{count} × {name}" for name, count in sorted(self.faults.items()))
        head = f"seed {self.seed}: {self.tasks} tasks, {self.runs} runs, {self.seconds:.0f} s; {faults}"
        return "\n".join((head, *self.problems))


@dataclass(kw_only=True)
class Chaos:
    """Breaks things, one at a time."""

    server: ServerProcess
    relays: list[Relay]
    agents: list[AgentProcess]
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)
    _bereaved: set[str] = field(default_factory=set)

    def strike(self) -> None:
        """One random fault."""
        faults: list[tuple[Callable[[], None], int]] = [
            (self.kill_daemon, 4),
            (self.kill_keeper, 2),
            (self.kill_server, 2),
            (self.break_connections, 4),
            (self.cut_network, 1),
        ]
        (fault,) = self.chance.choices([one for one, _ in faults], [weight for _, weight in faults])
        fault()
        self.done[fault.__name__.replace("_", " ")] += 1

    def kill_daemon(self) -> None:
        self.chance.choice(self.agents).restart()

    def kill_keeper(self) -> None:
        agent = self.chance.choice(self.agents)
        for run in agent.runs:
            task = run.name.rpartition(".")[0]
            if task not in self._bereaved:
                self._bereaved.add(task)
                for keeper in agent.keepers():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(keeper, signal.SIGKILL)

    def kill_server(self) -> None:
        self.server.restart()

    def break_connections(self) -> None:
        self.chance.choice(self.relays).reset()

    def cut_network(self) -> None:
        relay = self.chance.choice(self.relays)
        relay.cut()
        time.sleep(self.chance.uniform(0.2, 2.0))
        relay.mend()


def run(tasks: int, seed: int, folder: Path) -> Report:
    """Runs that many tasks on two agents until all have ended, or far too much time has passed."""
    chance = random.Random(seed)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ServerProcess(*FLAGS))
        yard = stack.enter_context(Yard(server))
        relays = [stack.enter_context(Relay(server.port)) for _ in range(2)]
        witnesses = [_witness(yard, folder / f"task{number}", chance) for number in range(tasks)]
        agents = [
            stack.enter_context(yard.agent(name=f"agent{number}", url=relay.url))
            for number, relay in enumerate(relays)
        ]
        chaos = Chaos(server=server, relays=relays, agents=agents, chance=chance)
        ended = _strike_until_the_end(yard, chaos, began + 60 + tasks * SECONDS_PER_TASK)
        problems = [*([] if ended else ["not all tasks ended in time"]), *_problems(yard, witnesses)]
        runs = sum(yard.task(witness.task).run_count for witness in witnesses)
    return Report(
        seed=seed,
        tasks=tasks,
        seconds=time.monotonic() - began,
        faults=chaos.done,
        runs=runs,
        problems=tuple(problems),
    )


def _witness(yard: Yard, folder: Path, chance: random.Random) -> Witness:
    lines = chance.choice((0, 1, 20, 60, 150))
    policy = Policy(on_lost=OnLost.REQUEUE, grace_seconds=1.0)
    return Witness(yard, folder, lines=lines, pause=chance.choice((0.0, 0.005, 0.02)), policy=policy)


def _strike_until_the_end(yard: Yard, chaos: Chaos, deadline: float) -> bool:
    """Faults stop near the deadline, so that what is left can end."""
    while time.monotonic() < deadline:
        if not _unended(yard):
            return True
        if time.monotonic() < deadline - 45:
            chaos.strike()
        time.sleep(chaos.chance.uniform(*PAUSE_SECONDS))
    return not _unended(yard)


def _unended(yard: Yard) -> bool:
    return any(not task.state.terminal for task in yard.client.all_tasks())


def _problems(yard: Yard, witnesses: list[Witness]) -> list[str]:
    found = []
    for witness in witnesses:
        try:
            task = yard.task(witness.task)
            assert task.state is TaskState.COMPLETED, f"{task.state}: {witness.told()}"
            yard.wait_for_log(yard.run(witness.task))
            witness.check()
        except AssertionError as error:
            found.append(f"task {witness.task.id}: {error}")
    return found


def main() -> int:
    """The command line of the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taskyard-faults-", ignore_cleanup_errors=True) as folder:
        report = run(wanted.tasks, wanted.seed, Path(folder))
    sys.stdout.write(f"{report}\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
