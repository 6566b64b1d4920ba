"""Runs a page: its blocks in order, in one workspace."""

import re
from pathlib import Path
from typing import Final

from tests.documentation import setups
from tests.documentation.blocks import PAGES, ROOT, Block, blocks_of
from tests.documentation.outcomes import OUTCOMES
from tests.documentation.shells import Workspace, workspace

FAST: Final = [page for page in PAGES if any(b.is_run and not b.is_slow for b in blocks_of(page))]
SLOW: Final = [page for page in PAGES if any(b.is_run and b.is_slow for b in blocks_of(page))]
SESSIONS: Final = ("README.md", "docs/tutorial.md")
"""Pages that run a whole session, four processes."""


def run_page(page: str, folder: Path, *, slow: bool) -> None:
    """Run the blocks of a page in order; without `slow`, only those that are quick."""
    printed = []
    blocks = [block for block in blocks_of(page) if slow or not block.is_slow]
    done: set[str] = set()
    with workspace(folder) as terminals:
        for block in blocks:
            if "file" in block.words:
                terminals.write(block.words["file"], block.text)
        for block in blocks:
            if not block.is_run:
                continue
            for setup in filter(None, block.words.get("setup", "").split(",")):
                if setup not in done:
                    getattr(setups, setup)(terminals)
                    done.add(setup)
            printed.append(run_block(block, terminals))
        terminals.finish()
        if slow and page in OUTCOMES:
            OUTCOMES[page](terminals.folder, "".join(printed))


def run_block(block: Block, terminals: Workspace) -> str:
    try:
        printed = terminals.run(block)
    except AssertionError as error:
        raise AssertionError(f"{block.place}: {error}") from error
    if block.words.get("prints") == "page":
        page = re.sub(r"[`\s]", "", (ROOT / block.page).read_text(encoding="utf-8"))
        lines = [re.sub(r"\s", "", line) for line in printed.splitlines()]
        assert lines
        assert not [line for line in lines if line not in page]
    return printed
