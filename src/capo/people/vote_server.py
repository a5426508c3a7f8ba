"""A study served to raters: the ASGI application behind `capo people serve`.

    GET  /TOKEN/               the page
    GET  /TOKEN/images/FILE    an image
    POST /TOKEN/votes          a votes file with the votes that are not saved yet → {"saved": 1}

A vote is acknowledged once it is on disk. Statuses:

    404                        a wrong token, or no such file
    400, 408, 411, 413, 415    not a request: without a length, too large, too slow, or not JSON
    403, 421                   from another web page, or addressed to an unknown host
    409                        votes that the study cannot take: of another study, changed, or a second time
    503, 507                   too many requests, or the disk is full: try again later

The address, which contains the token, is all that a rater needs. The connection is not encrypted: it is for
one machine or a trusted network.
"""

import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from capo.people.human_study import PAGE, HumanStudy, HumanStudyError
from capo.people.rater_page import render_study
from capo.people.vote_log import VoteLog
from capo.people.votes import VotesError, parse_votes
from capo.rewards.transports.http_serving import Intake, Limits, report
from capo.rewards.transports.request_checks import check_host
from capo.store import atomic

LIMITS = Limits(largest=2**22, buffer=2**26, seconds=20.0, rate=2**14)
"""4 MiB hold the votes of a rater on ten thousand pairs."""
MOST_CONNECTIONS = 1000
TOKEN = "token"
"""The file of a study with the token of its address, which stays the same when the server starts again."""

HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class VoteService:
    """Serves one study; `hosts` are further names by which raters may address this machine."""

    def __init__(self, folder: Path, study: HumanStudy, log: VoteLog, hosts: Sequence[str] = ()) -> None:
        self._study, self._log, self._hosts = study, log, tuple(hosts)
        self.token = find_token(folder)
        self._page = render_study(study, "votes", each=True)
        images = [image for pair in study.pairs for image in (pair.left, pair.right)]
        self._images = {image.file: folder / PAGE / image.file for image in images}
        self._intake = Intake()
        self.app = Starlette(
            routes=[
                Route("/{token}/", self._index, methods=["GET"]),
                Route("/{token}/images/{name}", self._image, methods=["GET"]),
                Route("/{token}/votes", self._votes, methods=["POST"]),
            ],
            exception_handlers={HTTPException: report},
        )

    async def _index(self, request: Request) -> Response:
        self._check(request)
        headers = {"Cache-Control": "no-store", "X-Frame-Options": "DENY"}
        return HTMLResponse(self._page, headers=HEADERS | headers)

    async def _image(self, request: Request) -> Response:
        self._check(request)
        path = self._images.get(f"images/{request.path_params['name']}")
        if path is None or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, headers=HEADERS | {"Cache-Control": "private, max-age=86400"})

    async def _votes(self, request: Request) -> Response:
        self._check(request)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise HTTPException(403, "requests from other web pages are refused")
        if request.headers.get("content-type") != "application/json":
            raise HTTPException(415, "the content must be application/json")
        async with self._intake.content(request, LIMITS) as body:
            saved = await run_in_threadpool(self._save, bytes(body))
        return JSONResponse({"saved": saved}, headers=HEADERS)

    def _save(self, body: bytes) -> int:
        try:
            return self._log.add(parse_votes(body.decode("utf-8"), Path("votes"), self._study))
        except UnicodeDecodeError as error:
            raise HTTPException(400, "not UTF-8 text") from error
        except VotesError as error:
            raise HTTPException(409, str(error)) from error
        except OSError as error:
            raise HTTPException(507, f"the votes cannot be saved: {error.strerror}") from error

    def _check(self, request: Request) -> None:
        """Raise `HTTPException` unless a request is for this server and has its token."""
        check_host(request, self._hosts)
        if not secrets.compare_digest(request.path_params["token"].encode(), self.token.encode()):
            raise HTTPException(404)


def find_token(folder: Path) -> str:
    """Return the token of a study; the first call makes one, in a file that only this user can read."""
    path = folder / TOKEN
    if not path.exists():
        with atomic.write_file(path) as temporary:
            temporary.touch(0o600)
            temporary.write_text(secrets.token_urlsafe(18), encoding="ascii")
    token = path.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,64}", token):
        raise HumanStudyError(f"{path}: not a token; remove the file, and the next start makes another")
    return token
