"""A run's log does not keep on the disk what the server has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.errors import Unavailable
from taskyard.wire import LogPosition
from taskyard_agent import log_shipper, spool_space
from taskyard_agent.endings import last_exception
from taskyard_agent.log_shipper import LogShipper
from taskyard_agent.spool_space import BLOCK_BYTES, END_KEPT_BYTES, SENT_KEPT_BYTES, SpoolSpace, missing

from tests.support.waiting import becomes_true

MB = 1 << 20
RUN = "task.1"


class Server:
    """Holds one log, up to its cap; it may lose the end of what it has."""

    def __init__(self) -> None:
        self.log = bytearray()
        self.cap = 1 << 30
        self.away = False

    def append(self, run_id: str, control_token: str, offset: int, data: bytes) -> LogPosition:
        if self.away:
            raise Unavailable("away")
        if offset <= len(self.log):
            self.log[offset : offset + len(data)] = data[: max(0, self.cap - offset)]
        return LogPosition(offset=len(self.log), capped=len(self.log) >= self.cap)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def shipper(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[LogShipper]:
    monkeypatch.setattr(log_shipper, "BACKOFF_SECONDS", (0.01, 0.05))
    made = LogShipper(server.append)
    made.start()
    yield made
    made.close()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "output.log"
    path.touch()
    if not frees_space(tmp_path):
        pytest.skip("this file system frees no part of a file")
    return path


def frees_space(folder: Path) -> bool:
    (folder / "probe").write_bytes(bytes(16 * MB))
    space = SpoolSpace(folder / "probe")
    space.free(sent=None, taken=lambda: None)
    return space.freed > 0


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def add(path: Path, size: int, first: int = 0) -> bytes:
    lines = b"".join(b"%015d\n" % number for number in range(first // 16, (first + size) // 16))
    with path.open("ab") as spool:
        spool.write(lines)
    return lines


def test_what_the_server_has_is_freed_and_the_end_is_kept(
    shipper: LogShipper, server: Server, spool: Path
) -> None:
    written = add(spool, 6 * MB)

    shipper.follow(RUN, "token", spool)

    assert becomes_true(lambda: server.log == written)
    assert becomes_true(lambda: on_disk(spool) <= BLOCK_BYTES + SENT_KEPT_BYTES + MB)
    assert spool.read_bytes()[-SENT_KEPT_BYTES:] == written[-SENT_KEPT_BYTES:]


def test_what_the_server_does_not_have_is_kept(shipper: LogShipper, server: Server, spool: Path) -> None:
    server.away = True
    written = add(spool, 6 * MB)
    shipper.follow(RUN, "token", spool)
    assert not shipper.flush(RUN, timeout=0.5)

    assert spool.read_bytes() == written


def test_beyond_the_servers_cap_a_log_takes_no_more_of_the_disk(
    shipper: LogShipper, server: Server, spool: Path
) -> None:
    server.cap = MB
    shipper.follow(RUN, "token", spool)
    for round_ in range(4):
        add(spool, 6 * MB, first=round_ * 6 * MB)

        assert becomes_true(lambda: on_disk(spool) <= BLOCK_BYTES + END_KEPT_BYTES + MB)
    with spool.open("ab") as log:
        log.write(b"Traceback (most recent call last):\n  File\nValueError: it is here\n")
    assert last_exception(spool) == "ValueError: it is here"


def test_a_later_daemon_goes_on_behind_what_was_freed(server: Server, spool: Path) -> None:
    written = add(spool, 6 * MB)
    for _ in range(2):
        shipper = LogShipper(server.append)
        shipper.start()
        shipper.follow(RUN, "token", spool)
        assert shipper.flush(RUN, timeout=20)
        shipper.close()
        written += add(spool, 6 * MB, first=len(written))

    assert SpoolSpace(spool).freed > 0
    assert server.log == written[: 12 * MB]


def test_a_server_that_lost_the_log_gets_a_marked_gap_and_no_zeros(
    shipper: LogShipper, server: Server, spool: Path
) -> None:
    written = add(spool, 6 * MB)
    shipper.follow(RUN, "token", spool)
    assert becomes_true(lambda: SpoolSpace(spool).freed > 0 and server.log == written)
    del server.log[2 * MB :]

    written += add(spool, MB, first=len(written))

    assert becomes_true(lambda: len(server.log) == len(written))
    freed = SpoolSpace(spool).freed
    gap = bytes(server.log[2 * MB : freed])
    assert server.log[: 2 * MB] == written[: 2 * MB]
    assert server.log[freed:] == written[freed:]
    assert b"bytes of this log are missing" in gap[:200]
    assert b"\0" not in gap


@pytest.mark.parametrize("size", [1, 20, 90, 5000, MB])
def test_what_stands_for_a_gap_is_as_long_as_it(size: int) -> None:
    text = missing(size)

    assert len(text) == size
    assert text.endswith(b"\n")


def test_what_a_reader_on_this_machine_has_not_taken_is_kept(
    shipper: LogShipper, server: Server, spool: Path
) -> None:
    taken = [0]
    written = add(spool, 6 * MB)
    shipper.keep_for(RUN, lambda: taken[0])
    shipper.follow(RUN, "token", spool)
    assert becomes_true(lambda: server.log == written)
    assert spool.read_bytes() == written

    taken[0] = 3 * MB + 100
    add(spool, 16, first=len(written))

    assert becomes_true(lambda: SpoolSpace(spool).freed == 3 * MB)


def test_where_no_part_of_a_file_can_be_freed_the_log_is_kept(
    shipper: LogShipper,
    server: Server,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(spool_space, "_fallocate", lambda: None)
    written = add(spool, 6 * MB)

    shipper.follow(RUN, "token", spool)

    assert becomes_true(lambda: server.log == written)
    assert becomes_true(lambda: "keeps its whole size" in caplog.text)
    assert spool.read_bytes() == written
