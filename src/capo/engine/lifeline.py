"""Connections between the processes of a launch, by which each learns that another one has ended.

Every process keeps a connection to the main one. The system closes it when a process dies, however that
happens, and within half a minute when a machine is lost. A process that is merely stopped keeps its
connection: `heartbeat` detects that.
"""

import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from capo.engine.plain_text import plain_text

KEY = "lifeline"

GRACE = 5.0
"""Seconds that the main process has to report an error itself, after another process reported one."""

LONGEST = 1 << 16
"""Bytes after which a line of an unknown sender is no message."""

KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Options by which the system detects a lost machine, in 30 seconds; some systems lack some of them."""


class Store(Protocol):
    """What is needed of the launch's store."""

    def set(self, key: str, value: str) -> object: ...

    def get(self, key: str) -> bytes: ...


@contextmanager
def lifeline(store: Store, rank: int, size: int, host: str) -> Iterator[None]:
    """End this process with an error once another one of the launch has died or failed.

    `host` is the address of the main process. The main process names the process that died, or repeats the
    error that it reported. If the body raises an error in this process, the others end too.
    """
    line: _MainEnd | _OtherEnd = _MainEnd(store, size) if rank == 0 else _OtherEnd(store, rank, host)
    threading.Thread(target=line.watch, daemon=True).start()
    try:
        yield
    except Exception as error:
        if isinstance(line, _OtherEnd):
            line.report(error)
        raise
    finally:
        line.leave()


@dataclass
class _Peer:
    """Another process, as the main one sees it."""

    connection: socket.socket
    received: bytes = b""
    name: str | None = None
    """Its rank and host, once it has said them."""
    left: bool = False


class _MainEnd:
    """The end of the main process, which has a connection to every other one."""

    def __init__(self, store: Store, size: int) -> None:
        self._token = secrets.token_hex(16)
        self._left = False
        both = socket.has_dualstack_ipv6()
        family, address = (socket.AF_INET6, "::") if both else (socket.AF_INET, "0.0.0.0")
        self._server = socket.create_server((address, 0), family=family, backlog=size, dualstack_ipv6=both)
        store.set(KEY, f"{self._server.getsockname()[1]} {self._token}")
        self._peers: list[_Peer] = []

    def watch(self) -> None:
        """Read the messages of the other processes, until this process ends."""
        selector = selectors.DefaultSelector()
        selector.register(self._server, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._server:
                    with suppress(OSError):  # it is gone already
                        peer = self._accept()
                        selector.register(peer.connection, selectors.EVENT_READ, peer)
                elif not self._read(key.data):
                    selector.unregister(key.fileobj)
                    key.data.connection.close()

    def leave(self) -> None:
        """Tell the others that this process ends on purpose."""
        self._left = True
        for peer in self._peers:
            _send(peer.connection, {"left": True})

    def _accept(self) -> _Peer:
        connection, _ = self._server.accept()
        _keep_alive(connection)
        self._peers.append(_Peer(connection))
        return self._peers[-1]

    def _read(self, peer: _Peer) -> bool:
        """Read a message; return whether more may follow."""
        try:
            data = peer.connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            if peer.name is not None and not (peer.left or self._left):
                self._end(f"process {peer.name} was killed, or its machine was lost")
            return False
        *lines, peer.received = (peer.received + data).split(b"\n")
        for line in lines:
            message = _parsed(line)
            if peer.name is None:
                if message.get("token") != self._token:  # no process of this launch
                    return False
                peer.name = f"{message['rank']} on {message['host']}"
            peer.left |= bool(message.get("left"))
            if "error" in message:
                peer.left = True
                # An error of all processes is better reported by this one.
                timer = threading.Timer(GRACE, self._end, [f"process {peer.name}: {message['error']}"])
                timer.daemon = True
                timer.start()
        return peer.name is not None or len(peer.received) < LONGEST

    def _end(self, problem: str) -> None:
        if self._left:
            return
        self.leave()
        _end(f"{problem}; rerun the same command to resume")


class _OtherEnd:
    """The end of any other process."""

    def __init__(self, store: Store, rank: int, host: str) -> None:
        port, token = store.get(KEY).decode().split()
        self._left = False
        try:
            self._connection = socket.create_connection((host, int(port)), timeout=60)
        except OSError as error:
            raise RuntimeError(
                f"process {rank} on {socket.gethostname()} cannot reach the main process at {host}, port "
                f"{port} ({error}); allow connections between the machines of the launch"
            ) from error
        self._connection.settimeout(None)
        _keep_alive(self._connection)
        _send(self._connection, {"rank": rank, "host": socket.gethostname(), "token": token})

    def watch(self) -> None:
        """Wait until the main process leaves, or is lost."""
        received = b""
        with suppress(OSError):
            while data := self._connection.recv(65536):
                received += data
        if b"left" in received:  # it has said why, or all is done
            time.sleep(GRACE)
            if not self._left:
                os._exit(1)
        if self._left:
            return
        _end("the main process was killed, or its machine was lost; rerun the same command to resume")

    def report(self, error: Exception) -> None:
        """Tell the main process which error ends this one."""
        _send(self._connection, {"error": f"{type(error).__name__}: {error}"})

    def leave(self) -> None:
        """Tell the main process that this one ends on purpose."""
        self._left = True
        _send(self._connection, {"left": True})


def _parsed(line: bytes) -> dict[str, Any]:
    """Return a message; an empty one for a line that no process of a launch sends."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    with suppress(OSError):  # the other side is gone
        connection.sendall(json.dumps(message).encode() + b"\n")


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _end(problem: str) -> None:
    """End this process from a thread, since the main thread may wait inside a library."""
    print(f"Error: {plain_text(problem)}", file=sys.stderr, flush=True)
    os._exit(1)
