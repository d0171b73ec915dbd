"""Artifacts: files that runs keep, as parts under their SHA-256 and references to them."""
