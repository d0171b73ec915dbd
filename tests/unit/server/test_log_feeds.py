"""Live logs: read once for all who follow them."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import ExitStack
from typing import Any

import pytest
from taskyard_server.api.log_feeds import PIECE_BYTES, LogFeed, LogFeeds
from taskyard_server.errors import NotFound

from tests.support.services import ADA, Services

FOLLOWERS = 30


async def follow(feed: LogFeed, offset: int = 0) -> bytes:
    """Everything from the offset on, as one follower is sent it."""
    data = b""
    while True:
        news = feed.news
        piece = await feed.piece(offset)
        if piece.last:
            return data
        if piece.event:
            fields = dict(line.split(": ", 1) for line in piece.event.decode().strip().splitlines())
            data += base64.b64decode(json.loads(fields["data"])["data"])
            assert int(fields["id"]) == piece.end
            offset = piece.end
        else:
            await news.wait()


class Reads:
    """Counts what is read of the log."""

    def __init__(self, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        read, length = services.stores.logs.read, services.stores.logs.length

        async def counted_read(*args: Any) -> bytes:
            self.number += 1
            return await read(*args)

        async def counted_length(*args: Any) -> int:
            self.number += 1
            return await length(*args)

        monkeypatch.setattr(services.stores.logs, "read", counted_read)
        monkeypatch.setattr(services.stores.logs, "length", counted_length)


async def test_followers_of_one_log_cost_one_reader(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    reads, feeds = Reads(services, monkeypatch), LogFeeds(services.runs)
    lines = [f"line {number}\n".encode() for number in range(5)]
    with ExitStack() as stack:
        followed = [stack.enter_context(feeds.follow(run.id)) for _ in range(FOLLOWERS)]
        following = [asyncio.ensure_future(follow(feed)) for feed in followed]
        offset = 0
        for line in lines:
            await agent.log(run, offset, line)
            offset += len(line)
            for _ in range(20):
                await asyncio.sleep(0.001)
        await agent.finish(run, log_bytes=offset)

        received = await asyncio.wait_for(asyncio.gather(*following), 30)

    assert received == [b"".join(lines)] * FOLLOWERS
    assert reads.number < 10 * (len(lines) + 2)  # of which each follower by itself would need three an append


async def test_followers_at_different_places_get_all_of_it(services: Services) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    data = bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"end"
    await agent.log(run, 0, data)
    await agent.finish(run, log_bytes=len(data))
    feeds = LogFeeds(services.runs)

    with feeds.follow(run.id) as feed:
        received = await asyncio.gather(*(follow(feed, offset) for offset in (0, 1, PIECE_BYTES, len(data))))

    assert received == [data, data[1:], data[PIECE_BYTES:], b""]


async def test_log_of_a_deleted_task_ends_the_feed(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await agent.finish(run, log_bytes=10)
    feeds = LogFeeds(services.runs)

    with feeds.follow(run.id) as feed:
        following = asyncio.ensure_future(follow(feed))
        await asyncio.sleep(0)
        await services.tasks.delete(task.id, ADA)
        feeds.close()

        with pytest.raises(NotFound):
            await asyncio.wait_for(following, 30)
