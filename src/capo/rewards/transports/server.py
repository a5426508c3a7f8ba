"""A reward for other machines: `capo rewards serve`.

    GET  /health   {"protocol": 1, "name": …, "identity": …, "comparison": …, "waiting": 0}
    POST /score    {"images": [{"png": base64}, …], "prompts": […]} → {"scores": [0.5, null, …]}

The answer may have `truncated` besides: for each prompt whether only its beginning was read. One
batch is scored at a time. Others wait in a line of bounded length; when it is full, or the reward
cannot answer for now, the answer is 503, and the client asks again later. 413: the question is too
large; 400: it is no question; 422: the reward cannot score these images; 507: there is not memory
enough for so many at once. There is no encryption and there are no passwords: it is for the own
machine or a network of trust.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np

from capo.rewards.batch_scoring import is_out_of_memory, truncated, validate_scores
from capo.rewards.comparison import describe_comparison
from capo.rewards.protocol import Reward, TransientError
from capo.rewards.transports import wire

if TYPE_CHECKING:
    from PIL import Image

LARGEST_QUESTION = 256 * 2**20
"""Bytes: some 64 images of 1024 by 1024 pixels."""
PART = 2**20
PATIENCE = 60
"""Seconds that a client may take between two parts of its question."""


class RewardServer(ThreadingHTTPServer):
    """Serves one reward at `address` (host, port; any free port for 0) until `shutdown`.

    Args:
        identity: as `reward_identity` tells it; clients compare it with what their recipe names.
        batch_size: images that the reward is given at once.
        waiting: questions that may wait for their turn.
    """

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], reward: Reward, identity: str, batch_size: int = 64, waiting: int = 16
    ) -> None:
        super().__init__(address, _Handler)
        self.reward, self.identity, self.batch_size = reward, identity, batch_size
        self._turn, self._door = threading.Lock(), threading.Lock()
        self._most = waiting + 1  # with the one that is scored
        self.waiting = 0

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def about(self) -> dict[str, Any]:
        """What /health answers."""
        comparison = describe_comparison(self.reward.comparison)
        about = {"name": self.reward.name, "identity": self.identity, "waiting": self.waiting}
        return {"protocol": wire.PROTOCOL, "comparison": comparison, **about}

    def stand_in_line(self) -> bool:
        """Take a place among those who wait; False when there is none. `leave_line` gives it back."""
        with self._door:
            free = self.waiting < self._most
            self.waiting += free
        return free

    def leave_line(self) -> None:
        with self._door:
            self.waiting -= 1

    def answer(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and answer to the body of a question."""
        try:
            images, prompts = wire.read_question(json.loads(body))
        except (ValueError, RecursionError) as error:
            return 400, {"error": str(error)}
        return self._score(images, prompts)

    def _score(self, images: "list[Image.Image]", prompts: list[str]) -> tuple[int, dict[str, Any]]:
        scores = [np.empty(0)]
        cut: list[bool | None] = []
        try:
            for start in range(0, len(images), self.batch_size):
                part = slice(start, start + self.batch_size)
                with self._turn:
                    raw = self.reward.score(images[part], prompts[part])
                    cut += truncated(self.reward, prompts[part])
                scores.append(validate_scores(self.reward.name, raw, len(images[part])))
        except TransientError as error:  # no fault of the images
            return 503, {"error": str(error)}
        except Exception as error:  # the reward's own, whatever it is
            return 507 if is_out_of_memory(error) else 422, {"error": f"{type(error).__name__}: {error}"}
        return 200, wire.answer(np.concatenate(scores), cut)


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, self.server.about())
        else:
            self._send(404, {"error": "there are /health and /score"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/score":
            self._refuse(404, "there are /health and /score", length)
        elif not length.isdecimal():
            self._refuse(411, "Content-Length is missing", length)
        elif int(length) > LARGEST_QUESTION:
            self._refuse(413, f"at most {LARGEST_QUESTION} bytes at once", length)
        elif not self.server.stand_in_line():
            self._refuse(503, "as many as allowed are waiting; ask again later", length)
        else:
            # In line before the images are read: those who wait are what memory must hold.
            try:
                status, told = self.server.answer(self.rfile.read(int(length)))
            finally:
                self.server.leave_line()
            self._send(status, told)

    def _refuse(self, status: int, reason: str, length: str) -> None:
        """Answer without keeping the question, which is read all the same: its sender listens only then."""
        self.close_connection = True
        left = int(length) if length.isdecimal() else 0
        while left > 0 and (part := self.rfile.read(min(left, PART))):
            left -= len(part)
        self._send(status, {"error": reason})

    def _send(self, status: int, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 503:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line a batch would drown what matters."""
