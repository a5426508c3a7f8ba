"""Hostile clients of `capo rewards serve` and `capo people serve`: slow, oversized, malformed, compressed.

A server must refuse every request, answer a good one afterwards, keep its memory and listen on this machine
alone.
"""

import gzip
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from ground import command, digests, ground, surroundings
from tries import Try

CONNECTIONS = 600
"""Slow clients at the same time; `--tries` takes another number."""
BOMB = gzip.compress(bytes(1 << 28))
CHUNK = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
HEALTH = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def attack(folder: Path, connections: int = CONNECTIONS) -> Iterator[Try]:
    """Send hostile requests to a served reward and to a served human study."""
    with served(folder, "rewards", "serve", "shapes-aesthetic") as server:
        yield from probe(server, "rewards serve", "/score", HEALTH % b"/health", connections)
    study = ground(folder / "ground").with_name("people")
    with served(folder, "people", "serve", str(study)) as server:
        start = f"/{(study / 'token').read_text()}/"
        good = HEALTH % start.encode()
        yield from strangers(server, start, study)
        yield from probe(server, "people serve", f"{start}votes", good, connections)


@dataclass(frozen=True)
class Server:
    """A server of ours."""

    process: subprocess.Popen[str]
    port: int
    errors: Path
    """The file with its error output."""


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[Server]:
    """Run a serving command on a free port; yields it."""
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
            yield Server(process, port, errors)
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


def hostile_requests(path: str) -> dict[str, bytes]:
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


def probe(server: Server, case: str, path: str, good: bytes, connections: int) -> Iterator[Try]:
    """Send hostile requests to a server; it must refuse each, and answer the good one afterwards."""
    port, process = server.port, psutil.Process(server.process.pid)
    before = process.memory_info().rss
    for name, data in hostile_requests(path).items():
        answer = exchange(port, data)
        status = _status(answer)
        fault = f"answered {answer[:80]!r}" if status.startswith(("2", "5")) else ""
        yield Try(case, name, fault or still_serves(port, good), "refused" if status else "closed")
    body = "Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{"
    for name, part in {"headers": "X: ", "a body": body}.items():
        held = hold(port, connections, f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{part}".encode())
        yield Try(case, f"{connections} clients that send {name} slowly", still_serves(port, good, 60))
        for connection in held:
            connection.close()
    time.sleep(1)
    grown = (process.memory_info().rss - before) / 1e6
    yield Try(case, "memory afterwards", f"grew by {grown:.0f} MB" if grown > 300 else "")
    said = server.errors.read_text(errors="replace")
    yield Try(case, "errors of the server", said.strip()[-300:] if "Traceback" in said else "")
    listening = {each.laddr.ip for each in process.net_connections() if each.status == "LISTEN"}
    yield Try(case, "address", "" if listening == {"127.0.0.1"} else f"listens on {listening}")


def strangers(server: Server, start: str, study: Path) -> Iterator[Try]:
    """Ask a served study for what is not a rater's, without its token and with it."""
    before = digests(study)
    secret = (study / "key.json").read_bytes()[:200]
    votes = next((study / "votes").iterdir()).read_bytes()
    wrong = f"/{'A' * (len(start) - 2)}/"
    requests = {
        "no token": HEALTH % b"/",
        "another token": HEALTH % wrong.encode(),
        "a longer token": HEALTH % f"{start[:-1]}A/".encode(),
        "a token in bytes": HEALTH % b"/\xff%00%ff/",
        "the key": HEALTH % f"{start}key.json".encode(),
        "the key from above": HEALTH % f"{start}../key.json".encode(),
        "the key from the images": HEALTH % f"{start}images/..%2f..%2fkey.json".encode(),
        "a file of the system": HEALTH % f"{start}images/%2fetc%2fpasswd".encode(),
        "votes with another token": post(f"{wrong}votes", votes),
        "votes from another page": post(
            f"{start}votes", votes, "Content-Type: application/json\r\nOrigin: http://evil.example\r\n"
        ),
        "votes of another study": post(f"{start}votes", votes.replace(b'"study":"', b'"study":"0')),
        "half the votes": post(f"{start}votes", votes[: len(votes) // 2]),
        "changed votes": post(f"{start}votes", votes.replace(b"left", b"right")),
    }
    for name, data in requests.items():
        answer = exchange(server.port, data)
        status = _status(answer)
        fault = f"answered {answer[:80]!r}" if not status.startswith("4") or secret in answer else ""
        yield Try("strangers at a study", name, fault, "refused")
    changed = sorted(name for name in digests(study).items() ^ before.items())
    yield Try("strangers at a study", "files of the study", f"changed: {changed}" if changed else "")


def _status(answer: bytes) -> str:
    """Return the status of an HTTP reply; empty without one."""
    return answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/1.1 ") else ""


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
