"""One run's log on the disk: the files `<run id>.<number>`, all but the last of the same size."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from taskyard_server.errors import Invalid

_RUN_ID = re.compile(r"[0-9a-f]{32}\.[0-9]{1,9}")
_REWRITTEN_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The files of one log, in a folder shared with other runs."""

    folder: Path
    run_id: str
    segment_bytes: int

    @classmethod
    def of(cls, root: Path, run_id: str, segment_bytes: int) -> Segments:
        """Raises Invalid for what is no run id, so that no path is ever made of it."""
        if not _RUN_ID.fullmatch(run_id):
            raise Invalid(f"{run_id!r} is not the id of a run, which is 32 hexadecimal digits, a dot and a number")
        return cls(folder=root / run_id[:2], run_id=run_id, segment_bytes=segment_bytes)

    def paths(self) -> list[Path]:
        """Those that exist, in order."""
        found: list[Path] = []
        while (path := self._path(len(found))).exists():
            found.append(path)
        return found

    def length(self) -> int:
        """Bytes held. What stands behind a segment that is not full was never acknowledged."""
        length = 0
        for path in self.paths():
            size = path.stat().st_size
            length += size
            if size < self.segment_bytes:
                break
        return length

    def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset`."""
        pieces: list[bytes] = []
        while limit > 0:
            piece = self._read_one(offset, limit)
            if not piece:
                break
            pieces.append(piece)
            offset, limit = offset + len(piece), limit - len(piece)
        return b"".join(pieces)

    def append(self, held: int, data: bytes) -> set[Path]:
        """Writes `data` behind the `held` bytes and returns what must be flushed to make it durable."""
        rest = memoryview(data)
        touched = self._make_folder() if held == 0 else set()
        while rest:
            index, position = divmod(held, self.segment_bytes)
            piece = rest[: self.segment_bytes - position]
            _write(self._path(index), position, piece)
            touched |= {self._path(index), self.folder} if position == 0 else {self._path(index)}
            held, rest = held + len(piece), rest[len(piece) :]
        return touched

    def rewrite(self) -> None:
        """Writes what can be read once more, so that a flush has something to write."""
        for path in self.paths():
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                size = os.fstat(descriptor).st_size
                for position in range(0, size, _REWRITTEN_AT_ONCE):
                    os.pwrite(descriptor, os.pread(descriptor, _REWRITTEN_AT_ONCE, position), position)
            finally:
                os.close(descriptor)

    def truncate(self, length: int) -> None:
        """Forgets what stands beyond `length`."""
        for index, path in reversed(list(enumerate(self.paths()))):
            start = index * self.segment_bytes
            if start >= length:
                path.unlink()
            else:
                os.truncate(path, min(path.stat().st_size, length - start))

    def _path(self, index: int) -> Path:
        return self.folder / f"{self.run_id}.{index:04d}"

    def _make_folder(self) -> set[Path]:
        if self.folder.exists():
            return set()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        return {self.folder.parent}

    def _read_one(self, offset: int, limit: int) -> bytes:
        index, position = divmod(offset, self.segment_bytes)
        try:
            with open(self._path(index), "rb", buffering=0) as segment:
                return os.pread(segment.fileno(), min(limit, self.segment_bytes - position), position)
        except FileNotFoundError:
            return b""


def _write(path: Path, position: int, data: memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # What a power cut left behind the acknowledged bytes must not reappear behind these.
        os.ftruncate(descriptor, position)
        while data:
            written = os.pwrite(descriptor, data, position)
            data, position = data[written:], position + written
    finally:
        os.close(descriptor)
