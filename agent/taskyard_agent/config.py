"""The agent's settings: each declared once, with flag, variable, default and help, and parsed into one record."""

from __future__ import annotations

import argparse
import functools
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from taskyard.asking import TORCH_BACKEND as TORCH_BACKEND_WORDS
from taskyard.asking import size, span, span_above_zero
from taskyard.config import (
    CONNECTION_SETTINGS,
    SERVER,
    Connection,
    Resolved,
    Setting,
    add_settings,
    connection,
    resolve,
    user_file,
    user_folder,
    user_table,
)
from taskyard.log_lines import FORMATS as LOG_FORMATS
from taskyard.wire import GpuRange

from . import presets
from .allotment import UNLIMITED_SLOTS
from .errors import SettingsError
from .life import hours

if TYPE_CHECKING:
    from .batch import BatchJob


def at_least_one(text: str) -> int:
    """Reads a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number from 1")
    return int(text)


def listening_address(text: str) -> tuple[str, int]:
    """Reads `PORT`, which is one of this machine alone, or `HOST:PORT`."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not a port from 1 to 65535, nor HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def torch_build(text: str) -> str:
    """Reads a build of PyTorch, in the words of `run --torch-backend`."""
    if TORCH_BACKEND_WORDS.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no build of PyTorch; write auto, cpu, cu126 or the like, or none")
    return text


def host_and_file(text: str) -> tuple[str, Path]:
    """Reads `git.example.org=/path/to/token`."""
    host, found, path = text.partition("=")
    if not (host and found and path):
        raise ValueError(f"{text!r} is not HOST=FILE")
    return host.lower(), Path(path).expanduser()


def worker_name(text: str) -> str:
    """Checks a name: it becomes a folder and a part of a URL."""
    if not re.fullmatch(r"[^\s/\\\x00-\x1f]{1,120}", text) or text.startswith("."):
        raise ValueError(f"{text!r} is not a worker's name: give up to 120 characters without spaces and slashes")
    return text


def fraction(text: str) -> float:
    """Reads `0.8` or `80%`."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = 0.0
    if rest or not 0 < value <= 1:
        raise ValueError(f"{text!r} is not a part of a whole; write it like 0.8 or 80%")
    return value


def percentage(text: str) -> float:
    """Reads a number from 0 to 100."""
    value = float(text)
    if not 0 <= value <= 100:
        raise ValueError(f"{text!r} is not a percentage: give a number from 0 to 100")
    return value


def services(text: str) -> int | None:
    """Reads how many tasks at once: a number, `true` for any number, `false` for no services mode."""
    if text.lower() in ("true", "yes", "on"):
        return UNLIMITED_SLOTS
    return None if text.lower() in ("false", "no", "off") else at_least_one(text)


def memory(text: str) -> float | int:
    """Reads `auto`, `none`, `8GB` or `0.5`: a part of the machine's is a float, bytes are an int, 0 no limit."""
    if text.lower() in ("auto", "none"):
        return 1.0 if text.lower() == "auto" else 0
    if re.fullmatch(r"0?\.\d+|1(\.0*)?|\d+%", text):
        return fraction(text)
    try:
        return size(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an amount of memory; write auto, none, 8GB or 0.5") from None


def amounts(text: str) -> tuple[tuple[str, float], ...]:
    """Reads `GPU=2,LICENSE=1`."""
    return tuple(_amount(part) for part in text.split(","))


def _amount(text: str) -> tuple[str, float]:
    name, _, number = text.strip().partition("=")
    if not (name and re.fullmatch(r"\d{1,15}(\.\d{1,9})?", number)):
        raise ValueError(f"{text!r} is not NAME=AMOUNT, such as LICENSE=1")
    return name, float(number)


def label(text: str) -> tuple[str, str]:
    """Reads `arch=a100`."""
    key, found, value = text.partition("=")
    if not (key and found and value):
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return key, value


def queue_with_gpus(text: str) -> tuple[str, GpuRange | None]:
    """Reads `two=1-2`, or a name without a number."""
    match = re.fullmatch(r"(.+)=(\d{1,4})(?:-(\d{1,4}))?", text, re.DOTALL)
    if match is None:
        return text, None
    given = GpuRange(least=int(match[2]), most=int(match[3] or match[2]))
    if given.most < given.least:
        raise SettingsError(f"--queue {text}: write the smaller number first, like {match[1]}=1-2")
    return match[1], given


def default_image(text: str) -> str | None:
    """Reads the value of `--docker`: an image, empty for the flag alone, None for `false`."""
    return {"true": "", "false": None}.get(text.lower(), text)


QUEUE = Setting(
    name="queue",
    many=True,
    default=(),
    metavar="NAME",
    help="queues to serve, the first one first; else those of the agent's token, or `default`; "
    "with --dynamic-gpus NAME=GPUS, where GPUS is a number or a range like 1-2",
)
ORDER_FAIRNESS = Setting(
    name="order_fairness",
    flags=("--order-fairness", "--round-robin"),
    kind=bool,
    default=False,
    help="take one task from each queue in turn",
)
CREATE_QUEUE = Setting(name="create_queue", kind=bool, default=False, help="create queues that do not exist")
GPUS = Setting(
    name="gpus",
    metavar="LIST",
    help="GPUs to use, by index or UUID, like 0,1 or 0-3, or `all`; default: all that there are",
)
DYNAMIC_GPUS = Setting(
    name="dynamic_gpus",
    kind=bool,
    default=False,
    help="give each task as many GPUs as its queue says: --queue one=1 four=4 two=1-2",
)
SHARE_GPUS = Setting(
    name="share_gpus",
    kind=bool,
    default=False,
    help="let tasks that ask for a part of a GPU's memory have one GPU together; nothing holds them to their part",
)
SLOTS = Setting(
    name="slots",
    kind=at_least_one,
    metavar="N",
    help="tasks at once; default: 1, or as many as GPUs, or 8 for each GPU that is shared",
)
SERVICES_MODE = Setting(
    name="services_mode",
    kind=services,
    alone="true",
    metavar="N",
    help="run many light tasks at once without a GPU, up to N where N is given, from the queue `services`",
)
RESOURCES = Setting(
    name="resources",
    kind=amounts,
    many=True,
    default=(),
    metavar="NAME=N",
    help="amounts that tasks may ask for, such as licences; their sum stays within it",
)
LABEL = Setting(
    name="label",
    kind=label,
    many=True,
    default=(),
    metavar="KEY=VALUE",
    help="labels that tasks may require, beside `host`, `arch`, `gpu` and `container`",
)
MEMORY = Setting(
    name="memory",
    kind=memory,
    metavar="SIZE",
    help="memory for tasks, each held to its share: auto (the machine's), a size, a part like 0.5, or none; "
    "default: the machine's, and only a task that asks for an amount is held to it",
)
MACHINE_PART = Setting(
    name="machine_part",
    kind=fraction,
    default=1.0,
    default_text="1",
    metavar="PART",
    help="the part of the machine's memory to reckon with, like 0.5, where other agents use the rest; "
    "--workers tells its own",
)
CPU_ONLY = Setting(name="cpu_only", kind=bool, default=False, help="use no GPU")
NAME = Setting(
    name="name", kind=worker_name, help="the worker's name; default: host:gpu0,1, host:cpu:0 or host:services"
)
PRESET = Setting(
    name="preset",
    metavar="NAME",
    help=f"a ready worker: image, GPUs and a queue of that name; {', '.join(presets.PRESETS)}, or one of your own",
)
LOCAL_DIR = Setting(
    name="local_dir",
    kind=Path,
    default=platformdirs.user_cache_path("taskyard"),
    metavar="DIR",
    help="folder for checked-out code, environments and what must survive a crash",
)
FOREGROUND = Setting(name="foreground", kind=bool, default=True, help="stay in the foreground")
DETACHED = Setting(
    name="detached",
    kind=bool,
    default=False,
    help="go on in the background once the server knows the agent, with the log in a file",
)
UPTIME = Setting(
    name="uptime",
    kind=hours.rule,
    many=True,
    separator=";",
    default=(),
    metavar="HOURS",
    help="take tasks only then, by this machine's clock, like '22-6 MON-FRI'; the variable parts several by `;`",
)
DOWNTIME = Setting(
    name="downtime",
    kind=hours.rule,
    many=True,
    separator=";",
    default=(),
    metavar="HOURS",
    help="take tasks only outside of these",
)
LIFETIME = Setting(
    name="lifetime",
    kind=span_above_zero,
    metavar="TIME",
    help="end after so long, like 12h; what runs is waited for",
)
LIFETIME_STAGGER = Setting(
    name="lifetime_stagger",
    kind=span,
    default=0.0,
    metavar="TIME",
    help="lengthen or shorten the lifetime at random by up to so much, so that not all agents end together",
)
LIFETIME_RESTART = Setting(
    name="lifetime_restart", kind=bool, default=False, help="start anew at the end of the lifetime"
)
IDLE_TIMEOUT = Setting(
    name="idle_timeout", kind=span_above_zero, metavar="TIME", help="end when nothing has run for so long"
)
MAX_TASKS = Setting(name="max_tasks", kind=at_least_one, metavar="N", help="end after so many runs")
WORKERS = Setting(
    name="workers",
    kind=int,
    default=0,
    metavar="N",
    help="keep so many agents running, NAME:1 to NAME:N, with GPUs, memory and amounts split among them; "
    "0: be one oneself",
)
HOOKS = Setting(
    name="hooks",
    kind=Path,
    metavar="DIR",
    help="folder of the programs to run around tasks; default: hooks/ beside the user's configuration",
)
HOOK_TIMEOUT = Setting(
    name="hook_timeout",
    kind=span_above_zero,
    default=60.0,
    default_text="60s",
    metavar="TIME",
    help="how long one of the hooks may take",
)
HTTP = Setting(
    name="http",
    kind=listening_address,
    metavar="[HOST:]PORT",
    help="serve /health and /metrics (Prometheus) there; without a host to this machine alone",
)
PASS_ENV = Setting(
    name="pass_env",
    many=True,
    default=(),
    metavar="PATTERN",
    help="variables of the agent that tasks may see, like 'AWS_*'",
)
GIT_TOKEN_FILE = Setting(
    name="git_token_file",
    kind=host_and_file,
    many=True,
    default=(),
    metavar="HOST=FILE",
    help="file with the access token for a git host",
)
GIT_SSH_KEY = Setting(
    name="git_ssh_key", kind=Path, metavar="FILE", help="key for git over ssh; default: the ssh agent's"
)
GIT_STALL = Setting(
    name="git_stall",
    kind=span_above_zero,
    default=60.0,
    default_text="60s",
    metavar="TIME",
    help="how long a git host may say nothing before its tasks wait for it",
)
ALLOW_FILE_REPOSITORIES = Setting(
    name="allow_file_repositories",
    kind=bool,
    default=False,
    help="let tasks name repositories by a path of this machine",
)
ALLOW_FILTERS = Setting(
    name="allow_git_filters", kind=bool, default=False, help="run git LFS and other filters during the checkout"
)
SUBMODULE_HOST = Setting(
    name="submodule_host",
    many=True,
    default=(),
    metavar="HOST",
    help="hosts that submodules may come from beside their repository's own",
)
DOCKER = Setting(
    name="docker",
    kind=default_image,
    alone="true",
    metavar="IMAGE",
    help="run tasks that ask for it in containers; with IMAGE, all of them, in that one where they name none",
)
DOCKER_ARGS = Setting(
    name="docker_args",
    default="",
    metavar="'ARGS'",
    help="arguments as for `docker run`, for every container; one alone is written --docker-args=--ipc=host",
)
DOCKER_ALLOW = Setting(
    name="docker_allow",
    many=True,
    default=(),
    metavar="NAME",
    help="arguments of `docker run` that tasks may give beyond the list, like volume",
)
INHERIT = Setting(
    name="inherit",
    kind=bool,
    default=False,
    help="run every task in the environment of the agent, or of its image, as it is, whatever it asks for",
)
PYTHON = Setting(
    name="python", metavar="PYTHON", help="interpreter for tasks that name none; default: the agent's own"
)
PYTHON_DOWNLOADS = Setting(
    name="python_downloads",
    choices=("auto", "never"),
    default="auto",
    help="whether an interpreter that is absent may be downloaded",
)
TORCH_BACKEND = Setting(
    name="torch_backend",
    kind=torch_build,
    default="auto",
    metavar="BUILD",
    help="build of PyTorch for tasks that name none: `auto`, `cpu`, `cu126`; `none`: whatever the indexes have",
)
PYTHON_MIRROR = Setting(name="python_mirror", metavar="URL", help="where interpreters are downloaded from")
ALLOW_INDEX = Setting(
    name="allow_index", many=True, default=(), metavar="URL", help="package indexes that a task's files may name"
)
ALLOW_CHANNEL = Setting(
    name="allow_channel",
    many=True,
    default=(),
    metavar="NAME[=URL]",
    help="conda channels that a task's files may name, and where they are",
)
CONDA_BINARY = Setting(
    name="conda_binary",
    metavar="FILE",
    help="conda, mamba or micromamba, or `none`; default: one on the PATH, else py-rattler",
)
CACHE_ENVIRONMENTS = Setting(
    name="cache_environments", kind=int, default=20, metavar="N", help="environments kept in the cache"
)
CACHE_BYTES = Setting(
    name="cache_bytes",
    kind=size,
    default=100 * 2**30,
    default_text="100GB",
    metavar="SIZE",
    help="largest size of the environment cache",
)
CACHE_MIRROR_BYTES = Setting(
    name="cache_mirror_bytes",
    kind=size,
    default=50 * 2**30,
    default_text="50GB",
    metavar="SIZE",
    help="largest size of the mirrors of repositories",
)
CACHE_DOWNLOAD_BYTES = Setting(
    name="cache_download_bytes",
    kind=size,
    metavar="SIZE",
    help="largest size of what installers fetched, measured after each build; default: what the disk has room for",
)
CHECKOUT_MEMORY = Setting(
    name="checkout_memory",
    kind=size,
    default=512 << 20,
    default_text="512MB",
    metavar="SIZE",
    help="memory of each program that fetches or unpacks a task's code",
)
CHECKOUT_BYTES = Setting(
    name="checkout_bytes",
    kind=size,
    default=20 << 30,
    default_text="20GB",
    metavar="SIZE",
    help="largest size of a task's code, submodules and all",
)
CHECKOUT_FILES = Setting(
    name="checkout_files",
    kind=at_least_one,
    default=1_000_000,
    default_text="1000000",
    metavar="N",
    help="files and folders that a task's code may have",
)
OUTPUT_FILE_BYTES = Setting(
    name="output_file_bytes",
    kind=size,
    default=10 << 30,
    default_text="10GB",
    metavar="SIZE",
    help="largest file that `--output` of a task keeps; the server has a limit of its own",
)
OUTPUT_BYTES = Setting(
    name="output_bytes",
    kind=size,
    default=20 << 30,
    default_text="20GB",
    metavar="SIZE",
    help="the most that `--output` of a task keeps of one run",
)
OUTPUT_FILES = Setting(
    name="output_files",
    kind=at_least_one,
    default=1000,
    default_text="1000",
    metavar="N",
    help="files that `--output` of a task keeps of one run",
)
MIN_FREE_DISK = Setting(
    name="min_free_disk",
    kind=size,
    default=5 * 2**30,
    default_text="5GB",
    metavar="SIZE",
    help="disk space that the cache leaves free",
)
TOKEN_FILE = Setting(
    name="token_file", kind=Path, metavar="FILE", help="file with the agent's token, for automation"
)
PAUSE_AT = Setting(
    name="pause_at",
    kind=fraction,
    metavar="PART",
    help="take nothing while the memory, or the disk of --local-dir, is so full, like 0.8; default: never",
)
LEAST_FREE_DISK = Setting(
    name="least_free_disk",
    kind=size,
    metavar="SIZE",
    help="take nothing while the disk of --local-dir has less free; default: 500MB, less for a small disk",
)
RUN_AS = Setting(
    name="run_as", metavar="USER", help="run tasks as this user of the machine; needs an agent that root started"
)
BATCH = Setting(
    name="batch",
    kind=bool,
    help="whether this is within a batch job, with which the agent and all that it runs end; default: where "
    "SLURM_JOB_ID is set",
)
KILL_WAIT = Setting(
    name="kill_wait",
    kind=span_above_zero,
    metavar="TIME",
    help="time between the batch system's SIGTERM and its SIGKILL; default: what Slurm says, else 30s",
)
ENDLESS_UNTIL = Setting(
    name="endless_until",
    kind=span,
    default=600.0,
    default_text="10m",
    metavar="TIME",
    help="take tasks without a --timeout as long as the batch job has this much time left",
)
GPU_IDS = Setting(
    name="gpu_ids",
    choices=("uuid", "index"),
    default="uuid",
    help="what CUDA_VISIBLE_DEVICES holds for a task: some frameworks understand an index alone",
)
IDLE_GPU_PERCENT = Setting(
    name="idle_gpu_percent",
    kind=percentage,
    default=5.0,
    default_text="5",
    metavar="N",
    help="a GPU below this utilisation counts as idle for a task's `max_idle_gpu`",
)
LOG_LEVEL = Setting(
    name="log_level", choices=("debug", "info", "warning", "error"), default="info", help="how much the agent says"
)
ALLOW_SHELL = Setting(
    name="allow_shell",
    kind=bool,
    default=False,
    help="let a task's owner open terminals in its runs (`taskyard shell`, `attach`)",
)
LOG_FORMAT = Setting(
    name="log_format",
    choices=LOG_FORMATS,
    default="text",
    help="a line of text for each event, or a JSON object",
)

CACHE_SETTINGS = (
    LOCAL_DIR,
    CACHE_ENVIRONMENTS,
    CACHE_BYTES,
    CACHE_MIRROR_BYTES,
    CACHE_DOWNLOAD_BYTES,
    MIN_FREE_DISK,
)
GROUPS: Mapping[str, tuple[Setting, ...]] = {
    "connection": (*CONNECTION_SETTINGS, TOKEN_FILE),
    "queues": (QUEUE, ORDER_FAIRNESS, CREATE_QUEUE),
    "worker": (NAME, PRESET, LABEL, RESOURCES),
    "GPUs and slots": (GPUS, CPU_ONLY, GPU_IDS, DYNAMIC_GPUS, SHARE_GPUS, SLOTS, SERVICES_MODE, WORKERS),
    "limits": (MEMORY, MACHINE_PART, PAUSE_AT, LEAST_FREE_DISK, IDLE_GPU_PERCENT, RUN_AS, PASS_ENV, ALLOW_SHELL),
    "outputs": (OUTPUT_FILE_BYTES, OUTPUT_BYTES, OUTPUT_FILES),
    "batch systems": (BATCH, KILL_WAIT, ENDLESS_UNTIL),
    "code": (
        GIT_TOKEN_FILE,
        GIT_SSH_KEY,
        GIT_STALL,
        ALLOW_FILE_REPOSITORIES,
        ALLOW_FILTERS,
        SUBMODULE_HOST,
        CHECKOUT_MEMORY,
        CHECKOUT_BYTES,
        CHECKOUT_FILES,
    ),
    "environments": (
        INHERIT,
        PYTHON,
        PYTHON_DOWNLOADS,
        PYTHON_MIRROR,
        TORCH_BACKEND,
        ALLOW_INDEX,
        ALLOW_CHANNEL,
        CONDA_BINARY,
    ),
    "containers": (DOCKER, DOCKER_ARGS, DOCKER_ALLOW),
    "folder and caches": CACHE_SETTINGS,
    "life": (
        FOREGROUND,
        DETACHED,
        UPTIME,
        DOWNTIME,
        LIFETIME,
        LIFETIME_STAGGER,
        LIFETIME_RESTART,
        IDLE_TIMEOUT,
        MAX_TASKS,
    ),
    "hooks and monitoring": (HOOKS, HOOK_TIMEOUT, HTTP, LOG_LEVEL, LOG_FORMAT),
}
"""Every setting of the agent, as the help and the reference show them."""
DAEMON_SETTINGS = tuple(setting for group in GROUPS.values() for setting in group)
DAEMON_ALONE = (
    ORDER_FAIRNESS,
    CREATE_QUEUE,
    ENDLESS_UNTIL,
    PRESET,
    DYNAMIC_GPUS,
    SLOTS,
    SERVICES_MODE,
    WORKERS,
    PAUSE_AT,
    *GROUPS["life"],
    HTTP,
)
"""What means nothing to an agent that runs one task and ends."""
EXECUTE_SETTINGS = tuple(setting for setting in DAEMON_SETTINGS if setting not in DAEMON_ALONE)
BUILD_SETTINGS = tuple(setting for setting in EXECUTE_SETTINGS if setting not in (QUEUE, BATCH, KILL_WAIT))
"""Those of what runs no task: `agent build` and `agent doctor`."""


DECLARED = tuple(
    setting for setting in DAEMON_SETTINGS if setting not in (*CONNECTION_SETTINGS, PRESET, FOREGROUND)
)
"""Those that are fields of `AgentSettings`; where a command does not take one, it has its default."""
EXCLUSIVE = (
    ("gpus", "cpu_only"),
    ("services_mode", "gpus"),
    ("services_mode", "slots"),
    ("services_mode", "dynamic_gpus"),
    ("services_mode", "share_gpus"),
    ("cpu_only", "dynamic_gpus"),
    ("cpu_only", "share_gpus"),
    ("dynamic_gpus", "share_gpus"),
    ("uptime", "downtime"),
    ("foreground", "detached"),
)
"""Settings of which one at most is taken."""
FIELDS = {
    "queue": "queues",
    "label": "labels",
    "git_token_file": "git_tokens",
    "submodule_host": "submodule_hosts",
    "allow_index": "allow_indexes",
    "allow_channel": "allow_channels",
}
"""Fields of `AgentSettings` whose names are not those of their settings."""


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """Everything that one agent was told."""

    connection: Connection
    """Where the server is; as whom, `account.py` decides."""
    server_named: bool
    """Whether anybody named the server, rather than the default being taken."""
    token_file: Path | None
    queues: tuple[str, ...]
    queue_gpus: Mapping[str, GpuRange]
    """With --dynamic-gpus, how many GPUs each task of a queue is given."""
    order_fairness: bool
    create_queue: bool
    gpus: str | None
    cpu_only: bool
    share_gpus: bool
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    memory: float | int | None
    """A part of the machine's (float), or bytes, 0 for no limit; None: nobody said."""
    machine_part: float
    """How much of the machine's memory is this agent's to reckon with; others have the rest."""
    slots: int | None
    services_mode: int | None
    """Tasks at once; None: not in that mode."""
    dynamic_gpus: bool
    name: str | None
    host: str
    hooks: Path
    hook_timeout: float
    detached: bool
    workers: int
    """So many agents below this process; 0: this process is one."""
    uptime: tuple[hours.Rule, ...]
    downtime: tuple[hours.Rule, ...]
    lifetime: float | None
    lifetime_stagger: float
    lifetime_restart: bool
    idle_timeout: float | None
    max_tasks: int | None
    http: tuple[str, int] | None
    """Host and port."""
    local_dir: Path
    pass_env: tuple[str, ...]
    git_tokens: Mapping[str, Path]
    git_ssh_key: Path | None
    git_stall: float
    allow_file_repositories: bool
    allow_git_filters: bool
    submodule_hosts: tuple[str, ...]
    inherit: bool
    python: str | None
    python_downloads: str
    python_mirror: str | None
    torch_backend: str
    allow_indexes: tuple[str, ...]
    allow_channels: tuple[str, ...]
    conda_binary: str | None
    docker: str | None
    """Default image, empty for none; None: no containers."""
    docker_args: str
    docker_allow: tuple[str, ...]
    cache_environments: int
    cache_bytes: int
    cache_mirror_bytes: int
    cache_download_bytes: int | None
    checkout_memory: int
    checkout_bytes: int
    checkout_files: int
    output_file_bytes: int
    output_bytes: int
    output_files: int
    min_free_disk: int
    pause_at: float | None
    least_free_disk: int | None
    batch: bool | None
    """None: whether it is in a batch job, the variables tell."""
    kill_wait: float | None
    endless_until: float
    gpu_ids: str
    idle_gpu_percent: float
    run_as: str | None
    allow_shell: bool
    log_level: str
    log_format: str
    environ: Mapping[str, str]
    """The agent's own variables, as they were at its start."""
    job: BatchJob | None = None
    """The batch job that it lives in."""


def add_groups(parser: argparse.ArgumentParser, settings: Sequence[Setting]) -> None:
    """Puts the settings' flags on a parser, by their groups."""
    for title, group in GROUPS.items():
        chosen = [setting for setting in group if setting in settings]
        if chosen:
            add_settings(parser.add_argument_group(title), chosen)


def read_settings(namespace: argparse.Namespace, settings: Sequence[Setting]) -> AgentSettings:
    """Resolves flags, variables and the user's file. Raises UsageError or SettingsError, naming what is missing.

    A project's file has no say: an agent that is started in a cloned repository would run what that says.
    """
    environ = dict(os.environ)
    values = _resolved(namespace, settings, environ)
    for pair in _exclusive(settings):
        values.refuse_together(*pair)
    if DETACHED in settings:
        _check_life(values)
    queue_gpus = _queue_gpus(values, settings) if QUEUE in settings else {}
    return AgentSettings(
        connection=connection(namespace, environ=environ, in_project=False),
        server_named=SERVER in settings and values.given("server"),
        host=socket.gethostname(),
        environ=environ,
        queue_gpus={queue: given for queue, given in queue_gpus.items() if given},
        **{FIELDS.get(setting.name, setting.name): _value(setting, settings, values) for setting in DECLARED},
    )


def _exclusive(settings: Sequence[Setting]) -> list[tuple[str, str]]:
    """The pairs of EXCLUSIVE that a command takes."""
    names = {setting.name for setting in settings}
    return [pair for pair in EXCLUSIVE if names.issuperset(pair)]


def _queue_gpus(values: Resolved, settings: Sequence[Setting]) -> dict[str, GpuRange | None]:
    """Each queue, with its number of GPUs where those go by queue. Raises SettingsError."""
    dynamic = DYNAMIC_GPUS in settings and values["dynamic_gpus"]
    found = [queue_with_gpus(text) if dynamic else (text, None) for text in values["queue"]]
    names = [name for name, _ in found]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise SettingsError(f"--queue names {', '.join(map(repr, doubled))} twice; name each queue once")
    if dynamic and (not found or any(given is None for _, given in found)):
        lacking = ", ".join(repr(name) for name, given in found if given is None)
        problem = f"{lacking} has no number of GPUs" if lacking else "no queue is given"
        raise SettingsError(f"--dynamic-gpus: {problem}; write --queue NAME=1, or NAME=1-2")
    return dict(found)


def resolved() -> Resolved:
    """What a daemon without flags would take, and where each value comes from. Raises UsageError."""
    return _resolved(argparse.Namespace(), DAEMON_SETTINGS, dict(os.environ))


def _resolved(namespace: argparse.Namespace, settings: Sequence[Setting], environ: Mapping[str, str]) -> Resolved:
    own = user_file(environ)
    look = functools.partial(resolve, settings, namespace, environ=environ, user_file=own)
    values = look()
    name = values["preset"] if PRESET in settings else None
    if name is None:
        return values
    known = {setting.name for setting in settings} - {PRESET.name}
    table = presets.preset(name, user_table(own, "presets"), known)
    outranked = _excluded_beside(values, settings)
    kept = {setting: value for setting, value in table.items() if setting not in outranked}
    return look(preset=kept, preset_origin=f"preset {name}")


def _excluded_beside(values: Resolved, settings: Sequence[Setting]) -> set[str]:
    """The settings that what was given as a flag or a variable excludes: a preset has no say in them."""
    given = {value.setting.name for value in values if value.value and value.outranks_files}
    return {name for pair in _exclusive(settings) for name in pair if given & (set(pair) - {name})}


def _check_life(values: Resolved) -> None:
    if values["workers"] < 0:
        raise SettingsError(f"--workers {values['workers']}: give how many agents to keep running")
    if values["lifetime"] is None and (values["lifetime_stagger"] or values["lifetime_restart"]):
        raise SettingsError("--lifetime-stagger and --lifetime-restart need a --lifetime")
    if values["lifetime"] is not None and values["lifetime"] <= values["lifetime_stagger"]:
        raise SettingsError("--lifetime-stagger has to be less than --lifetime")


def _value(setting: Setting, settings: Sequence[Setting], values: Resolved) -> Any:
    value = values[setting.name] if setting in settings else setting.default
    if setting is DETACHED and setting in settings:
        return value or not values["foreground"]
    if setting is HOOKS:
        return (value or user_folder() / "hooks").expanduser().absolute()
    if setting is LOCAL_DIR:
        return value.expanduser().absolute()
    if setting is QUEUE:
        return tuple(_queue_gpus(values, settings)) if setting in settings else ()
    if setting is RESOURCES:
        return {name: number for item in value for name, number in item}
    return dict(value) if setting in (GIT_TOKEN_FILE, LABEL) else value
