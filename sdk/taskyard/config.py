"""Settings and credentials: each setting is declared once, resolved once, and knows where it came from.

The order is flag, variable `TASKYARD_*`, `[tool.taskyard]` of the project's pyproject.toml, the user's
config.toml, default. A project's file, which others write, sets only what is declared `shared`. Beside the command
line this is the only module that reads the environment.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import ipaddress
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from taskyard.errors import UsageError
from taskyard.wire import DEFAULT_PORT

if TYPE_CHECKING:
    from taskyard.profiles import Profile

PREFIX = "TASKYARD_"
DEFAULT_SERVER = f"http://127.0.0.1:{DEFAULT_PORT}"
TOKEN_VARIABLE = f"{PREFIX}TOKEN"
SERVER_VARIABLE = f"{PREFIX}SERVER"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_EXPECTED: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}
_SECRET_WORDS = ("token", "secret", "password")


# --- Settings --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting: its flag, its variable, its default and its help in one place."""

    name: str
    """Name in files and on the namespace; `poll_seconds` is `--poll-seconds` and `TASKYARD_POLL_SECONDS`."""
    help: str
    kind: Callable[[str], Any] = str
    """Makes the value of a string; raises ValueError saying what is expected. `bool` makes it a switch."""
    default: Any = None
    default_text: str = ""
    """How a person would write the default, where its value says it badly: 100GB."""
    required: bool = False
    flags: tuple[str, ...] = ()
    """Where they differ from the name."""
    metavar: str | None = None
    many: bool = False
    """Takes one or more values and yields a tuple; a variable holds them quoted as in a shell."""
    separator: str = ""
    """What stands between several values in a variable instead, where a value has spaces of its own."""
    choices: tuple[str, ...] = ()
    alone: str | None = None
    """What the flag without a value means; None: it needs one."""
    secret: bool = False
    """Shown masked."""
    shared: bool = False
    """Whether a project's file may set it. What a machine runs and whom a person trusts, no repository decides."""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The flag that messages name."""
        return self.all_flags[0]

    @property
    def all_flags(self) -> tuple[str, ...]:
        """Every spelling of the flag."""
        return self.flags or ("--" + self.name.replace("_", "-"),)

    @property
    def shown_default(self) -> str:
        """The default as a person would write it; empty where there is none, or it is off."""
        if self.default_text or self.default in (None, (), "", False):
            return self.default_text
        return " ".join(map(str, self.default)) if self.many else str(self.default)


@dataclass(frozen=True)
class Value:
    """A setting's value and where it came from: `flag --server`, `TASKYARD_SERVER`, a file, `default`."""

    setting: Setting
    value: Any
    origin: str
    written: str = ""
    """As somebody wrote it; empty where nobody did."""

    @property
    def outranks_files(self) -> bool:
        """Whether a flag or a variable said so."""
        return self.origin in (f"flag {self.setting.flag}", self.setting.variable)

    @property
    def shown(self) -> str:
        """The value as it may be printed."""
        if self.value in (None, "", ()):
            return ""
        if self.setting.secret:
            return "********"
        return self.written or self.setting.shown_default or str(self.value)


class Resolved:
    """The values of some settings: `resolved["server"]`, `resolved.origin("server")`; iterates over Values."""

    def __init__(self, values: Iterable[Value]) -> None:
        self._values = {value.setting.name: value for value in values}

    def __getitem__(self, name: str) -> Any:
        return self._values[name].value

    def __iter__(self) -> Iterator[Value]:
        return iter(self._values.values())

    def origin(self, name: str) -> str:
        """Where the value came from."""
        return self._values[name].origin

    def given(self, name: str) -> bool:
        """Whether anybody set it."""
        return self._values[name].origin != "default"

    def refuse_together(self, *names: str) -> None:
        """Raises UsageError when more than one of them is set to something."""
        used = [self._values[name] for name in names if self.given(name) and self._values[name].value]
        if len(used) > 1:
            shown = " and ".join(f"{value.setting.flag} ({value.origin})" for value in used)
            raise UsageError(f"{shown} exclude each other; give one of them")


def add_settings(parser: argparse.ArgumentParser | argparse._ArgumentGroup, settings: Iterable[Setting]) -> None:
    """Puts the settings' flags on a parser. What is not given stays off the namespace: `resolve` decides."""
    for setting in settings:
        options: dict[str, Any] = {"dest": setting.name, "default": argparse.SUPPRESS, "help": _help(setting)}
        if setting.kind is bool:
            parser.add_argument(*setting.all_flags, action=argparse.BooleanOptionalAction, **options)
            continue
        options["metavar"] = setting.metavar or ("|".join(setting.choices) or setting.name.upper())
        if setting.many:
            options |= {"nargs": "+", "action": "extend"}
        if setting.alone is not None:
            options |= {"nargs": "?", "const": setting.alone}
        parser.add_argument(*setting.all_flags, **options)


def environment() -> Mapping[str, str]:
    """The variables of this process: what settings are looked for in, and what programs that it starts inherit."""
    return os.environ


def resolve(
    settings: Sequence[Setting],
    namespace: argparse.Namespace | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    project_file: Path | None = None,
    user_file: Path | None = None,
    preset: Mapping[str, Any] | None = None,
    preset_origin: str = "",
) -> Resolved:
    """Finds each setting's value. Raises UsageError naming the place of a bad value, or all missing ones.

    A `project_file` that sets what is not `shared` is refused, too. `preset` holds values as a file would, which
    flags and variables outrank, and which outrank the files.
    """
    project = _project_table(project_file)
    _refuse_unshared(settings, project, project_file)
    sources = _Sources(
        flags=vars(namespace) if namespace else {},
        environ=environment() if environ is None else environ,
        preset=preset or {},
        preset_origin=preset_origin,
        project=project,
        project_file=project_file,
        user=_read_toml(user_file),
        user_file=user_file,
    )
    resolved = [sources.value(setting) for setting in settings]
    missing = [value.setting for value in resolved if value.setting.required and value.value in (None, ())]
    if missing:
        names = ", ".join(f"{setting.flag} (or {setting.variable})" for setting in missing)
        raise UsageError(f"missing: {names}")
    return Resolved(resolved)


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """The places that are looked into, in this order."""

    flags: Mapping[str, Any]
    environ: Mapping[str, str]
    preset: Mapping[str, Any]
    preset_origin: str
    project: Mapping[str, Any]
    project_file: Path | None
    user: Mapping[str, Any]
    user_file: Path | None

    def value(self, setting: Setting) -> Value:
        if self.flags.get(setting.name) is not None:
            return _value(setting, self.flags[setting.name], f"flag {setting.flag}")
        if self.environ.get(setting.variable, "") != "":
            return _value(setting, _from_variable(setting, self.environ), setting.variable)
        if setting.name in self.preset:
            return _value(setting, self.preset[setting.name], self.preset_origin)
        if setting.name in self.project:
            return _value(setting, self.project[setting.name], str(self.project_file))
        if setting.name in self.user:
            return _value(setting, self.user[setting.name], str(self.user_file))
        return Value(setting, setting.default, "default")


def _from_variable(setting: Setting, environ: Mapping[str, str]) -> Any:
    text = environ[setting.variable]
    if not setting.many:
        return text
    if setting.separator:
        return [part.strip() for part in text.split(setting.separator) if part.strip()]
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{setting.variable}: {error}; quote the values as in a shell") from error


def _value(setting: Setting, raw: Any, origin: str) -> Value:
    if not setting.many:
        return Value(setting, _parsed(setting, raw, origin), origin, str(raw))
    items = raw if isinstance(raw, list) else [raw]
    values = tuple(_parsed(setting, item, origin) for item in items)
    return Value(setting, values, origin, _joined(setting, items))


def _joined(setting: Setting, values: Iterable[Any]) -> str:
    """Several values as the setting's variable would hold them."""
    words = map(str, values)
    return f"{setting.separator} ".join(words) if setting.separator else shlex.join(words)


def _parsed(setting: Setting, raw: Any, origin: str) -> Any:
    place = origin.removeprefix("flag ")
    if place not in (setting.flag, setting.variable):
        place = f"{place}: {setting.name}"
    if setting.choices and str(raw) not in setting.choices:
        raise UsageError(f"{place}: {raw!r} is not one of {', '.join(setting.choices)}")
    try:
        return _truth(raw) if setting.kind is bool else setting.kind(str(raw))
    except ValueError as error:
        expected = f"{raw!r} is not {_EXPECTED[setting.kind]}" if setting.kind in _EXPECTED else str(error)
        raise UsageError(f"{place}: {expected}") from error


def _truth(raw: Any) -> bool:
    word = str(raw).lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(word)
    return word in _TRUE


def _help(setting: Setting) -> str:
    default = f"; default: {setting.shown_default}" if setting.shown_default else ""
    return f"{setting.help} [{setting.variable}{default}]".replace("%", "%%")


# --- Files -----------------------------------------------------------------------------------------------


def user_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of the user's configuration and credentials: `~/.config/taskyard` where XDG holds."""
    base = (environment() if environ is None else environ).get("XDG_CONFIG_HOME")
    if base:
        return Path(base) / "taskyard"
    import platformdirs

    return platformdirs.user_config_path("taskyard")


def user_file(environ: Mapping[str, str] | None = None) -> Path:
    """The user's settings."""
    return user_folder(environ) / "config.toml"


def user_table(path: Path | None, name: str) -> Mapping[str, Any]:
    """A table of the user's settings, such as `[presets]`; empty where there is none. Raises UsageError."""
    table = _read_toml(path).get(name, {})
    if not isinstance(table, Mapping):
        raise UsageError(f"{path}: {name!r} must be a table: write [{name}.NAME] above its values")
    return table


def user_names(path: Path) -> list[str]:
    """What the user's file sets, whether it is a setting or not; its tables aside. Raises UsageError."""
    return [name for name, value in _read_toml(path).items() if not isinstance(value, Mapping)]


def find_project_file(folder: Path) -> Path | None:
    """The nearest pyproject.toml with a `[tool.taskyard]` table, from `folder` upwards."""
    for parent in (folder, *folder.parents):
        candidate = parent / "pyproject.toml"
        if candidate.is_file() and "taskyard" in _read_toml(candidate).get("tool", {}):
            return candidate
    return None


def _project_table(path: Path | None) -> Mapping[str, Any]:
    table: Mapping[str, Any] = _read_toml(path).get("tool", {}).get("taskyard", {})
    for name in table:
        if any(word in name.lower() for word in _SECRET_WORDS):
            raise UsageError(
                f"{path}: [tool.taskyard] may not hold {name!r}, projects are shared; "
                "remove it, revoke that token and run `taskyard login`"
            )
    return table


def _refuse_unshared(settings: Iterable[Setting], table: Mapping[str, Any], path: Path | None) -> None:
    for setting in settings:
        if setting.name in table and not setting.shared:
            raise UsageError(
                f"{path}: [tool.taskyard] may not set {setting.name!r}, which is for you to decide; "
                f"give {setting.flag} or {setting.variable}, or set it in {user_file()}"
            )


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return dict(toml.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # of TOML's grammar and of UTF-8 alike
        raise UsageError(f"{path} cannot be read: {error}") from error


# --- Servers ---------------------------------------------------------------------------------------------


def server_address(text: str) -> str:
    """Checks a server's URL and returns it in its one spelling, `scheme://host[:port][/prefix]`.

    Raises ValueError saying what is wrong.
    """
    parts = urlsplit(text.strip())
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"{text!r} is not a server's address; write it like {DEFAULT_SERVER}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("a server's address holds no user, password, query or fragment; use `taskyard login`")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} has no valid port: {error}") from error
    suffix = "" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host.lower()}{suffix}{parts.path.rstrip('/')}"


def server_origin(server: str) -> str:
    """Scheme, host and port alone: the key of a server's credentials."""
    parts = urlsplit(server_address(server))
    return f"{parts.scheme}://{parts.netloc}"


def is_loopback(server: str) -> bool:
    """Whether the address can only mean this machine."""
    host = urlsplit(server).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Login:
    """How to get into one server."""

    token: str
    insecure: bool = False
    ca_file: str | None = None


class Credentials:
    """The tokens of each server, in one file that only its owner can read."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or user_folder() / "credentials.json"

    def token(self, server: str) -> str | None:
        """The token for this very scheme, host and port."""
        login = self.login(server)
        return login.token if login else None

    def login(self, server: str) -> Login | None:
        """The token, and what else was agreed to when it was kept."""
        found = self._read()["logins"].get(server_origin(server))
        return Login(**found) if found else None

    @property
    def default_server(self) -> str | None:
        """The server of the last login: the one that is meant where nothing names another."""
        default = self._read().get("default")
        return str(default) if default else None

    def save(
        self,
        server: str,
        token: str,
        *,
        insecure: bool = False,
        ca_file: Path | None = None,
        default: bool = False,
    ) -> None:
        """Keeps the token, in place of an older one; `default` makes this the server that is meant."""
        login = Login(token=token, insecure=insecure, ca_file=str(ca_file.absolute()) if ca_file else None)
        kept = self._read()
        kept["logins"][server_origin(server)] = dataclasses.asdict(login)
        if default:
            kept["default"] = server_address(server)
        self._write(kept)

    def forget(self, server: str) -> bool:
        """Drops the token; says whether there was one."""
        kept = self._read()
        known = kept["logins"].pop(server_origin(server), None) is not None
        if kept.get("default") == server_address(server):
            del kept["default"]
        if known:
            self._write(kept)
        return known

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open(encoding="utf-8") as file:
                if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                    raise UsageError(f"others can read {self.path}; run: chmod 600 {shlex.quote(str(self.path))}")
                kept = dict(json.load(file))
                kept["logins"] = {str(server): dict(login) for server, login in kept["logins"].items()}
                return kept
        except FileNotFoundError:
            return {"logins": {}}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{self.path} is damaged; remove it and run `taskyard login`") from error

    def _write(self, kept: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".credentials-")  # made 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(kept, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


# --- The connection --------------------------------------------------------------------------------------


SERVER = Setting(
    name="server",
    flags=("--server", "--api"),
    kind=server_address,
    default=DEFAULT_SERVER,
    metavar="URL",
    help="the server's address",
    shared=True,  # but it counts only after a login to it: see `resolve_connection`
)
CA_FILE = Setting(name="ca_file", kind=Path, metavar="FILE", help="certificates to trust beside the system's")
INSECURE = Setting(name="insecure", kind=bool, default=False, help="allow plain http beyond this machine")
CONNECTION_SETTINGS = (SERVER, CA_FILE, INSECURE)
PROFILE = Setting(
    name="profile",
    metavar="NAME",
    help="the server and the token that `taskyard login --profile` kept under a name",
)
PERSONS_SETTINGS = (*CONNECTION_SETTINGS, PROFILE)
"""Of the connection of a person: what serves a machine follows no `taskyard use`."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where to and as whom."""

    server: str
    token: str | None = None
    ca_file: Path | None = None
    insecure: bool = False
    profile: str = ""
    """Whose server and token these are; empty where no profile names them."""
    passed_over: str = ""
    """What to say of a server that a project names, and that is not asked; empty where there is none."""

    def __repr__(self) -> str:
        return f"Connection(server={self.server!r}, token={'set' if self.token else None})"


def connection(
    namespace: argparse.Namespace | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    in_project: bool = True,
    credentials: Credentials | None = None,
) -> Connection:
    """Resolves server and token as the command line and the SDK do. Raises UsageError.

    A project's server counts only where credentials for it are kept: code and secret values go to no other.
    `folder` is where the project's file is looked for, else the current one. Without `in_project` there is none:
    what serves a machine is the same wherever it is started.
    """
    environ = environment() if environ is None else environ
    credentials = credentials or Credentials(user_folder(environ) / "credentials.json")
    resolved = resolve_connection(
        namespace, environ=environ, folder=folder, in_project=in_project, credentials=credentials
    )
    server = resolved["server"]
    named = any(value.setting is SERVER and value.outranks_files for value in resolved)
    profile = _profile_of(resolved, namespace, environ, folder, credentials) if in_project else None
    if profile is not None:
        return Connection(
            server=server,
            token=profile.token,
            ca_file=resolved["ca_file"] or (Path(profile.ca_file) if profile.ca_file else None),
            insecure=resolved["insecure"] or profile.insecure,
            profile=profile.name,
            passed_over="" if named else _passed_over_server(folder, credentials, server),
        )
    login = credentials.login(server)
    ca_file = resolved["ca_file"] or (Path(login.ca_file) if login and login.ca_file else None)
    return Connection(
        server=server,
        token=_variable_token(server, environ) or (login.token if login else None),
        ca_file=ca_file,
        insecure=resolved["insecure"] or bool(login and login.insecure),
        passed_over=_passed_over_server(folder, credentials, server) if in_project and not named else "",
    )


def resolve_connection(
    namespace: argparse.Namespace | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    in_project: bool = True,
    credentials: Credentials | None = None,
) -> Resolved:
    """The settings behind `connection`; where nothing names a server it is the one of the last login."""
    environ = environment() if environ is None else environ
    credentials = credentials or Credentials(user_folder(environ) / "credentials.json")
    project_file = find_project_file(folder or Path.cwd()) if in_project else None
    resolved = _resolved_connection(namespace, environ, project_file)
    if resolved.origin("server") == str(project_file) and credentials.login(resolved["server"]) is None:
        resolved = _resolved_connection(namespace, environ, None)
    chosen = _chosen_profile(namespace, environ, project_file, credentials) if in_project else None
    if chosen is not None and _counts(chosen, resolved, environ):
        return _with_server(resolved, chosen.profile.server, f"profile {chosen.profile.name}")
    default = credentials.default_server
    if resolved.given("server") or default is None:
        return resolved
    return _with_server(resolved, default, "taskyard login")


def _with_server(resolved: Resolved, server: str, origin: str) -> Resolved:
    meant = Value(SERVER, server, origin, server)
    return Resolved(meant if value.setting is SERVER else value for value in resolved)


@dataclass(frozen=True)
class _Chosen:
    """A profile, and where it was named; `by` is empty for the one in use."""

    profile: Profile
    by: str


def _chosen_profile(
    namespace: argparse.Namespace | None,
    environ: Mapping[str, str],
    project_file: Path | None,
    credentials: Credentials,
) -> _Chosen | None:
    """The profile that a flag or a variable names, else the one in use. Raises UsageError."""
    from taskyard.profiles import Profiles

    profiles = Profiles(credentials)
    given = resolve((PROFILE,), namespace, environ=environ, project_file=project_file)
    if given["profile"]:
        return _Chosen(profiles.get(given["profile"]), given.origin("profile"))
    current = profiles.current
    return _Chosen(profiles.get(current), "") if current else None


def _counts(chosen: _Chosen, resolved: Resolved, environ: Mapping[str, str]) -> bool:
    """Whether the profile decides on the server.

    A named one outranks files, one of a flag variables too; the one in use outranks the person's own file alone.
    Raises UsageError where two flags, or two variables, name a server each.
    """
    server = next(value for value in resolved if value.setting is SERVER)
    by_flag = chosen.by == f"flag {PROFILE.flag}"
    if server.origin == f"flag {SERVER.flag}":
        if by_flag:
            raise UsageError(f"{SERVER.flag} and {PROFILE.flag} name a server each; give one of them")
        return False
    if server.origin == SERVER.variable:
        if chosen.by == PROFILE.variable:
            raise UsageError(f"{SERVER.variable} and {PROFILE.variable} name a server each; unset one of them")
        return by_flag
    return bool(chosen.by) or server.origin in ("default", str(user_file(environ))) or not resolved.given("server")


def _profile_of(
    resolved: Resolved,
    namespace: argparse.Namespace | None,
    environ: Mapping[str, str],
    folder: Path | None,
    credentials: Credentials,
) -> Profile | None:
    """The profile whose token goes to the server; also where a project names the server of the one in use."""
    if any(value.setting is SERVER and value.outranks_files for value in resolved):
        return None
    chosen = _chosen_profile(namespace, environ, find_project_file(folder or Path.cwd()), credentials)
    return chosen.profile if chosen and chosen.profile.server == resolved["server"] else None


def _resolved_connection(
    namespace: argparse.Namespace | None, environ: Mapping[str, str], project_file: Path | None
) -> Resolved:
    return resolve(
        CONNECTION_SETTINGS,
        namespace,
        environ=environ,
        project_file=project_file,
        user_file=user_file(environ),
    )


def _passed_over_server(folder: Path | None, credentials: Credentials, taken: str) -> str:
    project_file = find_project_file(folder or Path.cwd())
    named = _project_table(project_file).get(SERVER.name)
    server = _parsed(SERVER, named, str(project_file)) if named else taken
    if server == taken or credentials.login(server) is not None:
        return ""
    return (
        f"{project_file} names the server {server}, to which you have not logged in: {taken} is used; "
        f"to use that one: taskyard login {shlex.quote(server)}"
    )


def usual_server(environ: Mapping[str, str] | None = None) -> str:
    """Return the server that is meant where no flag, variable or project names one. Raises UsageError."""
    environ = environment() if environ is None else environ
    from taskyard.profiles import Profiles

    profiles = Profiles(Credentials(user_folder(environ) / "credentials.json"))
    if profiles.current:
        return profiles.get(profiles.current).server
    own = {name: value for name, value in environ.items() if not name.startswith(PREFIX)}
    return str(resolve_connection(environ=own, in_project=False)["server"])


def _variable_token(server: str, environ: Mapping[str, str]) -> str | None:
    """A variable's token goes only to the server that a variable names: a project's file cannot divert it."""
    token = environ.get(TOKEN_VARIABLE)
    return token if token and _names(environ.get(SERVER_VARIABLE, ""), server) else None


def passed_over_token(server: str, environ: Mapping[str, str] | None = None) -> str | None:
    """What to say of a token in a variable that `server` is not sent; None where there is nothing to say."""
    environ = environment() if environ is None else environ
    if not environ.get(TOKEN_VARIABLE) or _variable_token(server, environ):
        return None
    return f"{TOKEN_VARIABLE} is not sent to {server}: it is only for the server that {SERVER_VARIABLE} names"


def _names(text: str, server: str) -> bool:
    try:
        return server_origin(text) == server_origin(server)
    except ValueError:
        return False
