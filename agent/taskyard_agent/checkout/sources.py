"""Repositories that a task's requirements name: brought here like its code, so that no installer sees a token."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .address import Address, parse
from .failure import GitFailed, of_system, refused
from .git import Git
from .mirror import Log, Mirror, mirror_of
from .mirrors import make_room
from .names import BRANCH_REFUSED, COMMIT
from .settings import CheckoutSettings

ADVICE = "name a branch, a tag or a commit that it has"
_ABBREVIATED = re.compile(r"[0-9a-f]{7,63}")


@dataclass(frozen=True, kw_only=True)
class GitSources:
    """The checkout's mirrors, with its credentials for each host and its list of what may be fetched."""

    settings: CheckoutSettings
    log: Log
    cancelled: threading.Event

    def pin(self, url: str, revision: str | None) -> str:
        """Returns the commit that a branch, a tag or (None) the remote's head names now. Raises RunFailed."""
        if revision is not None and COMMIT.fullmatch(revision):
            return revision
        if revision is not None and BRANCH_REFUSED.search(revision):
            raise refused(f"{revision!r} is no revision of {url}", ADVICE)
        address = parse(url, self.settings)
        try:
            with self._mirror(url, "").changing("") as mirror:
                return mirror.tip(address, None) if revision is None else mirror.named(address, revision)
        except GitFailed as failure:
            what = f"{address.url} has no {revision or 'HEAD'}"
            raise failure.translated(what, ADVICE, target=address.place) from failure
        except OSError as error:
            raise of_system(error) from error

    @contextlib.contextmanager
    def bringing(self, url: str, commit: str) -> Iterator[Path]:
        """Yields a repository on this machine that holds the commit, and stays for so long. Raises RunFailed."""
        mirror = self._mirror(url, commit)
        with mirror.in_use():
            self._fill(mirror, parse(url, self.settings), commit)
            yield mirror.path

    def _fill(self, mirror: Mirror, address: Address, commit: str) -> None:
        try:
            if not mirror.has(commit):
                with mirror.changing(commit) as held:
                    held.fetch_commits(address, (commit,), None)
                make_room(self.settings)
            mirror.size_of(commit)
            if not mirror.git.ask("rev-parse", "--verify", "--quiet", "HEAD"):
                mirror.git.run("update-ref", "--no-deref", "HEAD", commit)  # pip clones nothing without one
        except GitFailed as failure:
            raise failure.translated(f"{address.url} cannot be used", ADVICE, target=address.place) from failure
        except OSError as error:
            raise of_system(error) from error

    def _mirror(self, url: str, commit: str) -> Mirror:
        git = Git(
            git_dir=self.settings.folder,
            environ=self.settings.environ,
            cancelled=self.cancelled,
            limits=self.settings.limits,
        )
        return mirror_of(parse(url, self.settings), commit, self.settings, git, self.log)
