"""Whether a host's name exists: asked of the resolver, for a few seconds at most."""

from __future__ import annotations

import enum
import socket
import threading

LOOKUP_SECONDS = 5.0
RESOLVER = {"RES_OPTIONS": "timeout:2 attempts:2"}
"""For programs that look names up themselves: a name server that does not answer costs them seconds, not half a
minute. See resolv.conf(5)."""
_ABSENT = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


class Name(enum.Enum):
    """What the resolver says of a name."""

    KNOWN = enum.auto()
    ABSENT = enum.auto()
    UNKNOWN = enum.auto()
    """It does not say: it failed for the moment, or took too long."""


def look_up(host: str, *, seconds: float = LOOKUP_SECONDS) -> Name:
    """Asks the resolver of this machine; waits for it no longer than `seconds`."""
    found = [Name.UNKNOWN]

    def ask() -> None:
        try:
            socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
            found[0] = Name.KNOWN
        except socket.gaierror as error:
            found[0] = Name.ABSENT if error.errno in _ABSENT else Name.UNKNOWN
        except UnicodeError:  # a label that is empty or too long
            found[0] = Name.ABSENT

    asking = threading.Thread(target=ask, name="look-up", daemon=True)  # there is no way to end it sooner
    asking.start()
    asking.join(seconds)
    return found[0]
