"""Mirrors: one bare repository for each that tasks come from, only ever added to, and never a task's to write."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taskyard.asking import size_in_words
from taskyard.wire import Pack

from taskyard_agent.errors import RunFailed

from .address import Address, Route, routes
from .blob import FetchBlob, download
from .child import over_limit
from .credentials import network
from .failure import GitFailed, not_now, refused
from .git import Git
from .lock import locked
from .settings import CheckoutSettings

TOLERATED = (
    *("zeroPaddedFilemode", "missingSpaceBeforeDate", "missingSpaceBeforeEmail", "missingNameBeforeEmail"),
    *("badTimezone", "badFilemode"),
)
"""Blemishes of old histories that harm nobody; every other finding of fsck refuses the objects."""
MANY_PACKS = 16
SHIP_CODE = "push the commit, or submit again with --ship-code, which sends the code itself"
FSCK_ADVICE = "mend the object in the repository, or submit with --ship-code, which leaves its history out"
ACCESS_ADVICE = (
    "let the operator give this agent a key or a token for the host (docs/howto/private-repositories.md; "
    "`taskyard agent doctor --repo URL` tries it), or submit with --ship-code"
)
NAME_ADVICE = (
    "give the host's full name (an alias of your own ~/.ssh/config, or a name of a VPN, is not known here), or "
    "submit again with --ship-code, which sends the code itself"
)
Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TreeSize:
    """What a tree takes on the disk."""

    size_bytes: int = 0
    paths: int = 0

    def __add__(self, other: TreeSize) -> TreeSize:
        return TreeSize(size_bytes=self.size_bytes + other.size_bytes, paths=self.paths + other.paths)

    def check(self, settings: CheckoutSettings) -> None:
        """Raises RunFailed where it is more than the operator allows."""
        if self.size_bytes > settings.tree_bytes:
            raise over_limit(f"the code takes more than {size_in_words(settings.tree_bytes)} (--checkout-bytes)")
        if self.paths > settings.tree_paths:
            raise over_limit(f"the code has more than {settings.tree_paths} files and folders (--checkout-files)")


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """The objects of one repository on this machine."""

    key: str
    settings: CheckoutSettings
    git: Git
    """Git on the mirror."""
    log: Log
    base: Mirror | None = None
    """The repository's, where this one holds what was uploaded on top of it."""
    uploaded: bool = False
    """Whether this one holds uploaded code, which no task but its own may read."""

    @property
    def path(self) -> Path:
        """The bare repository."""
        return self.git.git_dir

    @property
    def objects(self) -> Path:
        """What trees borrow from."""
        return self.path / "objects"

    @property
    def reads(self) -> tuple[Path, ...]:
        """What a task's own `.git` borrows from, where it may."""
        own = () if self.uploaded and self.settings.apart else (self.objects,)
        return own if self.base is None else (*own, self.base.objects)

    def has(self, commit: str) -> bool:
        """Whether the commit is here. Packs appear whole, so everything that it needs is here too."""
        return self.path.is_dir() and self.git.ask("cat-file", "-e", f"{commit}^{{commit}}")

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the mirror from being removed until a tree borrows from it, and notes that it was used."""
        lock = use_lock(self.path)
        with locked(lock, self.git.cancelled, fcntl.LOCK_SH):
            os.utime(lock)
            if self.uploaded and self.path.is_dir():
                self.path.chmod(0o700)  # earlier versions let every user of the machine read it
            yield

    @contextlib.contextmanager
    def changing(self, commit: str) -> Iterator[Mirror]:
        """Waits for the mirror's one lock and yields the mirror to add to. `commit` tells the object format."""
        with locked(change_lock(self.path), self.git.cancelled) as descriptor:
            held = replace(self, git=self._git_with(descriptor))
            held._make_ready(commit)
            yield held

    @property
    def uploads(self) -> Mirror:
        """The mirror of what was uploaded for this repository; under this one's locks."""
        if self.uploaded:
            return self
        git = self.git.at(self.settings.uploads / self.key)
        return replace(self, git=git, base=self, uploaded=True)

    def ready_uploads(self, commit: str) -> Mirror:
        """Returns the same, made if need be: for the one who holds the lock of `changing`."""
        uploads = self.uploads
        if uploads is not self:
            uploads._make_ready(commit)
        return uploads

    def _make_ready(self, commit: str) -> None:
        if self.path.is_dir():
            self._remove_leftovers()
        else:
            self._create("sha256" if len(commit) == 64 else "sha1")

    def tip(self, address: Address, branch: str | None) -> str:
        """Fetches a branch (None: the remote's own head) and returns the commit that it names now."""
        ref = f"refs/taskyard/tip-{_short(branch or 'HEAD')}"
        try:
            self._fetch(address, [f"+{f'refs/heads/{branch}' if branch else 'HEAD'}:{ref}"])
        except GitFailed as failure:
            raise failure.translated(
                f"{address.url} has no branch {branch or 'HEAD'}", "name one it has"
            ) from failure
        return self.git.line("rev-parse", "--verify", f"{ref}^{{commit}}")

    def named(self, address: Address, revision: str) -> str:
        """Fetches what a branch, a tag or a commit's first digits name; returns the commit. Raises GitFailed."""
        ref = f"refs/taskyard/tip-{_short(revision)}"
        for kind in ("heads", "tags"):
            try:
                self._fetch(address, [f"+refs/{kind}/{revision}:{ref}"])
                return self.git.line("rev-parse", "--verify", f"{ref}^{{commit}}")
            except GitFailed as failure:
                if not failure.of_commit:
                    raise
        self._fetch(address, ["+refs/heads/*:refs/taskyard/heads/*", "+refs/tags/*:refs/tags/*"])
        return self.git.line("rev-parse", "--verify", f"{revision}^{{commit}}")

    def fetch_commits(self, address: Address, commits: Sequence[str], branch: str | None) -> None:
        """Fetches the commits that are absent. Raises RunFailed where the remote does not have them."""
        absent = [commit for commit in commits if not self.has(commit)]
        if not absent:
            return
        ref = f"refs/taskyard/{_short(branch or 'detached')}"
        try:
            self._fetch(address, [f"+{commit}:{ref}-{index}" for index, commit in enumerate(absent)])
        except GitFailed:
            # Some hosts give out only what a branch or a tag points to.
            self._fetch(address, ["+refs/heads/*:refs/taskyard/heads/*", "+refs/tags/*:refs/tags/*"])
        gone = [commit for commit in absent if not self.has(commit)]
        if gone:
            raise refused(f"commit {gone[0]} is not in {address.url} (any more, or not yet)", SHIP_CODE)

    def add_pack(self, pack: Pack, head: str | None, fetch_blob: FetchBlob) -> None:
        """Downloads a pack and adds its objects, each of them checked. Raises RunFailed."""
        if head and not pack.needs and not self.has(head):
            self._cut_history_at(head)
        with tempfile.TemporaryDirectory(prefix="incoming-", dir=self.path) as folder:
            file = Path(folder) / "snapshot.pack"
            download(pack.blob, file, fetch_blob, self.git.cancelled)
            strict = "--strict=" + ",".join(f"{name}=ignore" for name in TOLERATED)
            try:
                most = f"--max-input-size={self.settings.tree_bytes}"
                self.git.run("index-pack", "--stdin", "--fix-thin", strict, most, stdin=file)
            except GitFailed as failure:
                raise failure.translated(
                    "the uploaded snapshot cannot be used", "submit the task again"
                ) from failure
        if not self.has(pack.commit):
            raise refused(f"the uploaded pack does not hold commit {pack.commit}", "submit the task again")
        self._gather()

    def size_of(self, commit: str) -> TreeSize:
        """Returns what the commit's tree would take. Raises RunFailed where that is more than is allowed."""
        note = self.path / "sizes" / commit
        size = _noted(note)
        if size is None:
            size = self._measured(commit)
            note.parent.mkdir(exist_ok=True)
            new = note.with_name(f"{commit}.{secrets.token_hex(4)}")
            new.write_text(f"{size.size_bytes} {size.paths}")
            new.replace(note)
        size.check(self.settings)
        return size

    def _measured(self, commit: str) -> TreeSize:
        """Count the entries of the listing, which ends at the limit: a few objects can name a tree of any size."""
        size = TreeSize()
        with contextlib.closing(self.git.records("ls-tree", "-rtlz", "--full-tree", commit)) as listed:
            for number, line in enumerate(listed, start=1):
                digits = line.partition(b"\t")[0].split()[-1]
                size = TreeSize(
                    size_bytes=size.size_bytes + (int(digits) if digits.isdigit() else 0), paths=number
                )
                size.check(self.settings)
        return size

    def _fetch(self, address: Address, refspecs: Sequence[str]) -> None:
        """Fetches over the first way that is open. Raises GitFailed where the host has no such commit or branch,
        RunFailed where no way is open."""
        failures: list[tuple[Route, GitFailed]] = []
        for route in routes(address, self.settings):
            try:
                return self._fetch_over(route, refspecs)
            except GitFailed as failure:
                if failure.of_commit:
                    raise
                if not (failure.of_access or failure.of_host or failure.of_name):
                    advice = FSCK_ADVICE if failure.of_check else SHIP_CODE
                    raise failure.translated(f"cannot fetch {route.described}", advice) from failure
                failures.append((route, failure))
        raise no_way(failures)

    def _fetch_over(self, route: Route, refspecs: Sequence[str]) -> None:
        began = time.monotonic()
        self.log(f"fetching {route.described}")
        checks = {f"fetch.fsck.{name}": "ignore" for name in TOLERATED}
        with network(self.git, route, self.settings) as git:
            config = {**git.config, **checks, "fetch.fsckObjects": "true"}
            git.with_access(git.env, config, git.secrets).run(
                *("fetch", "--progress", "--no-recurse-submodules", "--no-write-fetch-head", "--force"),
                *("--", route.address.url, *refspecs),
                seconds=self.settings.fetch_seconds,
                silent_seconds=self.settings.stall_seconds,
                progress=self.log,
            )
        self.log(f"fetched in {time.monotonic() - began:.1f} s")

    def _git_with(self, descriptor: int) -> Git:
        return self.git.at(self.path, locks=(descriptor,))

    def _create(self, object_format: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".new-", dir=self.path.parent))
        self.git.at(building).run("init", "-q", "--bare", "--template=", f"--object-format={object_format}")
        if self.base is not None:
            (building / "objects/info/alternates").write_bytes(os.fsencode(self.base.objects) + b"\n")
        building.rename(self.path)

    def _remove_leftovers(self) -> None:
        """What a killed git left: with the mirror's lock held, nobody else can be at work here."""
        leftovers = [*self.path.glob("*.lock"), *self.path.glob("objects/pack/tmp_*")]
        for path in (*leftovers, *(self.path / "refs").rglob("*.lock")):
            path.unlink(missing_ok=True)
        for folder in self.path.glob("incoming-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _cut_history_at(self, commit: str) -> None:
        """Marks a commit whose parents will not come: a whole pack holds no history."""
        shallow = self.path / "shallow"
        lines = set(shallow.read_text().split()) if shallow.exists() else set()
        new = self.path / "shallow.lock"
        new.write_text("".join(f"{line}\n" for line in sorted({*lines, commit})))
        new.replace(shallow)

    def _gather(self) -> None:
        """Joins small packs into larger ones: each pack makes every look-up slower."""
        if len(list(self.objects.glob("pack/*.pack"))) > MANY_PACKS:
            self.git.run("repack", "--geometric=2", "-d", "-l", "-q")


def mirror_of(address: Address | None, commit: str, settings: CheckoutSettings, git: Git, log: Log) -> Mirror:
    """The mirror of a repository; None: the one for code that was shipped whole."""
    key = address.key if address else "shipped"
    key = f"{key}-sha256" if len(commit) == 64 else key
    git = git.at(settings.mirrors / key)
    return Mirror(key=key, settings=settings, git=git, log=log, uploaded=address is None)


def _noted(note: Path) -> TreeSize | None:
    try:
        size, paths = map(int, note.read_text().split())
    except (FileNotFoundError, ValueError):
        return None
    return TreeSize(size_bytes=size, paths=paths)


def use_lock(mirror: Path) -> Path:
    """Shared by those who use the mirror; its time is that of the last use."""
    return mirror.with_name(f"{mirror.name}.use")


def change_lock(mirror: Path) -> Path:
    """Held by the one who adds to the mirror."""
    return mirror.with_name(f"{mirror.name}.lock")


def _short(name: str) -> str:
    """A branch's name as part of a reference: `a` and `a/b` cannot both be files."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def no_way(failures: Sequence[tuple[Route, GitFailed]]) -> RunFailed:
    """What it means that every way failed: the task's fault as soon as one host answered with a no, or where no
    way has a host of that name."""
    words = "\n".join(f"{route.described}: {failure.words}" for route, failure in failures)
    if any(failure.of_access for _, failure in failures):
        return refused(f"the repository refuses this agent:\n{words}", ACCESS_ADVICE)
    if all(failure.of_name for _, failure in failures):
        return refused(f"this agent knows no host of the repository's name:\n{words}", NAME_ADVICE)
    return not_now(failures[0][0].address.place, f"the repository's host cannot be reached:\n{words}")
