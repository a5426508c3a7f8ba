"""Reject HTTP requests that do not come from a client of capo's servers, such as those of web pages."""

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request


def check_headers(request: Request, hosts: Sequence[str]) -> None:
    """Raise `HTTPException` for a request that a web page may have caused.

    Browsers declare the origin of what a page sends, and send JSON to another origin only
    if the server agrees.
    """
    check_host(request, hosts)
    if "origin" in request.headers:
        raise HTTPException(403, "requests from web pages are refused")
    if request.method == "POST":
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" or "content-encoding" in request.headers:
            raise HTTPException(415, "the content must be application/json, not compressed")


def check_host(request: Request, hosts: Sequence[str]) -> None:
    """Raise `HTTPException` unless the request names this server as its host.

    The host must be an IP address, the name of this machine, or one of `hosts`: an attacker can make any
    other name resolve to this machine.
    """
    host = _host(request)
    known = {"localhost", socket.gethostname().lower(), *(name.lower() for name in hosts)}
    if host is None or not (_is_address(host) or host in known):
        raise HTTPException(
            421, f"this server is not known as {host!r}; use its IP address, or serve with --allow-host"
        )


def content_length(request: Request) -> int:
    """Return the length of a request's content; raises `HTTPException` if it is not declared."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HTTPException(411, "Content-Length is missing")
    return int(length)


def _host(request: Request) -> str | None:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
