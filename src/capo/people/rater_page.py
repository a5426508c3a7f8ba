"""The page on which raters compare images: one HTML file beside a folder of images.

It works from disk, from any web space, and from `capo people serve`. Its policy lets it run its own script,
load images from beside it, and send votes to one address.
"""

import base64
import hashlib
from typing import Any
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from capo.people.human_study import HumanStudy
from capo.store.manifest import canonical

INDEX = "index.html"
SCRIPTS = ("sha256.js", "trials.js", "progress.js", "images.js", "sending.js", "study.js")


def render_study(study: HumanStudy, post: str | None, *, each: bool = False) -> str:
    """Return the page as HTML.

    The page sends votes to the address `post`: every vote as it is made with `each`, otherwise all of them at
    the end. If `post` is None, raters save them as a file. Raises `ValueError` for an address that a page
    cannot send to.
    """
    source = jinja2.PackageLoader("capo.people", "page")
    templates = jinja2.Environment(loader=source, autoescape=True, undefined=jinja2.StrictUndefined)

    def read(name: str) -> str:
        return source.get_source(templates, name)[0]

    script = "\n".join(["'use strict';", "{", *(read(name) for name in SCRIPTS), "}"])
    style = read("study.css")
    return templates.get_template("study.html.j2").render(
        study=study,
        policy=_policy(script, style, post),
        style=Markup(style),
        script=Markup(script),
        study_json=_inert(study.model_dump(mode="json")),
        post_json=_inert(None if post is None else {"url": post, "each": each}),
    )


def check_post(address: str) -> None:
    """Raise `ValueError` unless a page can send votes to `address`."""
    parts = urlsplit(address)
    plain = address.isascii() and not set(address) & set(" ;,'\"<>")
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise ValueError(f"{address!r} is not an address of the form https://example.org/votes")


def _policy(script: str, style: str, post: str | None) -> str:
    """Return the content security policy; `post` is relative if the page's own server takes the votes."""
    target = ""
    if post is not None and "://" in post:
        check_post(post)
        parts = urlsplit(post)
        target = f" {parts.scheme}://{parts.netloc}"
    rules = (
        "default-src 'none'",
        f"script-src {_source(script)}",
        f"style-src {_source(style)}",
        "img-src 'self' blob: data: file:",
        f"connect-src 'self'{target}",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def _source(content: str) -> str:
    """Return the expression that allows this script or style and no other."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _inert(value: Any) -> Markup:
    """Return a value as JSON that cannot end its script element."""
    return Markup(canonical(value).replace("<", "\\u003c"))
