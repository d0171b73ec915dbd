"""The task's code on this machine: mirrors of repositories, and a pool of trees made from them."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taskyard.wire import Code

from taskyard_agent.errors import RunFailed

from . import archive, gitdir, pool
from .address import Address, parse, routes
from .blob import FetchBlob, download
from .credentials import network
from .failure import ADVICE_MARK, GitFailed, of_system, refused
from .git import Git
from .gitdir import Head
from .mirror import ACCESS_ADVICE, Log, Mirror, TreeSize, mirror_of
from .mirrors import CachedMirror, list_mirrors, make_room, prune_mirrors
from .names import BRANCH_REFUSED, COMMIT
from .pool import Slot, TreeState
from .settings import CheckoutSettings
from .sources import GitSources
from .submodules import DEEPEST, address_of, named_in
from .tree import Filling, apply_patch, working_folder

__all__ = [
    "CachedMirror",
    "CheckoutSettings",
    "GitSources",
    "RepositoryCheck",
    "Tree",
    "check_repository",
    "list_mirrors",
    "prepare",
    "prune_mirrors",
]

DIGEST = re.compile(r"[0-9a-f]{64}")


class Tree:
    """A checked-out tree that belongs to one run until it is released."""

    def __init__(self, slot: Slot, work: Path, reads: tuple[Path, ...], spare: int) -> None:
        self.root = slot.tree
        """Top of the tree."""
        self.work = work
        """The command's working folder inside it."""
        self.lock_fd: int | None = slot.lock
        """Lock to be inherited by the run's keeper: the tree is not reused while any process holds it."""
        self.reads = reads
        """Folders outside the tree that its `.git` reads: a container mounts them read-only at the same place."""
        self._slot = slot
        self._spare = spare

    def keep(self, claim: Path) -> None:
        """Keeps the tree as it is for as long as the file `claim` exists, even if this process is killed."""
        self._slot.keep(claim)

    def release(self) -> None:
        """Lets go of the tree: it is used again once no process holds its lock. A repeat does nothing."""
        if self.lock_fd is not None:
            self.lock_fd = None
            self._slot.release(self._spare)


@dataclass(frozen=True, kw_only=True)
class RepositoryCheck:
    """Whether this machine can read a repository."""

    url: str
    reachable: bool
    detail: str
    """Git's own words, credentials masked."""
    advice: str = ""
    """What mends it; empty when nothing has to be mended."""


def prepare(
    code: Code,
    *,
    settings: CheckoutSettings,
    fetch_blob: Callable[[str, Path], None],
    log: Callable[[str], None],
    cancelled: threading.Event,
) -> Tree:
    """Makes a tree that holds exactly the code. `fetch_blob(digest, path)` downloads from the server.

    Raises RunFailed in phase checkout, and RunStopped within a second once `cancelled` is set.
    """
    git = Git(git_dir=settings.folder, environ=settings.environ, cancelled=cancelled, limits=settings.limits)
    _check(code)
    try:
        with contextlib.ExitStack() as stack:
            order = _Order(code=code, settings=settings, fetch_blob=fetch_blob, log=log, git=git, stack=stack)
            return _from_repository(order) if code.repository or code.pack else _from_archive(order)
    except GitFailed as failure:
        host = parse(code.repository, settings).place if code.repository else ""
        raise failure.translated(
            "the code cannot be checked out", "submit again with --ship-code", target=host
        ) from failure
    except OSError as error:
        raise of_system(error) from error


def check_repository(url: str, settings: CheckoutSettings) -> RepositoryCheck:
    """Asks the repository for its branches with the credentials that a run would use."""
    git = Git(
        git_dir=settings.folder,
        environ=settings.environ,
        cancelled=threading.Event(),
        limits=settings.limits,
    )
    words: list[str] = []
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
        for route in routes(parse(url, settings), settings):
            with network(git, route, settings) as connected:
                try:
                    connected.run("ls-remote", "--", route.address.url, "HEAD", seconds=60)
                except GitFailed as failure:
                    words.append(f"{route.described}: {failure.words}")
                    continue
            return RepositoryCheck(url=url, reachable=True, detail=f"reads {route.described}")
    except RunFailed as error:
        detail, _, advice = str(error).partition(ADVICE_MARK)
        return RepositoryCheck(url=url, reachable=False, detail=detail, advice=advice or ACCESS_ADVICE)
    except OSError as error:
        return RepositoryCheck(url=url, reachable=False, detail=str(error), advice=ACCESS_ADVICE)
    return RepositoryCheck(url=url, reachable=False, detail="\n".join(words), advice=ACCESS_ADVICE)


@dataclass(frozen=True, kw_only=True)
class _Order:
    code: Code
    settings: CheckoutSettings
    fetch_blob: FetchBlob
    log: Log
    git: Git
    stack: contextlib.ExitStack
    """Holds what must not change before the tree is there."""

    @property
    def whole(self) -> bool:
        """Whether the uploaded pack is all there is to know."""
        return self.code.pack is not None and not self.code.pack.needs


def _check(code: Code) -> None:
    """The server has checked the same; the agent trusts nobody with what goes to git."""
    pack = code.pack
    commits = [code.commit, *((pack.commit, *pack.needs) if pack else ())]
    for commit in filter(None, commits):
        if not COMMIT.fullmatch(commit):
            raise refused(f"{commit!r} is not a commit's full id", "give all its hexadecimal digits")
    for digest in filter(None, (code.archive, pack.blob if pack else None)):
        if not DIGEST.fullmatch(digest):
            raise refused(f"{digest!r} is not a SHA-256", "submit the task again")
    if code.branch is not None and BRANCH_REFUSED.search(code.branch or "-"):
        raise refused(f"{code.branch!r} is not a branch's name", "correct it")
    if not code.repository and (pack.needs if pack else code.commit):
        raise refused("the task names a commit but no repository", "submit again with --ship-code")


# --- From git --------------------------------------------------------------------------------------------


def _from_repository(order: _Order) -> Tree:
    code = order.code
    address = parse(code.repository, order.settings) if code.repository and not order.whole else None
    mirror, commit = _obtain(order, address)
    slot = pool.acquire(order.settings.trees / mirror.key, commit)
    try:
        return _fill(order, slot, mirror, commit, address)
    except BaseException:
        os.close(slot.lock)
        raise


def _obtain(order: _Order, address: Address | None) -> tuple[Mirror, str]:
    """Makes sure that the mirror holds the commit to check out; a lock is taken only where it does not."""
    code, pack = order.code, order.code.pack
    commit = pack.commit if pack else code.commit
    mirror = _mirror_in_use(order, address, commit or "")
    holder = mirror.uploads if pack else mirror
    if commit is not None and holder.has(commit):
        return holder, commit
    order.stack.callback(make_room, order.settings)
    with mirror.changing(commit or "") as held:
        if commit is None:
            return mirror, held.tip(_known(address), code.branch)
        if pack is None or pack.needs:
            held.fetch_commits(_known(address), pack.needs if pack else (commit,), code.branch)
        if pack is not None and not (uploads := held.ready_uploads(commit)).has(commit):
            uploads.add_pack(pack, code.commit, order.fetch_blob)
    return holder, commit


def _fill(order: _Order, slot: Slot, mirror: Mirror, commit: str, address: Address | None) -> Tree:
    code = order.code
    known = slot.state
    slot.record(TreeState(submodules=known.submodules))
    top = _filling(order, slot, mirror, slot.tree, slot.git_dir, address)
    size = mirror.size_of(commit)
    _fill_in_spite(top, slot, commit, known.submodules)
    modules = (
        _fill_submodules(order, slot, top, commit, size) if os.path.lexists(slot.tree / ".gitmodules") else []
    )
    if code.patch:
        top.apply(code.patch)
    head = code.commit if code.commit and (code.commit == commit or mirror.has(code.commit)) else commit
    own = Head(commit=head, branch=code.branch, origin=address.url if address else None)
    top.give_to_task(own, uploaded=(commit, *(f"^{need}" for need in code.pack.needs)) if code.pack else ())
    slot.record(TreeState(commit=commit, submodules=tuple(path for path, _ in modules)))
    order.log(f"checked out {head[:12]}{'' if head == commit and not code.patch else ' with uncommitted changes'}")
    reads = dict.fromkeys(folder for lent in (mirror, *(module for _, module in modules)) for folder in lent.reads)
    return Tree(slot, working_folder(slot.tree, code), tuple(reads), order.settings.spare_trees)


def _fill_in_spite(filling: Filling, slot: Slot, commit: str, submodules: tuple[str, ...]) -> None:
    """A tree that a task left in no state to be cleaned is thrown away, and made anew."""
    try:
        for path in submodules:
            gitdir.remove(_inside(slot.tree, path) / ".git")
        _inside(slot.tree, ".git")
        filling.fill(commit)
    except (GitFailed, OSError):
        slot.empty()
        filling.fill(commit)


def _inside(tree: Path, path: str) -> Path:
    """The place of `path` in a tree. Raises GitFailed where a task put a link on the way to it."""
    place = tree
    for part in ("", *Path(path).parts):
        place = place / part
        if place.is_symlink():
            raise GitFailed(f"{place} was replaced by a link")
    return place


def _fill_submodules(
    order: _Order, slot: Slot, top: Filling, commit: str, size: TreeSize
) -> list[tuple[str, Mirror]]:
    """Fills the submodules, and theirs; returns each one's path in the tree, and its mirror.

    `size` is the superproject's: the limit is one for all.
    """
    filled: list[tuple[str, Mirror]] = []
    waiting = [("", 1, top, commit)]
    while waiting:
        prefix, depth, parent, at = waiting.pop()
        for submodule in named_in(parent.git, at):
            if depth > DEEPEST:
                raise refused(f"{prefix} is a submodule more than {DEEPEST} deep", "submit with --ship-code")
            path = f"{prefix}{submodule.path}"
            if path in order.code.empty_submodules:
                order.log(f"the submodule {path} is left empty, as it is where the task comes from")
                continue
            address = address_of(submodule, parent.address, order.settings)
            mirror = _obtain_submodule(order, address, submodule.commit)
            size += mirror.size_of(submodule.commit)
            size.check(order.settings)
            place = _inside(slot.tree, path)
            filled.append((path, mirror))
            slot.record(TreeState(submodules=tuple(path for path, _ in filled)))
            filling = _filling(order, slot, mirror, place, slot.module_git_dir(path), address)
            filling.fill(submodule.commit)
            filling.give_to_task(Head(commit=submodule.commit, origin=address.url))
            waiting.append((f"{path}/", depth + 1, filling, submodule.commit))
    return filled


def _obtain_submodule(order: _Order, address: Address, commit: str) -> Mirror:
    mirror = _mirror_in_use(order, address, commit)
    if not mirror.has(commit):
        order.stack.callback(make_room, order.settings)
        with mirror.changing(commit) as held:
            held.fetch_commits(address, (commit,), None)
    return mirror


def _mirror_in_use(order: _Order, address: Address | None, commit: str) -> Mirror:
    mirror = mirror_of(address, commit, order.settings, order.git, order.log)
    order.stack.enter_context(mirror.in_use())
    return mirror


def _filling(
    order: _Order, slot: Slot, mirror: Mirror, tree: Path, git_dir: Path, address: Address | None
) -> Filling:
    return Filling(
        mirror=mirror,
        git_dir=git_dir,
        tree=tree,
        address=address,
        locks=(slot.lock,),
        settings=order.settings,
        log=order.log,
    )


def _known(address: Address | None) -> Address:
    if address is None:
        raise refused("the task names no repository to fetch its commit from", "submit again with --ship-code")
    return address


# --- From an archive -------------------------------------------------------------------------------------


def _from_archive(order: _Order) -> Tree:
    """A task without any code, which only calls what is installed, gets an empty tree."""
    digest = order.code.archive
    slot = pool.acquire(order.settings.trees / "archives", digest or "none")
    try:
        slot.empty()
        slot.tree.mkdir()
        if digest is not None:
            _unpack(order, digest, slot)
        if order.code.patch:
            apply_patch(order.git.at(slot.git_dir, slot.tree), order.code.patch)
        return Tree(slot, working_folder(slot.tree, order.code), (), order.settings.spare_trees)
    except BaseException:
        os.close(slot.lock)
        raise


def _unpack(order: _Order, digest: str, slot: Slot) -> None:
    with tempfile.TemporaryDirectory(prefix="incoming-", dir=slot.folder) as folder:
        file = Path(folder) / "folder.tar.gz"
        download(digest, file, order.fetch_blob, order.git.cancelled)
        archive.unpack(file, slot.tree, order.settings, order.git.cancelled)
