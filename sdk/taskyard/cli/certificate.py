"""The names that a server's certificate is for, and the one by which its own machine reaches it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any

from taskyard.errors import UsageError

LOCAL = ("localhost", "127.0.0.1")
HANDSHAKE_STEPS = 4


def local_name(cert: Path, key: Path) -> str:
    """A name that this machine has and the certificate holds. Raises UsageError."""
    found = names(cert, key)
    return next((name for name in (*LOCAL, *found) if name in found), socket.getfqdn())


def outside_name(cert: Path, key: Path) -> str | None:
    """The first name by which others can reach it. Raises UsageError."""
    return next((name for name in names(cert, key) if name not in LOCAL), None)


def names(cert: Path, key: Path) -> tuple[str, ...]:
    """Its names and addresses, but for patterns. Raises UsageError.

    `ssl` tells them only of a peer's certificate, so it is shown to ourselves, in memory.
    """
    try:
        near, far = _two_ends(cert, key)
        for _ in range(HANDSHAKE_STEPS):
            for side in (near, far):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        shown: Any = near.getpeercert() or {}
    except (OSError, ValueError) as error:
        raise UsageError(f"--tls-cert {cert} and --tls-key {key} cannot be used: {error}") from error
    named = shown.get("subjectAltName", ())
    return tuple(name for kind, name in named if kind in ("DNS", "IP Address") and "*" not in name)


def _two_ends(cert: Path, key: Path) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whoever signed it
    client.load_verify_locations(cafile=str(cert))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    return client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)
