"""The agent's errors.

AgentError
├── SettingsError   the operator's mistake: one line, exit code 2
├── AgentNotStarted   the machine's fault: one line, exit code 1
├── RunFailed       this run ends as failed; it becomes the run's outcome
└── RunStopped      somebody asked for the end of this run while it was prepared
    └── RunGone     it is not this agent's any more: nothing is reported
"""

from __future__ import annotations

from taskyard.errors import TaskyardError, UsageError
from taskyard.wire import Outcome, OutcomeKind, Phase, Reason


class AgentError(Exception):
    """Root of the agent's errors."""


class SettingsError(AgentError, UsageError):
    """A flag, variable or file that cannot be followed; `str(error)` says what to do."""


class AgentNotStarted(AgentError, TaskyardError):
    """What keeps the agent from starting that is no mistake of the operator's; `str(error)` says what it is."""


class RunFailed(AgentError):
    """A run that cannot go on: by the task's own failure, unless one of two marks says otherwise.

    `target` is a host that cannot be reached just now: no one's failure, the task waits for it. `infrastructure`
    marks what may be the machine's failure; a probe then tells whether it is.
    """

    def __init__(
        self, phase: Phase, reason: Reason, message: str, *, infrastructure: bool = False, target: str = ""
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.reason = reason
        self.target = target
        self.infrastructure = infrastructure or bool(target)

    @property
    def outcome(self) -> Outcome:
        """This failure as a run's outcome."""
        return Outcome(
            kind=OutcomeKind.FAILED,
            reason=self.reason,
            phase=self.phase,
            message=str(self),
            infrastructure=self.infrastructure,
            target=self.target,
        )


class RunStopped(AgentError):
    """The run was cancelled, or is not ours any more, before its process was started."""


class RunGone(RunStopped):
    """The server says that the run is not this agent's any more."""
