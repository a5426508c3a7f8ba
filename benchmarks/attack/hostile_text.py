"""Hostile text in prompts, categories and titles: a run with it, and all that it and a study of it write."""

import csv
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from forks import RAW
from ground import SETTINGS, capo
from tries import Try

MARK = "pwned"
SCRIPT = f"window.{MARK}=1"
TEXTS = (
    f"<script>{SCRIPT}</script>",
    f'"><img src=x onerror={SCRIPT}>',
    f"</script></style></title></textarea>--><svg onload={SCRIPT}>",
    f"' onmouseover='{SCRIPT}",
    f"javascript:{SCRIPT}",
    f"<a href='javascript:{SCRIPT}'>x</a>&lt;b onclick={SCRIPT}&gt;",
    "{{ 7 * 7 }}{% include 'style.css' %}${7*7}#{7*7}",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\u202eright to left \u2066isolated",
    "\u2028line\u2029separators\ufeff\u200b\u200d",
    f"[x](javascript:{SCRIPT}) ![](http://127.0.0.1:9/{MARK}) | a | b |",
    "../../../../etc/passwd",
    "con",
    "[red]rich markup[/red] [link=http://x]y[/link]",
    "x" * 60_000,
)
ALLOWED = {"html", "head", "meta", "title", "style", "body", "script", "link"}


class Elements(HTMLParser):
    """What a page has from data: elements and attributes with the mark, and addresses it would load."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        for name, value in attrs:
            active = name.startswith("on") or (value or "").strip().lower().startswith("javascript:")
            loads = name in ("src", "href", "srcset", "action", "data") and (value or "").startswith(
                ("http:", "//")
            )
            if active or loads or MARK in name:
                self.faults.append(f"<{tag} {name}={(value or '')[:60]!r}>")

    def handle_data(self, data: str) -> None:
        if self._inside == "script" and MARK in data and "</" not in data and data.strip() == SCRIPT:
            self.faults.append(f"<script> with {data[:60]!r}")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def attack(folder: Path) -> Iterator[Try]:
    """Make a run and a human study of hostile prompts, and read everything that they wrote."""
    prompts = folder / "prompts.jsonl"
    rows = [{"text": text, "category": text[:200]} for text in TEXTS]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run, study = folder / "run", folder / "study"
    own = ("prompts.", "evaluate.prompts", "benchmarks", "train.validation_prompts")
    settings = [setting for setting in SETTINGS if not setting.startswith(own)]
    for field in ("prompts", "evaluate.prompts", "train.validation_prompts"):
        settings.append(f"{field}={{source: '{prompts}'}}")
    settings += ["benchmarks=[]", "evaluate.judge=null", f"report.title={json.dumps(TEXTS[2])}"]
    words = [word for setting in settings for word in ("--set", setting)]
    title = ("--title", TEXTS[0], "--instruction", TEXTS[1], "--question", TEXTS[2])
    for name, arguments in {
        "run": ("run", "shapes", "--run", str(run), *words),
        "status": ("status", "--run", str(run)),
        "status as JSON": ("status", "--run", str(run), "--json"),
        "calibration": ("calibration", "--run", str(run)),
        "images": ("images", "export", str(run), "--to", str(folder / "images")),
        "pairs": ("data", "export", "--run", str(run), "--to", str(folder / "pairs")),
        "pairs as a folder": (
            "data",
            "export",
            "--run",
            str(run),
            "--to",
            str(folder / "pairs2"),
            "--layout",
            "folder",
        ),
        "the pairs read back": ("data", "show", str(folder / "pairs2")),
        "a study": (
            "people",
            "make",
            "--run",
            str(run),
            "--to",
            str(study),
            *title,
            "--prompts",
            "12",
            "--raters",
            "2",
        ),
    }.items():
        yield Try("commands on hostile text", name, _said(*capo(*arguments)))
    for layout in ("label-studio", "rapidata"):
        to = str(folder / layout)
        said = _said(*capo("people", "export", str(study), "--to", to, "--layout", layout))
        yield Try("commands on hostile text", layout, said)
    yield from _written(folder)


def _written(folder: Path) -> Iterator[Try]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".html":
            page = Elements()
            page.feed(path.read_text(encoding="utf-8"))
            policy = "Content-Security-Policy" in path.read_text(encoding="utf-8")
            yield Try(
                "pages", name, "; ".join(page.faults[:3]) or "no content security policy" * (not policy)
            )
            yield Try("pages in a browser", name, in_browser(path))
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                cells = [cell for row in csv.reader(file) for cell in row if cell.startswith(("=", "@", "+"))]
            yield Try("tables for spreadsheets", name, f"formula {cells[0]!r}" if cells else "")
        if path.suffix == ".md" and path.is_file():
            text = path.read_text(encoding="utf-8")
            yield Try("cards and Markdown", name, f"holds {SCRIPT}" if f"<script>{SCRIPT}" in text else "")
        if not path.resolve().is_relative_to(folder.resolve()):
            yield Try("files", name, "outside of the folder")


def in_browser(path: Path) -> str:
    """Open a page in Chromium and click all that can be clicked; say what ran or was requested."""
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page()
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.on("dialog", lambda dialog: dialog.dismiss())
        page.goto(path.resolve().as_uri())
        for element in page.query_selector_all("a, summary, img")[:20]:
            element.dispatch_event("mouseover")
        ran = page.evaluate(f"window.{MARK}")
        browser.close()
    elsewhere = [url for url in requested if not url.startswith(("file:", "data:", "blob:"))]
    return "a script of data ran" if ran is not None else f"requested {elsewhere[0]}" if elsewhere else ""


def _said(code: int, out: str, err: str) -> str:
    """Say what is wrong with the end of a command."""
    if code:
        return f"exit code {code}: {err.strip()[-300:]}"
    raw = RAW.search((out + err).replace("\r\n", "\n"))
    return f"raw character U+{ord(raw[0]):04X}" if raw else ""
