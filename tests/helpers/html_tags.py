"""A page taken apart: its tags are closed in order, and what is in them can be asked for by tag, class and id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from xml.etree import ElementTree as ET


class Tags(HTMLParser):
    """Checks that tags are closed in order, and keeps what was found."""

    EMPTY = frozenset({"meta", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


class Element:
    """A tag with what is in it: text and elements."""

    def __init__(self, tag: str, attrs: dict[str, str | None]) -> None:
        self.tag, self.attrs, self.inside = tag, attrs, []

    @property
    def classes(self) -> set[str]:
        return set((self.attrs.get("class") or "").split())

    @property
    def text(self) -> str:
        """All text in it, blanks put together; what is inside a line has no blanks around it."""
        return " ".join(self._text().split())

    def _text(self) -> str:
        return "".join(each if isinstance(each, str) else each._text() for each in self.inside).join(
            ("", "") if self.tag in {"code", "span"} else (" ", " ")
        )

    def all(self, tag: str, of_class: str | None = None) -> list[Element]:
        """Every element of this tag, and class, in the order of the page."""
        return [each for each in self._elements() if each.tag == tag and (not of_class or of_class in each.classes)]

    def one(self, tag: str, of_class: str | None = None) -> Element:
        (found,) = self.all(tag, of_class)
        return found

    def _elements(self) -> Iterator[Element]:
        for each in self.inside:
            if not isinstance(each, str):
                yield each
                yield from each._elements()

    def rows(self) -> list[list[str]]:
        """The cells of every row of the bodies of its tables."""
        return [[cell.text for cell in row.all("td")] for row in self.all("tr") if row.all("td")]


class Tree(HTMLParser):
    """Builds the elements of a page that `Tags` has found to be in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        Tags(html)
        self.root = Element("", {})
        self.path = [self.root]
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs))
        self.path[-1].inside.append(element)
        if tag not in Tags.EMPTY:
            self.path.append(element)

    def handle_startendtag(self, tag, attrs):
        self.path[-1].inside.append(Element(tag, dict(attrs)))

    def handle_endtag(self, _):
        self.path.pop()

    def handle_data(self, data):
        self.path[-1].inside.append(data)


def tree_of(html: str) -> Element:
    return Tree(html).root


def charts_of(html: str) -> list[ET.Element]:
    return [ET.fromstring(chart) for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
