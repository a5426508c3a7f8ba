"""What uvicorn lacks against slow and malformed clients.

A time limit for the headers of a request: without one, a client that connects and sends nothing, or one
header byte at a time, keeps its connection forever; enough of them use up the process's file descriptors, and
then no other client can connect. And one answer to a request that turns out malformed while it is handled: a
second one is an exception in the server.
"""

import asyncio
from typing import cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 15.0
"""Time limit from the start of a connection, or the end of a reply, to the last header of a request."""


class TimedProtocol(H11Protocol):
    """HTTP/1.1 on one connection, closed if no request begins in time, and after a malformed one."""

    _deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._deadline.cancel()
        self._await_request()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, and drop what the application would answer to the same request."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # it has been answered
            self.transport.close()

    def _await_request(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._close_unless_busy)

    def _close_unless_busy(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
