"""A program of its own, so that it can be ended and logged: solves and installs an order through py-rattler."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str]) -> int:
    """Carries out the order in the file named; its last words are on standard output."""
    order = json.loads(Path(argv[0]).read_bytes())
    try:
        asyncio.run(_carry_out(order))
    except Exception as error:  # noqa: BLE001 - whatever the library raises ends the program, in its own words
        _say(f"error: {error}")
        return 1
    return 0


async def _carry_out(order: dict[str, Any]) -> None:
    import rattler

    client = rattler.Client.default_client()
    gateway = rattler.Gateway(cache_dir=Path(order["cache"], "repodata"), client=client)
    records = await (_pinned(order, gateway) if order["pins"] else _solved(order, gateway))
    for record in records:
        _say(f"{record.name.normalized} {record.version} {record.build}")
    await rattler.install(
        records,
        target_prefix=order["prefix"],
        cache_dir=Path(order["cache"], "pkgs"),
        execute_link_scripts=True,
        show_progress=False,
        client=client,
        config=_linking(),
    )


def _linking() -> Any:
    """A clone where the file system can, else a copy; a hardlink would let an edit reach the cache."""
    from rattler import Config

    return Config.from_toml("allow-hard-links = false")


async def _solved(order: dict[str, Any], gateway: Any) -> list[Any]:
    import rattler

    return await rattler.solve(
        [rattler.Channel(address) for address in order["channels"]],
        [rattler.MatchSpec(spec) for spec in order["specs"]],
        gateway=gateway,
        platforms=[rattler.Subdir.current(), rattler.Subdir("noarch")],
        virtual_packages=rattler.VirtualPackage.detect(),
        channel_relations="disabled",
    )


async def _pinned(order: dict[str, Any], gateway: Any) -> list[Any]:
    """Finds the files of a lock in their channels, which know how each is to be installed."""
    import rattler

    channels = [rattler.Channel(address) for address in order["channels"]]
    platforms = [rattler.Subdir.current(), rattler.Subdir("noarch")]
    names = sorted({_name_of(pin["url"]) for pin in order["pins"]})
    answer = await gateway.query(channels, platforms, names, recursive=False, channel_relations="disabled")
    known = {str(record.url): record for records in answer for record in records}
    return [_verified(pin, known) for pin in order["pins"]]


def _verified(pin: dict[str, Any], known: dict[str, Any]) -> Any:
    record = known.get(pin["url"])
    file = pin["url"].rsplit("/", 1)[1]
    if record is None:
        raise LookupError(f"the lock names {file}, which its channel does not have (any more)")
    for kind in ("sha256", "md5"):
        there = getattr(record, kind)
        if pin[kind] and there and there.hex() != pin[kind]:
            raise LookupError(f"the lock's {kind} of {file} is {pin[kind]}, its channel has {there.hex()}")
    return record


def _name_of(url: str) -> str:
    return url.rsplit("/", 1)[1].rsplit("-", 2)[0]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # The library's threads may still run; an orderly end of the interpreter under them aborts the process.
    os._exit(main(sys.argv[1:]))
