"""Masking of secrets in a stream."""

from __future__ import annotations

import base64
import itertools
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskyard_agent.keeper.masking import Masker

SECRET = 'pa55/wörd+&"quoted"'


def in_chunks(masker: Masker, chunks: list[bytes]) -> bytes:
    return b"".join([*map(masker.feed, chunks), masker.finish()])


def cut(text: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


SECRETS = st.lists(st.text("ab", min_size=6, max_size=9), max_size=4)


@given(SECRETS, st.data(), st.lists(st.integers(0, 1000)))
def test_however_the_stream_is_cut_the_result_is_the_same(secrets, data, places):
    parts = st.one_of(st.text("abc\n", max_size=9), st.sampled_from(secrets or [""]))
    text = "".join(data.draw(st.lists(parts, max_size=12))).encode()

    chunked = in_chunks(Masker(secrets), cut(text, places))

    assert chunked == Masker(secrets).mask_all(text)
    assert not any(secret.encode() in chunked for secret in secrets)


@given(st.text(min_size=6, max_size=30).filter(lambda text: len(text.strip()) >= 6), st.binary(max_size=5))
def test_base64_is_masked_wherever_the_secret_stands_in_it(secret, before):
    encoded = base64.b64encode(before + secret.encode("utf-8", "surrogatepass") + b"tail")

    masked = Masker([secret]).mask_all(encoded)

    assert b"***" in masked
    assert len(masked) < len(encoded)


@pytest.mark.parametrize(
    "form",
    [
        str,
        quote,
        quote_plus,
        lambda text: quote(text, safe=""),
        lambda text: json.dumps(text)[1:-1],
        lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
        lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    ],
)
def test_every_printed_form_is_masked(form):
    text = f"before {form(SECRET)} after".encode()

    masked = Masker([SECRET]).mask_all(text)

    assert masked.startswith(b"before ***")
    assert len(masked) <= len("before ***== after") + 1


def test_what_cannot_begin_a_secret_is_passed_on_at_once():
    masker = Masker(["sesame-open"])

    assert masker.feed(b"50 % done, no newline") == b"50 % done, no newline"
    assert masker.feed(b" then ses") == b" then "
    assert masker.feed(b"sion") == b"session"


def test_a_secret_written_byte_by_byte_is_masked():
    masker = Masker(["sesame-open"])

    assert in_chunks(masker, [bytes([byte]) for byte in b"<sesame-open>"]) == b"<***>"


def test_the_longer_of_two_secrets_wins_even_when_it_ends_in_the_next_chunk():
    masker = Masker(["sesame", "sesame-open"])

    assert in_chunks(masker, [b"sesame", b"-open"]) == b"***"


def test_short_values_are_left_alone():
    assert Masker(["five5"]).mask_all(b"five5") == b"five5"


def test_each_line_of_a_secret_is_masked():
    key = "-----BEGIN KEY-----\nMIIabcdef\n-----END KEY-----\n"

    assert Masker([key]).mask_all(b"| MIIabcdef") == b"| ***"


def test_a_secret_that_is_added_later_is_masked_from_then_on():
    masker = Masker()
    masker.feed(b"sesame-open ")
    masker.add(["sesame-open"])

    assert in_chunks(masker, [b"sesame-", b"open"]) == b"***"
