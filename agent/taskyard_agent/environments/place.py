"""Where the programs that make an environment run, when that is not this machine: an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Place(Protocol):
    """An image, in which programs run one by one; folders of this machine are at the same paths inside."""

    @property
    def key(self) -> str:
        """Names the image for all time: an environment that was built in it is for no other."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def shell(self) -> bool:
        """Whether there is a `/bin/sh` in it."""

    def program(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        variables: Mapping[str, str],
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
    ) -> AbstractContextManager[list[str]]:
        """Makes a program ready to run in it, as the agent's user, with the folders that it reads and writes.

        Yields the command that is to be started on this machine: it is the program in all respects, and leaves
        nothing behind once the context is left. It ends by SIGHUP when the place itself went away.
        """
