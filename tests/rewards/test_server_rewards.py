"""Rewards on another machine: the server, its client, and failures between them."""

import base64
import http.client
import io
import json
import logging
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from capo.cli import app
from capo.recipe import RewardSection
from capo.rewards import (
    RewardError,
    Scored,
    TransientError,
    build_comparison,
    load_reward,
    reward_identity,
    score_images,
    transports,
)
from capo.rewards.protocol import RewardMemoryError
from capo.rewards.transports import client, header_timeout, server, wire
from served_reward import serving, wait_until

NOISE = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
IMAGES = [Image.fromarray(pixels) for pixels in NOISE]
PROMPTS = [f"a red circle and {n} squares" for n in range(6)]
FIRSTS = [float(pixels[0, 0, 0]) for pixels in NOISE]


HEAD = b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
BEGINNING = HEAD + b"Content-Length: 99\r\n\r\n{"
"""The first byte of a request."""


class Gated:
    """A reward that scores by the first pixel, once its gate is open."""

    name = "gated"
    comparison = None

    def __init__(self):
        self.gate = threading.Event()
        self.batches = []

    def score(self, images, prompts):
        self.gate.wait(10)
        self.batches.append(len(images))
        firsts = [float(image.getpixel((0, 0))[0]) for image in images]
        if "unscorable" in prompts:
            raise ValueError("cannot score")
        return [None if prompt == "none" else first for prompt, first in zip(prompts, firsts, strict=True)]


class Cutting(Gated):
    """Reads nine characters of a prompt."""

    def truncated(self, prompts):
        return [len(prompt) > 9 for prompt in prompts]


@pytest.fixture
def gated():
    """A served reward with its gate open."""
    reward = Gated()
    reward.gate.set()
    with serving(reward, batch_size=4) as service:
        yield service


def request(service, method, path, body=None, **headers):
    """Return status and JSON of one request, with a JSON content type unless `headers` change it."""
    connection = http.client.HTTPConnection(*service.address, timeout=20)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    connection.request(method, path, data, sent)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content)


def load(service, **fields):
    return load_reward(RewardSection(name="mine", url=service.url, **fields), "cpu")


def test_a_served_reward_scores_as_a_local_one():
    section = RewardSection(name="shapes-vqa")
    local = load_reward(section, "cpu")
    with serving(local, reward_identity(section)) as service:
        remote = RewardSection(name="shapes-vqa", url=service.url + "/")
        scores = load_reward(remote, "cpu").score(IMAGES, PROMPTS)
    np.testing.assert_array_equal(scores, local.score(IMAGES, PROMPTS))
    assert reward_identity(remote) == reward_identity(section)  # it does not matter where it runs
    assert build_comparison(remote) == build_comparison(section)


def test_a_server_of_another_reward_is_rejected(gated):
    section = RewardSection(name="mine", source="shapes-vqa", url=gated.url)
    with pytest.raises(RewardError, match=r"serves something, but the recipe names DecoderVqaScore"):
        load_reward(section, "cpu")
    assert reward_identity(RewardSection(name="mine", url=gated.url)) == gated.url
    np.testing.assert_array_equal(load(gated).score(IMAGES, PROMPTS), FIRSTS)


def test_one_unscorable_image_costs_no_other_its_score(gated):
    scored = score_images(load(gated), IMAGES[:4], ["a", "unscorable", "none", "b"], 4)
    assert scored[0] == Scored(FIRSTS[0])
    assert scored[1] == Scored(None, "RuntimeError: ValueError: cannot score")
    assert scored[2].score is None
    assert scored[3] == Scored(FIRSTS[3])


def test_requests_are_split_for_reward_and_server(gated, monkeypatch):
    remote, batches = load(gated), gated.reward.batches
    remote.score(IMAGES, PROMPTS)
    assert batches == [4, 2]  # the server's batch_size
    batches.clear()
    monkeypatch.setattr(server, "LARGEST_REQUEST", 10_000)  # two of these images
    np.testing.assert_array_equal(remote.score(IMAGES, PROMPTS), FIRSTS)
    assert sum(batches) == 6
    assert max(batches) < 4
    monkeypatch.setattr(server, "LARGEST_REQUEST", 10)
    with pytest.raises(RuntimeError, match="limit is 10 bytes"):
        remote.score(IMAGES, PROMPTS)


def test_a_full_line_is_retried():
    """One request is scored, one may wait; the third gets 503, retries and is scored in the end."""
    reward, scores = Gated(), {}

    def score(n):
        scores[n] = load(service).score(IMAGES[n : n + 1], ["a"])[0]

    threads = [threading.Thread(target=score, args=(n,)) for n in range(3)]
    with serving(reward, waiting=1) as service:
        for thread in threads[:2]:
            thread.start()
        wait_until(lambda: service.in_line == 2)
        assert request(service, "POST", "/score", {})[0] == 503
        threads[2].start()
        reward.gate.set()
        for thread in threads:
            thread.join()
        assert scores == dict(enumerate(FIRSTS[:3]))
        assert request(service, "GET", "/health")[1]["waiting"] == 0
        assert service.buffered == 0


def test_a_busy_server_is_retried_for_about_80_seconds(gated, monkeypatch):
    waits = []
    monkeypatch.setattr("capo.rewards.transports.client.time.sleep", waits.append)
    reward = load(gated)
    gated._longest_line = 0
    with pytest.raises(TransientError, match=r"answers 503 .* even after retries"):
        reward.score(IMAGES[:1], PROMPTS[:1])
    assert 75 < sum(waits) < 95


def test_a_timeout_is_not_retried():
    reward = Gated()
    with serving(reward) as service:
        remote = load(service, timeout=0.5)
        with pytest.raises(
            TransientError, match=r"no answer in 0\.5 s; raise timeout or lower batch_size of"
        ):
            score_images(remote, IMAGES, PROMPTS, 6)
        reward.gate.set()
        wait_until(lambda: service.in_line == 0)
    assert reward.batches == [6]


@pytest.mark.parametrize("error", [MemoryError("no room"), torch.OutOfMemoryError("no room")])
def test_a_server_out_of_memory_names_the_setting(gated, monkeypatch, error):
    batches = []

    def score(images, prompts):
        batches.append(len(images))
        raise error

    monkeypatch.setattr(gated.reward, "score", score)
    with pytest.raises(RewardMemoryError, match=r"with 3 images at once; lower batch_size .*no room"):
        score_images(load(gated), IMAGES, PROMPTS, 3)
    assert batches == [3]  # not image by image


def test_an_unavailable_reward_is_not_the_fault_of_the_images(gated, monkeypatch):
    def score(images, prompts):
        raise TransientError("its program does not start")

    monkeypatch.setattr(gated.reward, "score", score)
    body = wire.encode_request(IMAGES[:1], PROMPTS[:1])
    assert request(gated, "POST", "/score", body) == (503, {"error": "its program does not start"})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "recursion"),
        (b"{}", "expected a list of images"),
        (b'{"images": [], "prompts": ["a"]}', "expected a list of images"),
        (b'{"images": [{"png": "AA=="}], "prompts": ["a"]}', "not a readable image"),
        (b'{"images": [{"png": "!"}], "prompts": ["a"]}', "base64"),
        (b'{"images": [{"path": "/etc/passwd"}], "prompts": ["a"]}', "an image must have"),
        (b'{"images": [{"png": ""}], "prompts": [3]}', "prompts must be strings"),
    ],
)
def test_invalid_requests_are_rejected(gated, body, message):
    status, reply = request(gated, "POST", "/score", body)
    assert status == 400
    assert message in reply["error"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 404),
        ("GET", "/score", {}, 405),
        ("POST", "/score", {"Content_Type": "text/plain"}, 415),
        ("POST", "/score", {"Content_Encoding": "gzip"}, 415),
        ("POST", "/score", {"Origin": "http://evil.example"}, 403),
        ("GET", "/health", {"Origin": "null"}, 403),
        ("POST", "/score", {"Host": "evil.example"}, 421),
        ("GET", "/health", {"Host": "[::"}, 421),
        ("GET", "/health", {"Host": "localhost:1"}, 200),
        ("GET", "/health", {"Host": "[::1]:8800"}, 200),
        ("GET", "/health", {"Host": "Rewards.cluster"}, 200),
    ],
)
def test_headers_are_checked(gated, method, path, headers, status):
    gated._hosts = ("rewards.Cluster",)
    assert request(gated, method, path, b"{}" if method == "POST" else None, **headers)[0] == status


@pytest.mark.parametrize(
    ("length", "chunks", "status"),
    [(b"", b"0\r\n\r\n", b"411"), (b"Content-Length: 3\r\n", b"4\r\n{  }\r\n", b"400")],
)
def test_a_request_without_a_length_or_longer_than_it_is_rejected(gated, length, chunks, status):
    with socket.create_connection(gated.address) as connection:
        connection.sendall(HEAD + length + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 " + status)


def test_the_documented_request_is_answered(gated):
    png = base64.b64encode(png_file(IMAGES[0])).decode()
    body = {"images": [{"png": png}, {"png": png}], "prompts": ["a", "none"]}
    assert request(gated, "POST", "/score", body) == (200, {"scores": [FIRSTS[0], None]})


def png_file(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def bomb(side):
    """Return a small PNG file that declares `side` × `side` pixels and cannot be decoded."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(("side", "count"), [(9400, 2), (20_000, 1), (11_600, 1)])
def test_too_many_pixels_are_rejected_before_decoding(gated, side, count):
    images = [{"png": base64.b64encode(bomb(side)).decode()}] * count
    status, reply = request(gated, "POST", "/score", {"images": images, "prompts": ["a"] * count})
    assert (status, gated.reward.batches) == (413, [])
    assert "pixels" in reply["error"]


def test_slow_clients_block_no_other(gated):
    connections = [socket.create_connection(gated.address) for _ in range(40)]
    try:
        for connection in connections:
            connection.sendall(BEGINNING)
        wait_until(lambda: gated.buffered == 40)
        np.testing.assert_array_equal(load(gated).score(IMAGES, PROMPTS), FIRSTS)
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: gated.buffered == 0)


def test_a_malformed_request_is_answered_once(gated, caplog):
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    with socket.create_connection(gated.address, timeout=20) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        reply = connection.makefile("rb").read()
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert reply.startswith(b"HTTP/1.1 400")
    assert reply.count(b"HTTP/1.1") == 1
    assert request(gated, "GET", "/health")[0] == 200
    assert {record.levelname for record in caplog.records} == {"WARNING"}, "no exception of the server"


def test_a_request_that_is_sent_too_slowly_is_rejected(gated, monkeypatch):
    monkeypatch.setattr(server, "READ_SECONDS", 0.1)
    with socket.create_connection(gated.address) as connection:
        connection.sendall(BEGINNING)
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "sent",
    [b"", HEAD, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /hea", HEAD + b"Content-Length: a\r\n"],
    ids=["idle", "slow headers", "slow second request", "slow bad headers"],
)
def test_a_connection_without_a_request_is_closed(gated, monkeypatch, sent):
    """A client that drips header bytes does not extend its time."""
    monkeypatch.setattr(header_timeout, "HEADER_SECONDS", 0.3)
    with socket.create_connection(gated.address, timeout=10) as connection:
        started = time.monotonic()
        connection.sendall(sent)
        connection.settimeout(0.05)
        while time.monotonic() < started + 5:
            try:
                connection.sendall(b"x" if sent else b"")
                if not connection.recv(4096):
                    break
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                break
        assert time.monotonic() < started + 3


def test_idle_connections_and_slow_headers_block_no_other(gated):
    connections = [socket.create_connection(gated.address) for _ in range(80)]
    for connection in connections[::2]:
        connection.sendall(HEAD)
    started = time.monotonic()
    np.testing.assert_array_equal(load(gated).score(IMAGES, PROMPTS), FIRSTS)
    assert time.monotonic() < started + 5
    for connection in connections:
        connection.close()


def test_scoring_takes_longer_than_headers_may(gated, monkeypatch):
    monkeypatch.setattr(header_timeout, "HEADER_SECONDS", 0.1)
    gated.reward.gate.clear()
    threading.Timer(0.5, gated.reward.gate.set).start()
    np.testing.assert_array_equal(load(gated).score(IMAGES, PROMPTS), FIRSTS)


def test_requests_in_memory_are_limited(gated, monkeypatch):
    monkeypatch.setattr(server, "BUFFER", 1000)
    assert request(gated, "POST", "/score", b" " * 2000)[0] == 503
    assert gated.buffered == 0


def test_the_command_names_the_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in ("server", "http_serving"):
        monkeypatch.delitem(sys.modules, f"capo.rewards.transports.{name}")
        monkeypatch.delattr(transports, name)
    result = CliRunner().invoke(app, ["rewards", "serve", "shapes-vqa"])
    assert result.exit_code == 1
    assert "capo-diffusion[serve]" in result.output


def test_an_unreachable_server_is_not_the_fault_of_the_images(monkeypatch):
    monkeypatch.setattr(client, "WAITS", (0.01,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(TransientError, match=f"{url} cannot be reached .*refused.* start its server again"):
        load_reward(RewardSection(name="mine", url=url), "cpu")


COUNTING = """
import os, time
def score(images, prompts):
    time.sleep(0.05)
    with open("scored", "a") as log:
        for prompt in prompts:
            log.write(prompt + os.linesep)
    return [float(len(prompt)) for prompt in prompts]
score.comparison = "bradley-terry"
"""


def test_a_server_killed_and_restarted_loses_nothing(tmp_path, monkeypatch):
    """The scores are those of an undisturbed run, and only the interrupted batch is scored again."""
    monkeypatch.setattr(client, "WAITS", (0.2,) * 500)
    (tmp_path / "counting.py").write_text(COUNTING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "capo", "rewards", "serve", "counting:score", "--port", str(port)]
    log = tmp_path / "scored"
    prompts = ["p" * (n + 1) for n in range(24)]
    servers = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)]

    def disturb():
        wait_until(lambda: log.exists() and len(log.read_text().split()) >= 8, 60)
        servers[0].kill()
        servers[0].wait()
        servers.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL))

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        remote = load_reward(RewardSection(name="far", url=f"http://127.0.0.1:{port}"), "cpu")
        scored = score_images(remote, [IMAGES[0]] * 24, prompts, 4)
    finally:
        disturber.join()
        for process in servers:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait() for process in servers]
    assert codes == [-signal.SIGKILL, 130]
    assert [s.score for s in scored] == [n + 1.0 for n in range(24)]
    lines = log.read_text().split()
    assert set(lines) == set(prompts)
    assert len(lines) <= 24 + 4


def test_truncated_prompts_are_reported():
    reward = Cutting()
    reward.gate.set()
    prompts = ["a", "a long prompt", "b", "none", "another long one", "a"]
    with serving(reward, batch_size=2) as service:
        scored = score_images(load(service), IMAGES, prompts, 3)
    assert [s.truncated for s in scored] == [False, True, False, False, True, False]
    assert [s.score for s in scored] == [*FIRSTS[:3], None, *FIRSTS[4:]]


def test_truncation_is_unknown_if_the_server_does_not_report_it(gated):
    assert {s.truncated for s in score_images(load(gated), IMAGES, PROMPTS, 6)} == {None}


# A server that misbehaves.

HELLO = b'{"protocol": 1, "identity": "x", "comparison": null}'


@pytest.fixture
def hostile():
    """Answers every connection with what a function writes to it; yields the address and the requests."""
    listening = socket.create_server(("127.0.0.1", 0))
    answers, requests = [], []

    def run():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                try:
                    requests.append(connection.recv(65536))
                    answers[0](connection)
                except OSError:
                    pass  # the client is gone

    threading.Thread(target=run, daemon=True).start()

    def start(answer):
        answers[:] = [answer]
        return f"http://127.0.0.1:{listening.getsockname()[1]}", requests

    yield start
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def reply(body, *headers, status=b"200 OK"):
    head = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def drip_headers(connection):
    for _ in range(100):
        connection.sendall(b"H")
        time.sleep(0.1)


def drip_body(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    drip_headers(connection)


def continue_forever(connection):
    for _ in range(100):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.1)


@pytest.mark.parametrize("answer", [drip_headers, drip_body, continue_forever])
def test_a_dripping_server_does_not_defeat_the_timeout(hostile, answer):
    url, _ = hostile(answer)
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"no answer in 0\.5 s"):
        client.ServerReward("far", url, timeout=0.5)
    assert time.monotonic() - started < 5


def test_an_endless_reply_is_rejected(hostile):
    def endless(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 2**20)

    url, _ = hostile(endless)
    with pytest.raises(RewardError, match="longer than"):
        client.ServerReward("far", url, timeout=60)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            reply(b"", b"Location: http://evil.example/", status=b"307 Temporary Redirect"),
            "redirects to",
        ),
        (reply(HELLO, b"Content-Encoding: gzip"), "is compressed"),
        (reply(b"[" * 100_000), "answers 200 without JSON"),
        (reply(b"<html>"), "answers 200 without JSON"),
        (reply(b'{"protocol": 2}'), "expected a reply with protocol 1"),
    ],
)
def test_unusable_replies_are_rejected_at_once(hostile, data, message):
    url, requests = hostile(lambda connection: connection.sendall(data))
    with pytest.raises(RewardError, match=message):
        client.ServerReward("far", url)
    assert len(requests) == 1
    assert b"Accept-Encoding: identity" in requests[0]


def test_an_incomplete_reply_is_retried(hostile, monkeypatch):
    monkeypatch.setattr(client, "WAITS", (0.01,))
    url, requests = hostile(lambda connection: connection.sendall(reply(HELLO)[:-1]))
    with pytest.raises(TransientError, match="IncompleteRead"):
        client.ServerReward("far", url)
    assert len(requests) == 2


def test_slow_failures_are_retried_for_one_timeout(hostile, monkeypatch):
    monkeypatch.setattr(client, "WAITS", (0.001,) * 100)
    url, requests = hostile(lambda connection: time.sleep(0.1))
    with pytest.raises(TransientError, match="cannot be reached"):
        client.ServerReward("far", url, timeout=1.0)
    assert 2 <= len(requests) <= 12


def test_error_texts_hold_no_terminal_commands(hostile):
    def answer(connection):
        path = requests[-1].split()[1]
        error = {"error": "\x1b]0;title\x07bad \x1b[31mred\x1b[0m \x9b2J\a"}
        connection.sendall(reply(HELLO if path == b"/health" else json.dumps(error).encode()))

    url, requests = hostile(answer)
    remote = client.ServerReward("far", url)
    with pytest.raises(RuntimeError) as raised:
        remote.score(IMAGES[:1], PROMPTS[:1])
    assert str(raised.value) == "bad red \N{REPLACEMENT CHARACTER}2J\N{REPLACEMENT CHARACTER}"


def test_a_wrong_number_of_scores_stops_at_once(hostile):
    def answer(connection):
        path = requests[-1].split()[1]
        connection.sendall(reply(HELLO if path == b"/health" else b'{"scores": [1.0]}'))

    url, requests = hostile(answer)
    with pytest.raises(RewardError, match="must answer with 2 scores"):
        score_images(client.ServerReward("far", url), IMAGES[:2], PROMPTS[:2], 2)
    assert len(requests) == 2
