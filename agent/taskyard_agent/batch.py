"""The batch job that an agent lives in: what it was given, when it ends, and how soon after SIGTERM."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from taskyard_agent.held import Cause
from taskyard_agent.keeper.processes import ProcessIdentity, identify

logger = logging.getLogger(__name__)

ASK_SECONDS = 5.0
KILL_WAIT_SECONDS = 30.0
"""Slurm's default."""
REPORT_SECONDS = 2.0
"""What is left of the batch system's patience for the last words to the server."""
LIMIT_SECONDS = 90.0
"""An end so shortly before that of the job is its time limit's."""
PREPARATION_SECONDS = 60.0
"""What a run is thought to need beside its command: code, environment, the report of its end."""

Ask = Callable[[tuple[str, ...]], str]
"""Runs a program; returns what it wrote, empty where there was nothing to be had."""


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """One job of a batch system, on this machine."""

    id: str
    """Empty: not known, as of a system other than Slurm."""
    node: str = ""
    """What the batch system calls this machine."""
    restarts: int = 0
    """How often the batch system started it again."""
    ends_at: float | None = None
    """By this machine's clock; None: unknown."""
    kill_wait_seconds: float = KILL_WAIT_SECONDS
    """Between SIGTERM and SIGKILL."""
    cpus: int | None = None
    memory_bytes: int | None = None
    """None: all of the machine's."""
    gpus: str | None = None
    """As CUDA_VISIBLE_DEVICES has them; empty: none was given, None: the batch system says nothing of GPUs."""
    temporary: Path | None = None
    """The node's own disk, for what ends with the job."""
    folder: Path | None = None
    """Made there for this agent; see `job_folder`."""
    process: ProcessIdentity | None = None
    """With this one the job ends."""

    @property
    def name(self) -> str:
        """As a part of a worker's name."""
        return f"job{self.id}" if self.id else "job"

    @property
    def grace_seconds(self) -> float:
        """The longest that a run may take to end."""
        return max(0.0, self.kill_wait_seconds - REPORT_SECONDS)

    @property
    def last_end_at(self) -> float | None:
        """When the command of a run must have ended that is taken now."""
        return None if self.ends_at is None else self.ends_at - PREPARATION_SECONDS

    @property
    def limit_at(self) -> float | None:
        """From when on its end is its time limit's."""
        return None if self.ends_at is None else self.ends_at - LIMIT_SECONDS

    def cause(self, now: float) -> Cause:
        """Why it ends now."""
        return Cause.TIME_LIMIT if self.limit_at is not None and now >= self.limit_at else Cause.PREEMPTED

    def explained(self, cause: Cause) -> str:
        """The same in words."""
        job = f"the batch job {self.id}" if self.id else "the batch job"
        what = "reached its time limit" if cause is Cause.TIME_LIMIT else "was preempted or cancelled"
        return f"{job} {what}"


def found(
    environ: Mapping[str, str],
    *,
    wanted: bool | None,
    kill_wait_seconds: float | None = None,
    ask: Ask | None = None,
) -> BatchJob | None:
    """Return the job that this process is in; None where it is in none, or is not `wanted` to care."""
    number = environ.get("SLURM_JOB_ID", "")
    if wanted is False or (wanted is None and not number):
        return None
    if not number:
        return BatchJob(
            id="",
            kill_wait_seconds=KILL_WAIT_SECONDS if kill_wait_seconds is None else kill_wait_seconds,
            temporary=_temporary(environ),
        )
    asked = ask or _answer_of(environ)
    job = BatchJob(
        id=number,
        node=environ.get("SLURMD_NODENAME", ""),
        restarts=_number(environ, "SLURM_RESTART_COUNT") or 0,
        ends_at=_end(environ, asked),
        kill_wait_seconds=_kill_wait(asked) if kill_wait_seconds is None else kill_wait_seconds,
        cpus=_number(environ, "SLURM_CPUS_ON_NODE"),
        memory_bytes=_memory(environ),
        gpus=_gpus(environ),
        temporary=_temporary(environ),
        process=_process(environ),
    )
    logger.info("%s", _in_words(job), extra={"action": "batch_job_found", "job": job.id})
    return job


def _in_words(job: BatchJob) -> str:
    left = "without a time limit" if job.ends_at is None else f"{(job.ends_at - time.time()) / 60:.0f} min left"
    memory = f", {job.memory_bytes >> 20} MiB" if job.memory_bytes else ""
    cpus = f", {job.cpus} CPUs" if job.cpus else ""
    where = f" on {job.node}" if job.node else ""
    end = f"on SIGTERM or SIGUSR2 runs end within {job.grace_seconds:.0f} s"
    return f"in batch job {job.id}{where}: {left}{cpus}{memory}; {end}"


# --- What Slurm says


def _answer_of(environ: Mapping[str, str]) -> Ask:
    """Asks with times as seconds since the epoch."""

    def answer(command: tuple[str, ...]) -> str:
        variables = {**environ, "SLURM_TIME_FORMAT": "%s"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=variables, timeout=ASK_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.warning("%s: %s", command[0], error, extra={"action": "batch_system_silent"})
            return ""
        return done.stdout

    return answer


def _end(environ: Mapping[str, str], ask: Ask) -> float | None:
    said = environ.get("SLURM_JOB_END_TIME", "")
    if not said.isdecimal():
        shown = ask(("scontrol", "-o", "show", "job", environ["SLURM_JOB_ID"]))
        match = re.search(r"\bEndTime=(\d+)\b", shown)
        said = match[1] if match else ""
    return float(said) if said else None


def _kill_wait(ask: Ask) -> float:
    match = re.search(r"^KillWait\s*=\s*(\d+) sec", ask(("scontrol", "show", "config")), re.MULTILINE)
    return float(match[1]) if match else KILL_WAIT_SECONDS


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else None


def _memory(environ: Mapping[str, str]) -> int | None:
    """Slurm counts in MiB; 0 is all of the node."""
    whole = _number(environ, "SLURM_MEM_PER_NODE")
    each, cpus = _number(environ, "SLURM_MEM_PER_CPU"), _number(environ, "SLURM_CPUS_ON_NODE")
    if whole is None and each is not None and cpus is not None:
        whole = each * cpus
    return whole << 20 if whole else None


def _gpus(environ: Mapping[str, str]) -> str:
    """CUDA_VISIBLE_DEVICES counts what this process may see; the numbers in SLURM_JOB_GPUS are the node's."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        if name in environ:
            return _spelled_out(environ[name])
    return ""


def _spelled_out(words: str) -> str:
    """`0-2,5` as `0,1,2,5`."""
    found: list[str] = []
    for word in words.split(","):
        match = re.fullmatch(r"(\d{1,4})-(\d{1,4})", word.strip())
        found += map(str, range(int(match[1]), int(match[2]) + 1)) if match else [word]
    return ",".join(found)


def _temporary(environ: Mapping[str, str]) -> Path | None:
    for name in ("SLURM_TMPDIR", "TMPDIR"):
        folder = Path(environ.get(name) or "/nonexistent")
        if folder.is_absolute() and folder.is_dir() and os.access(folder, os.W_OK):
            return folder
    return None


def _process(environ: Mapping[str, str]) -> ProcessIdentity | None:
    """The batch script; where the agent took its place (`exec`), Slurm's own process that holds it."""
    script = _number(environ, "SLURM_TASK_PID")
    if script is None:
        return None
    if script == os.getppid():
        logger.warning(
            "the shell of the batch script dies of SIGTERM, and the job with it: write `exec` before the command",
            extra={"action": "batch_script_lacks_exec"},
        )
    return identify(os.getppid() if script == os.getpid() else script)
