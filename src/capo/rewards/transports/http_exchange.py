"""One HTTP request with a deadline for all of it and a limit on the reply.

The usual client libraries limit only the time between two packets, so a server that sends a byte now and then
can keep a client waiting forever. They also follow redirects and decompress without a limit.
"""

import http.client
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from capo.rewards.transports.wire import SHOWN

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class HttpReply:
    """Status and body of a reply."""

    status: int
    body: bytes


class UnreachableError(Exception):
    """The server cannot be reached, or the connection broke; another try may succeed."""


class SilenceError(Exception):
    """The reply was not complete in time."""


class RefusedReplyError(Exception):
    """A reply that is not read: too long, compressed, or a redirect."""


def exchange(method: str, url: str, body: bytes | None, timeout: float, longest: int) -> HttpReply:
    """Send a request and return the reply, of at most `longest` bytes, within `timeout` seconds."""
    started = time.monotonic()
    connection = _connect(url, timeout)
    assert connection.sock is not None
    stopper = threading.Timer(timeout - (time.monotonic() - started), _shut_down, [connection.sock])
    stopper.start()
    try:
        reply = _converse(connection, method, urlsplit(url).path or "/", body, longest)
        if time.monotonic() - started >= timeout:  # a body without a length would look complete
            raise SilenceError
        return reply
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() - started >= timeout:
            raise SilenceError from None
        raise UnreachableError(f"{type(error).__name__}: {error}") from error
    finally:
        stopper.cancel()
        connection.close()


def _connect(url: str, timeout: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=min(CONNECT_SECONDS, timeout))
        connection.connect()
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(str(error)) from error
    connection.sock.settimeout(None)  # the deadline is for the whole exchange
    return connection


def _converse(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, longest: int
) -> HttpReply:
    headers = {"Accept-Encoding": "identity"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    # The server may refuse a request before it has read all of it; its reply says why.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body, headers)
    response = connection.getresponse()
    if 300 <= response.status < 400:
        target = response.headers.get("Location", "nowhere")[:SHOWN]
        raise RefusedReplyError(f"it redirects to {target!r}, which is not followed; name the final address")
    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise RefusedReplyError(f"its reply is compressed ({encoding[:SHOWN]!r}), which is not accepted")
    data = response.read(longest + 1)
    if len(data) > longest:
        raise RefusedReplyError(f"its reply is longer than {longest:,} bytes")
    if response.length:
        raise http.client.IncompleteRead(data, response.length)
    return HttpReply(response.status, data)


def _shut_down(connection: socket.socket) -> None:
    """End a connection that another thread reads from or writes to."""
    with suppress(OSError):  # it may have ended
        # The method of plain sockets: an SSL socket's own would first drop its state.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
