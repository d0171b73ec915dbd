"""Submodules: which a tree names, and where each may come from."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from .address import Address, parse
from .failure import GitFailed, refused
from .git import Git
from .settings import CheckoutSettings

GITLINK = "160000"
DEEPEST = 10
"""Submodules within submodules."""
ADVICE = "let the operator allow the submodule's host, or submit with --ship-code from a checkout that holds it"


@dataclass(frozen=True, kw_only=True)
class Submodule:
    """A submodule at the commit that its superproject records."""

    path: str
    """Relative to the superproject."""
    commit: str
    url: str


def named_in(git: Git, commit: str) -> Iterator[Submodule]:
    """The submodules of a filled tree. Read from the commit: a file in the tree could be a link."""
    urls = _urls(git, commit)
    if not urls:
        return
    for line in git.records("ls-files", "--stage", "-z"):
        words, _, path = os.fsdecode(line).partition("\t")
        if words.startswith(GITLINK) and path in urls:
            yield Submodule(path=path, commit=words.split()[1], url=urls[path])


def address_of(submodule: Submodule, parent: Address | None, settings: CheckoutSettings) -> Address:
    """Where the submodule comes from. Raises RunFailed for a host that is neither the parent's nor allowed."""
    address = _resolved(submodule, parent, settings)
    same_host = parent is not None and (address.scheme == "file") == (parent.scheme == "file")
    if (
        same_host and parent is not None and address.host == parent.host
    ) or address.host in settings.submodule_hosts:
        return address
    raise refused(
        f"submodule {submodule.path} comes from {address.url}, another host than its repository's", ADVICE
    )


def _resolved(submodule: Submodule, parent: Address | None, settings: CheckoutSettings) -> Address:
    if not submodule.url.startswith(("./", "../")):
        return parse(submodule.url, settings)
    if parent is None:
        raise refused(f"submodule {submodule.path} is relative to a repository that is not known here", ADVICE)
    path = posixpath.normpath(posixpath.join(parent.path, submodule.url))
    if path.startswith(".."):
        raise refused(f"submodule {submodule.path} has the address {submodule.url}, which leaves its host", ADVICE)
    url = Address(scheme=parent.scheme, host=parent.host, port=parent.port, user=parent.user, path=path).url
    return parse(url, settings)


def _urls(git: Git, commit: str) -> dict[str, str]:
    """Path → URL, from the commit's `.gitmodules`."""
    try:
        listed = git.run("config", f"--blob={commit}:.gitmodules", "-z", "--get-regexp", r"^submodule\.")
    except GitFailed:
        return {}
    values = dict(os.fsdecode(item).partition("\n")[::2] for item in listed.split(b"\0") if item)
    paths = {key.removesuffix(".path"): path for key, path in values.items() if key.endswith(".path")}
    return {
        str(PurePosixPath(path)): values[f"{name}.url"] for name, path in paths.items() if f"{name}.url" in values
    }
