"""A real Slurm of three nodes on this machine: one controller, three slurmd, munge with a key of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from tests.support.agents import wait_until
from tests.support.servers import free_port

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged")
NODES = ("n0", "n1", "n2")
NODE = "CPUs=2 RealMemory=3000"
ASK_SECONDS = 15
START_SECONDS = 30.0
KILL_WAIT_SECONDS = 6
CONFIGURATION = """
ClusterName=yard
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=5
MessageTimeout=5
BatchStartTimeout=10
KillWait={kill_wait}
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
DebugFlags=NO_CONF_HASH
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class Slurm:
    """One cluster. As a context manager it starts, and leaves neither process nor folder."""

    def __init__(self) -> None:
        self._made = tempfile.TemporaryDirectory(prefix="taskyard-slurm-", ignore_cleanup_errors=True)
        self.folder = Path(self._made.name)
        self._host = socket.gethostname().partition(".")[0]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TASKYARD_"))},
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }

    def __enter__(self) -> Slurm:
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in NODES:
            self.kill_node(name)
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._made.cleanup()

    def start(self) -> Slurm:
        """Starts it; returns once all nodes are idle."""
        self._configure()
        munge = self.folder / "munge"
        own = [f"--{word}={munge / word}" for word in ("key-file", "socket", "pid-file", "log-file", "seed-file")]
        self._start("munged", "munged", "--foreground", "--force", *own)
        wait_until((munge / "socket").exists, what="munged")
        self._start("slurmctld", "slurmctld", "-D", "-f", self._environ["SLURM_CONF"])
        for name in NODES:
            self.start_node(name)
        wait_until(lambda: set(self.states().values()) == {"idle"}, seconds=START_SECONDS, what="idle nodes")
        return self

    def _configure(self) -> None:
        for name in ("munge", "state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(mode=0o700)
        key = self.folder / "munge" / "key-file"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={self._host} NodeAddr=127.0.0.1 Port={free_port()} {NODE}"
            for name in NODES
        )
        text = CONFIGURATION.format(
            host=self._host, port=free_port(), folder=self.folder, kill_wait=KILL_WAIT_SECONDS, nodes=nodes
        )
        (self.folder / "slurm.conf").write_text(text)

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=self._environ, stdout=log, stderr=log, start_new_session=True
            )

    # --- nodes

    def start_node(self, name: str) -> None:
        """Starts a node's slurmd."""
        self._start(name, "slurmd", "-D", "-N", name, "-f", self._environ["SLURM_CONF"])

    def kill_node(self, name: str) -> None:
        """Ends all that a machine runs, at once and without a word, as a power cut does."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        of_jobs = self.processes(name)
        for pid in {process.pid, *of_jobs, *(pid for job in of_jobs for pid in _steps_above(job))}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def revive_node(self, name: str) -> None:
        """Lets a node that was killed, drained or taken down work again."""
        if name not in self._processes:
            self.start_node(name)
        if self.states().get(name) not in ("idle", "allocated", "mixed"):
            self.ask("scontrol", "update", f"nodename={name}", "state=resume")

    def processes(self, node: str = "", *, job: str = "") -> set[int]:
        """What runs of this cluster's jobs, on that node, wherever its parent is."""
        marks = [f"SLURM_CONF={self._environ['SLURM_CONF']}".encode()]
        marks += [f"SLURMD_NODENAME={node}".encode()] if node else []
        marks += [f"SLURM_JOB_ID={job}".encode()] if job else [b"SLURM_JOB_ID="]
        found = set()
        for folder in Path("/proc").iterdir():
            variables = _read(folder / "environ") if folder.name.isdigit() else b""
            if all(mark in variables for mark in marks):
                found.add(int(folder.name))
        return found

    def states(self) -> dict[str, str]:
        """Node → its state."""
        lines = self.ask("sinfo", "-h", "-N", "-o", "%N %T").split("\n")
        return dict(line.split() for line in lines if line)  # type: ignore[misc]

    # --- jobs

    def ask(self, *command: str) -> str:
        """What a command of Slurm's prints; fails where it fails, or does not answer."""
        done = subprocess.run(
            command, env=self._environ, capture_output=True, text=True, check=False, timeout=ASK_SECONDS
        )
        return done.stdout if done.returncode == 0 else ""

    def submit(
        self, script: str, *flags: str, variables: dict[str, str] | None = None, arguments: Sequence[str] = ()
    ) -> str:
        """Submits a batch script; returns the job's number."""
        path = self.folder / "script.sh"
        path.write_text(script)
        command = ["sbatch", "--parsable", "--output", str(self.folder / "%j.out"), "--open-mode=append", *flags]
        done = subprocess.run(
            [*command, str(path), *arguments],
            env={**self._environ, **(variables or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=ASK_SECONDS,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def output(self, job: str) -> str:
        """What the job wrote."""
        return _read(self.folder / f"{job}.out").decode(errors="replace")

    def state(self, job: str) -> str:
        """RUNNING, PENDING, COMPLETED …; empty for one that is forgotten."""
        match = re.search(r"\bJobState=(\w+)", self.ask("scontrol", "-o", "show", "job", job))
        return match[1] if match else ""

    def wait_for(self, job: str, *states: str, seconds: float = 30.0) -> None:
        """Waits until the job is in one of the states."""
        wait_until(
            lambda: self.state(job) in states,
            seconds=seconds,
            what=f"job {job} {states}, is {self.state(job)}: {self.output(job)}",
        )

    def start_again(self, job: str, begun: Callable[[], object] | None = None) -> None:
        """Lets a requeued job start at once, until `begun`: Slurm waits for two minutes.

        Where it starts on a node that still ends its first launch, Slurm drains that node and holds the job.
        """
        wait_until(lambda: self.state(job) == "PENDING", what=f"requeued job {job}")
        done = begun or (lambda: self.state(job) == "RUNNING")
        wait_until(lambda: self._starts_now(job) and done(), seconds=90, what=f"start of job {job}")

    def _starts_now(self, job: str) -> bool:
        shown = self.ask("scontrol", "-o", "show", "job", job)
        if "Reason=launch_failed_requeued_held" in shown:
            self.ask("scontrol", "release", job)
        if "JobState=PENDING" in shown:
            self.ask("scontrol", "update", f"jobid={job}", "StartTime=now")
        return "JobState=RUNNING" in shown


def _steps_above(pid: int) -> Iterator[int]:
    """The slurmstepd that holds a process."""
    parent = psutil.Process(pid).parent() if psutil.pid_exists(pid) else None
    if parent is not None and "slurmstepd" in " ".join([parent.name(), *parent.cmdline()]):
        yield parent.pid


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def missing() -> Sequence[str]:
    """Programs that this machine lacks for it."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextlib.contextmanager
def cluster() -> Iterator[Slurm]:
    """Yields a cluster; skips the test where there can be none."""
    if lacking := missing():
        pytest.skip(f"no {lacking[0]}: install slurmctld, slurmd, slurm-client and munge")
    if os.geteuid() != 0:
        pytest.skip("a slurmd needs root")
    with Slurm() as slurm:
        yield slurm
