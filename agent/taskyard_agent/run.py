"""One run: from its claim, through preparation and process, to its reported outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from taskyard.errors import TaskyardError, Unavailable
from taskyard.wire import (
    FinishRequest,
    Gpu,
    Outcome,
    OutcomeKind,
    Phase,
    PhaseTime,
    Reason,
    Run,
    RunDirective,
    RunReport,
    StartRequest,
)

from . import containers, endings, outputs, texts
from .answers import Act, Conversation, Route
from .errors import RunFailed, RunGone, RunStopped
from .held import Cause, HeldRun, KeeperRefused, Launch, WarmKeeper, boot_clock
from .hooks import Hook, HookFailed, HookStopped
from .journal import JournalledRun
from .keeper.masking import Masker
from .keeper.processes import sweep
from .outputs import OutputPlan
from .phases import PhaseLog
from .preparation import Preparation, Prepared
from .run_services import RunServices
from .terminal_process import Place

logger = logging.getLogger(__name__)


class RunJob:
    """Carries one claimed run to its end, in a thread of its own."""

    def __init__(
        self,
        journalled: JournalledRun,
        services: RunServices,
        devices: tuple[Gpu, ...],
        secrets: Callable[[], Mapping[str, str]],
        *,
        shares_gpus: bool = False,
        memory_limit_bytes: int | None = None,
        free: Callable[[], None] = lambda: None,
    ) -> None:
        """`secrets` answers the task's secret values; after a crash it asks the server for them again.

        `shares_gpus`: its devices may be other runs' too. `memory_limit_bytes`: the most it may hold. `free` is
        called once its process has ended: what it occupied may be another run's while its end is reported.
        """
        self._journalled = journalled
        self._services = services
        self._devices = devices
        self._ask_for_secrets = secrets
        self._shares_gpus = shares_gpus
        self._memory_limit_bytes = memory_limit_bytes
        self._free = free
        self._secrets: Mapping[str, str] = {}
        self._progress = journalled.progress
        self._tokens = journalled.tokens
        self._spool = journalled.directory.spool
        self._spec = journalled.task.spec
        self._phases = PhaseLog(services.clock, self._progress.phases or _claimed(journalled))
        self.reporting_since: float | None = None
        """When its end was first reported, on the monotonic clock."""
        self.ended = threading.Event()
        """Set by the worker once it is free again."""
        self._cancelled = threading.Event()
        self._cause: Cause | None = None
        self._stop_message = ""
        self._grace: float | None = None
        self._stale = threading.Event()
        self._held: HeldRun | None = None
        self._container_pid: int | None = None
        self._last_notes: tuple[str, ...] = ()
        self._lease_at: float | None = None
        """When the start was sent that the server acknowledged, on `boot_clock()`: the lease counts from there."""
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        """The run's id."""
        return self._journalled.run.id

    @property
    def task(self) -> str:
        """The task's id."""
        return self._journalled.task.id

    @property
    def devices(self) -> tuple[Gpu, ...]:
        """The GPUs that are its own."""
        return self._devices

    # --- what the beat asks and tells

    def report(self) -> RunReport:
        """What the next beat says of this run."""
        held = self._held
        note = held.note() if held else ""
        return RunReport(
            id=self.id,
            control_token=self._tokens.control_token,
            phase=self._phases.current,
            phases=self._phases.times,
            gpus=tuple(gpu.uuid for gpu in self._devices),
            notes=(note,) if note else (),
        )

    @property
    def keeper_pid(self) -> int | None:
        """The process whose tree is this run's, while there is one."""
        return self._held.keeper.pid if self._held else None

    @property
    def container_pid(self) -> int | None:
        """The first process of its container, while there is one."""
        if self._container_pid is None and self._held is not None:
            self._container_pid = containers.pid_of(self._held.run_dir)
        return self._container_pid

    def obey(self, directive: RunDirective) -> None:
        """Does what the server wants of this run; repeating it is harmless."""
        if directive.stale:
            self._stale.set()
        if directive.stale or directive.cancel:
            self.stop(Cause.CANCELLED)
        place = self._place() if directive.terminals else None
        if place is not None:
            for order in directive.terminals:
                self._services.terminals.open(order, place)

    def _place(self) -> Place | None:
        """Where a terminal is opened; None while the command does not run."""
        held = self._held
        if held is None:
            return None
        return Place(
            run=self.id,
            control_token=self._tokens.control_token,
            run_dir=held.run_dir,
            cgroup=held.cgroup,
            account=self._services.account,
        )

    def lease_renewed(self, sent_at: float) -> None:
        """Notes that the server acknowledged a beat that was sent at `sent_at` (`held.boot_clock()`)."""
        if self._held is not None:
            self._held.renew_lease(sent_at)

    @property
    def max_idle_gpu_seconds(self) -> float | None:
        """How long its GPUs may do nothing; None: for ever."""
        return self._spec.policy.max_idle_gpu_seconds

    def stop(self, cause: Cause, *, message: str = "", grace_seconds: float | None = None) -> None:
        """Ends the run: SIGTERM, the grace period, SIGKILL. `message` says more of the cause, in the outcome.

        `grace_seconds` shortens the task's own, also where the run is being stopped already.
        """
        grace = None if grace_seconds is None else min(grace_seconds, self._spec.policy.grace_seconds)
        with self._lock:
            if self._cause is not None and grace is None:
                return
            self._cause = self._cause or cause
            self._stop_message, self._grace = message, grace
            self._cancelled.set()
            if self._held is not None:
                self._held.stop(cause, grace, message=message)

    def kill(self) -> None:
        """Ends the run at once."""
        self.stop(Cause.AGENT_STOPPED)
        if self._held is not None:
            self._held.kill()

    # --- from claim to outcome

    def execute(self) -> Outcome | None:
        """Carries the run to its end and reports it. Returns None when the run was not ours any more."""
        self._services.shipper.follow(self.id, self._tokens.control_token, self._spool)
        outcome = self._progress.outcome or self._followed_by_hook(self._reach_outcome())
        reported = self._finish(outcome)
        containers.conclude(self._journalled.directory.path, self.id)  # takes 50 ms, for which nobody waits
        self._send_outputs(reported=reported)
        if not self._services.shipper.end(self.id, self._log_bytes()):
            self._services.uploads.close_run(self.id)
        return outcome if reported else None

    def _send_outputs(self, *, reported: bool) -> None:
        directory = self._journalled.directory.path
        plan = outputs.plan_of(directory) if reported else None
        if plan is None or not plan.files:
            outputs.release_tree(directory)
            return
        control_token = self._tokens.control_token
        self._services.uploads.send(outputs.Upload(run=self.id, control_token=control_token, directory=directory))

    def _followed_by_hook(self, outcome: Outcome) -> Outcome:
        """What was reached stays, whatever becomes of the hook."""
        told = {**self._told_to_hooks(), "TASKYARD_OUTCOME": outcome.kind.value}
        try:
            self._services.hooks.run(Hook.AFTER_RUN, told, say=self._say)
        except (HookFailed, HookStopped) as error:
            self._say(f"taskyard: {error}")
            logger.error("run %s: %s", self.id, error, extra={"action": "hook_failed", "run": self.id})
            self._last_notes = (str(error),)
        return outcome

    def _reach_outcome(self) -> Outcome:
        try:
            return self._probed(self._outcome_of(self._adopt() or self._prepare_and_hold()))
        except RunFailed as failure:
            self._say(f"taskyard: {failure}")
            return self._probed(failure.outcome)
        except RunGone as error:
            logger.warning("run %s: %s", self.id, error, extra={"action": "run_gone", "run": self.id})
            self._stale.set()
            return endings.stopped(Cause.AGENT_STOPPED, self._phases.current)
        except RunStopped:
            return endings.stopped(self._cause or Cause.CANCELLED, self._phases.current)
        except Exception as error:
            # Whatever it is: a run whose end is never reported is handed out again, up to three times.
            logger.exception(
                "run %s failed inside", self.id, extra={"action": "run_failed_inside", "run": self.id}
            )
            self._say(f"taskyard: {type(error).__name__}: {error}")
            self._end_all()
            return self._probed(endings.failed_inside(error, self._phases.current))

    def _end_all(self) -> None:
        """Nothing of the run may go on behind an end that is reported without its keeper."""
        if self._held is not None:
            self._held.sweep()
        sweep(self.id)
        containers.conclude(self._journalled.directory.path, self.id)

    def _probed(self, outcome: Outcome) -> Outcome:
        """Says of a failure that may be the machine's whether a probe finds it so: only then it counts."""
        if not outcome.infrastructure or outcome.target or outcome.kind is not OutcomeKind.FAILED:
            return outcome
        problem = self._services.probes.problem(outcome.reason, self._devices)
        message = outcome.message if problem is None else f"{outcome.message}\nThe agent finds that {problem}"
        return dataclasses.replace(outcome, confirmed=problem is not None, message=message)

    def _outcome_of(self, held: HeldRun) -> Outcome:
        record = held.exit_record()
        if record is None:
            survivors = held.sweep()
            containers.conclude(held.run_dir, self.id)
            return endings.lost_with_keeper(survivors)
        if not containers.used_by(held.run_dir):
            return endings.outcome_of(record, self._spool)
        # After a success there is nothing to ask, and an engine that takes a network down answers late.
        ended = None if record.exit_code == 0 else containers.look_at(held.run_dir)
        if ended is not None and ended.running:  # what was attached to it was killed
            containers.conclude(held.run_dir, self.id)
        return endings.outcome_in_container(record, ended, self._spool)

    def _adopt(self) -> HeldRun | None:
        """Carries on with what an earlier daemon started. None: it never started the command, nor will it."""
        if not self._progress.started:
            return None
        held = HeldRun.adopt(self._journalled.directory.path)
        if held is None:
            return None
        logger.info("took run %s over", self.id, extra={"action": "run_adopted", "run": self.id})
        return self._hold(held)

    def _prepare_and_hold(self) -> HeldRun:
        self._secrets = self._ask_for_secrets()
        preparation = self._preparation()
        with ExitStack() as stack:
            keeper = stack.enter_context(self._services.keepers.take())
            prepared = preparation.make(stack)
            self._start(prepared)
            held = self._start_held(preparation.launch(prepared, self._lease_at), prepared.locks, keeper)
        return self._hold(held)

    def _preparation(self) -> Preparation:
        return Preparation(
            journalled=self._journalled,
            services=self._services,
            devices=self._devices,
            shares_gpus=self._shares_gpus,
            memory_limit_bytes=self._memory_limit_bytes,
            secrets=self._secrets,
            masks=self._secret_values(),
            phases=self._phases,
            cancelled=self._cancelled,
            say=self._say,
            run_hook=self._run_hook,
        )

    def _start_held(self, launch: Launch, locks: tuple[int, ...], keeper: WarmKeeper) -> HeldRun:
        try:
            return HeldRun.start(self._journalled.directory.path, launch, locks, keeper=keeper)
        except KeeperRefused as error:
            sweep(self.id)
            raise RunFailed(Phase.RUNNING, Reason.INTERNAL, str(error), infrastructure=True) from error

    def _hold(self, held: HeldRun) -> HeldRun:
        with self._lock:
            self._held = held
            if self._cause is not None:
                held.stop(self._cause, self._grace, message=self._stop_message)
        self._services.send_beat()
        held.wait()
        self._phases.enter(Phase.FINISHING)
        return held

    def _run_hook(self, hook: Hook) -> None:
        try:
            self._services.hooks.run(hook, self._told_to_hooks(), say=self._say, cancelled=self._cancelled)
        except HookStopped as error:
            raise RunStopped(str(error)) from error
        except HookFailed as error:
            raise RunFailed(self._phases.current, Reason.HOOK, str(error), infrastructure=True) from error

    def _told_to_hooks(self) -> dict[str, str]:
        return {
            "TASKYARD_TASK": self.task,
            "TASKYARD_RUN": self.id,
            "TASKYARD_WORKER": self._journalled.run.worker,
            "TASKYARD_GPUS": ",".join(str(gpu.index) for gpu in self._devices),
            "TASKYARD_PHASE": self._phases.current.value,
        }

    def _start(self, prepared: Prepared) -> None:
        """User code starts only after the server has durably acknowledged this."""
        ready, box = prepared.ready, prepared.box
        request = StartRequest(
            control_token=self._tokens.control_token,
            phases=self._phases.times,
            gpus=tuple(gpu.uuid for gpu in self._devices),
            command_line=tuple(map(texts.storable, prepared.argv)),
            parameters=self._spec.parameters,
            python=texts.cleaned(ready.version),
            packages=texts.cleaned(ready.packages),
            environment_key=ready.key,
            environment_reused=ready.reused,
            image_digest=box.digest if box else None,
            output_offset=self._log_bytes(),
        )
        run = self._ask_to_start(request)
        if run.cancel_requested_at is not None:
            raise RunStopped("cancelled just before its process was started")
        self._phases.enter(Phase.RUNNING)
        self._save(phases=self._phases.times, gpus=request.gpus, output_offset=request.output_offset, started=True)

    def _ask_to_start(self, request: StartRequest) -> Run:
        """Asks until the server answers. Raises RunStopped, RunGone, RunFailed where it refuses the request."""
        conversation = Conversation(Route.START, self.id)
        while True:
            self._lease_at = boot_clock()
            try:
                return self._services.client.start_run(self.id, request, patience_seconds=0.0)
            except TaskyardError as error:
                act = conversation.heed(error)
                if act is Act.DISCARD:
                    raise RunGone(str(error)) from error
                if act is Act.SHRINK and request.packages:
                    request = dataclasses.replace(request, packages=())
                    continue
                if act is Act.SHRINK and not isinstance(error, Unavailable):
                    message = f"the server refused the start: {error}"
                    raise RunFailed(Phase.ENVIRONMENT, Reason.INTERNAL, message) from error
            if self._cancelled.wait(conversation.pause):
                raise RunStopped("stopped before the server allowed its start")

    def _secret_values(self) -> tuple[str, ...]:
        return (*self._secrets.values(), self._tokens.report_token)

    # --- the end

    def _finish(self, outcome: Outcome) -> bool:
        """Reports the outcome for as long as it takes; journalled first, for a killed agent."""
        outcome = texts.cleaned(outcome)
        self._save(outcome=outcome, log_bytes=self._log_bytes(), phases=self._phases.times)
        self.reporting_since = time.monotonic()
        self._free()
        kept = self._find_outputs(outcome)
        request = FinishRequest(
            control_token=self._tokens.control_token,
            outcome=outcome,
            log_bytes=self._log_bytes(),
            phases=self._phases.close(),
            notes=texts.cleaned(self._last_notes),
            outputs=kept.report if kept is not None else None,
        )
        run = self._report(request)
        if run is None:
            logger.warning(
                "run %s ended as %s, but it is not this agent's any more", self.id, outcome.kind,
                extra={"action": "finish_refused", "run": self.id},
            )  # fmt: skip
            return False
        self._remember_end(run)
        logger.info(
            "run %s: %s%s", self.id, outcome.kind, f" ({outcome.message})" if outcome.message else "",
            extra={"action": "run_finished", "run": self.id, "outcome": outcome.kind.value},
        )  # fmt: skip
        return True

    def _find_outputs(self, outcome: Outcome) -> OutputPlan | None:
        """What is kept of the run's files; decided once, and said in its log. None where nothing is to be kept."""
        if not self._spec.outputs or outcome.kind is OutcomeKind.LOST:
            return None
        directory, uploads = self._journalled.directory.path, self._services.uploads
        try:
            found = outputs.plan_of(directory)
            if found is None:
                found = outputs.planned(directory, self._spec.outputs, uploads.users, uploads.limits())
                for line in found.lines() if found else ():
                    self._say(line)
        except (OSError, ValueError) as error:
            self._say(f"taskyard: the outputs cannot be kept: {error}")
            logger.error("outputs of %s: %s", self.id, error, extra={"action": "outputs_not_found"})
            return None
        return found

    def _remember_end(self, run: Run) -> None:
        try:
            self._services.journal.remember_end(self.id, run.ended_at)
        except OSError as error:
            logger.warning("the end of %s is not kept: %s", self.id, error, extra={"action": "end_not_kept"})

    def _report(self, request: FinishRequest) -> Run | None:
        """Sends the end until the server has taken it; None once the run is known to be another agent's."""
        conversation = Conversation(Route.FINISH, self.id)
        forms = endings.shorter_and_shorter(request)
        while not self._stale.is_set():
            try:
                return self._services.client.finish_run(self.id, forms[0], patience_seconds=0.0)
            except TaskyardError as error:
                act = conversation.heed(error)
            if act is Act.DISCARD:
                return None
            if act is Act.SHRINK and len(forms) > 1:
                forms = forms[1:]
            else:
                self._stale.wait(conversation.pause)
        return None

    def _save(self, **changes: Any) -> None:
        self._progress = dataclasses.replace(self._progress, **changes)
        try:
            self._services.journal.save_progress(self.id, self._progress)
        except OSError as error:
            # The keeper's own records, whose space is reserved, still tell a later daemon how the run ended.
            logger.error("run %s cannot be journalled: %s", self.id, error, extra={"action": "run_not_journalled"})

    def _log_bytes(self) -> int:
        return self._spool.stat().st_size if self._spool.exists() else 0

    def _say(self, line: str) -> None:
        """Appends a line to the run's log, before the keeper takes it over."""
        text = Masker(self._secret_values()).mask_all(f"{line}\n".encode(errors="replace"))
        with contextlib.suppress(OSError), self._spool.open("ab") as spool:  # a full disk fails what follows
            spool.write(text)


def _claimed(journalled: JournalledRun) -> tuple[PhaseTime, ...]:
    return (PhaseTime(phase=Phase.CLAIMED, started_at=journalled.run.claimed_at),)
