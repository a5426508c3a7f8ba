"""Rewards on another machine: the server, its client, and what goes wrong between them."""

import base64
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import urllib3
from PIL import Image

from capo.recipe import RewardSection
from capo.rewards import (
    RewardError,
    Scored,
    TransientError,
    build_comparison,
    load_reward,
    reward_identity,
    score_images,
)
from capo.rewards.protocol import RewardMemoryError
from capo.rewards.transports import client, server, wire
from capo.rewards.transports.server import RewardServer

NOISE = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
IMAGES = [Image.fromarray(pixels) for pixels in NOISE]
PROMPTS = [f"a red circle and {n} squares" for n in range(6)]


class Slow:
    """A reward that scores by the first pixel, when it is let."""

    name = "slow"
    comparison = None

    def __init__(self):
        self.may_go = threading.Event()
        self.at_once = []

    def score(self, images, prompts):
        self.may_go.wait(10)
        self.at_once.append(len(images))
        firsts = [float(image.getpixel((0, 0))[0]) for image in images]
        if "unbearable" in prompts:
            raise ValueError("cannot bear it")
        return [None if prompt == "none" else first for prompt, first in zip(prompts, firsts, strict=True)]


FIRSTS = [float(pixels[0, 0, 0]) for pixels in NOISE]


@pytest.fixture
def serve():
    """Serves a reward until the test is over; gives the server."""
    running = []

    def start(reward, identity="something", **options):
        served = RewardServer(("127.0.0.1", 0), reward, identity, **options)
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((served, thread))
        return served

    yield start
    for served, thread in running:
        served.shutdown()
        thread.join()
        served.server_close()


@pytest.fixture
def slow(serve):
    reward = Slow()
    reward.may_go.set()
    return reward, serve(reward, batch_size=4)


def test_a_served_reward_scores_as_at_home(serve):
    here = RewardSection(name="shapes-vqa")
    at_home = load_reward(here, "cpu")
    there = RewardSection(name="shapes-vqa", url=serve(at_home, reward_identity(here)).url + "/")
    np.testing.assert_array_equal(
        load_reward(there, "cpu").score(IMAGES, PROMPTS), at_home.score(IMAGES, PROMPTS)
    )
    assert reward_identity(there) == reward_identity(here)  # where it runs does not matter
    assert build_comparison(there) == build_comparison(here)


def test_a_server_of_another_reward_is_refused(slow):
    section = RewardSection(name="mine", source="shapes-vqa", url=slow[1].url)
    with pytest.raises(RewardError, match=r"serves something, not DecoderVqaScore .*, as the recipe says"):
        load_reward(section, "cpu")
    anything = RewardSection(name="mine", url=slow[1].url)
    assert reward_identity(anything) == slow[1].url
    np.testing.assert_array_equal(load_reward(anything, "cpu").score(IMAGES, PROMPTS), FIRSTS)


def test_one_bad_image_costs_no_other_its_score(slow):
    reward = load_reward(RewardSection(name="mine", url=slow[1].url), "cpu")
    prompts = ["a", "unbearable", "none", "b"]
    found = score_images(reward, IMAGES[:4], prompts, 4)
    assert found[0] == Scored(FIRSTS[0])
    assert found[1] == Scored(None, "RuntimeError: ValueError: cannot bear it")
    assert found[2].score is None
    assert found[3] == Scored(FIRSTS[3])


def test_a_question_is_cut_for_reward_and_server(slow, monkeypatch):
    reward, served = slow
    remote = load_reward(RewardSection(name="mine", url=served.url), "cpu")
    remote.score(IMAGES, PROMPTS)
    assert reward.at_once == [4, 2]  # the server's batch_size
    reward.at_once.clear()
    monkeypatch.setattr(server, "LARGEST_QUESTION", 10_000)  # two of these images
    np.testing.assert_array_equal(remote.score(IMAGES, PROMPTS), FIRSTS)
    assert sum(reward.at_once) == 6
    assert max(reward.at_once) < 4
    monkeypatch.setattr(server, "LARGEST_QUESTION", 10)
    with pytest.raises(RuntimeError, match="at most 10 bytes at once"):
        remote.score(IMAGES, PROMPTS)


def test_a_full_line_is_come_back_to(serve):
    """One is scored, one may wait; the third is told 503, asks again and is scored in the end."""
    reward = Slow()
    served = serve(reward, waiting=1)
    found = {}

    def ask(n):
        remote = load_reward(RewardSection(name="mine", url=served.url), "cpu")
        found[n] = remote.score(IMAGES[n : n + 1], ["a"])[0]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
    for thread in threads[:2]:
        thread.start()
    until(lambda: served.waiting == 2)
    refused = urllib3.request("POST", served.url + "/score", json={}, retries=False)
    assert refused.status == 503
    assert refused.headers["Retry-After"] == "1"
    threads[2].start()
    reward.may_go.set()
    for thread in threads:
        thread.join()
    assert found == dict(enumerate(FIRSTS[:3]))
    assert json.loads(urllib3.request("GET", served.url + "/health").data)["waiting"] == 0


def until(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_busy_server_is_asked_for_about_80_seconds(slow, monkeypatch):
    """The second that it asks for in `Retry-After` would be up after ten."""
    waits = []
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=waits.append))
    reward = client.ServerReward("far", slow[1].url)
    slow[1]._most = 0  # its line is always full
    with pytest.raises(TransientError, match="was asked 11 times and still answers 503"):
        reward.score(IMAGES[:1], PROMPTS[:1])
    assert 75 < sum(waits) < 95


def test_a_server_slower_than_the_timeout_is_asked_once(serve):
    reward = Slow()
    served = serve(reward)
    remote = client.ServerReward("far", served.url, timeout=0.2)
    with pytest.raises(TransientError, match=r"no answer in 0\.2 s; raise timeout or lower batch_size of"):
        score_images(remote, IMAGES, PROMPTS, 6)
    reward.may_go.set()
    until(lambda: served.waiting == 0)
    assert reward.at_once == [6]


@pytest.mark.parametrize("error", [MemoryError("no room"), torch.OutOfMemoryError("no room")])
def test_a_server_short_of_memory_says_so(slow, monkeypatch, error):
    """Not image by image, without a word: the setting is named."""
    reward, served = slow
    asked = []

    def score(images, prompts):
        asked.append(len(images))
        raise error

    monkeypatch.setattr(reward, "score", score)
    remote = load_reward(RewardSection(name="mine", url=served.url), "cpu")
    with pytest.raises(RewardMemoryError, match=r"with 3 images at once; lower batch_size .*no room"):
        score_images(remote, IMAGES, PROMPTS, 3)
    assert asked == [3]


def test_a_served_reward_that_cannot_answer_for_now_is_no_fault_of_the_images(slow, monkeypatch):
    reward, served = slow

    def away(images, prompts):
        raise TransientError("its program does not start")

    monkeypatch.setattr(reward, "score", away)
    asked = wire.question(IMAGES[:1], PROMPTS[:1])
    response = urllib3.request("POST", served.url + "/score", json=asked, retries=False)
    assert response.status == 503
    assert json.loads(response.data) == {"error": "its program does not start"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "recursion"),
        (b"{}", "expected images and as many prompts"),
        (b'{"images": [], "prompts": ["a"]}', "expected images and as many prompts"),
        (b'{"images": [{"png": "AA=="}], "prompts": ["a"]}', "not a readable image"),
        (b'{"images": [{"png": "!"}], "prompts": ["a"]}', "base64"),
        (b'{"images": [{"path": "/etc/passwd"}], "prompts": ["a"]}', "an image is written as"),
        (b'{"images": [{"png": ""}], "prompts": [3]}', "prompts must be texts"),
    ],
)
def test_what_is_no_question_is_refused(slow, body, message):
    response = urllib3.request("POST", slow[1].url + "/score", body=body)
    assert response.status == 400
    assert message in json.loads(response.data)["error"]


def test_other_paths_and_no_length(slow):
    assert urllib3.request("GET", slow[1].url).status == 404
    assert urllib3.request("POST", slow[1].url, body=b"12").status == 404
    with socket.create_connection(slow[1].server_address) as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 411")


def test_the_documented_question_is_answered(slow):
    buffer = io.BytesIO()
    IMAGES[0].save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    asked = {"images": [{"png": png}, {"png": png}], "prompts": ["a", "none"]}
    told = json.loads(urllib3.request("POST", slow[1].url + "/score", json=asked).data)
    assert told == {"scores": [FIRSTS[0], None]}


def test_nobody_there_is_no_fault_of_the_images(monkeypatch):
    monkeypatch.setattr(client, "TRIES", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(TransientError, match=f"{url} does not answer: .*refused; start its server again"):
        load_reward(RewardSection(name="mine", url=url), "cpu")


def test_no_image_is_set_aside_while_the_server_is_away(slow):
    class Away:
        name, comparison = "away", None

        def score(self, images, prompts):
            raise TransientError("away")

    with pytest.raises(TransientError):
        score_images(Away(), IMAGES, PROMPTS, 2)


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


def test_killed_in_the_middle_and_started_again_loses_nothing(tmp_path):
    """The scores are those of an undisturbed run, and only the batch under way is scored again."""
    (tmp_path / "counting.py").write_text(COUNTING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "capo", "rewards", "serve", "counting:score", "--port", str(port)]
    log = tmp_path / "scored"
    prompts = ["p" * (n + 1) for n in range(24)]
    images = [IMAGES[0]] * 24
    servers = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)]

    def disturb():
        until(lambda: log.exists() and len(log.read_text().split()) >= 8, 60)
        servers[0].kill()
        servers[0].wait()
        servers.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL))

    trouble = threading.Thread(target=disturb)
    trouble.start()
    try:
        remote = load_reward(RewardSection(name="far", url=f"http://127.0.0.1:{port}"), "cpu")
        found = score_images(remote, images, prompts, 4)
    finally:
        trouble.join()
        for served in servers:
            served.send_signal(signal.SIGTERM)
            served.wait()
    assert [each.score for each in found] == [n + 1.0 for n in range(24)]
    assert len(servers) == 2
    scored = log.read_text().split()
    assert set(scored) == set(prompts)
    assert len(scored) <= 24 + 4


class Cutting(Slow):
    """Reads nine characters of a prompt."""

    def truncated(self, prompts):
        return [len(prompt) > 9 for prompt in prompts]


def test_prompts_that_the_server_cut_are_told(serve):
    reward = Cutting()
    reward.may_go.set()
    away = client.ServerReward("away", serve(reward, batch_size=2).url)
    prompts = ["a", "a long prompt", "b", "none", "another long one", "a"]
    found = score_images(away, IMAGES, prompts, 3)
    assert [each.truncated for each in found] == [False, True, False, False, True, False]
    assert [each.score for each in found] == [*FIRSTS[:3], None, *FIRSTS[4:]]


def test_a_server_that_says_nothing_of_cut_prompts_is_one_that_does_not_tell(slow):
    found = score_images(client.ServerReward("away", slow[1].url), IMAGES, PROMPTS, 6)
    assert {each.truncated for each in found} == {None}
