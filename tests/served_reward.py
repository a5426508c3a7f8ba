"""A reward served over a loopback socket by the server of `capo rewards serve`."""

import threading
import time
from contextlib import contextmanager

from capo.rewards.transports.server import RewardService, build_server, listen, url_of


@contextmanager
def serving(reward, identity="something", **options):
    """Yield the service, with its `url` and `address`."""
    service = RewardService(reward, identity, **options)
    server = build_server(service)
    with listen("127.0.0.1", 0) as listening:
        service.url, service.address = url_of(listening), listening.getsockname()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield service
        finally:
            server.should_exit = True
            thread.join()


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
