"""What one token may have waiting at the same time."""

from __future__ import annotations

import pytest
from taskyard_server.api.rates import Places, RateLimited


def test_places_are_bounded_for_each_key_and_given_back() -> None:
    places = Places(2, "live logs open")

    with places.taken("a"), places.taken("a"):
        with pytest.raises(RateLimited, match="2 live logs open"):
            places.require("a")
        places.require("b")
    places.require("a")
