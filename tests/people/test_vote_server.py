"""Votes over HTTP: what is saved, what is refused, and that no acknowledged vote is lost."""

import errno
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager

import pytest

from capo.people import vote_log, vote_server
from capo.people.human_study import PAGE, VOTES, content_digest, is_swapped, rater_order
from capo.people.rater_page import check_post
from capo.people.vote_log import open_vote_log
from capo.people.vote_server import VoteService
from capo.people.votes import collected_votes
from capo.store import WorkspaceError
from made_study import answer, make, wait_for_pair
from served_reward import running, wait_until

AT = "2026-01-02T03:04:05.678Z"


def vote(study, rater, place=0, choice="left", **changes):
    pair = rater_order(study, rater)[place]
    swapped = is_swapped(study, rater, pair)
    made = {"pair": pair.pair, "question": "preference", "choice": choice, "swapped": swapped, "ms": 900}
    return made | {"at": AT} | changes


def ballot(study, rater, *votes):
    values = {"format": 1, "study": study.id, "rater": rater, "started": AT, "finished": None}
    return signed(values | {"agent": "test", "votes": votes})


def signed(values):
    return values | {"digest": content_digest({n: v for n, v in values.items() if n != "digest"})}


@contextmanager
def serving(folder, study, port=0):
    with open_vote_log(folder, study) as log:
        service = VoteService(folder, study, log)
        with running(service.app, port) as (service.url, service.address):
            yield service


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "study"
    return folder, make(folder)


@pytest.fixture
def served(made):
    folder, study = made
    with serving(folder, study) as service:
        service.folder, service.study = folder, study
        yield service
    (folder / VOTES / "served.jsonl").unlink()


def request(address, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(*address, timeout=20)
    if isinstance(body, dict):
        body, headers = json.dumps(body), {"Content-Type": "application/json"} | headers
    with closing(connection):  # also if the server is killed meanwhile
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def post(service, body, **headers):
    status, data = request(service.address, "POST", f"/{service.token}/votes", body, **headers)
    return status, json.loads(data)


def lines(folder):
    return (folder / VOTES / "served.jsonl").read_text().splitlines()


def test_votes_are_saved_once(served):
    first, second = vote(served.study, "anna"), vote(served.study, "anna", 1, "right")
    assert post(served, ballot(served.study, "anna", first)) == (200, {"saved": 1})
    assert post(served, ballot(served.study, "anna", first)) == (200, {"saved": 0})
    assert post(served, ballot(served.study, "anna", first, second)) == (200, {"saved": 1})
    assert post(served, ballot(served.study, "bert", vote(served.study, "bert"))) == (200, {"saved": 1})
    assert [json.loads(line)["rater"] for line in lines(served.folder)] == ["anna", "anna", "bert"]
    chosen = {(v.rater, v.pair): v.choice for v in collected_votes(served.folder, served.study)}
    assert chosen["anna", second["pair"]] == "right"
    # Another vote on a pair would hide the first.
    status, reply = post(served, ballot(served.study, "anna", vote(served.study, "anna", choice="right")))
    assert status == 409
    assert "anna" in reply["error"]
    assert len(lines(served.folder)) == 3


HOSTILE = {
    "a script as the choice": lambda study: ballot(study, "a", vote(study, "a", choice="<script>")),
    "a script as the rater": lambda study: ballot(study, "<script>alert(1)</script>", vote(study, "a")),
    "a path as the rater": lambda study: ballot(study, "../../key", vote(study, "a")),
    "a tie": lambda study: ballot(study, "a", vote(study, "a", choice="tie")),
    "an unknown pair": lambda study: ballot(study, "a", vote(study, "a", pair="p9999")),
    "an unknown question": lambda study: ballot(study, "a", vote(study, "a", question="other")),
    "exchanged sides": lambda study: ballot(
        study, "a", vote(study, "a", swapped=not vote(study, "a")["swapped"])
    ),
    "another study": lambda study: signed(ballot(study, "a") | {"study": "0" * 16}),
    "an unknown field": lambda study: ballot(study, "a", vote(study, "a", model="tuned")),
    "a changed content": lambda study: ballot(study, "a", vote(study, "a")) | {"agent": "other"},
    "twice the same pair": lambda study: ballot(study, "a", vote(study, "a"), vote(study, "a")),
    "no votes field": lambda study: {"study": study.id},
    "a negative time": lambda study: ballot(study, "a", vote(study, "a", ms=-1)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_votes_are_refused(served, kind):
    status, reply = post(served, HOSTILE[kind](served.study))
    assert status == 409
    assert reply["error"]
    assert lines(served.folder) == []


def test_what_is_no_vote_is_refused(served, monkeypatch):
    body = json.dumps(ballot(served.study, "a", vote(served.study, "a")))
    assert post(served, b"{" * 50, **{"Content-Type": "application/json"})[0] == 409
    assert post(served, b"\xff", **{"Content-Type": "application/json"})[0] == 400
    assert post(served, body, **{"Content-Type": "text/plain"})[0] == 415
    json_from = {"Content-Type": "application/json"}
    assert post(served, body, **json_from, Origin="https://example.org")[0] == 403
    assert post(served, body, **json_from, Host="example.org")[0] == 421
    assert post(served, body, **json_from, Origin=served.url)[0] == 200
    monkeypatch.setattr(vote_server, "LIMITS", vote_server.Limits(100, 1000, 0.2, 1e9))
    assert post(served, body, **json_from)[0] == 413
    with socket.create_connection(served.address) as connection:
        head = f"POST /{served.token}/votes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 99\r\n\r\n{{".encode())
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 408")


def test_connections_are_limited_and_idle_ones_make_room(made):
    folder, study = made
    with open_vote_log(folder, study) as log:
        service = VoteService(folder, study, log)
        with running(service.app, most_connections=4) as (_, address):
            idle = [socket.create_connection(address) for _ in range(4)]
            wait_until(lambda: request(address, "GET", f"/{service.token}/")[0] == 503)
            for connection in idle:
                connection.close()
            wait_until(lambda: request(address, "GET", f"/{service.token}/")[0] == 200)
    (folder / VOTES / "served.jsonl").unlink()


def test_only_the_page_and_its_images_are_served_to_those_with_the_token(served):
    image = served.study.pairs[0].left
    for path in ("/", f"/{served.token[:-1]}/", "/x/", f"/x/{image.file}", "/../key.json"):
        assert request(served.address, "GET", path)[0] == 404
    assert request(served.address, "POST", "/x/votes", ballot(served.study, "a"))[0] == 404
    status, page = request(served.address, "GET", f"/{served.token}/")
    assert (status, served.study.id.encode() in page) == (200, True)
    data = (served.folder / PAGE / image.file).read_bytes()
    assert request(served.address, "GET", f"/{served.token}/{image.file}") == (200, data)
    for path in (
        "../../key.json",
        "images/../../../key.json",
        "images/..%2f..%2f..%2fkey.json",
        "study.json",
    ):
        assert request(served.address, "GET", f"/{served.token}/{path}")[0] == 404
    assert (served.folder / "token").stat().st_mode & 0o077 == 0


def test_a_full_disk_loses_nothing_and_saves_no_half_of_a_vote(served, monkeypatch):
    assert post(served, ballot(served.study, "a", vote(served.study, "a")))[0] == 200
    before = lines(served.folder)
    write = os.write

    def full(handle, data):
        if len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data[:-10])

    with monkeypatch.context() as patch:
        patch.setattr(vote_log.os, "write", full)
        status, reply = post(served, ballot(served.study, "a", vote(served.study, "a", 1)))
    assert (status, lines(served.folder)) == (507, before)
    assert "No space" in reply["error"]
    assert post(served, ballot(served.study, "a", vote(served.study, "a", 1))) == (200, {"saved": 1})


def test_a_cut_off_line_is_removed_and_a_second_server_refused(made):
    folder, study = made
    path = folder / VOTES / "served.jsonl"
    with serving(folder, study) as service:
        post(service, ballot(study, "a", vote(study, "a")))
        with pytest.raises(WorkspaceError, match="in use"), open_vote_log(folder, study):
            pass
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-5])
    with serving(folder, study) as service:
        assert path.read_bytes() == whole
        assert post(service, ballot(study, "a", vote(study, "a"))) == (200, {"saved": 0})
    path.unlink()


class Process:
    """`capo people serve` as a process."""

    def __init__(self, folder):
        command = [sys.executable, "-m", "capo", "people", "serve", folder, "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        port, self.token = re.search(r"http://127\.0\.0\.1:(\d+)/([\w-]+)/", line).groups()
        self.address = ("127.0.0.1", int(port))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def test_acknowledged_votes_survive_sigkill(made):
    """Raters vote at once; the server is killed among their votes, and starts again."""
    folder, study = made
    raters = [f"rater-{n}" for n in range(8)]
    acknowledged = dict.fromkeys(raters, 0)
    count = len(study.pairs)

    def take_part(server, rater):
        while acknowledged[rater] < count:
            place = acknowledged[rater]
            try:
                status, _ = post(server, ballot(study, rater, vote(study, rater, place)))
            except (OSError, http.client.HTTPException):
                return
            assert status == 200
            acknowledged[rater] += 1

    def all_take_part(server):
        threads = [threading.Thread(target=take_part, args=(server, rater)) for rater in raters]
        for thread in threads:
            thread.start()
        return threads

    def saved():
        return {(v.rater, v.pair) for v in collected_votes(folder, study)}

    def acknowledged_votes():
        return {(r, vote(study, r, n)["pair"]) for r in raters for n in range(acknowledged[r])}

    server = Process(folder)
    threads = all_take_part(server)
    wait_until(lambda: sum(acknowledged.values()) >= 12, seconds=60)
    server.kill()
    for thread in threads:
        thread.join()
    assert acknowledged_votes() <= saved()
    token, server = server.token, Process(folder)
    assert server.token == token
    for thread in all_take_part(server):
        thread.join()
    server.kill()
    assert sum(acknowledged.values()) == 8 * count
    assert saved() == acknowledged_votes()
    assert len(lines(folder)) == 8 * count
    (folder / VOTES / "served.jsonl").unlink()


@pytest.mark.parametrize("screen", ["desktop", "phone"])
def test_a_served_study_in_a_browser(visit, served, screen):
    """Clicked through with a reload in the middle: the server has the votes that were made."""
    tab = visit(f"{served.url}/{served.token}/#rater=anna", screen)
    tab.click("#start")
    assert not tab.is_visible("#from-disk")
    choices = []
    for number in range(1, len(served.study.pairs) + 1):
        choices.append(answer(tab, number, screen == "phone", ties=False))
        if number == 3:
            wait_for_pair(tab, 4)
            wait_until(lambda: len(lines(served.folder)) == 2)  # the last vote can still be taken back
            tab.reload()
    tab.wait_for_selector("#end-sent:not([hidden])")
    order = {pair.pair: place for place, pair in enumerate(rater_order(served.study, "anna"))}
    votes = sorted(collected_votes(served.folder, served.study), key=lambda v: order[v.pair])
    assert [v.choice for v in votes] == choices


def test_a_server_that_is_away_gets_the_votes_later(visit, made):
    folder, study = made
    with serving(folder, study) as service:
        tab = visit(f"{service.url}/{service.token}/#rater=bert")
        tab.click("#start")
        wait_for_pair(tab, 1)
        # It tries again at once, rather than after seconds.
        tab.evaluate(
            "setTimeout = new Proxy(setTimeout, {apply: (f, t, [run, ms]) => f(run, Math.min(ms, 50))})"
        )
    answer(tab, 1, False, ties=False)
    answer(tab, 2, False, ties=False)
    tab.locator("#not-sent:visible, #again:visible").first.wait_for()
    with serving(folder, study, service.address[1]):
        if tab.is_visible("#again"):
            tab.click("#again")
        for number in range(3, len(study.pairs) + 1):
            answer(tab, number, False, ties=False)
        tab.wait_for_selector("#end-sent:not([hidden])")
        assert len(lines(folder)) == len(study.pairs)
    visit.messages.clear()  # the browser reports the connections that failed
    (folder / VOTES / "served.jsonl").unlink()


def test_a_changed_image_is_refused_by_the_page(visit, served):
    image = rater_order(served.study, "clara")[0].left
    path = served.folder / PAGE / image.file
    data = path.read_bytes()
    try:
        path.write_bytes(data + b"x")
        tab = visit(f"{served.url}/{served.token}/#rater=clara")
        tab.click("#start")
        tab.wait_for_selector("#refusal:not([hidden])")
        assert "changed" in tab.inner_text("#reason")
    finally:
        path.write_bytes(data)


def test_addresses_that_a_page_may_send_votes_to():
    check_post("https://example.org/votes?study=1")
    for address in (
        "example.org",
        "ftp://example.org",
        "https://a b.org",
        "https://x.org;script-src",
        "https:///x",
    ):
        with pytest.raises(ValueError, match="not an address"):
            check_post(address)
