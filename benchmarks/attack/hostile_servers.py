"""Hostile peers: evil servers for rewards with a `url`, and evil clients of `capo rewards serve`."""

import gzip
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from ground import command, surroundings
from tries import Try
from watched import Command, warm

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
def evil_server(talk: Talk) -> Iterator[int]:
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
    """Point rewards at evil servers; then send evil requests to a server of ours."""
    warm("rewards", "check", "shapes-aesthetic", folder=folder)
    for name, talk in SERVERS.items():
        recipe = folder / "remote.yaml"
        with evil_server(talk) as port:
            recipe.write_text(
                "name: p\nmodel: {checkpoint: shapes}\nprompts: {source: 'shapes:train', count: 8}\n"
                f"rewards: [{{name: remote, url: 'http://127.0.0.1:{port}', timeout: {TIMEOUT}}}]\n"
                "train: {beta: 1}\nevaluate: {prompts: {source: 'shapes:test', count: 4}}\n"
            )
            arguments = ("rewards", "check", "remote", "--recipe", recipe.name)
            ended = Command(*arguments, folder=folder, seconds=MOST_SECONDS).finish()
        named = ended.fault(["remote"], (1,), MOST_SECONDS)
        yield Try("evil reward servers", name, named, "rejected")
    yield from _attack_served_reward(folder)


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """Run a serving command on a free port; yields the process, the port and the file of its errors."""
    errors = folder / "server.err"
    with errors.open("w") as out, (folder / "server.out").open("w+") as said:
        process = subprocess.Popen(
            [*command(*arguments), "--port", "0"],
            cwd=folder,
            env=surroundings(),
            stdout=said,
            stderr=out,
            text=True,
        )
        try:
            port = _port(process, errors, folder / "server.out")
            yield process, port, errors
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def _port(process: subprocess.Popen[str], *outputs: Path) -> int:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        said = "".join(output.read_text() for output in outputs)
        if "http://" in said:
            return int(
                said.partition("http://")[2].partition("/")[0].split()[0].rstrip(";").rpartition(":")[2]
            )
        time.sleep(0.2)
    raise RuntimeError("the server does not start")


def exchange(port: int, data: bytes, seconds: float = 10) -> bytes:
    """Send bytes to a local port; return the beginning of the reply, empty without one."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        with suppress(OSError):
            connection.sendall(data)
        return connection.recv(1 << 16)
    return b""


def post(
    path: str, body: bytes, headers: str = "Content-Type: application/json\r\n", host: str = "localhost"
) -> bytes:
    """Return a POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"{head}{headers}\r\n".encode() + body


def evil_requests(path: str) -> dict[str, bytes]:
    """Return requests that a server must refuse, and survive."""
    json_type = "Content-Type: application/json\r\n"
    start = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{json_type}"
    chunked = f"{start}Transfer-Encoding: chunked\r\n"
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    return {
        "not HTTP": b"\x16\x03\x01" + os.urandom(200),
        "NUL bytes": bytes(5000),
        "a long line": b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        "a long header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
        "many headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        "a path outside": b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "an encoded path outside": b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "bytes in the path": b"GET /\xff\xfe/%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "no host": f"GET {path} HTTP/1.1\r\n\r\n".encode(),
        "a foreign host": post(path, b"{}", host="evil.example"),
        "a foreign origin": post(path, b"{}", json_type + "Origin: http://evil.example\r\n"),
        "a null origin": post(path, b"{}", json_type + "Origin: null\r\n"),
        "a form": post(path, b"a=b", "Content-Type: application/x-www-form-urlencoded\r\n"),
        "text": post(path, b"{}", "Content-Type: text/plain\r\n"),
        "gzip": post(path, BOMB, json_type + "Content-Encoding: gzip\r\n"),
        "a gzip bomb as JSON": post(path, BOMB),
        "a huge length": f"{start}Content-Length: {10**19}\r\n\r\n".encode(),
        "digits without end": f"{start}Content-Length: {'9' * 6000}\r\n\r\n".encode(),
        "other digits": f"{start}Content-Length: \u0665\r\n\r\n".encode(),
        "a negative length": f"{start}Content-Length: -5\r\n\r\n".encode(),
        "chunks": f"{chunked}\r\n5\r\n{{   }}\r\n0\r\n\r\n".encode(),
        "chunks beyond the length": f"{chunked}Content-Length: 2\r\n\r\n".encode() + CHUNK + b"0\r\n\r\n",
        "a malformed chunk": f"{chunked}\r\nzz\r\n".encode(),
        "deep JSON": post(path, b"[" * 1_000_000),
        "a long integer": post(path, b"9" * 100_000),
        "not UTF-8": post(path, b'{"a": "\xff"}'),
        "lone surrogates": post(path, b'{"study": "\\ud800", "votes": [], "rater": "\\udfff"}'),
        "images that are no images": post(path, b'{"images": [{"png": "AAAA"}], "prompts": ["a"]}'),
        "images that are no base64": post(path, b'{"images": [{"png": "\\u00ff=="}], "prompts": ["a"]}'),
        "prompts that are no text": post(path, b'{"images": [], "prompts": [1]}'),
        "a method of its own": f"STEAL {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        "TRACE": f"TRACE {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "a proxy request": b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "an upgrade": f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n".encode(),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }  # fmt: skip


def probe(port: int, path: str, good: bytes, process: subprocess.Popen[str], errors: Path) -> Iterator[Try]:
    """Send evil requests to a server; it must refuse each, and answer a good one afterwards."""
    before = psutil.Process(process.pid).memory_info().rss
    case = f"evil clients of {path.rpartition('/')[2]}"
    for name, data in evil_requests(path).items():
        answer = exchange(port, data)
        status = answer.split(b" ", 2)[1] if answer.startswith(b"HTTP/1.1 ") else b""
        fault = f"answered {answer[:80]!r}" if status.startswith((b"2", b"5")) else ""
        yield Try(case, name, fault or still_serves(port, good), "refused" if status else "closed")
    idle = hold(port, 600, f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX: ".encode())
    fault = still_serves(port, good, 40)
    yield Try(case, "600 connections that send headers slowly", fault)
    for connection in idle:
        connection.close()
    body = "Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{"
    idle = hold(port, 600, f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{body}".encode())
    yield Try(case, "600 connections that send a body slowly", still_serves(port, good, 60))
    for connection in idle:
        connection.close()
    time.sleep(1)
    grown = (psutil.Process(process.pid).memory_info().rss - before) / 1e6
    yield Try(case, "memory afterwards", f"grew by {grown:.0f} MB" if grown > 300 else "")
    said = errors.read_text(errors="replace")
    yield Try(case, "errors of the server", said.strip()[-300:] if "Traceback" in said else "")
    listening = {
        each.laddr.ip for each in psutil.Process(process.pid).net_connections() if each.status == "LISTEN"
    }
    yield Try(case, "address", "" if listening == {"127.0.0.1"} else f"listens on {listening}")


def hold(port: int, count: int, data: bytes) -> list[socket.socket]:
    """Open connections that send only the beginning of a request."""
    held = []
    for _ in range(count):
        with suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connection.sendall(data)
            held.append(connection)
    return held


def still_serves(port: int, good: bytes, seconds: float = 20) -> str:
    """Say why a server does not answer a good request within some seconds; empty if it does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (answer := exchange(port, good, seconds)).startswith(b"HTTP/1.1 200"):
            return ""
        time.sleep(0.5)
    return f"no good answer in {seconds:g} s: {answer[:80]!r}"


def _attack_served_reward(folder: Path) -> Iterator[Try]:
    good = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with served(folder, "rewards", "serve", "shapes-aesthetic") as (process, port, errors):
        yield from probe(port, "/score", good, process, errors)
