"""Certificate authorities that the machine trusts, lent to its containers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

INSIDE = "/run/taskyard/authorities.pem"
VARIABLES = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def bundle_of(environ: Mapping[str, str]) -> Path | None:
    """The file that the operator's variables name, else the machine's own; None where there is none."""
    named = [environ[name] for name in VARIABLES if environ.get(name)]
    return next((Path(place) for place in (*named, *BUNDLES) if Path(place).is_file()), None)


def variables_of(bundle: Path | None) -> dict[str, str]:
    """What tells programs in a container to trust them."""
    return {} if bundle is None else dict.fromkeys(VARIABLES, INSIDE)
