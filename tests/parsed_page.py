"""An HTML page as a list of elements and text, for tests."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}


@dataclass
class Element:
    """An opening tag with its attributes."""

    tag: str
    attributes: dict[str, str]


@dataclass
class ParsedPage(HTMLParser):
    """`elements` in order, and `text` of the visible part. Both omit elements marked `data-wall-clock`."""

    source: str
    elements: list[Element] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, bool]] = []
        self.feed(self.source)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    @property
    def vocabulary(self) -> set[tuple[str, str]]:
        """All pairs (tag, attribute), with ("p", "") for the tag itself."""
        tags = {(e.tag, "") for e in self.elements}
        return tags | {(e.tag, name) for e in self.elements for name in e.attributes}

    def all(self, tag: str) -> list[Element]:
        return [e for e in self.elements if e.tag == tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        hidden = self._hidden or any(name == "data-wall-clock" for name, _ in attrs)
        if not hidden:
            self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self._open.append((tag, hidden))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or ((self.get_starttag_text() or "").endswith("/>") and self._open[-1][0] != tag):
            return
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        if not self._hidden and not (self._open and self._open[-1][0] in ("style", "title")):
            self.words.append(data)

    @property
    def _hidden(self) -> bool:
        return bool(self._open) and self._open[-1][1]
