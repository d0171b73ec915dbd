"""Places in a queue: byte keys between any two of which there is another one.

A key is a whole number of eight bytes and a fraction of any length. The end and the front count the whole
number up and down, so keys there stay short; a place between two keys is drawn at random from the middle of
the gap. Every key carries at least 47 random bits, so two servers never draw the same one.
"""

from __future__ import annotations

import random

_HEAD = 8
_TAIL = 6
_MIDDLE = 1 << 63
_GAP = 1 << (8 * _TAIL)


def keys_after(last: bytes | None, count: int) -> list[bytes]:
    """Returns `count` ascending keys behind `last`, the highest key there is (None: there is none)."""
    first = _MIDDLE if last is None else _whole(last) + 1
    return [_key(first + index) for index in range(count)]


def key_after(last: bytes | None) -> bytes:
    """Returns a key behind `last`."""
    return keys_after(last, 1)[0]


def key_between(low: bytes | None, high: bytes | None) -> bytes:
    """Returns a key strictly between the two; None stands for the end on that side.

    Raises ValueError unless `low` is less than `high`.
    """
    if high is None:
        return key_after(low)
    if low is None:
        return _key(_whole(high) - 1)
    if low >= high:
        raise ValueError("there is no key between a key and one that is not greater")
    return _fraction_between(low, high)


def _whole(key: bytes) -> int:
    return int.from_bytes(key[:_HEAD], "big")


def _key(whole: int) -> bytes:
    return whole.to_bytes(_HEAD, "big") + random.randrange(1, _GAP, 2).to_bytes(_TAIL, "big")


def _fraction_between(low: bytes, high: bytes) -> bytes:
    """Read as fractions of 256, keys order as numbers do, because the last byte is odd and so never zero."""
    length = _HEAD
    while (gap := _number(high, length) - _number(low, length)) < 4 * _GAP:
        length += 1
    start = _number(low, length) + gap // 4
    return (start + random.randrange(gap // 2) | 1).to_bytes(length, "big")


def _number(key: bytes, length: int) -> int:
    """The first `length` bytes of the fraction as an integer."""
    return int.from_bytes(key[:length].ljust(length, b"\0"), "big")
