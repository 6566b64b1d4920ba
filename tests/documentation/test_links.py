"""Links of every Markdown file lead somewhere: to a file that is there, and to a heading in it.

MkDocs checks what is on the site (`make docs`); this is what a reader of the repository clicks.
Links to other hosts are listed in the test's output (`pytest -s`), not fetched.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.documentation.blocks import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)
# Filled when the site is built: the reference of the command line, and of modules.
GENERATED = frozenset({"docs/cli.md", "docs/modules.md"})


def tokens(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def links(text: str) -> Iterator[str]:
    for token in tokens(text):
        for child in token.children or ():
            target = child.attrs.get("href") or child.attrs.get("src")
            if target is not None:
                yield unquote(str(target))


def anchor(heading: str) -> str:
    """Make GitHub's anchor of a heading: lower case, words and hyphens only."""
    kept = (letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return "".join(kept).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    found: dict[str, int] = {}
    names = set()
    parsed = tokens(path.read_text(encoding="utf-8"))
    for opening, inline in pairwise(parsed):
        if opening.type == "heading_open":
            text = "".join(
                child.content
                for child in inline.children or ()
                if child.type in {"text", "code_inline"}
            )
            name = anchor(text)
            count = found.get(name, 0)
            found[name] = count + 1
            names.add(f"{name}-{count}" if count else name)
    return names


def broken(page: Path, text: str) -> list[str]:
    """Return the links of `text`, as if it stood in `page`, that lead nowhere."""
    wrong = []
    for link in links(text):
        parts = urlsplit(link)
        if parts.scheme in {"http", "https"}:
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        if not parts.scheme and target.is_relative_to(ROOT) and target.exists():
            known = target.relative_to(ROOT).as_posix()
            if not parts.fragment or known in GENERATED or parts.fragment in anchors(target):
                continue
        wrong.append(link)
    return wrong


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_links_to_other_hosts_are_listed() -> None:
    found = sorted(
        {
            link
            for name in PAGES
            for link in links((ROOT / name).read_text(encoding="utf-8"))
            if urlsplit(link).netloc
        }
    )
    print("\n".join(found))  # noqa: T201  this is the list
    assert found
    assert all(urlsplit(link).scheme == "https" for link in found)


@pytest.mark.parametrize(
    "link",
    ["NOTHING.md", "README.md#nothing", "#nothing", "docs/SPEC.md#12-nothing", "/etc", "x:y"],
)
def test_a_link_that_leads_nowhere_is_found(link: str) -> None:
    assert broken(ROOT / "README.md", f"[text]({link}), [good](#quick-start)") == [link]
