"""What `run` says before it submits: what is sent, what it needs, who can take it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from taskyard.cli import output

if TYPE_CHECKING:
    from taskyard.job_file import Job
    from taskyard.submission import Prepared
    from taskyard.variants import Axis
    from taskyard.wire import Command, Explanation, Queue

LARGE_UPLOAD_BYTES = 10_000_000
SHOWN_FILES = 3
SHOWN_PACKAGES = 8
SHOWN_VARIANTS = 30
INDENT = 14
"""Of what does not fit a line."""


def plan(prepared: Prepared, queue: Queue, explained: Explanation) -> Iterator[str]:
    """What will be done, line by line."""
    from taskyard.asking import container_in_words, in_words, policy_in_words

    spec, summary = prepared.spec, prepared.snapshot.summary
    manager = spec.environment.manager
    yield f"command       {output.command_line(spec.command)}{_where(spec.code.working_dir)}"
    changed = changed_words(spec.command)
    if changed:
        yield f"set           {changed}"
    yield f"code          {_source(prepared)}"
    if spec.code.repository and (spec.code.pack is None or spec.code.pack.needs):
        yield "              the worker fetches it from there; --ship-code sends it instead"
    yield f"changes       {_changes(prepared)}"
    if summary.left_out:
        names = ", ".join(summary.left_out[:SHOWN_FILES])
        more = f" and {len(summary.left_out) - SHOWN_FILES} more" if len(summary.left_out) > SHOWN_FILES else ""
        yield f"left out      {output.clean(names)}{more} (may be secret; --include GLOB sends it)"
    if summary.included:
        yield f"included      {output.clean(', '.join(summary.included))}"
    yield f"requirements  {_needs(prepared)}"
    yield from (f"              {output.clean(remark)}" for remark in prepared.needs.notes)
    version = prepared.python.version or "the agent's own"
    made = "with what is installed there" if manager == "inherit" else f"built by {manager}"
    yield f"python        {version} ({output.clean(prepared.python.origin)}), {made}"
    if spec.secrets:
        yield f"secrets       {output.clean(', '.join(spec.secrets))}, their values from your environment"
    if spec.container is not None:
        yield f"container     {output.clean(container_in_words(spec.container))}"
    if spec.outputs:
        yield f"keeps         {output.clean(', '.join(spec.outputs))}"
    asks = in_words(spec.resources)
    if asks:
        yield f"asks for      {output.clean(asks)}"
    if spec.resources.gpus is None and spec.resources.gpu_memory_bytes is None:
        yield f"gpus          {_gpus(queue)}"
    treated = policy_in_words(spec.policy)
    if treated:
        yield f"limits        {output.clean(treated)}"
    yield f"queue         {_place(queue)}"
    if queue.owner:
        owner = output.clean(queue.owner)
        yield f"              {owner} created it: agents of {owner} may take the task, its code and its secrets"
    yield from _takers(queue, explained)


def variants(prepared: Prepared, grid: Sequence[Axis]) -> Iterator[str]:
    """Say how many tasks there will be, and which."""
    if not grid:
        return
    from taskyard.variants import in_words

    yield f"variants      {output.clean(in_words(grid))}; all of them are submitted, or none"
    names = [output.clean(spec.name) for spec in prepared.variants]
    yield from (f"              {name}" for name in names[:SHOWN_VARIANTS])
    if len(names) > SHOWN_VARIANTS:
        yield f"              … and {len(names) - SHOWN_VARIANTS} more"


def server(address: str, usual: str) -> Iterator[str]:
    """Where it is sent, unless that is where this person's tasks go anyway."""
    if address != usual:
        yield f"server        {output.clean(address)}, not your usual {output.clean(usual)}"


def unusual(prepared: Prepared, queue: Queue, explained: Explanation) -> list[str]:
    """What a person should have seen before it is submitted."""
    summary = prepared.snapshot.summary
    found = []
    if summary.first_upload and summary.untracked:
        count, size = len(summary.untracked), output.size(summary.untracked_bytes)
        found.append(f"{count} untracked file{'s' * (count > 1)} ({size}) will be uploaded for the first time")
    if summary.upload_bytes > LARGE_UPLOAD_BYTES:
        found.append(f"{output.size(summary.upload_bytes)} will be uploaded")
    if not any(verdict.fits for verdict in explained.workers):
        found.append(f"no worker can take it from {queue.name!r} now")
    return found


def secrets_of(job: Job | None) -> list[str]:
    """Say which values of a person's environment a repository asks for."""
    if job is None or not job.secrets:
        return []
    return [f"{job.file.name} of this repository sends {output.clean(', '.join(job.secrets))} of your environment"]


def changed_words(command: Command, before: Sequence[str] | None = None) -> str:
    """Return the words of a command that parameters changed, and those of `before` that are gone; or nothing."""
    from taskyard.rewriting import differences

    before = command.typed if before is None else before
    if before is None or tuple(before) == command.args:
        return ""
    new, gone = differences(before, command.args)
    words = [shlex.join(new)] if new else []
    words += [f"instead of {shlex.join(gone)}" if new else f"without {shlex.join(gone)}"] if gone else []
    return output.clean(" ".join(words))


def _where(folder: str) -> str:
    return "" if folder == "." else f"   in {output.clean(folder)}"


def _source(prepared: Prepared) -> str:
    summary = prepared.snapshot.summary
    where = output.clean(summary.repository or prepared.snapshot.root)
    if prepared.spec.code.archive:
        return f"{where} as an archive, without git"
    if summary.commit is None:
        return f"{where}, without a commit yet, sent whole"
    branch = f" ({output.clean(summary.branch)})" if summary.branch else ""
    whole = ", sent whole" if summary.whole else ""
    return f"{where}@{summary.commit[:12]}{branch}{whole}"


def _changes(prepared: Prepared) -> str:
    summary = prepared.snapshot.summary
    counts = {word: getattr(summary, word) for word in ("new", "modified", "deleted", "renamed")}
    words = [f"{count} {word}" for word, count in counts.items() if count]
    if summary.untracked:
        largest = ", ".join(
            f"{output.clean(file.path)} {output.size(file.size)}" for file in summary.untracked[:SHOWN_FILES]
        )
        more = ", …" if len(summary.untracked) > SHOWN_FILES else ""
        count = f"{len(summary.untracked)}{' of them' * bool(words)} untracked"
        words.append(f"{count}, {output.size(summary.untracked_bytes)}: {largest}{more}")
    upload = f"; {output.size(summary.upload_bytes)} to upload" if summary.upload_bytes else ""
    return (", ".join(words) or "none") + upload


def _needs(prepared: Prepared) -> str:
    packages = prepared.spec.environment.packages
    shown = ", ".join(packages[:SHOWN_PACKAGES]) + (", …" if len(packages) > SHOWN_PACKAGES else "")
    build = prepared.spec.environment.torch_backend
    added = len(packages) and prepared.spec.environment.path
    shown = f"and {shown}" if added else shown
    torch = f"; PyTorch's build: {build}" if build != "auto" else ""
    if build == "auto" and any(re.match(r"torch\b", package) for package in packages):
        torch = "; PyTorch's build: what the worker can run (--torch-backend)"
    return output.clean(f"{prepared.needs.origin}{f': {shown}' if packages else ''}{torch}")


def _gpus(queue: Queue) -> str:
    """What a task without a number of GPUs occupies."""
    if queue.kind == "services":
        return "none: the queue is for services"
    return "what its worker gives a task, usually all that it has; --gpus N asks for N, --gpus 0 for none"


def _place(queue: Queue) -> str:
    wait = queue.estimated_wait_seconds
    guess = f", about {output.duration(wait)} to wait" if wait else ""
    paused = ", which is paused" if queue.paused else ""
    return f"{output.clean(queue.name)}{paused}, {queue.waiting} before it{guess}"


def _takers(queue: Queue, explained: Explanation) -> Iterator[str]:
    """The workers that can take it, and why the other ones of its queue cannot."""
    fitting = [verdict for verdict in explained.workers if verdict.fits]
    names = ", ".join(output.clean(verdict.worker) for verdict in fitting)
    yield f"workers       {names or 'none that can take it now'}"
    for verdict in explained.workers:
        if verdict.watches and not verdict.fits:
            yield f"              {output.clean(verdict.worker)} cannot: {output.clean(verdict.reason)}"
    if not any(verdict.watches for verdict in explained.workers):
        name = shlex.quote(output.clean(queue.name))
        yield f"              start one with: taskyard agent daemon --queue {name}"
