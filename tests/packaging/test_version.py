"""One version, written once; a changelog of one form; documents that name what is there."""

import datetime as dt
import itertools
import re
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

import collabedit

ROOT = Path(__file__).parents[2]
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
HEADING = re.compile(r"(\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})")


def refusals(changelog: str) -> list[str]:
    """What is wrong with the form of a changelog, in the order of its lines."""
    found = []
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    titles = [section.split("\n", 1)[0] for section in sections]
    if not titles or titles[0] != "Unreleased":
        found.append("the first section is not Unreleased")
    dated = [HEADING.fullmatch(title) for title in titles[1:]]
    found += [
        f"not 'X.Y.Z - YYYY-MM-DD': {title}"
        for title, match in zip(titles[1:], dated, strict=True)
        if match is None
    ]
    releases = [(Version(one[1]), dt.date.fromisoformat(one[2])) for one in dated if one]
    if any(later[0] <= earlier[0] for later, earlier in itertools.pairwise(releases)):
        found.append("versions do not fall")
    if any(later[1] < earlier[1] for later, earlier in itertools.pairwise(releases)):
        found.append("dates rise")
    for title, section in zip(titles, sections, strict=True):
        kinds = re.findall(r"^### (.*)$", section, flags=re.MULTILINE)
        if [kind for kind in KINDS if kind in kinds] != kinds:
            found.append(f"{title}: {kinds} are not of {KINDS} in this order, each once")
        parts = re.split(r"^### .*$", section, flags=re.MULTILINE)[1:]
        if any(not re.search(r"^- ", part, flags=re.MULTILINE) for part in parts):
            found.append(f"{title}: a heading without entries")
    return found


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    attribute = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "collabedit.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", collabedit.__version__)
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)


@pytest.mark.slow
def test_the_wheel_has_that_version(wheel: Path) -> None:
    assert wheel.name == f"collabedit-{collabedit.__version__}-py3-none-any.whl"


def test_the_changelog_has_its_form() -> None:
    assert refusals((ROOT / "CHANGELOG.md").read_text()) == []


def test_the_version_is_not_behind_the_changelog() -> None:
    released = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert all(Version(name) <= Version(collabedit.__version__) for name in released)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("## 0.1.0 - 2026-01-01\n", "the first section is not Unreleased"),
        ("## Unreleased\n## 0.1 - 2026-01-01\n", "not 'X.Y.Z - YYYY-MM-DD': 0.1 - 2026-01-01"),
        (
            "## Unreleased\n## 0.1.0 - 2026-01-01\n## 0.2.0 - 2025-01-01\n",
            "versions do not fall",
        ),
        ("## Unreleased\n## 0.2.0 - 2025-01-01\n## 0.1.0 - 2026-01-01\n", "dates rise"),
        ("## Unreleased\n### Added\n\n### Fixed\n- a\n", "Unreleased: a heading without entries"),
    ],
)
def test_a_changelog_of_another_form_is_refused(text: str, expected: str) -> None:
    assert refusals(text) == [expected]


def test_a_changelog_with_kinds_twice_or_unknown_is_refused() -> None:
    for kinds in (["Added", "Added"], ["Fixed", "Added"], ["News"]):
        text = "## Unreleased\n" + "".join(f"### {kind}\n- a\n" for kind in kinds)
        assert len(refusals(text)) == 1


@pytest.mark.parametrize("page", ["docs/releasing.md", "SECURITY.md"])
def test_targets_and_files_that_the_pages_name_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = set(re.findall(r"(?:`|&& |^    )make ([a-z-]+)", text, flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for name in re.findall(r"`((?:release|tests|src)/[a-z_/.]+\.[a-z]+)", text):
        assert (ROOT / name).is_file(), name
