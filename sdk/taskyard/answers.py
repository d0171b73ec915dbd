"""Which answers are Taskyard's own, and which come from a proxy, a portal or another program in its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from taskyard.wire import MARK_HEADER

if TYPE_CHECKING:
    import httpx

NO_CONTENT = 204
_WORDS = {
    400: {"malformed"},
    401: {"unauthorised"},
    403: {"forbidden"},
    404: {"not_found"},
    405: {"method_not_allowed"},
    408: {"refused"},
    409: {"conflict", "stale"},
    413: {"too_large"},
    422: {"invalid"},
    429: {"too_many"},
    500: {"internal"},
    503: {"unavailable"},
}
"""The error words of servers that do not mark their answers yet, by status; later words come with the mark."""
_MOST_SHOWN = 60


def is_marked(response: httpx.Response) -> bool:
    """Whether the answer says itself that it is a Taskyard server's."""
    return MARK_HEADER in response.headers


def own_problem(response: httpx.Response) -> tuple[str, str] | None:
    """The word and the sentence of an error answer of Taskyard's, marked or not; None for any other.

    Without the mark it must look exactly as an older server's: gateways too answer JSON with an `error`.
    """
    marked = is_marked(response)
    if response.request.method == "HEAD":
        return _problem_without_body(response, marked=marked)
    body = _document(response)
    if not isinstance(body, dict) or not all(isinstance(body.get(key), str) for key in ("error", "detail")):
        return None
    known = body["error"] in _WORDS.get(response.status_code, ()) and set(body) == {"error", "detail"}
    return (body["error"], body["detail"]) if marked or known else None


def is_acknowledgement(response: httpx.Response) -> bool:
    """Whether an unmarked success, whose body is of no interest, may be an older server's."""
    if response.request.method == "HEAD":
        return _media_type(response) != "text/html"
    return response.status_code == NO_CONTENT or _document(response) is not None


def described(response: httpx.Response) -> str:
    """What answered, for the message about an answer that is not Taskyard's."""
    parts = [f"{response.status_code} {response.reason_phrase}".strip(), _media_type(response)]
    server = response.headers.get("Server", "")
    parts.append(f"from {server}" if server else "")
    return ", ".join(_printable(part) for part in parts if part)


def is_whole_json(response: httpx.Response) -> bool:
    """Whether the body is a JSON document, to its end."""
    return _document(response) is not None


def _problem_without_body(response: httpx.Response, *, marked: bool) -> tuple[str, str] | None:
    words = _WORDS.get(response.status_code, set())
    if words and (marked or _media_type(response) == "application/json"):
        return min(words), f"answered {response.status_code} {response.reason_phrase}"
    return None


def _document(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _media_type(response: httpx.Response) -> str:
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:_MOST_SHOWN]
