"""The runs that an earlier process left in the journal: each is carried on or ended, and its end is reported."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from taskyard.wire import Outcome, Phase, RunReport

from . import endings
from .allotment import DoesNotFit
from .held import Cause, HeldRun, read_exit_record
from .journal import Journal, JournalledRun
from .run import RunJob
from .run_services import RunServices
from .worker import Worker

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 10.0
"""How long a new daemon waits for the end of an earlier run to be reported before it goes on."""


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """What an earlier daemon of this agent left, on a machine that was started as `boot_id` says."""

    journal: Journal
    boot_id: str
    services: RunServices
    secrets_of: Callable[[JournalledRun], Mapping[str, str]]

    def reports(self) -> list[RunReport]:
        """What the first beat says of them: they are known, and what became of them will be told."""
        return [_report_of(run) for run in self.journal.runs()]

    def hand_to(self, worker: Worker) -> None:
        """Lets the worker carry them all, also those for which it has no room any more."""
        left = [self._after_reboot(run) for run in self.journal.runs()]
        for run in left:
            logger.info(
                "carrying on with run %s", run.run.id, extra={"action": "run_carried_on", "run": run.run.id}
            )
            if run.progress.outcome is not None:
                worker.settle(run, self.services).join(SETTLE_SECONDS)
        going = [run for run in left if run.progress.outcome is None]
        self.services.containers.sweep({run.run.id for run in going})
        for run in sorted(going, key=lambda run: not _keeps_share(run, worker)):
            self._carry_on(run, worker)

    def give_back(self) -> None:
        """Ends them all and reports it, as an agent does that is told to end what it runs."""
        for run in self.journal.runs():
            logger.info("ending run %s", run.run.id, extra={"action": "run_given_back", "run": run.run.id})
            job = RunJob(_ended_unless_held(self._after_reboot(run)), self.services, (), dict)
            job.stop(Cause.AGENT_STOPPED)
            if job.execute() is None:
                self.journal.close_run(run.run.id)  # the server does not want its log either
        self.services.containers.sweep(set())

    def _after_reboot(self, run: JournalledRun) -> JournalledRun:
        """A restart of the machine ended what it held; what had ended before it keeps its true end."""
        if run.boot_id == self.boot_id or run.progress.outcome is not None:
            return run
        outcome = _outcome_before_reboot(run)
        return dataclasses.replace(run, progress=dataclasses.replace(run.progress, outcome=outcome))

    def _carry_on(self, run: JournalledRun, worker: Worker) -> None:
        try:
            kept = self._with_share(run, worker)
        except DoesNotFit as error:
            worker.fail(run, self.services, endings.beyond_capacity(str(error)))
            return
        secrets = functools.partial(self.secrets_of, run)
        worker.take(kept, self.services, secrets=secrets, done=self.services.send_beat)

    def _with_share(self, run: JournalledRun, worker: Worker) -> JournalledRun:
        if _keeps_share(run, worker):
            worker.allotment.carry(run.run.id, run.share)
            return run
        share = worker.allotment.take(run.run.id, run.task.spec.resources, run.task.queue_id)
        return self.journal.save_share(run, share)


def _report_of(run: JournalledRun) -> RunReport:
    return RunReport(
        id=run.run.id,
        control_token=run.tokens.control_token,
        phase=_phase_of(run),
        phases=run.progress.phases,
    )


def _phase_of(run: JournalledRun) -> Phase:
    phases = run.progress.phases
    return phases[-1].phase if phases else Phase.CLAIMED


def _ended_unless_held(run: JournalledRun) -> JournalledRun:
    """Whose command was never started: it is not prepared in order to be ended."""
    if run.progress.outcome or (run.progress.started and HeldRun.adopt(run.directory.path)):
        return run
    outcome = endings.stopped(Cause.AGENT_STOPPED, _phase_of(run))
    return dataclasses.replace(run, progress=dataclasses.replace(run.progress, outcome=outcome))


def _keeps_share(run: JournalledRun, worker: Worker) -> bool:
    """One whose command was never started takes others where its GPUs are this agent's no more."""
    return run.progress.started or set(run.share.gpus) <= {gpu.uuid for gpu in worker.devices}


def _outcome_before_reboot(run: JournalledRun) -> Outcome:
    record = read_exit_record(run.directory.path)
    return endings.outcome_of(record, run.directory.spool) if record else endings.lost_with_machine()
