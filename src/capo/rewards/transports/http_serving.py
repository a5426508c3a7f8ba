"""What capo's HTTP servers share: where they listen, and limits on what clients may send.

Contents of requests are read in parallel, so that a slow client delays no other. All of them together are
limited, and so is the time that one may take. A connection without a request is closed (`header_timeout`).
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from capo.rewards.transports.header_timeout import TimedProtocol
from capo.rewards.transports.request_checks import content_length


@dataclass(frozen=True)
class Limits:
    """Limits on the contents of requests."""

    largest: int
    """Bytes of one request."""
    buffer: int
    """Bytes of all requests in memory, whether they are still being read or wait for their turn."""
    seconds: float
    rate: float
    """Time limit to send a request: so many seconds, plus its bytes divided by the rate."""


class Intake:
    """Reads the contents of requests."""

    def __init__(self) -> None:
        self.buffered = 0
        """Bytes of requests in memory."""

    @asynccontextmanager
    async def content(self, request: Request, limits: Limits) -> AsyncIterator[bytearray]:
        """Yield the content of a request, which counts as buffered until the end of the context."""
        body = bytearray()
        try:
            await self._read(request, body, limits)
            yield body
        finally:
            self.buffered -= len(body)

    async def _read(self, request: Request, body: bytearray, limits: Limits) -> None:
        length = content_length(request)
        if length > limits.largest:
            raise HTTPException(413, f"the request is too large; the limit is {limits.largest} bytes")
        try:
            async with asyncio.timeout(limits.seconds + length / limits.rate):
                async for part in request.stream():
                    if len(body) + len(part) > length:  # chunks, which the declared length does not bound
                        raise HTTPException(400, "the content is longer than its Content-Length")
                    if self.buffered + len(part) > limits.buffer:
                        raise HTTPException(503, "the requests in memory are too large; try again later")
                    body += part
                    self.buffered += len(part)
        except TimeoutError:
            raise HTTPException(408, "the request was sent too slowly") from None
        except ClientDisconnect:
            raise HTTPException(400, "the client disconnected") from None


async def report(request: Request, error: Exception) -> JSONResponse:
    """Answer with the reason of an `HTTPException`."""
    assert isinstance(error, HTTPException)
    headers = {"Retry-After": "1"} if error.status_code == 503 else None
    return JSONResponse({"error": error.detail}, error.status_code, headers)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; any free port for 0. Raises `OSError` if the address is not available."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def url_of(listening: socket.socket) -> str:
    """Return the address of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def build_server(app: Starlette, most_connections: int | None = None) -> uvicorn.Server:
    """Return the server of an application, to be run on a listening socket."""
    return uvicorn.Server(
        uvicorn.Config(
            app, http=TimedProtocol, ws="none", lifespan="off", log_level="warning", access_log=False,
            server_header=False, limit_concurrency=most_connections,
        )
    )  # fmt: skip
