"""The server's settings: each is declared once, with its default, its help and how it is read.

The name of a field is its flag (`--data`) and its variable (`TASKYARD_DATA`).
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import platformdirs
from taskyard.log_lines import FORMATS as LOG_FORMATS
from taskyard.wire import DEFAULT_PORT

MIB, GIB = 1 << 20, 1 << 30
LOG_LEVELS = ("debug", "info", "warning", "error")


def _how(help_text: str, kind: Callable[[str], Any] = str, **more: Any) -> dict[str, Any]:
    return {"help": help_text, "kind": kind, **more}


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 10**9:
        raise ValueError(f"{text} is not a number of seconds above zero")
    return value


def _days_from_an_hour(text: str) -> float:
    value = float(text)
    if not 1 / 24 <= value < 10**6:
        raise ValueError(f"{text} is not a number of days from an hour (0.05) on: uploads wait for their tasks")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError(f"{text} is not a port: 0 to 65535")
    return value


def _rate(text: str) -> str:
    from limits import parse_many

    if text:
        parse_many(text)  # raises ValueError
    return text


def _networks(text: str) -> str:
    for part in filter(None, text.split(",")):
        ipaddress.ip_network(part.strip(), strict=False)  # raises ValueError
    return text.replace(" ", "")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Everything that an operator may set. Sizes are bytes."""

    host: str = field(default="127.0.0.1", metadata=_how("address to listen on"))
    port: int = field(default=DEFAULT_PORT, metadata=_how("port to listen on; 0 takes a free one", _port))
    data: Path = field(
        default=platformdirs.user_data_path("taskyard") / "server",
        metadata=_how("folder of logs, blobs and the embedded store", Path),
    )
    store: str = field(
        default="",
        metadata=_how("sqlite:///FILE or mongodb://…; empty for SQLite below --data", metavar="URL", secret=True),
    )
    tls_cert: Path | None = field(default=None, metadata=_how("certificate chain (PEM)", Path, metavar="FILE"))
    tls_key: Path | None = field(default=None, metadata=_how("its private key (PEM)", Path, metavar="FILE"))
    insecure: bool = field(default=False, metadata=_how("allow plain HTTP beyond this machine", bool))

    trusted_proxies: str = field(
        default="",
        metadata=_how(
            "addresses or networks of reverse proxies, separated by commas: their X-Forwarded-For is believed, "
            "and the connections that they open are not counted",
            _networks,
            metavar="ADDRESSES",
        ),
    )

    new_administrator: bool = field(
        default=False, metadata=_how("write a new administrator's token at this start: the old one is lost", bool)
    )

    end_old_agent_tokens: bool = field(
        default=False,
        metadata=_how(
            "refuse agents' tokens that users issued before these were confined to their own queues", bool
        ),
    )

    lease_seconds: float = field(
        default=60.0, metadata=_how("how long a run is believed alive after a beat", _seconds)
    )
    confirm_seconds: float = field(default=30.0, metadata=_how("how long a claim may stay unconfirmed", _seconds))
    lost_after_seconds: float = field(
        default=300.0, metadata=_how("how long after its last beat a run is lost; the lease comes first", _seconds)
    )
    reserve_after_seconds: float = field(
        default=60.0,
        metadata=_how("how long a task waits for more of a busy worker before that is kept for it", _seconds),
    )

    log_cap_bytes: int = field(default=1 << 30, metadata=_how("most bytes kept of one run's log", int))
    log_retention_days: float = field(default=90.0, metadata=_how("how long logs of ended runs are kept", float))
    sample_retention_days: float = field(default=30.0, metadata=_how("how long measurements are kept", float))
    task_retention_days: float = field(default=365.0, metadata=_how("how long ended tasks are kept", float))
    blob_retention_days: float = field(
        default=1.0,
        metadata=_how("how long uploaded code that no task uses is kept after its last use", _days_from_an_hour),
    )
    min_free_disk_bytes: int = field(
        default=1 << 30, metadata=_how("free disk below which uploads, logs and enqueues are refused", int)
    )
    max_blob_bytes: int = field(
        default=512 * MIB, metadata=_how("most bytes of one uploaded pack or archive", int)
    )

    artifacts: str = field(
        default="",
        metadata=_how(
            "folder of the outputs of runs; default: below --data, and with MongoDB none: name one that all"
            " servers of the store see",
            metavar="DIR",
        ),
    )
    max_output_file_bytes: int = field(
        default=10 * GIB, metadata=_how("most bytes of one output file of a run", int)
    )
    max_output_bytes: int = field(default=20 * GIB, metadata=_how("most bytes of all outputs of a run", int))
    max_output_files: int = field(default=1000, metadata=_how("most output files of a run", int))

    rate_limit: str = field(
        default="200000/minute", metadata=_how("requests that one token may make; empty for no limit", _rate)
    )
    login_rate_limit: str = field(
        default="20/minute", metadata=_how("codes that one address may try; empty for no limit", _rate)
    )
    public_metrics: bool = field(
        default=False, metadata=_how("show /metrics to those without a token: queue names are among them", bool)
    )
    log_level: str = field(default="info", metadata=_how("how much to log", choices=LOG_LEVELS))
    log_format: str = field(
        default="text", metadata=_how("a line of text for each event, or a JSON object", choices=LOG_FORMATS)
    )
    log_claims: bool = field(
        default=True,
        metadata=_how("log each task that is handed out; `taskyard up` leaves that to its agents", bool),
    )
    access_log: bool = field(default=False, metadata=_how("log every request", bool))

    @property
    def tls(self) -> bool:
        """Whether the server itself speaks TLS."""
        return self.tls_cert is not None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def admin_token_file(self) -> Path:
        """Where the first start leaves the administrator's token."""
        return self.data / "admin-token"

    @property
    def artifacts_folder(self) -> Path:
        """Where outputs are kept, if they are."""
        return Path(self.artifacts) if self.artifacts else self.data / "artifacts"

    @property
    def shown_store(self) -> str:
        """The store's address without its password."""
        if not self.store:
            return f"sqlite below {self.data}"
        parts = urlsplit(self.store)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))

    def url(self, port: int) -> str:
        """The address that the server answers under."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{port}"

    def problem(self) -> str | None:
        """What is wrong with these settings together, and the cure; None when they can be served."""
        if "://" in self.artifacts:
            scheme = self.artifacts.partition(":")[0]
            return f"--artifacts {scheme}://…: only a folder can be named yet, such as a mounted file system"
        if (self.tls_cert is None) != (self.tls_key is None):
            return "--tls-cert and --tls-key belong together; give both or none"
        missing = next((path for path in (self.tls_cert, self.tls_key) if path and not path.is_file()), None)
        if missing:
            return f"{missing} cannot be read; name an existing PEM file"
        if not (self.tls or self.loopback or self.insecure):
            return (
                f"tokens would cross the network in plain text on {self.host}; give --tls-cert and --tls-key, "
                "put a proxy with TLS before a server on 127.0.0.1, or accept it with --insecure"
            )
        return None


def fields() -> tuple[dataclasses.Field[Any], ...]:
    """The settings' declarations; a field's metadata holds help, kind, and perhaps choices, metavar, secret."""
    return dataclasses.fields(ServerConfig)


def add_arguments(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Puts one flag per setting on the parser; a variable that is set takes the place of the default."""
    for setting in fields():
        variable = f"TASKYARD_{setting.name.upper()}"
        options: dict[str, Any] = {
            "default": environ.get(variable, setting.default),
            "help": f"{setting.metadata['help']} [{variable}]".replace("%", "%%"),
        }
        if setting.metadata["kind"] is bool:
            options["default"] = str(options["default"]).lower() in ("1", "true", "yes", "on")
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": setting.metadata["kind"], "choices": setting.metadata.get("choices")}
            options["metavar"] = setting.metadata.get("metavar")
        parser.add_argument("--" + setting.name.replace("_", "-"), **options)
