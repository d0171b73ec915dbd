"""Arguments as for `docker run`: which there are, who may give them, and what they become for the engine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskyard_agent.containers.failure import refused

_SIZE = re.compile(r"(\d+)([bkmg]?)b?", re.IGNORECASE)
_ENV = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_ULIMIT = re.compile(r"([a-z]+)=(-?\d+)(?::(-?\d+))?")
_PATH = re.compile(r"/(?!.*(?:^|/)\.\.(?:/|$))[^:\x00-\x1f]*")
_LABEL = re.compile(r"([A-Za-z0-9][\w./-]*)(?:=(.*))?")
OURS = "taskyard."
"""Labels of this name tell which task and run a container belongs to."""

Created = dict[str, Any]
"""Keyword arguments of `docker.DockerClient.containers.create`."""


def _text(name: str, pattern: str) -> Callable[[str], Created]:
    return lambda value: {name: _matching(pattern, value)}


def _matching(pattern: str, value: str) -> str:
    if re.fullmatch(pattern, value) is None:
        raise ValueError(f"{value!r} is not what it takes")
    return value


def _size(name: str) -> Callable[[str], Created]:
    return lambda value: {name: size(value)}


def size(value: str) -> int:
    """Reads `512m` or `2g`, powers of 1024. Raises ValueError."""
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no size; write it like 512m or 2g")
    return int(match[1]) << 10 * "bkmg".index(match[2].lower() or "b")


def _swap(value: str) -> Created:
    return {"memswap_limit": -1 if value == "-1" else size(value)}


def _cpus(value: str) -> Created:
    if re.fullmatch(r"\d*\.?\d+", value) is None or not float(value):
        raise ValueError(f"{value!r} is no number of processors; write it like 2 or 0.5")
    return {"nano_cpus": round(float(value) * 1e9)}


def _environment(value: str) -> Created:
    match = _ENV.fullmatch(value)
    if match is None:
        raise ValueError(f"{value.partition('=')[0]!r} has no value; write NAME=VALUE")
    return {"environment": {match[1]: match[2]}}


def _ulimit(value: str) -> Created:
    from docker.types import Ulimit

    match = _ULIMIT.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no limit; write it like nofile=1024:2048")
    return {"ulimits": [Ulimit(name=match[1], soft=int(match[2]), hard=int(match[3] or match[2]))]}


def _tmpfs(value: str) -> Created:
    path, _, options = value.partition(":")
    return {"tmpfs": {_matching(_PATH.pattern, path): _matching(r"[\w=,%-]*", options)}}


def _label(value: str) -> Created:
    match = _LABEL.fullmatch(value)
    if match is None or match[1].lower().startswith(OURS):
        raise ValueError(f"{value!r} is no label of yours; those that begin with {OURS} are Taskyard's")
    return {"labels": {match[1]: match[2] or ""}}


def _host(value: str) -> Created:
    host, _, address = value.partition(":")
    return {"extra_hosts": {_matching(r"[\w.-]+", host): _matching(r"[0-9a-fA-F.:]+|host-gateway", address)}}


def _listed(name: str) -> Callable[[str], Created]:
    return lambda value: {name: [value]}


def _pids(value: str) -> Created:
    return {"pids_limit": int(_matching(r"-1|\d+", value))}


@dataclass(frozen=True)
class Argument:
    """One argument of `docker run`. Without a value it is a switch, which `read` is given as `true` or `false`."""

    names: tuple[str, ...]
    read: Callable[[str], Created]
    """Raises ValueError for a value that it does not take."""
    values: str = ""
    """What a task may give without the operator's leave: a pattern; empty: nothing."""
    switch: bool = False


ANY = r"(?s:.*)"
ARGUMENTS = (
    Argument(("--env", "-e"), _environment, ANY),
    Argument(("--memory", "-m"), _size("mem_limit"), ANY),
    Argument(("--memory-swap",), _swap, r"\d+[bkmgBKMG]?"),
    Argument(("--memory-reservation",), _size("mem_reservation"), ANY),
    Argument(("--shm-size",), _size("shm_size"), ANY),
    Argument(("--cpus",), _cpus, ANY),
    Argument(("--cpuset-cpus",), _text("cpuset_cpus", r"\d+(-\d+)?(,\d+(-\d+)?)*"), ANY),
    Argument(("--cpu-shares", "-c"), lambda value: {"cpu_shares": int(value)}, ANY),
    Argument(("--ulimit",), _ulimit, r"(nofile|nproc|stack|memlock|core|cpu|data|fsize|as)=.*"),
    Argument(("--workdir", "-w"), _text("working_dir", _PATH.pattern), ANY),
    Argument(("--platform",), _text("platform", r"[a-z0-9]+(/[a-z0-9_]+){0,2}"), ANY),
    Argument(("--tmpfs",), _tmpfs, ANY),
    Argument(("--label", "-l"), _label, ANY),
    Argument(("--hostname", "-h"), _text("hostname", r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}"), ANY),
    Argument(("--add-host",), _host, r"[\w.-]+:[0-9a-fA-F.:]+"),
    Argument(("--init",), lambda value: {"init": value == "true"}, "true", switch=True),
    Argument(("--read-only",), lambda value: {"read_only": value == "true"}, ANY, switch=True),
    Argument(("--stop-signal",), _text("stop_signal", r"(SIG)?[A-Z0-9]+"), ANY),
    Argument(("--network", "--net"), _text("network_mode", r"[\w.:-]+"), "none|bridge"),
    Argument(("--pids-limit",), _pids),
    Argument(("--user", "-u"), _text("user", r"[\w.-]+(:[\w.-]+)?")),
    Argument(("--group-add",), _listed("group_add")),
    Argument(("--volume", "-v"), _listed("volumes")),
    Argument(("--device",), _listed("devices")),
    Argument(("--privileged",), lambda value: {"privileged": value == "true"}, switch=True),
    Argument(("--pid",), _text("pid_mode", r"host|container:[\w.-]+")),
    Argument(("--ipc",), _text("ipc_mode", r"none|private|shareable|host|container:[\w.-]+")),
    Argument(("--uts",), _text("uts_mode", "host")),
    Argument(("--userns",), _text("userns_mode", r"[\w:=,-]+")),
    Argument(("--cgroup-parent",), _text("cgroup_parent", r"[\w./-]+")),
    Argument(("--cap-add",), _listed("cap_add")),
    Argument(("--cap-drop",), _listed("cap_drop")),
    Argument(("--security-opt",), _listed("security_opt")),
    Argument(("--runtime",), _text("runtime", r"[\w.-]+")),
    Argument(("--dns",), _listed("dns")),
    Argument(("--oom-score-adj",), lambda value: {"oom_score_adj": int(value)}),
)
BY_NAME = {name: argument for argument in ARGUMENTS for name in argument.names}
# fmt: off
SET_BY_US = frozenset((
    "--rm", "--detach", "-d", "--interactive", "-i", "--tty", "-t", "-it", "-ti", "--name", "--restart",
    "--entrypoint", "--gpus", "--log-driver", "--log-opt", "--cidfile", "--pull", "--attach", "-a", "--sig-proxy",
    "--stop-timeout", "--mount", "--publish", "-p", "--env-file", "--label-file",
))
# fmt: on


def known_names() -> tuple[str, ...]:
    """The names that an operator can let tasks use, without dashes."""
    return tuple(argument.names[0].lstrip("-") for argument in ARGUMENTS)


def operators(text: str) -> Created:
    """Reads what the operator gives every container. Raises ValueError."""
    return _merged(argument.read(value) for argument, _, value in _parsed(shlex.split(text)))


def tasks(args: Sequence[str], allowed: Iterable[str] = ()) -> Created:
    """Reads a task's arguments; `allowed` are names that it may use beyond the list. Raises RunFailed."""
    free = {BY_NAME[f"--{name.lstrip('-')}"] for name in allowed}
    try:
        return _merged(_granted(argument, name, value, free) for argument, name, value in _parsed(args))
    except ValueError as error:
        raise refused(f"the container's arguments: {error}") from error


def together(operators: Mapping[str, Any], args: Sequence[str], allowed: Iterable[str] = ()) -> Created:
    """The operator's and a task's. Of single values the operator's stand, which may confine the task, unless it is
    `allowed` the argument. Raises RunFailed."""
    given = tasks(args, allowed)
    free = {f"--{name.lstrip('-')}" for name in allowed}
    freely = _merged(argument.read(value) for argument, _, value in _parsed(args) if argument.names[0] in free)
    kept = {
        name: value
        for name, value in operators.items()
        if name not in freely and not isinstance(value, (dict, list))
    }
    return {**merge(operators, given), **kept}


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> Created:
    """Joins two; lists and tables grow, of single values the second's holds."""
    joined: Created = dict(first)
    for name, value in second.items():
        before = joined.get(name)
        if isinstance(value, dict):
            joined[name] = {**(before or {}), **value}
        elif isinstance(value, list):
            joined[name] = [*(before or []), *value]
        else:
            joined[name] = value
    return joined


def _merged(parts: Iterable[Created]) -> Created:
    joined: Created = {}
    for part in parts:
        joined = merge(joined, part)
    return joined


def _granted(argument: Argument, name: str, value: str, free: Iterable[Argument]) -> Created:
    if argument in free or (argument.values and re.fullmatch(argument.values, value)):
        try:
            return argument.read(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    shown = name if argument.switch else f"{name}={value}"
    raise ValueError(
        f"{shown} is not for tasks on this agent; its operator can permit it with "
        f"`--docker-allow {argument.names[0].lstrip('-')}`, or give it to every container with `--docker-args`"
    )


def _parsed(args: Sequence[str]) -> Iterator[tuple[Argument, str, str]]:
    waiting = list(args)
    while waiting:
        name, given, value = _split(waiting.pop(0))
        argument = _known(name)
        if argument.switch:
            yield argument, name, _matching("true|false", value) if given else "true"
            continue
        if not given and not waiting:
            raise ValueError(f"{name} needs a value")
        yield argument, name, value if given else waiting.pop(0)


def _split(word: str) -> tuple[str, bool, str]:
    """`--name=value`, `--name`, `-nvalue`, `-n=value`, `-n` as name, whether there is a value, and the value."""
    if word.startswith("--"):
        name, given, value = word.partition("=")
        return name, bool(given), value
    if word in SET_BY_US or not word.startswith("-"):
        return word, False, ""
    return word[:2], len(word) > 2, word[2:].removeprefix("=")


def _known(name: str) -> Argument:
    if name in SET_BY_US:
        raise ValueError(f"{name} is Taskyard's own to set; leave it out")
    if not name.startswith("-"):
        raise ValueError(f"{name!r} is no argument; write --name=value or --name value")
    if name not in BY_NAME:
        raise ValueError(f"{name} is not an argument that Taskyard knows; see `docs/howto/containers.md`")
    return BY_NAME[name]
