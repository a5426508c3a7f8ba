"""Hostile servers for rewards with a `url`: they stall, flood, redirect, compress, or answer wrongly."""

import gzip
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forks import run_in, warm
from tries import Try

HELLO = {"protocol": 1, "name": "r", "identity": "evil", "comparison": "bradley-terry", "waiting": 0}
BRADLEY = {"comparison": "bradley-terry"}
TIMEOUT = 3
MOST_SECONDS = 200.0
"""For the retries of a server that cannot be reached, 85 seconds, on a loaded machine."""
Talk = Callable[[socket.socket, bytes], None]
"""Answers a request on a connection; gets the request's first line and what came with it."""


def reply(body: object, status: str = "200 OK", headers: str = "") -> bytes:
    """Return an HTTP reply with a JSON body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data


def sending(data: bytes) -> Talk:
    """Send data, whatever the request."""
    return lambda connection, _: connection.sendall(data)


def scoring(values: object, **hello: object) -> Talk:
    """Say hello, and answer requests for scores with a value; a function of the number of images."""

    def talk(connection: socket.socket, request: bytes) -> None:
        if request.startswith(b"GET"):
            connection.sendall(reply(HELLO | hello))
            return
        head, _, body = request.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(body) < length and (part := connection.recv(1 << 16)):
            body += part
        count = len(json.loads(body)["prompts"])
        connection.sendall(reply(values(count) if callable(values) else values))

    return talk


def dripping(first: bytes, part: bytes, pause: float = 0.2) -> Talk:
    """Send a beginning, and then parts for ever."""

    def talk(connection: socket.socket, request: bytes) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(part)
            time.sleep(pause)

    return talk


def silent(connection: socket.socket, request: bytes) -> None:
    """Keep the connection open."""
    time.sleep(600)


OK = b"HTTP/1.1 200 OK\r\n"
MEGABYTE = b"x" * (1 << 20)
CHUNK = b"100000\r\n" + MEGABYTE + b"\r\n"
BOMB = gzip.compress(bytes(1 << 28))
SERVERS: dict[str, Talk] = {
    "says nothing": silent,
    "closes at once": lambda connection, _: None,
    "drips headers": dripping(OK, b"X: y\r\n"),
    "drips a body": dripping(OK + b"Content-Length: 1000000\r\n\r\n", b"x"),
    "drips chunks": dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "endless headers": dripping(OK, b"X: y\r\n" * 10_000, 0),
    "an endless header": dripping(OK + b"X: ", MEGABYTE, 0),
    "an endless status": dripping(b"HTTP/1.1 200 ", MEGABYTE, 0),
    "endless continues": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.01),
    "an endless body": dripping(OK + b"\r\n", MEGABYTE, 0),
    "endless chunks": dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, 0),
    "an endless chunk header": dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", MEGABYTE, 0),
    "a huge length": sending(OK + b"Content-Length: 99999999999999999999\r\n\r\nx"),
    "a negative length": sending(OK + b"Content-Length: -1\r\n\r\n{}"),
    "a length of text": sending(OK + b"Content-Length: x\r\n\r\n{}"),
    "two lengths": sending(OK + b"Content-Length: 2\r\nContent-Length: 4\r\n\r\n{}xx"),
    "a gzip bomb": sending(reply(BOMB, headers="Content-Encoding: gzip\r\n")),
    "an undeclared gzip bomb": sending(reply(BOMB)),
    "a redirect": sending(reply(b"", "302 Found", "Location: http://169.254.169.254/\r\n")),
    "a redirect to a file": sending(reply(b"", "307 T", "Location: file:///etc/passwd\x1b[31m\r\n")),
    "not HTTP": sending(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "random bytes": sending(os.urandom(4096)),
    "status 999": sending(reply({}, "999 X")),
    "status 204": sending(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "busy for ever": sending(reply({"error": "\x1b[2Jbusy"}, "503 Busy")),
    "too large for ever": sending(reply({}, "413 Too Large")),
    "not JSON": sending(reply(b"\x1b]0;x\x07<html>")),
    "deep JSON": sending(reply(b"[" * 500_000)),
    "a long integer": sending(reply(b'{"protocol": ' + b"1" * 10_000 + b"}")),
    "protocol 2": sending(reply(HELLO | {"protocol": 2})),
    "a list as protocol": sending(reply(HELLO | {"protocol": [1]})),
    "a long unknown comparison": scoring({}, comparison="x" * 8_000_000),
    "a comparison of NaN": scoring({}, comparison=BRADLEY | {"temperature": float("nan")}),
    "a comparison of text": scoring({}, comparison=BRADLEY | {"temperature": "1"}),
    "a comparison of zero": scoring({}, comparison=BRADLEY | {"temperature": 0}),
    "a long identity": scoring({"error": "no"}, identity="\x1b[31m\u202e" + "x" * 8_000_000),
    "a long error": scoring({"error": "\x1b[31m" + "x" * 8_000_000}),
    "too few scores": scoring(lambda n: {"scores": [1.0] * (n - 1)}),
    "too many scores": scoring(lambda n: {"scores": [1.0] * (n + 1)}),
    "scores of NaN": scoring(lambda n: {"scores": [float("nan")] * n}),
    "scores of text": scoring(lambda n: {"scores": ["1"] * n}),
    "scores of huge integers": scoring(lambda n: {"scores": [10**400] * n}),
    "scores of booleans": scoring(lambda n: {"scores": [True] * n}),
    "truncated of lists": scoring(lambda n: {"scores": [1.0] * n, "truncated": [[]] * n}),
    "errors of objects": scoring(lambda n: {"scores": [1.0] * n, "errors": [{"a": 1}] * n}),
}  # fmt: skip


@contextmanager
def hostile_server(talk: Talk) -> Iterator[int]:
    """Run a server that treats every connection so; yields its port."""

    def treat(connection: socket.socket) -> None:
        with suppress(OSError, ValueError, IndexError), connection:
            talk(connection, connection.recv(1 << 16))

    def accept(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=treat, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]


def attack(folder: Path) -> Iterator[Try]:
    """Point rewards at hostile servers."""
    warm(folder, "rewards", "check", "shapes-aesthetic")
    for name, talk in SERVERS.items():
        recipe = folder / "remote.yaml"
        with hostile_server(talk) as port:
            recipe.write_text(
                "name: p\nmodel: {checkpoint: shapes}\nprompts: {source: 'shapes:train', count: 8}\n"
                f"rewards: [{{name: remote, url: 'http://127.0.0.1:{port}', timeout: {TIMEOUT}}}]\n"
                "train: {beta: 1}\nevaluate: {prompts: {source: 'shapes:test', count: 4}}\n"
            )
            arguments = ("rewards", "check", "remote", "--recipe", recipe.name)
            ended = run_in(folder, *arguments, seconds=MOST_SECONDS)
        named = ended.fault(["remote"], (1,), MOST_SECONDS)
        yield Try("hostile reward servers", name, named, "rejected")
