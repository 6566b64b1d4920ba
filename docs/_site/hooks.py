"""What MkDocs does not do itself: links out of `docs/`, and the reference of the command line.

The pages are read on the site and in the repository, where a link to a source file works. The site
has no such file, so a link to one goes to the repository if `repo_url` is set in `mkdocs.yml`, and
is otherwise the file's path, set as code.
"""

import posixpath
import subprocess
import sys
import xml.etree.ElementTree as ET
from urllib.parse import urlsplit

from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

COMMANDS = "<!-- commands -->"
"""Where `cli.md` gets what `typer` writes about every command."""


class _OutwardLinks(Treeprocessor):
    """Rewrites links of one page that leave the folder of the documentation."""

    def __init__(self, md: Markdown, *, page: str, folder: str, repository: str | None) -> None:
        super().__init__(md)
        self._page, self._folder, self._repository = page, folder, repository

    def run(self, root: ET.Element) -> None:
        for anchor in root.iter("a"):
            parts = urlsplit(anchor.get("href", ""))
            if parts.scheme or parts.netloc or not parts.path:
                continue
            here = posixpath.dirname(posixpath.join(self._folder, self._page))
            path = posixpath.normpath(posixpath.join(here, parts.path))
            if path.startswith(f"{self._folder}/"):
                continue
            if self._repository is not None:
                anchor.set("href", f"{self._repository.rstrip('/')}/blob/main/{path}")
            else:
                _as_code(anchor, path)


def _as_code(anchor: ET.Element, path: str) -> None:
    """Turn a link into its text, with the path behind it unless that is what the text says."""
    text = "".join(anchor.itertext())
    anchor.tag = "span"
    anchor.attrib.clear()
    if path.endswith(text):
        return
    last = anchor[-1] if len(anchor) else None
    if last is None:
        anchor.text = f"{anchor.text or ''} ("
    else:
        last.tail = f"{last.tail or ''} ("
    code = ET.SubElement(anchor, "code")
    code.text, code.tail = path, ")"


class _Outward(Extension):
    def __init__(self, *, page: str, folder: str, repository: str | None) -> None:
        super().__init__()
        self._page, self._folder, self._repository = page, folder, repository

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  Python-Markdown's name
        links = _OutwardLinks(md, page=self._page, folder=self._folder, repository=self._repository)
        # Behind `inline` (20), which makes links; before MkDocs' own check of them (0).
        md.treeprocessors.register(links, "outward-links", 10)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Tell the extension which page this is; fill in the reference of the command line."""
    del files
    kept = [one for one in config.markdown_extensions if not isinstance(one, _Outward)]
    folder = posixpath.basename(config.docs_dir)
    outward = _Outward(page=page.file.src_uri, folder=folder, repository=config.repo_url or None)
    # Python-Markdown takes names and objects; MkDocs declares names alone.
    config.markdown_extensions = [*kept, outward]  # type: ignore[list-item]
    if COMMANDS in markdown:
        return markdown.replace(COMMANDS, _commands())
    return markdown


def _commands() -> str:
    """Return what `typer` writes about the program, its headings one level deeper."""
    command = [sys.executable, "-m", "typer", "collabedit.cli", "utils", "docs"]
    done = subprocess.run(  # noqa: S603  fixed arguments, no shell
        [*command, "--name", "collabedit"], capture_output=True, text=True, check=False
    )
    if done.returncode or "## " not in done.stdout:
        raise PluginError(f"typer wrote no reference of the command line: {done.stderr}")
    _, _, rest = done.stdout.partition("\n## ")
    return f"## {rest}"
