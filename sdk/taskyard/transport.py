"""HTTP to one server: retries, errors, files, live streams. The only module that uses httpx.

Threads share one Transport. Tokens travel in a header alone and are never logged.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import re
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar
from urllib.parse import urlsplit

from taskyard import answers
from taskyard.config import is_loopback, server_address
from taskyard.errors import (
    ForeignAnswer,
    NotFound,
    NotLoggedIn,
    Refused,
    Stale,
    TaskyardError,
    Unavailable,
    UsageError,
)
from taskyard.wire import API_PREFIX, IDEMPOTENCY_HEADER

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

T = TypeVar("T")
Params = Mapping[str, str | int | float | list[str] | None]

MUTATING = ("POST", "PATCH", "DELETE")
CHUNK_BYTES = 1 << 20
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
SILENCE_SECONDS = 45.0
"""A live stream gives a sign of life every 15 s; after three missed ones it is taken for dead."""
MARKED_SECONDS = 60.0
"""This long after a marked answer one without the mark is foreign; later it may be an older server's again."""
_MOMENT_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""What OpenSSL says of an answer that is none of TLS, and its later versions."""
_TOO_MANY = 429
_PARTIAL = 206
_UNAUTHORISED = 401
_NOT_FOUND = 404
_TOO_LARGE = 413
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""What reading an answer raises that has another form than the wished one."""


@dataclass(frozen=True)
class ServerEvent:
    """One server-sent event; a comment, the server's sign of life, is not one."""

    kind: str
    data: str
    id: str | None


class Stretch(Protocol):
    """A body of a known length that is read as it is sent."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def chunks(self) -> Iterator[bytes]:
        """All of it, from its beginning; called for each attempt. What it raises passes through."""


class Transport:
    """Requests to one server with one token. Nothing is opened before the first request."""

    def __init__(
        self,
        server: str,
        token: str | None = None,
        *,
        ca_file: Path | None = None,
        insecure: bool = False,
        patience_seconds: float = 30.0,
        tell: Callable[[str], None] | None = None,
        renewed_token: Callable[[], str | None] = lambda: None,
        names_strangers: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`patience_seconds` is how long a request without an answer is repeated; `tell` is called once for each
        that takes more than a moment. `renewed_token` is asked where the server does not accept the token.
        `names_strangers`: a first answer that is not Taskyard's is raised at once, for a person to read.
        Raises UsageError where a token or a task would cross a network unencrypted."""
        self.server = _checked(server, insecure=insecure)
        self.patience_seconds = patience_seconds
        self._token = _checked_token(token, self.server)
        self._ca_file = ca_file
        self._tell = tell
        self._renewed_token = renewed_token
        self._names_strangers = names_strangers
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._opened: httpx.Client | None = None
        self._met = False
        self._marked_at = float("-inf")

    def close(self) -> None:
        """Lets go of the connections; the next request opens new ones."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened:
            opened.close()

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends until the server has answered, or patience is over; of the body nothing is asked.

        The options and errors are those of `ask`.
        """
        return self.ask(_acknowledged, method, path, **options)

    def ask(
        self,
        read: Callable[[httpx.Response], T],
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | Path | Stretch | None = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = ANSWER_SECONDS,
        patience_seconds: float | None = None,
        keyed: bool = True,
    ) -> T:
        """Sends until there is an answer that can be read, or patience is over; `path` is below `/api/v1`.

        Every repeat of a mutating request carries the same idempotency key, so it counts once; `keyed=False`
        is for the routes that are harmless to repeat by themselves. An answer that `read` cannot read (it raises
        ValueError, TypeError or KeyError) is not the server's, or was cut on its way.
        Raises Unavailable, ForeignAnswer, NotLoggedIn, Refused.
        """
        own_headers = dict(headers or {})
        if content is not None and not isinstance(content, (bytes, Path)):
            own_headers["Content-Length"] = str(content.size)
        if keyed and method in MUTATING:
            own_headers[IDEMPOTENCY_HEADER] = uuid.uuid4().hex

        def send() -> T:
            with self._translated(), _opened(content) as body:
                response = self._client().request(
                    method,
                    API_PREFIX + path,
                    json=json,
                    content=body,
                    params=_given(params),
                    headers=own_headers,
                    timeout=_timeout(timeout_seconds),
                )
            return self._read(response, read)

        return self._repeated(send, patience_seconds)

    def download(self, path: str, target: Path, *, sha256: str | None = None) -> int:
        """Writes the answer to `target`, which appears whole or not at all, and returns its size.

        Raises as `request`; Unavailable as well when the bytes do not have the digest.
        """
        return self._repeated(lambda: self._download(path, target, sha256), None)

    def download_further(
        self,
        path: str,
        file: BinaryIO,
        *,
        params: Params | None = None,
        tag: str,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Appends to `file` what the answer has beyond its length; a broken connection goes on where it broke.

        `tag` is the ETag of what the file holds the beginning of; where the server has something else by now, the
        file begins again. `advance` is called with each number of bytes that came. Raises as `request`; patience
        begins again with each of them.
        """
        waiting = self._patience(None)
        while True:
            before = file.tell()
            try:
                self._download_further(path, file, params, tag, advance)
            except Unavailable as error:
                if file.tell() > before:
                    waiting = self._patience(None)
                waiting.pause(error)
            else:
                return

    def events(
        self, path: str, *, params: Params | None = None, patience_seconds: float | None = None
    ) -> Iterator[ServerEvent]:
        """Yields a live stream's events, resumed after the last one for as often as the connection breaks.

        Ends never by itself: the caller stops at its last event. Patience begins anew with each event.
        """
        waiting = self._patience(patience_seconds)
        last_id: str | None = None
        while True:
            try:
                for event in self._events(path, params, last_id):
                    waiting = self._patience(patience_seconds)
                    last_id = event.id or last_id
                    yield event
                waiting.pause(Unavailable(f"{self.server} ended the stream early"))
            except Unavailable as error:
                waiting.pause(error)

    # --- one attempt

    def _events(self, path: str, params: Params | None, last_id: str | None) -> Iterator[ServerEvent]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        with self._stream(path, params=params, headers=headers, timeout_seconds=SILENCE_SECONDS) as response:
            if response.headers.get("Content-Type", "").partition(";")[0] != "text/event-stream":
                raise self._foreign(response)
            yield from parse_events(response.iter_lines())

    def _download(self, path: str, target: Path, sha256: str | None) -> int:
        digest = hashlib.sha256()
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        try:
            with os.fdopen(handle, "wb") as file, self._stream(path) as response:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                size = file.tell()
            if sha256 and digest.hexdigest() != sha256:
                raise Unavailable(f"{self.server}{path} arrived damaged")
            os.replace(partial, target)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        return size

    def _download_further(
        self, path: str, file: BinaryIO, params: Params | None, tag: str, advance: Callable[[int], None]
    ) -> None:
        have = file.tell()
        headers = {"Range": f"bytes={have}-", "If-Range": tag} if have else {}
        with self._stream(path, params=params, headers=headers) as response:
            if response.status_code != _PARTIAL and have:
                file.seek(0)
                file.truncate()
                advance(-have)
            for chunk in response.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
                advance(len(chunk))

    @contextlib.contextmanager
    def _stream(
        self,
        path: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> Iterator[httpx.Response]:
        """A GET whose body is read by the caller; every failure on the way is translated."""
        with self._translated():
            with self._client().stream(
                "GET",
                API_PREFIX + path,
                params=_given(params),
                headers=dict(headers or {}),
                timeout=_timeout(timeout_seconds),
            ) as response:
                if not response.is_success:
                    response.read()
                    raise self._error(response)
                if not answers.is_marked(response) and self._is_marking():
                    raise self._foreign(response)
                self._note_own(response)
                yield response

    def _repeated(self, send: Callable[[], T], patience_seconds: float | None) -> T:
        waiting = self._patience(patience_seconds)
        while True:
            token = self._token
            try:
                return send()
            except Unavailable as error:
                waiting.pause(error)
            except NotLoggedIn:
                if not self._took_renewed_token(token):
                    raise

    def _took_renewed_token(self, refused: str | None) -> bool:
        """Whether there is another token by now than the one that was refused; it is used from here on."""
        if self._token == refused:
            token = self._renewed_token()
            if token is None or token == refused:
                return False
            self._token = _checked_token(token, self.server)
            self.close()
        return True

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns httpx's errors into ours."""
        from taskyard.http_library import httpx

        try:
            yield
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except httpx.DecodingError as error:  # cut short, or made by a proxy
            raise self._unreachable(error) from error
        except httpx.HTTPError as error:
            raise TaskyardError(f"{self.server}: {error}") from error
        except UnicodeEncodeError as error:
            text = ascii(error.object[max(0, error.start - 20) : error.end + 20])
            raise UsageError(f"the request holds what is not Unicode text, near {text}; leave it out") from error

    # --- errors

    def _unreachable(self, error: Exception) -> TaskyardError:
        if _caused_by(error, ssl.SSLCertVerificationError):
            return TaskyardError(
                f"the certificate of {self.server} is not trusted ({error}); "
                "name its authority with --ca-file FILE"
            )
        if any(word in str(error) for word in _NO_TLS):
            plain = self.server.replace("https:", "http:", 1)
            return Unavailable(f"what answers at {self.server} speaks no TLS: is it {plain}, or another port?")
        reason = str(error) or type(error).__name__
        hint = "start it with `taskyard up`" if is_loopback(self.server) else "see `taskyard doctor`"
        return Unavailable(f"cannot reach {self.server}: {reason}; {hint}")

    def _read(self, response: httpx.Response, read: Callable[[httpx.Response], T]) -> T:
        if not response.is_success:
            raise self._error(response)
        marked = answers.is_marked(response)
        if not marked and self._is_marking():
            raise self._foreign(response)
        try:
            result = read(response)
        except _UNREADABLE as error:
            if marked and answers.is_whole_json(response):
                message = f"{response.url} answered what this version does not understand: {error}"
                raise TaskyardError(message) from error
            raise self._foreign(response) from error
        self._note_own(response)
        return result

    def _error(self, response: httpx.Response) -> TaskyardError:
        problem = answers.own_problem(response)
        if problem is None or (self._is_marking() and not answers.is_marked(response)):
            return self._foreign(response)
        self._note_own(response)
        word, detail = problem
        status = response.status_code
        if status == _TOO_MANY or status >= 500:
            return Unavailable(f"{self.server}: {detail}", _retry_after(response))
        if status == _UNAUTHORISED:
            said = detail.partition("; log in")[0]  # the server does not know by which address it is reached
            return NotLoggedIn(f"{self.server}: {said}; run `taskyard login {self.server}`")
        kind = NotFound if status == _NOT_FOUND else Stale if word == "stale" else Refused
        return kind(status, word, detail)

    def _foreign(self, response: httpx.Response) -> ForeignAnswer:
        if response.is_redirect:
            place = f"{self.server} answers from {response.headers.get('Location')}; give that address"
            return ForeignAnswer(place, response.status_code)
        what = answers.described(response)
        if response.status_code == _TOO_LARGE:
            limit = "a proxy on the way limits the size of bodies, raise it (nginx: client_max_body_size)"
            return ForeignAnswer(f"{self.server}: {limit} ({what})", _TOO_LARGE)
        if self._met:
            message = f"{self.server}: something between here and the server answered in its place ({what})"
        else:
            message = f"no Taskyard server answers at {self.server} ({what}); check the address, or the proxy"
        return ForeignAnswer(message, response.status_code)

    def _is_marking(self) -> bool:
        """Whether the server marks its answers: it did a moment ago."""
        return self._clock() - self._marked_at < MARKED_SECONDS

    def _note_own(self, response: httpx.Response) -> None:
        self._met = True
        if answers.is_marked(response):
            self._marked_at = self._clock()

    # --- parts

    def _patience(self, seconds: float | None) -> _Patience:
        seconds = self.patience_seconds if seconds is None else seconds
        return _Patience(self._clock, self._sleep, seconds, self._tell, self._must_name)

    def _must_name(self, error: Unavailable) -> bool:
        """Whether a person should read now what answers there, instead of waiting."""
        if not isinstance(error, ForeignAnswer) or not self._names_strangers:
            return False
        return error.status == _TOO_LARGE or not (error.passing or self._met)

    def _client(self) -> httpx.Client:
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> httpx.Client:
        from taskyard import __version__  # read from the installed distribution: not at import
        from taskyard.http_library import httpx

        headers = {"User-Agent": f"taskyard/{__version__}"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            return httpx.Client(
                base_url=self.server,
                headers=headers,
                verify=_trust(self._ca_file),
                trust_env=not is_loopback(self.server),  # no proxy leads to this very machine
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:  # all of the variables that name a proxy
            raise UsageError(_unusable_proxy(error)) from error


class _Patience:
    """The pauses between repeats: doubled from 0.1 s to 5 s, each cut by chance so that clients spread out."""

    def __init__(
        self,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        seconds: float,
        tell: Callable[[str], None] | None,
        is_final: Callable[[Unavailable], bool],
    ) -> None:
        """`is_final` answers which errors are not worth a repeat."""
        self._is_final = is_final
        self._clock = clock
        self._sleep = sleep
        self._began = clock()
        self._seconds = seconds
        self._tell = tell
        self._longest = _FIRST_PAUSE_SECONDS

    def pause(self, error: Unavailable) -> None:
        """Waits before the next repeat, or raises the error when there is no time for one, or none is worth it."""
        if self._is_final(error):
            raise error
        pause = self._longest * random.uniform(0.5, 1.0) + (error.retry_after_seconds or 0.0)
        waited = self._clock() - self._began
        if waited + pause > self._seconds:
            raise error
        if self._tell and waited > _MOMENT_SECONDS:
            self._tell(f"{error}; trying on for {self._seconds - waited:.0f} s")
            self._tell = None
        logger.debug("%s; again in %.1f s", error, pause, extra={"action": "request_repeated"})
        self._longest = min(2 * self._longest, _LONGEST_PAUSE_SECONDS)
        self._sleep(pause)


def parse_events(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """Reads server-sent events as the HTML standard defines them, without `retry`."""
    kind, data, event_id = "message", list[str](), None
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(kind, "\n".join(data), event_id)
            kind, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id":
            event_id = value


def _checked(server: str, *, insecure: bool) -> str:
    try:
        address = server_address(server)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if urlsplit(address).scheme == "http" and not is_loopback(address) and not insecure:
        raise UsageError(
            f"{address} is not encrypted: everybody on the way could read the token; "
            "use https, or give --insecure in a network that you trust"
        )
    return address


def _checked_token(token: str | None, server: str) -> str | None:
    """One word of ASCII: anything else would end up, quoted, in the message of whoever refuses the header."""
    if token and not re.fullmatch(r"[!-~]+", token):
        raise UsageError(f"the token for {server} holds a space, a line break or a letter that no token has")
    return token


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    import truststore

    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=str(ca_file))
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"--ca-file {ca_file} cannot be read as PEM certificates: {error}") from error
    return context


def _unusable_proxy(error: Exception) -> str:
    if isinstance(error, ImportError):
        return (
            "a SOCKS proxy is set (ALL_PROXY, HTTPS_PROXY or HTTP_PROXY), which needs: "
            'pip install "taskyard[socks]"; or name this server in NO_PROXY'
        )
    return f"a variable (ALL_PROXY, HTTPS_PROXY or HTTP_PROXY) names a proxy that is none: {error}"


def _timeout(seconds: float) -> httpx.Timeout:
    from taskyard.http_library import httpx

    return httpx.Timeout(seconds, connect=CONNECT_SECONDS)


@contextlib.contextmanager
def _opened(content: bytes | Path | Stretch | None) -> Iterator[Any]:
    """The body of one attempt; a file is read anew for each."""
    if content is None or isinstance(content, bytes):
        yield content
        return
    if not isinstance(content, Path):
        yield content.chunks()
        return
    with content.open("rb") as file:
        yield iter(lambda: file.read(CHUNK_BYTES), b"")


def _given(params: Params | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _acknowledged(response: httpx.Response) -> httpx.Response:
    """Reads an answer of whose body nothing is asked. Raises ValueError for one that no server gives."""
    if not (answers.is_marked(response) or answers.is_acknowledgement(response)):
        raise ValueError("not an acknowledgement")
    return response


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False
