"""What tests look at on the page of an evaluation."""

import re

from html_tags import tree_of

QUALITY, GAIN, COST, PAYS, SIZE, TASKS, METHOD = range(7)  # the sections of a page that has all of them


def sections_of(html):
    """The sections in their order."""
    return tree_of(html).all("section")


def sections_html(html):
    """The same as they are written."""
    return re.findall(r"<section id=.*?</section>", html, re.DOTALL)


def figures_of(html):
    """The titles of all figures, by the place of their section."""
    return [(place, each.text) for place, section in enumerate(sections_of(html)) for each in section.all("h3")]


def top_of(html):
    """The verdict, and the facts as (name, value, note)."""
    header = tree_of(html).one("header")
    facts = [
        (fact.one("dt").text, fact.one("dd", "value").text, "".join(note.text for note in fact.all("dd", "note")))
        for fact in header.one("dl").all("div")
    ]
    return header.one("p", "verdict"), facts


def row_of(figure, name):
    """The row of the figure's tables that begins with this cell."""
    (found,) = [row for row in figure.rows() if row[0] == name]
    return found
