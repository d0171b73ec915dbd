"""`taskyard.toml`: named jobs of a repository, each a command with what `run` would be given as flags.

The file travels with the repository, so it may name no server, no token and no secret's value: those are for the
person who runs a job. Whatever else it says stands for a flag, and a flag that is typed outranks it.
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from taskyard.errors import UsageError
from taskyard.rewriting import typed
from taskyard.wire import as_text

NAME = "taskyard.toml"
SETTINGS = ("queue", "project", "python", "manager", "give_up_after")
"""What is a setting of `run`: variables outrank the file there, too."""
_VALUES = (
    *("name", "description", "torch_backend", "gpus", "gpu_memory", "memory", "on_worker", "image", "docker_args"),
    *("timeout", "retries", "retry_delay", "grace", "on_lost", "max_idle_gpu"),
)
_FILES = ("requirements", "setup_script")
_SWITCHES = ("exclusive", "ship_code")
_LISTS = {
    **{"tags": "tag", "packages": "package", "with": "with", "apt": "apt"},
    **{"include": "include", "secrets": "secret", "outputs": "output"},
}
_TABLES = {"parameters": "set", "grid": "grid", "env": "env", "resources": "resource", "require": "require"}
KEYS = ("command", "folder", *SETTINGS, *_VALUES, *_FILES, *_SWITCHES, *_LISTS, *_TABLES)
_JOB_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OF_THE_PERSON = ("server", "api", "profile", "ca_file", "insecure")
_SECRET_KEY = re.compile(r"token|secret|password", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\bty_[a-z]+_[\w-]{20,}|\bgh[oprsu]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}|\bhf_\w{30,}|\bsk-[\w-]{20,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bxox[abp]-[\w-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@"
)
_HEADER = re.compile(r"\s*\[{1,2}\s*([^\]]+?)\s*\]")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job of a file."""

    name: str
    file: Path
    folder: Path
    """Where its command runs."""
    command: tuple[str, ...]
    settings: Mapping[str, Any]
    flags: tuple[str, ...]
    """What `run` would be given: `--gpus=1`."""
    secrets: tuple[str, ...] = ()
    """Names of variables that are taken from the person's environment."""
    description: str = ""


def find(folder: Path) -> Path | None:
    """Return the nearest job file, from a folder up to the root of its repository; without git, its own alone."""
    parents = (folder, *folder.parents)
    top = next((parent for parent in parents if (parent / ".git").exists()), folder)
    inside = parents[: parents.index(top) + 1]
    return next((parent / NAME for parent in inside if (parent / NAME).is_file()), None)


def read(file: Path) -> dict[str, Job]:
    """Return the jobs of a file by their names. Raises UsageError naming file and line of what may not stand."""
    return _File(file).jobs()


def is_name(word: str) -> bool:
    """Return whether a job could be called so."""
    return bool(_JOB_NAME.fullmatch(word))


def unknown(name: str, jobs: Mapping[str, Job]) -> str:
    """Return what to say of a name that no job has."""
    near = difflib.get_close_matches(name, jobs, n=1)
    return f"no job is called {name!r}" + (
        f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(jobs)}."
    )


class _File:
    """A file as it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
        try:
            self._text = path.read_text(encoding="utf-8")
            self._content: dict[str, Any] = toml.loads(self._text)
        except (OSError, ValueError, RecursionError) as error:  # of TOML's grammar and of UTF-8 alike
            raise UsageError(f"{path} cannot be read: {error}") from error

    def jobs(self) -> dict[str, Job]:
        for key in self._content:
            if key != "jobs":
                self._refuse_key(key, "", ("jobs",))
        jobs = self._content.get("jobs", {})
        if not isinstance(jobs, dict) or not all(isinstance(job, dict) for job in jobs.values()):
            raise UsageError(f"{self.path}: write [jobs.NAME] above the keys of a job")
        return {name: self._job(name, job) for name, job in jobs.items()}

    def _job(self, name: str, table: Mapping[str, Any]) -> Job:
        where = f"jobs.{name}"
        if not _JOB_NAME.fullmatch(name):
            self._refuse(where, "", f"a job's name is letters, digits, - and _, and {name!r} is not")
        for key in table:
            if key not in KEYS:
                self._refuse_key(key, where, KEYS)
        self._refuse_secrets(where, table)
        flags = [flag for key, value in table.items() for flag in self._flags(where, key, value)]
        if not any(flag.startswith("--name=") for flag in flags):
            flags.append(f"--name={name}")
        return Job(
            name=name,
            file=self.path,
            folder=self._inside(where, "folder", table.get("folder", ".")),
            command=self._command(where, table.get("command")),
            settings={key: self._scalar(where, key, table[key]) for key in SETTINGS if key in table},
            flags=tuple(flags),
            secrets=tuple(table.get("secrets", ())),
            description=str(table.get("description", "")),
        )

    def _command(self, where: str, given: Any) -> tuple[str, ...]:
        try:
            words = shlex.split(given) if isinstance(given, str) else given
        except ValueError as error:
            self._refuse(where, "command", f"{error}; quote it as a shell would read it")
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            self._refuse(where, "command", 'say what to run, like: command = "python train.py --lr 0.01"')
        return tuple(words)

    def _flags(self, where: str, key: str, value: Any) -> Iterator[str]:
        """Yield what a key is on the command line."""
        flag = f"--{key.replace('_', '-')}"
        if key in _VALUES:
            yield f"{flag}={self._scalar(where, key, value)}"
        elif key in _FILES:
            yield f"{flag}={self._inside(where, key, value)}"
        elif key in _SWITCHES:
            if not isinstance(value, bool):
                self._refuse(where, key, "write true or false")
            yield from [flag] if value else []
        elif key in _LISTS:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                self._refuse(where, key, f'write a list of texts, like: {key} = ["a", "b"]')
            yield from (f"--{_LISTS[key]}={item}" for item in value)
        elif key in _TABLES:
            yield from self._table(where, key, value)

    def _table(self, where: str, key: str, value: Any) -> Iterator[str]:
        flag = f"--{_TABLES[key]}"
        if not isinstance(value, dict):
            self._refuse(where, key, f"write [{where}.{key}] above NAME = VALUE")
        for name, item in value.items():
            if key == "grid":
                if not isinstance(item, list) or not item:
                    self._refuse(f"{where}.{key}", name, f"write its values as a list, like: {name} = [0.1, 0.01]")
                yield f"{flag}={name}={','.join(_as_typed(one, in_list=True) for one in item)}"
            elif key == "parameters" and isinstance(item, dict):
                yield from (f"{flag}={name}/{below}={_as_typed(one)}" for below, one in item.items())
            elif key == "parameters":
                yield f"{flag}={name}={_as_typed(item)}"
            else:
                yield f"{flag}={name}={self._scalar(f'{where}.{key}', name, item)}"

    def _scalar(self, where: str, key: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            self._refuse(where, key, "write a text or a number")
        return str(value)

    def _inside(self, where: str, key: str, value: Any) -> Path:
        """A path beside the file: a repository reads nothing else of a person's machine."""
        path = (self.path.parent / str(value)).resolve()
        if not isinstance(value, str) or not path.is_relative_to(self.path.parent.resolve()):
            self._refuse(where, key, f"{value!r} must be a path below {self.path.parent}")
        return path

    # --- what may not stand there

    def _refuse_secrets(self, where: str, table: Mapping[str, Any]) -> None:
        for name in table.get("env", {}) if isinstance(table.get("env"), dict) else ():
            if _SECRET_VARIABLE.search(name):
                why = f'a repository holds no secret: write secrets = ["{name}"], whose value is taken from the'
                self._refuse(f"{where}.env", name, f"{why} environment of the person who runs it")
        for name in table.get("secrets", []) if isinstance(table.get("secrets"), list) else ():
            if not (isinstance(name, str) and _VARIABLE.fullmatch(name)):
                self._refuse(where, "secrets", "give names of variables alone; a repository holds no value")
        for path, key, text in _texts(where, table):
            if _SECRET_VALUE.search(text):
                self._refuse(
                    path, key, "it looks like a token or a password, and a repository holds none: remove it"
                )

    def _refuse_key(self, key: str, where: str, known: Sequence[str]) -> NoReturn:
        if key in _OF_THE_PERSON:
            self._refuse(
                where, key, "a job names no server; that is for the person who runs it: --server or `taskyard use`"
            )
        if _SECRET_KEY.search(key) and not difflib.get_close_matches(key, ("secrets",), n=1, cutoff=0.8):
            self._refuse(where, key, "a repository holds no token and no secret's value: remove it and revoke it")
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
        self._refuse(where, key, f"there is no such key; {hint}")

    def _refuse(self, where: str, key: str, why: str) -> NoReturn:
        name = ".".join(filter(None, (where, key)))
        raise UsageError(f"{self.path}:{self._line_of(where, key)}: {name}: {why}")

    def _line_of(self, where: str, key: str) -> int:
        """The line of a key below a header, else that of the header or of what is above it."""
        header, found, best = "", 1, 0
        names = [part for part in where.split(".") if part]
        for number, line in enumerate(self._text.splitlines(), 1):
            match = _HEADER.match(line)
            if match:
                header = match[1].replace('"', "").replace("'", "").replace(" ", "")
                if where.startswith(header) and len(header) > best:
                    found, best = number, len(header)
                continue
            below = names[len(header.split(".")) if header else 0 :]
            wanted = [*below, key][0] if below else key
            inside = not header or where == header or where.startswith(f"{header}.")
            if inside and wanted and re.match(rf"""\s*["']?{re.escape(wanted)}["']?\s*[.=]""", line):
                return number
        return found


def _texts(where: str, value: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield every text with the table and the key at which it stands."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(".".join(filter(None, (where, key))), item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(where, item, key)
    elif isinstance(value, str):
        yield where, key, value


def _as_typed(value: Any, *, in_list: bool = False) -> str:
    """A value as `--set` reads it: a text that would be read as something else is quoted."""
    if isinstance(value, str):
        plain = typed(value).value == value and not (in_list and (re.search(r'[,"\[\]{}()]', value) or not value))
        return value if plain else json.dumps(value, ensure_ascii=False)
    return as_text(value) if isinstance(value, (bool, int, float, list)) else str(value)
