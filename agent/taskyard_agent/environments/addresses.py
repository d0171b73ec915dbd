"""Which addresses a task's files may name outright."""

from __future__ import annotations

from urllib.parse import urlsplit

from taskyard_agent.environments.indexes import mask
from taskyard_agent.environments.request import failed

URL_SCHEMES = ("https", "git+https", "git+ssh", "git+file")


def check_url(address: str, where: str) -> None:
    """Raises RunFailed unless an address that a file names outright may be fetched."""
    scheme = urlsplit(address).scheme.lower()
    if scheme not in URL_SCHEMES or "${" in address or urlsplit(address).netloc.startswith("-"):
        raise failed(f"{where} names {mask(address)}; addresses begin with {', '.join(URL_SCHEMES)}")
