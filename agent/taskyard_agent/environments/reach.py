"""Asks the operator's package indexes: whether they answer, and whether one has PyTorch."""

from __future__ import annotations

import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

from taskyard_agent.environments.indexes import Indexes, configured_indexes, mask, without_credentials
from taskyard_agent.environments.request import EnvironmentSettings

ANSWER_SECONDS = 5.0
KEPT_SECONDS = 600.0
"""How long it is remembered that an index has no PyTorch; that it has one is remembered for good."""
SILENT_SECONDS = 60.0
"""How long one that does not answer is not asked again: no run waits for it while it is away."""
_lock = threading.Lock()
_has_torch: dict[str, tuple[bool | None, float]] = {}
"""Address → what is known (None: it has never answered), and when it is asked again."""


def unreachable_index(settings: EnvironmentSettings) -> str | None:
    """Says which of the operator's own indexes and mirrors does not answer; None when all do."""
    indexes = configured_indexes(settings.variables)
    for address in (*indexes.addresses, *([settings.python_mirror] if settings.python_mirror else [])):
        folder = _folder(address)
        if folder is not None:
            if not folder.exists():
                return f"{address} is not there"
            continue
        try:
            _ask(address, indexes)
        except _Silent as error:
            return f"{mask(address)} does not answer: {error}"
    return None


def has_torch(indexes: Indexes) -> bool:
    """Whether the operator's own indexes, or one of them that does not answer just now, hold PyTorch."""
    return any(_holds_torch(address, indexes) for address in indexes.addresses)


def _holds_torch(address: str, indexes: Indexes) -> bool:
    folder = _folder(address)
    if folder is not None:
        flat = folder.is_dir() and any(folder.glob("torch-*"))
        return flat or (address not in indexes.find_links and (folder / "torch").is_dir())
    with _lock:
        known, ask_at = _has_torch.get(address, (None, float("-inf")))
        if not known and time.monotonic() >= ask_at:
            try:
                known, kept = _page_holds_torch(address, indexes), KEPT_SECONDS
            except _Silent:
                kept = SILENT_SECONDS
            _has_torch[address] = (known, time.monotonic() + kept)
    return known is not False


def _page_holds_torch(address: str, indexes: Indexes) -> bool:
    if address in indexes.find_links:
        return b"torch-" in _ask(address, indexes)[1]
    return _ask(f"{address.rstrip('/')}/torch/", indexes)[0] < 400


def _folder(address: str) -> Path | None:
    """Where an index of this machine lies; None for one that is asked over the network."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in address else Path(address)


class _Silent(Exception):
    """There is no answer, or none but that the server itself is in trouble."""


def _ask(address: str, indexes: Indexes) -> tuple[int, bytes]:
    """The status, and the first part of what is answered. Any answer but a server's own error will do."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise _Silent("it is asked by http alone")
    headers = _authorization(address)
    request = urllib.request.Request(without_credentials(address), headers=headers)  # noqa: S310 -- checked above
    try:
        with _opener(indexes).open(request, timeout=ANSWER_SECONDS) as answer:
            return answer.status, answer.read(1 << 20)
    except urllib.error.HTTPError as error:
        with error:
            if error.code >= 500:
                raise _Silent(f"it answers {error.code}") from error
            return error.code, b""
    except (OSError, ValueError) as error:
        raise _Silent(str(getattr(error, "reason", error))) from error


def _authorization(address: str) -> dict[str, str]:
    import base64

    user, at, _ = urlsplit(address).netloc.rpartition("@")
    return {"Authorization": "Basic " + base64.b64encode(unquote(user).encode()).decode()} if at else {}


def _opener(indexes: Indexes) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    if indexes.certificate:
        context.load_verify_locations(indexes.certificate)
    if indexes.trusted_hosts:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if indexes.client_certificate:
        context.load_cert_chain(indexes.client_certificate)
    proxies = {"http": indexes.proxy, "https": indexes.proxy} if indexes.proxy else None
    return urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler(proxies)
    )
