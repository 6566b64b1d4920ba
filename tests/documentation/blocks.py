"""Fenced blocks of the README and of `docs/`, and how each of them is tested.

Shell and Python blocks are run unless a comment before the fence says otherwise, so a new block is
tested without anybody's doing. The comment is seen neither on the site nor on GitHub:

    <!-- docs-test: parse (why it is not run) -->

| word | the block |
|---|---|
| `parse` | is read by the parsers of the programs that it calls; needs a reason in parentheses |
| `slow` | is run by `make test-slow` |
| `setup=NAME` | is run once `setups.NAME` has put into the workspace what it needs |
| `terminal=NAME` | is run in a shell of its own; it starts with the variables of the first one |
| `in=DIRECTORY` | where that shell starts, in the workspace |
| `background` | is not waited for, unless by `after` or at the end of the page |
| `after=NAME,NAME` | is run once these terminals are done |
| `each=VARIABLE:VALUE,VALUE` | is run once for each value, each in a terminal called like it |
| `file=PATH,PATH` | is there as these files before anything of its page is run |
| `reads=NAME` | is read by `readers.NAME`; TOML and JSON must say this or `file` |
| `prints=page` | prints lines that its page has, too |

`<!-- docs-test-page: ... -->` gives `slow` and `setup` to the whole page.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = tuple(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
)

RUN: Final = frozenset({"sh", "python"})
DATA: Final = frozenset({"toml", "json"})
PROSE: Final = frozenset({"", "mermaid"})
"""Languages of what no program reads: formulas, pictures in characters, diagrams."""

WORDS: Final = frozenset(
    {"after", "background", "each", "file", "in", "parse", "prints", "reads", "setup", "slow"}
    | {"terminal"}
)
_MARK = re.compile(r"<!--\s*docs-test(-page)?:\s*([^()]*?)\s*(?:\((.*)\)\s*)?-->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        page: its file, from the root of the repository.
        line: of the opening fence, from 1.
        language: of the fence.
        text: without the indentation of the fence.
        words: what the comment says; words without a value have an empty one.
        reason: what the comment has in parentheses.
    """

    page: str
    line: int
    language: str
    text: str
    words: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.language in RUN and "parse" not in self.words

    @property
    def is_slow(self) -> bool:
        return "slow" in self.words


def _words(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in text.split())}


def read_blocks(page: str, text: str) -> Iterator[Block]:
    """Yield the blocks of a page in order.

    Raises:
        ValueError: a comment has a word that means nothing, or is not before a fence.
    """
    of_page: dict[str, str] = {}
    words: dict[str, str] = {}
    reason, marked = "", False
    for token in MarkdownIt("commonmark").parse(text):
        place = f"{page}:{token.map[0] + 1}" if token.map else page
        if token.type == "html_block" and (found := _MARK.search(token.content)):
            said = _words(found[2])
            if unknown := said.keys() - WORDS:
                raise ValueError(f"{place}: {', '.join(sorted(unknown))} means nothing")
            if found[1]:
                of_page = said
            else:
                words, reason, marked = said, found[3] or "", True
        elif token.type == "fence":
            assert token.map is not None
            language = token.info.split()[0] if token.info.strip() else ""
            yield Block(
                page, token.map[0] + 1, language, token.content, {**of_page, **words}, reason
            )
            words, reason, marked = {}, "", False
        elif marked and token.type not in {"list_item_close", "html_block"}:
            raise ValueError(f"{place}: the comment before this is not before a fence")


@cache
def blocks_of(page: str) -> tuple[Block, ...]:
    """Return the blocks of one of `PAGES`."""
    return tuple(read_blocks(page, (ROOT / page).read_text(encoding="utf-8")))


def all_blocks() -> tuple[Block, ...]:
    """Return the blocks of all pages."""
    return tuple(block for page in PAGES for block in blocks_of(page))
