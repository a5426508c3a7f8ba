"""A reward for other machines: the ASGI application behind `capo rewards serve`.

    GET  /health   {"protocol": 1, "name": …, "identity": …, "comparison": …, "waiting": 0}
    POST /score    {"images": [{"png": base64}, …], "prompts": […]} → {"scores": [0.5, null, …]}

The reply to /score may also have `truncated`: for each prompt whether only its beginning was read. Statuses:

    400, 411, 415   not a request, without a length, or not JSON
    403, 421        from a web page, or addressed to an unknown host
    408, 413        sent too slowly, or too large: bytes of the request, or pixels of its images
    422             the reward cannot score these images
    503             too many requests are waiting, or the reward is unavailable: try again later
    507             not enough memory for all images of the request at once

The reward scores one batch at a time. Requests are read in parallel, so that a slow client delays no other.
A connection without a request is closed (`header_timeout`).
The connection is neither encrypted nor authenticated: it is for one machine or a trusted network.
"""

import asyncio
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from capo.rewards.batch_scoring import is_out_of_memory, truncated, validate_scores
from capo.rewards.comparison import describe_comparison
from capo.rewards.protocol import Reward, TransientError
from capo.rewards.rgb_images import FORMATS, decode_image
from capo.rewards.transports import wire
from capo.rewards.transports.http_serving import Intake, Limits, report
from capo.rewards.transports.request_checks import check_headers

LARGEST_REQUEST = 256 * 2**20
"""Bytes: some 64 images of 1024 by 1024 pixels."""
LARGEST_BATCH = 2**27
"""Pixels of the images of a request: 128 images of 1024 by 1024 pixels."""
BUFFER = 4 * LARGEST_REQUEST
"""Bytes of all requests in memory, whether they are still being read or wait for their turn."""
READ_SECONDS, READ_RATE = 30.0, 2**20
"""Time limit to send a request: this many seconds, plus its bytes divided by this rate."""


class RewardService:
    """Serves one reward.

    Args:
        identity: `reward_identity` of the reward; clients compare it with what their recipe names.
        batch_size: images that the reward receives at once.
        waiting: requests that may wait for their turn.
        hosts: names by which clients may address this machine, in addition to its own name and IP addresses.
    """

    def __init__(
        self,
        reward: Reward,
        identity: str,
        batch_size: int = 64,
        waiting: int = 16,
        hosts: Sequence[str] = (),
    ) -> None:
        self.reward, self.identity, self.batch_size = reward, identity, batch_size
        self.in_line = 0
        """Requests that have been read: the one being scored, and those that wait."""
        self._intake = Intake()
        self._longest_line, self._hosts = waiting + 1, tuple(hosts)
        self._turn = asyncio.Lock()
        self.app = Starlette(
            routes=[
                Route("/health", self._health, methods=["GET"]),
                Route("/score", self._score, methods=["POST"]),
            ],
            exception_handlers={HTTPException: report},
        )

    async def _health(self, request: Request) -> JSONResponse:
        check_headers(request, self._hosts)
        about = {"name": self.reward.name, "identity": self.identity, "waiting": self.in_line}
        comparison = describe_comparison(self.reward.comparison)
        return JSONResponse({"protocol": wire.PROTOCOL, "comparison": comparison, **about})

    async def _score(self, request: Request) -> JSONResponse:
        check_headers(request, self._hosts)
        limits = Limits(LARGEST_REQUEST, BUFFER, READ_SECONDS, READ_RATE)
        async with self._intake.content(request, limits) as body:
            if self.in_line >= self._longest_line:
                raise HTTPException(503, "too many requests are waiting; try again later")
            self.in_line += 1
            try:
                return JSONResponse(await self._answer(body))
            finally:
                self.in_line -= 1

    @property
    def buffered(self) -> int:
        """Bytes of requests in memory."""
        return self._intake.buffered

    async def _answer(self, body: bytearray) -> dict[str, Any]:
        try:
            images, prompts = await run_in_threadpool(_parse, body)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, str(error)) from error
        scores: list[np.ndarray] = [np.empty(0)]
        cut: list[bool | None] = []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            async with self._turn:
                some, some_cut = await run_in_threadpool(self._score_batch, images[part], prompts[part])
            scores.append(some)
            cut += some_cut
        return wire.encode_reply(np.concatenate(scores), cut)

    def _score_batch(self, files: list[bytes], prompts: list[str]) -> tuple[np.ndarray, list[bool | None]]:
        """Decode and score; decoded images are in memory only here."""
        try:
            images = [decode_image(file) for file in files]
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        try:
            scores = validate_scores(self.reward.name, self.reward.score(images, prompts), len(images))
            return scores, truncated(self.reward, prompts)
        except TransientError as error:  # not the fault of the images
            raise HTTPException(503, str(error)) from error
        except Exception as error:  # of any kind, as the reward is the user's
            status = 507 if is_out_of_memory(error) else 422
            raise HTTPException(status, f"{type(error).__name__}: {error}") from error


def _parse(body: bytearray) -> tuple[list[bytes], list[str]]:
    """Return image files and prompts; too many pixels are rejected before any image is decoded."""
    files, prompts = wire.decode_request(json.loads(body))
    pixels = sum(map(_pixels, files))
    if pixels > LARGEST_BATCH:
        raise HTTPException(413, f"the images have {pixels} pixels together; the limit is {LARGEST_BATCH}")
    return files, prompts


def _pixels(file: bytes) -> int:
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            return image.width * image.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise HTTPException(413, str(error)) from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"not a readable image: {error}") from error
