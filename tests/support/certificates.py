"""Certificates that nobody but the test trusts."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_made_certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """Certificate and key for `names`, like `DNS:localhost`."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=taskyard", "-addext", f"subjectAltName={','.join(names)}"]
    files = ["-keyout", str(key), "-out", str(cert)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key
