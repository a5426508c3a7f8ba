"""A reward on another machine: the client of `capo rewards serve`.

A server that is restarted, busy or away for a while is asked again, later and later; one batch is
under way at a time, so a busy server slows its clients down rather than pile up their images.
"""

import json
from typing import TYPE_CHECKING, Any

from capo.recipe import RewardSection
from capo.rewards.comparison import parse_comparison
from capo.rewards.protocol import RewardError, RewardMemoryError, RewardSource, TransientError
from capo.store.manifest import alike

if TYPE_CHECKING:
    import numpy as np
    import urllib3
    from PIL import Image

    from capo.method.calibration import Comparison

BUSY = (429, 500, 502, 503, 504)
"""Answers that mean: later."""
TRIES, FIRST_WAIT, LONGEST_WAIT = 10, 0.2, 20.0
"""A question is repeated so often; the waits double, from and to so many seconds: about 80 in all."""
TOO_LARGE, OUT_OF_MEMORY = 413, 507


class ServerSource:
    """A section with a `url`; `known` is the reward it must serve, where that is known here."""

    def __init__(self, section: RewardSection, known: RewardSource | None) -> None:
        self._name, self._timeout, self._known = section.name, section.timeout, known
        assert section.url is not None
        self._url = section.url.rstrip("/")

    def identity(self) -> str:
        """That of the reward it serves: it does not matter where it runs. Unknown here: the address."""
        return self._known.identity() if self._known else self._url

    def comparison(self) -> "Comparison | None":
        """That of the reward it serves; a reward that is not known here is asked for."""
        return self._known.comparison() if self._known else self.load(None).comparison

    def load(self, device: Any) -> "ServerReward":
        """The reward behind its server; raises `RewardError` when it serves another one."""
        reward = ServerReward(self._name, self._url, self._timeout)
        if self._known and not alike(reward.identity, self._known.identity()):
            raise RewardError(
                f"reward {self._name!r}: {self._url} serves {reward.identity}, not "
                f"{self._known.identity()}, as the recipe says; leave out `source` for whatever it serves"
            )
        return reward


class ServerReward:
    """A server behind the reward protocol."""

    def __init__(self, name: str, url: str, timeout: float = 600.0) -> None:
        import urllib3

        from capo.rewards.transports.retries import Patience
        from capo.rewards.transports.wire import Memory, check_protocol

        self.name = name
        self._said = Memory()
        self._url, self._timeout = url, timeout
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=10.0, read=timeout),
            retries=Patience(
                TRIES,
                backoff_factor=FIRST_WAIT,
                backoff_max=LONGEST_WAIT,
                backoff_jitter=FIRST_WAIT,
                status_forcelist=BUSY,
                respect_retry_after_header=False,  # capo's server says 1 s each time: 10 in all
                allowed_methods=None,  # to score twice changes nothing
                raise_on_status=False,
            ),
        )
        told = check_protocol(name, self._told(self._request("GET", "/health")))
        self.identity: str = told.get("identity", "")
        self.comparison = parse_comparison(told.get("comparison"))

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """float64 [n]; a batch that is too large for the server is sent in halves.

        Raises `TransientError` when the server stays away or keeps silent, `RewardMemoryError` when it
        has too little memory for so many, `RuntimeError` when it cannot score them.
        """
        import numpy as np

        from capo.rewards.transports import wire

        response = self._request("POST", "/score", wire.question(images, prompts))
        if response.status == TOO_LARGE and len(images) > 1:
            half = len(images) // 2
            parts = (slice(half), slice(half, None))
            return np.concatenate([self.score(images[part], prompts[part]) for part in parts])
        if response.status == OUT_OF_MEMORY:
            raise RewardMemoryError(
                f"reward {self.name!r}: {self._url} ran out of memory with {len(images)} images at once; "
                f"lower batch_size of this reward in the recipe: {_words(response)}"
            )
        told = self._told(response)
        scores = wire.read_answer(self.name, told, len(images))
        self._said.keep(self.name, told, prompts)
        return scores

    def truncated(self, prompts: list[str]) -> "list[bool | None]":
        """Whether the server's reward read only the beginning of each prompt, if it said so."""
        return self._said.truncated(prompts)

    def _request(self, method: str, path: str, asked: Any = None) -> "urllib3.BaseHTTPResponse":
        import urllib3

        try:
            response = self._pool.request(method, self._url + path, json=asked)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise TransientError(
                f"reward {self.name!r}: {self._url} gave no answer in {self._timeout:g} s; raise timeout or "
                "lower batch_size of this reward in the recipe, and give the same command again"
            ) from error
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise TransientError(
                f"reward {self.name!r}: {self._url} does not answer: {reason}; start its server again, "
                "and give the same command again"
            ) from error
        if response.status in BUSY:
            raise TransientError(
                f"reward {self.name!r}: {self._url} was asked {TRIES + 1} times and still answers "
                f"{response.status}: {_words(response)}"
            )
        return response

    def _told(self, response: "urllib3.BaseHTTPResponse") -> Any:
        try:
            return json.loads(response.data)
        except ValueError:
            raise RewardError(
                f"reward {self.name!r}: {self._url} answers {response.status} with no JSON; is it a "
                "server of `capo rewards serve`?"
            ) from None


def _words(response: "urllib3.BaseHTTPResponse") -> str:
    return response.data[:200].decode(errors="replace")
