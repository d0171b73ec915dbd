"""Which files of a run are kept and which are not: decided once, before its end is reported, and journalled."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskyard.wire import ArtifactLimits, OutputsState, RunOutputs, SkippedOutput

from taskyard_agent.keeper.durable import write_whole
from taskyard_agent.keeper.globs import Patterns, stamp_file
from taskyard_agent.keeper.memory_guard import size_text
from taskyard_agent.outputs.folder import Found, OutputFolder, Refused

HELD, PLAN = "tree.json", "outputs.json"
"""Files in the run's folder: which tree is kept for it, and what of it is to be sent."""
NAMED = 20
"""Files that are not kept and that the log names."""
REPORTED = 100


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that is kept of one run."""

    file_bytes: int
    run_bytes: int
    run_files: int

    def within(self, server: ArtifactLimits | None) -> Limits:
        """The lower of these and the server's."""
        if server is None:
            return self
        return Limits(
            file_bytes=min(self.file_bytes, server.file_bytes),
            run_bytes=min(self.run_bytes, server.run_bytes),
            run_files=min(self.run_files, server.run_files),
        )


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """What is to be sent, in this order, and what is not kept."""

    files: tuple[Found, ...] = ()
    skipped: tuple[Refused, ...] = ()
    """The first REPORTED."""
    skipped_files: int = 0
    unmatched: tuple[str, ...] = ()
    """Patterns that match nothing which the run wrote."""

    @property
    def report(self) -> RunOutputs:
        """As the run's end says it."""
        return RunOutputs(
            state=OutputsState.UPLOADING if self.files else OutputsState.KEPT,
            files=len(self.files),
            bytes=sum(found.size for found in self.files),
            skipped=tuple(map(skipped_output, self.skipped)),
            skipped_files=self.skipped_files,
        )

    def lines(self) -> list[str]:
        """What the log says: nothing is left out in silence."""
        said = [
            f"taskyard: no file that this run wrote matches --output '{_shown(text)}'" for text in self.unmatched
        ]
        for refused in self.skipped[:NAMED]:
            size = f" ({size_text(refused.size)})" if refused.size else ""
            said.append(f"taskyard: not kept: {refused.name}{size}: {refused.reason}")
        if self.skipped_files > NAMED:
            said.append(f"taskyard: not kept: {self.skipped_files - NAMED} more")
        return said


def skipped_output(refused: Refused) -> SkippedOutput:
    """As the server is given it."""
    return SkippedOutput(name=refused.name, reason=refused.reason, size=refused.size)


def hold_tree(run_dir: Path, root: Path, work: Path, keep: Callable[[Path], None]) -> None:
    """Keeps a tree for the run until `release_tree`, through every crash of the agent."""
    claim = run_dir / HELD
    parts = work.relative_to(root.resolve()).parts
    write_whole(str(claim), json.dumps({"root": str(root), "work": parts}).encode())
    keep(claim)


def release_tree(run_dir: Path) -> None:
    """The tree is another run's from now on; a repeat does nothing."""
    (run_dir / HELD).unlink(missing_ok=True)


def folder_of(run_dir: Path, users: Iterable[int]) -> OutputFolder | None:
    """The tree that is kept for the run; None where there is none."""
    try:
        held = json.loads((run_dir / HELD).read_bytes())
    except FileNotFoundError:
        return None
    root = Path(held["root"])
    return OutputFolder(root=root, work=tuple(held["work"]), since=_started_at(root), users=frozenset(users))


def planned(run_dir: Path, patterns: tuple[str, ...], users: Iterable[int], limits: Limits) -> OutputPlan | None:
    """Decides what is kept, and journals it. None where no tree is kept for the run. Raises OSError."""
    folder = folder_of(run_dir, users)
    if folder is None:
        return None
    made = _Sorted(limits).of(folder, Patterns(patterns))
    write_whole(str(run_dir / PLAN), json.dumps(dataclasses.asdict(made)).encode())
    return made


def plan_of(run_dir: Path) -> OutputPlan | None:
    """What was decided before; None where nothing was."""
    try:
        read: dict[str, Any] = json.loads((run_dir / PLAN).read_bytes())
    except FileNotFoundError:
        return None
    found = [
        Found(**{**one, "place": tuple(one["place"]), "identity": tuple(one["identity"])}) for one in read["files"]
    ]
    refused = tuple(Refused(**one) for one in read["skipped"])
    return OutputPlan(
        files=tuple(found),
        skipped=refused,
        skipped_files=read["skipped_files"],
        unmatched=tuple(read["unmatched"]),
    )


def _started_at(root: Path) -> int:
    """When the command was started, on the clock of the tree's file system; 0 where that is not known."""
    try:
        return os.stat(stamp_file(os.fspath(root))).st_ctime_ns
    except OSError:
        return 0


@dataclass
class _Sorted:
    """Sorts what is found into what is kept and what is not."""

    limits: Limits
    files: list[Found] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    refused_files: int = 0
    total: int = 0

    def of(self, folder: OutputFolder, patterns: Patterns) -> OutputPlan:
        """The plan for a folder."""
        for found in folder.find(patterns):
            reason = found.reason if isinstance(found, Refused) else self._over(found)
            if isinstance(found, Found) and not reason:
                self.files.append(found)
                self.total += found.size
            else:
                self.refused_files += 1
                if len(self.refused) < REPORTED:
                    self.refused.append(Refused(name=found.name, reason=reason, size=found.size))
        names = [found.name for found in self.files] + [refused.name for refused in self.refused]
        return OutputPlan(
            files=tuple(self.files),
            skipped=tuple(self.refused),
            skipped_files=self.refused_files,
            unmatched=tuple(patterns.unmatched(names)),
        )

    def _over(self, found: Found) -> str:
        """Why it is over a limit; empty when it is not."""
        limits = self.limits
        if found.size > limits.file_bytes:
            return f"one output file may have {size_text(limits.file_bytes)}"
        if self.total + found.size > limits.run_bytes:
            return f"all outputs of a run may have {size_text(limits.run_bytes)} together"
        if len(self.files) >= limits.run_files:
            return f"a run may keep {limits.run_files} files"
        return ""


def _shown(pattern: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in pattern)
