"""The site shows pages as GitHub does: two parsers of Markdown, the same lists, tables and code.

Python-Markdown, which the site is made with, wants four spaces for what belongs to an item of a
list and a blank line before a list; CommonMark does not.
"""

from collections import Counter
from html.parser import HTMLParser

import pytest
from markdown import Markdown
from markdown_it import MarkdownIt

from tests.documentation.blocks import PAGES, ROOT

ON_THE_SITE = [page for page in PAGES if page.startswith("docs/")]
COUNTED = frozenset({"li", "pre", "tr", "h1", "h2", "h3", "h4", "strong", "em", "img"})
EXTENSIONS = ("attr_list", "md_in_html", "pymdownx.betterem", "pymdownx.superfences", "tables")
"""Those of `mkdocs.yml` that have a part in it."""


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in COUNTED:
            self.found[tag] += 1


def tags(html: str) -> Counter[str]:
    parser = _Tags()
    parser.feed(html)
    return parser.found


def on_github(text: str) -> Counter[str]:
    return tags(MarkdownIt("commonmark").enable("table").render(text))


def on_the_site(text: str) -> Counter[str]:
    return tags(Markdown(extensions=list(EXTENSIONS)).convert(text))


@pytest.mark.parametrize("page", ON_THE_SITE)
def test_a_page_is_the_same_on_both(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert on_the_site(text) == on_github(text)


def test_a_list_that_only_github_reads_is_found() -> None:
    text = "1. One.\n\n   | a | b |\n   |---|---|\n   | c | d |\n2. Two.\n"
    assert on_the_site(text) != on_github(text)
