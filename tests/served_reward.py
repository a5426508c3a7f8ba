"""A reward served over a loopback socket by the server of `capo rewards serve`."""

import threading
import time
from contextlib import contextmanager

from capo.rewards.transports.http_serving import build_server, listen, url_of
from capo.rewards.transports.server import RewardService


@contextmanager
def serving(reward, identity="something", **options):
    """Yield the service, with its `url` and `address`."""
    service = RewardService(reward, identity, **options)
    with running(service.app) as (service.url, service.address):
        yield service


@contextmanager
def running(app, port=0, most_connections=None):
    """Serve an application over a loopback socket; yields its URL and its address."""
    server = build_server(app, most_connections)
    with listen("127.0.0.1", port) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield url_of(listening), listening.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
