"""A reward on another machine: the client of `capo rewards serve`.

It sends one batch at a time, so that a busy server slows its clients down instead of piling up their images.
Requests to a server that is restarting, busy or unreachable are retried at growing intervals.
"""

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from capo.engine.plain_text import plain_text
from capo.recipe import RewardSection
from capo.rewards.comparison import parse_declared
from capo.rewards.protocol import ProtocolError, RewardError, RewardMemoryError, RewardSource, TransientError
from capo.store.check import Finding
from capo.store.manifest import alike

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from capo.method.calibration import Comparison
    from capo.rewards.transports.http_exchange import HttpReply

BUSY = (429, 500, 502, 503, 504)
"""Statuses that mean: try again later."""
TOO_LARGE, OUT_OF_MEMORY = 413, 507
CHECK_SECONDS = 5.0
"""Limit on the answer of a server that is only asked whether it is there."""
LONGEST_IDENTITY = 4096
"""Characters of what a server says that it serves."""
WAITS = tuple(min(0.2 * 2**n, 20.0) for n in range(10))
"""Seconds before each retry, about 85 in all."""


class ServerSource:
    """A section with a `url`; `known` is the reward it must serve, if this machine knows it."""

    def __init__(self, section: RewardSection, known: RewardSource | None) -> None:
        self._name, self._timeout, self._known = section.name, section.timeout, known
        assert section.url is not None
        self._url = section.url.rstrip("/")

    def identity(self) -> str:
        """Return the identity of a known reward, independent of its server; the address of an unknown one."""
        return self._known.identity() if self._known else self._url

    def comparison(self) -> "Comparison | None":
        """Return the comparison of the known reward; ask the server about an unknown one."""
        return self._known.comparison() if self._known else self.load(None).comparison

    def check(self) -> Iterator[Finding]:
        """Warn if the server does not answer now; it may be started later."""
        from capo.rewards.transports import http_exchange as http
        from capo.rewards.transports.wire import LONGEST_REPLY

        try:
            http.exchange("GET", f"{self._url}/health", None, CHECK_SECONDS, LONGEST_REPLY)
        except (http.UnreachableError, http.SilenceError, http.RefusedReplyError) as error:
            why = plain_text(str(error)) or f"no answer in {CHECK_SECONDS:g} s"
            message = f"{self._url} does not answer now ({why}); it must run before images are scored"
            yield Finding(f"rewards.{self._name}.url", message, "warning")
            return
        self.load(None)

    def load(self, device: Any) -> "ServerReward":
        """Connect to the server; raises `RewardError` if it serves another reward than the recipe names."""
        reward = ServerReward(self._name, self._url, self._timeout)
        if self._known and not alike(reward.identity, self._known.identity()):
            raise RewardError(
                f"reward {self._name!r}: {self._url} serves {reward.identity}, but the recipe names "
                f"{self._known.identity()}; remove `source` to use whatever it serves"
            )
        return reward


class ServerReward:
    """A server behind the reward protocol."""

    def __init__(self, name: str, url: str, timeout: float = 600.0) -> None:
        from capo.rewards.transports.wire import TruncationRecord, check_hello

        self.name, self.timeout = name, timeout
        self._url = url
        self._record = TruncationRecord()
        hello = check_hello(name, self._json(self._request("GET", "/health")))
        self.identity = plain_text(str(hello.get("identity", ""))[:LONGEST_IDENTITY])
        self.comparison = parse_declared(name, hello.get("comparison"))

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """Return float64 [n]; a batch that is too large for the server is sent in halves.

        Raises `TransientError` if the server stays unreachable or silent, `RewardMemoryError` if it has too
        little memory for the batch, `RuntimeError` if it cannot score the images.
        """
        import numpy as np

        from capo.rewards.transports import wire

        reply = self._request("POST", "/score", json.dumps(wire.encode_request(images, prompts)).encode())
        if reply.status == TOO_LARGE and len(images) > 1:
            half = len(images) // 2
            parts = (slice(half), slice(half, None))
            return np.concatenate([self.score(images[part], prompts[part]) for part in parts])
        if reply.status == OUT_OF_MEMORY:
            raise RewardMemoryError(
                f"reward {self.name!r}: {self._url} ran out of memory with {len(images)} images at once; "
                f"lower batch_size of this reward in the recipe: {_excerpt(reply)}"
            )
        content = self._json(reply)
        scores = wire.decode_reply(self.name, content, len(images))
        self._record.add(self.name, content, prompts)
        return scores

    def truncated(self, prompts: list[str]) -> "list[bool | None]":
        """Return for each prompt whether the server's reward read only its beginning; None if unknown."""
        return self._record.truncated(prompts)

    def _request(self, method: str, path: str, body: bytes | None = None) -> "HttpReply":
        """Return a reply that is not BUSY, after retries; slow failures are retried for one timeout at most.

        A timeout is not retried: the server still works on the batch, and the same one would wait behind it.
        """
        last_start = time.monotonic() + self.timeout + sum(WAITS)
        for wait in (*WAITS, None):
            problem = self._try(method, path, body)
            if not isinstance(problem, str):
                return problem
            if wait is None or time.monotonic() + wait > last_start:
                break
            time.sleep(wait)
        raise TransientError(
            f"reward {self.name!r}: {self._url} {problem}, even after retries; start its server again, "
            "then rerun the same command to resume"
        )

    def _try(self, method: str, path: str, body: bytes | None) -> "HttpReply | str":
        """Return the reply, or the reason to try again."""
        from capo.rewards.transports import http_exchange as http
        from capo.rewards.transports import wire

        try:
            reply = http.exchange(method, self._url + path, body, self.timeout, wire.LONGEST_REPLY)
        except http.SilenceError:
            raise TransientError(
                f"reward {self.name!r}: {self._url} gave no answer in {self.timeout:g} s; raise timeout or "
                "lower batch_size of this reward in the recipe, then rerun the same command to resume"
            ) from None
        except http.UnreachableError as error:
            return f"cannot be reached ({plain_text(str(error))})"
        except http.RefusedReplyError as error:
            raise ProtocolError(f"reward {self.name!r}: {self._url}: {error}") from None
        return f"answers {reply.status} ({_excerpt(reply)})" if reply.status in BUSY else reply

    def _json(self, reply: "HttpReply") -> Any:
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError):
            raise ProtocolError(
                f"reward {self.name!r}: {self._url} answers {reply.status} without JSON; is it a server of "
                "`capo rewards serve`?"
            ) from None


def _excerpt(reply: "HttpReply") -> str:
    from capo.rewards.transports.wire import SHOWN

    return plain_text(reply.body[:SHOWN].decode(errors="replace"))
