"""What a failed git means: never right, not now, or the machine's fault; and what to do next."""

from __future__ import annotations

import errno
import functools
import re

from taskyard.wire import Phase, Reason

from taskyard_agent.errors import RunFailed
from taskyard_agent.hosts import Name, look_up

ADVICE_MARK = "\nWhat to do: "
DISK = re.compile(
    r"No space left|Disk quota exceeded|Read-only file system|Input/output error|Too many open files|"
    r"Cannot allocate memory|out of memory",
    re.IGNORECASE,
)
HOST = re.compile(
    r"Could not resolve|Name or service not known|Temporary failure in name|No route to host"
    r"|Network is unreachable|Connection (?:refused|timed out|reset|closed)|Operation timed out"
    r"|Failed to connect|Couldn't connect|returned error: (?:5\d\d|429)|RPC failed|early EOF"
    r"|unexpected disconnect|Operation too slow|Empty reply|Broken pipe|SSL|gnutls|banner exchange",
    re.IGNORECASE,
)
NAME = re.compile(r"Could not resolve host(?:name)?:? (?P<host>[^\s:;,()]+)", re.IGNORECASE)
ABSENT = re.compile(r"Name or service not known|nodename nor servname|No address associated", re.IGNORECASE)
FOR_NOW = re.compile(r"Temporary failure in name|timed? ?out", re.IGNORECASE)
ACCESS = re.compile(
    r"Authentication failed|could not read (?:Username|Password)|Permission denied|Host key verification|"
    r"returned error: 40[13]|Access denied|not found|does not appear to be a git|does not exist|unauthori[sz]ed|"
    r"certificate problem|certificate verif|alternative certificate",
    re.IGNORECASE,
)
GONE = re.compile(
    r"not our ref|unadvertised object|couldn't find remote ref|no such remote ref|did not send all", re.IGNORECASE
)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENOMEM)


class GitFailed(Exception):
    """Git ended with an error; `words` are its own, credentials masked."""

    def __init__(self, words: str, *, timed_out: bool = False) -> None:
        super().__init__(words)
        self.words = words
        self.timed_out = timed_out

    @property
    def of_disk(self) -> bool:
        """The machine's storage or memory failed."""
        return DISK.search(self.words) is not None

    @functools.cached_property
    def of_name(self) -> bool:
        """No host of that name exists, as far as this machine can tell: git does not always say so."""
        match = NAME.search(self.words)
        if match is None or FOR_NOW.search(self.words):
            return False
        return ABSENT.search(self.words) is not None or look_up(match["host"]) is Name.ABSENT

    @property
    def of_host(self) -> bool:
        """The repository's host could not be reached just now, or broke off."""
        refused_first = ACCESS.search(self.words) is not None and "returned error: 5" not in self.words
        return self.timed_out or (HOST.search(self.words) is not None and not (refused_first or self.of_name))

    @property
    def of_access(self) -> bool:
        """The host was reached and said no; another way may be open."""
        return not (self.of_host or self.of_name) and ACCESS.search(self.words) is not None

    @property
    def of_commit(self) -> bool:
        """The host has no such commit, or does not give it out by its name."""
        return GONE.search(self.words) is not None

    @property
    def of_check(self) -> bool:
        """An object did not pass git's own checks."""
        return "fsck error" in self.words

    def translated(self, what: str, advice: str, *, target: str = "") -> RunFailed:
        """This failure as the run's: the machine's or that of the host `target`, else the task's with `advice`."""
        if self.of_disk:
            return of_machine(Reason.DISK, f"{what}: {self.words}")
        if self.of_host:
            return not_now(target, f"{what}: the host cannot be reached\n{self.words}")
        return refused(f"{what}:\n{self.words}", advice)


def refused(what: str, advice: str) -> RunFailed:
    """The task's own fault."""
    return RunFailed(Phase.CHECKOUT, Reason.CHECKOUT, f"{what}{ADVICE_MARK}{advice}")


def not_now(target: str, what: str) -> RunFailed:
    """No one's fault: the host `target` cannot be reached, and the task waits for it."""
    message = (
        f"{what}{ADVICE_MARK}wait until it can be, or submit again with --ship-code, which sends the code itself"
    )
    return RunFailed(Phase.CHECKOUT, Reason.GIT_HOST, message, infrastructure=True, target=target)


def of_machine(reason: Reason, message: str) -> RunFailed:
    """The machine's fault, which another machine may not have."""
    return RunFailed(Phase.CHECKOUT, reason, message, infrastructure=True)


def of_system(error: OSError) -> RunFailed:
    """A failure of the machine's file system."""
    return of_machine(Reason.DISK, f"the agent's folder cannot be used: {error}")
