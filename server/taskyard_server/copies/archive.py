"""The file of a copy: a plain tar of plain files, at its end the manifest with the digest of each.

It is read without trust: a name is one of a few forms, a member is a regular file, a header is one block. No
extension header is followed, so that a hostile file can neither leave the folder nor grow beyond its own size.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from taskyard_server.errors import CopyRefused

FORMAT = 1
MANIFEST = "manifest.json"
CONTROL, SAMPLES, TOKEN_FILE = "control.db", "samples.db", "admin-token"
CHUNK_BYTES = 1 << 20
MOST_MANIFEST_BYTES = 256 << 20
_NAME = re.compile(
    r"control\.db|samples\.db|admin-token|manifest\.json"
    r"|logs/[0-9a-f]{2}/[0-9a-f]{32}\.[0-9]{1,9}\.[0-9]{4,9}"
    r"|(?:blobs|artifacts)/[0-9a-f]{2}/[0-9a-f]{64}|artifacts/id",
    re.ASCII,
)
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_END = bytes(tarfile.BLOCKSIZE)

BY_DIGEST = ("blobs/", "artifacts/")
"""Members that are named by their digest, but for ARTIFACTS_ID."""
ARTIFACTS_ID = "artifacts/id"

Advance = Callable[[int], None]
"""Is called with the number of bytes that were just copied."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a copy holds."""

    copied_at: float
    """The one point in time: what was acknowledged before it is in the copy."""
    version: str
    """Of the Taskyard that made it."""
    digests: Mapping[str, str]
    """Member → SHA-256, hexadecimal."""

    def dump(self) -> bytes:
        """The manifest's own member."""
        text = {"format": FORMAT, "copied_at": self.copied_at, "version": self.version, "files": self.digests}
        return json.dumps(text, indent=1).encode()

    @classmethod
    def load(cls, data: bytes) -> Manifest:
        """Raises CopyRefused for what is no manifest, or one of a later format."""
        try:
            read: Any = json.loads(data)
            if read["format"] != FORMAT:
                raise CopyRefused(
                    f"the copy has format {read['format']}, this version reads {FORMAT}: install the Taskyard that"
                    f" made it ({read.get('version', 'unknown')})"
                )
            digests = {str(name): str(digest) for name, digest in read["files"].items()}
            return cls(copied_at=float(read["copied_at"]), version=str(read["version"]), digests=digests)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CopyRefused(f"the manifest of the copy cannot be read ({error}): take another copy") from error


@dataclass(kw_only=True)
class Writer:
    """Writes members one after the other, and the manifest last."""

    file: BinaryIO
    advance: Advance
    digests: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, source: BinaryIO, size: int) -> str:
        """Adds `size` bytes of `source`; returns their digest. Raises CopyRefused where the source has fewer."""
        if not _NAME.fullmatch(name):
            raise CopyRefused(f"{name!r} in the data folder is no file of Taskyard's: move it away")
        header = tarfile.TarInfo(name)
        header.size, header.mode = size, 0o600
        # One block for each of our names; sizes beyond 8 GiB need no extension header in this form.
        self.file.write(header.tobuf(tarfile.GNU_FORMAT))
        hashed, left = hashlib.sha256(), size
        while left:
            chunk = source.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise CopyRefused(f"{name} became shorter while it was copied: try again")
            hashed.update(chunk)
            self.file.write(chunk)
            self.advance(len(chunk))
            left -= len(chunk)
        self.file.write(bytes(-size % tarfile.BLOCKSIZE))
        self.digests[name] = hashed.hexdigest()
        return self.digests[name]

    def end(self) -> None:
        """Ends the tar; the manifest was added."""
        self.file.write(2 * _END)


def members(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Yields the name and size of each member; the caller reads exactly that many bytes before the next one.

    Raises CopyRefused for anything that `Writer` does not write.
    """
    while (block := _block(file)) != _END:
        try:
            header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeError, ValueError) as error:
            raise CopyRefused(f"this is no copy that Taskyard made, or it is damaged ({error})") from error
        if header.type not in _REGULAR or header.size < 0 or not _NAME.fullmatch(header.name):
            raise CopyRefused(f"this is no copy that Taskyard made: it holds {header.name[:100]!r}")
        yield header.name, header.size
        if file.read(-header.size % tarfile.BLOCKSIZE).strip(b"\0"):
            raise CopyRefused(f"the copy is damaged behind {header.name}: take another one")


def pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yields the bytes of one member. Raises CopyRefused where the file ends early."""
    while size:
        chunk = file.read(min(size, CHUNK_BYTES))
        if not chunk:
            raise _cut_short()
        yield chunk
        size -= len(chunk)


def place_of(name: str, control: Path, data: Path) -> Path:
    """Where a member belongs."""
    return control if name == CONTROL else data / name


def is_by_digest(name: str) -> bool:
    """Whether the last part of a member's name is its digest."""
    return name.startswith(BY_DIGEST) and name != ARTIFACTS_ID


def _block(file: BinaryIO) -> bytes:
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise _cut_short()
    return block


def _cut_short() -> CopyRefused:
    return CopyRefused("the copy ends in the middle: copy the file again, or take another one")
