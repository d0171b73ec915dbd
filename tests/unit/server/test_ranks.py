"""Rank keys: order, growth and distinctness."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskyard_server.store.ranks import key_after, key_between, keys_after


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=80))
def test_keys_drawn_for_any_places_keep_the_order_of_the_places(places: list[float]) -> None:
    keys: list[bytes] = []

    for place in places:
        index = round(place * len(keys))
        low = keys[index - 1] if index else None
        high = keys[index] if index < len(keys) else None
        keys.insert(index, key_between(low, high))

    assert all(low < high for low, high in itertools.pairwise(keys))


def test_keys_at_either_end_do_not_grow() -> None:
    first = last = key_after(None)

    for _ in range(1000):
        first, last = key_between(None, first), key_after(last)

    assert len(first) == len(last) == len(key_after(None))


def test_keys_at_one_place_grow_by_less_than_half_a_byte_each() -> None:
    low, high = keys_after(None, 2)

    for _ in range(1000):
        high = key_between(low, high)

    assert len(high) < 500


def test_keys_drawn_for_the_same_place_differ() -> None:
    low, high = keys_after(None, 2)

    drawn = {key_between(low, high) for _ in range(1000)} | {key_after(high) for _ in range(1000)}

    assert len(drawn) == 2000


def test_there_is_no_key_between_a_key_and_itself() -> None:
    key = key_after(None)

    with pytest.raises(ValueError, match="no key between"):
        key_between(key, key)
