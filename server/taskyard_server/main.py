"""Runs the server as a process: listens, serves until it is told to stop, and says what went wrong."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
import uvloop
from fastapi import FastAPI
from taskyard import log_lines

from taskyard_server.api.services import Services
from taskyard_server.app import create_app
from taskyard_server.config import ServerConfig, add_arguments, fields
from taskyard_server.connections import Connection, Limits, Listener, Strangers, Visit, networks
from taskyard_server.errors import StartRefused

logger = logging.getLogger(__name__)

EXIT_REFUSED = 2
BACKLOG = 4096
GRACE_SECONDS = 10
KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection, so that none is closed under a request."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """What is known once the server listens."""

    url: str
    local_url: str
    """The same, as this machine reaches it where it listens on every address."""
    admin_token_file: Path
    administrator_created: bool
    """Whether this start made the first administrator's token."""


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m taskyard_server`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="taskyard-server", description="Run the Taskyard server.")
    add_arguments(parser, os.environ)
    chosen = parser.parse_args(argv)
    return serve(ServerConfig(**{field.name: getattr(chosen, field.name) for field in fields()}))


def serve(config: ServerConfig, started: Callable[[Started], None] | None = None) -> int:
    """Serves until SIGTERM or Ctrl-C; calls `started` once the server listens. Returns the exit code."""
    log_lines.begin(config.log_level, config.log_format, "server")
    try:
        problem = config.problem()
        if problem:
            raise StartRefused(problem)
        _raise_file_limit()
        with _listener(config) as listener:
            uvloop.run(_serve(config, listener, started))
    except StartRefused as error:
        sys.stderr.write(f"taskyard server: {error}\n")
        return EXIT_REFUSED
    return 0


async def _serve(config: ServerConfig, listener: socket.socket, started: Callable[[Started], None] | None) -> None:
    app = create_app(config)
    async with app.router.lifespan_context(app):
        server = _Server(app, config)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        _announce(app, listener, started)
        await server.serve(sockets=[listener])
    logger.info("stopped", extra={"action": "server_stopped"})


class _Server(uvicorn.Server):
    """A uvicorn server that ends parked requests and streams when it is told to stop."""

    def __init__(self, app: FastAPI, config: ServerConfig) -> None:
        super().__init__(_uvicorn_config(app, config))
        self._services: Services = app.state.services
        self._limits = Limits(proxies=networks(config.trusted_proxies))

    def stop(self) -> None:
        """The first call ends gracefully, the second at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._services.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens; uvicorn itself would count no connections, and wait a minute for a handshake."""
        strangers = Strangers(self._limits)
        listeners = [Listener(each, strangers, self._connection, self.config.ssl) for each in sockets or ()]
        for listener in listeners:
            listener.start()
        self.servers = listeners  # type: ignore[assignment]
        self.started = True

    def _connection(self, visit: Visit) -> Connection:
        return Connection(
            visit=visit,
            limits=self._limits,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves the signals to `stop`: uvicorn would raise them again before the store is closed."""
        yield


def _uvicorn_config(app: FastAPI, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        forwarded_allow_ips=["127.0.0.1", *filter(None, config.trusted_proxies.split(","))],
        ws="none",
        lifespan="off",  # the services are open before the first connection is accepted
        log_config=None,
        access_log=config.access_log,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
    )


def _listener(config: ServerConfig) -> socket.socket:
    """Binds the port before anything else is touched."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartRefused(
                f"port {config.port} on {config.host} is taken; stop what listens there or give another --port"
            ) from error
        raise StartRefused(f"cannot listen on {config.host}:{config.port}: {error.strerror or error}") from error


def _announce(app: FastAPI, listener: socket.socket, started: Callable[[Started], None] | None) -> None:
    config: ServerConfig = app.state.config
    port = listener.getsockname()[1]
    url = config.url(port)
    logger.info(
        "listening on %s, store %s, data in %s",
        url,
        config.shown_store,
        config.data,
        extra={"action": "server_started", "url": url},
    )
    if started:
        local = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(config.host, config.host)  # noqa: S104
        started(
            Started(
                url=url,
                local_url=replace(config, host=local).url(port),
                admin_token_file=config.admin_token_file,
                administrator_created=app.state.services.administrator_created,
            )
        )


def _raise_file_limit() -> None:
    """Each parked agent holds a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
