"""The runbook has a section for every named error and reason, and names only what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from collabedit import cli, errors
from collabedit.cli.configuration import options_of
from collabedit.errors import AbortReason, CollabEditError
from collabedit.proto.statements import RefusalError

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "runbook.md").read_text()
CHORES = {
    "Back up",
    "Resume after a crash",
    "Rotate certificates",
    "The disk is full",
    "A party does not come back",
    "Follow a session",
}


def sections(part: str) -> dict[str, str]:
    """Sections of one part, by their headings."""
    found = re.split("^## ", TEXT, flags=re.MULTILINE)
    (text,) = [each for each in found if each.startswith(f"{part}\n")]
    pieces = re.split("^### ", text, flags=re.MULTILINE)[1:]
    return {piece.partition("\n")[0]: piece.partition("\n")[2] for piece in pieces}


def error_names() -> set[str]:
    named = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, CollabEditError)
    }
    return named | {RefusalError.__name__}


def test_every_error_has_a_section_and_no_section_is_of_another_one() -> None:
    assert set(sections("Errors")) == {f"`{name}`" for name in error_names()}


def test_every_reason_has_a_section_and_no_section_is_of_another_one() -> None:
    assert set(sections("Abort reasons")) == set(AbortReason.__members__)


def test_the_chores_are_there() -> None:
    assert set(sections("Chores")) == CHORES


@pytest.mark.parametrize("part", ["Errors", "Abort reasons"])
def test_a_section_says_symptom_cause_and_fix(part: str) -> None:
    for heading, text in sections(part).items():
        for word in ("Symptom", "Cause", "Fix"):
            found = re.search(rf"^\*\*{word}\.\*\* (.+)", text, re.MULTILINE)
            assert found is not None, f"{heading}: {word}"
            assert len(found[1]) > 10, f"{heading}: {word}"


def test_exit_codes_are_the_real_ones() -> None:
    kinds = {name: getattr(errors, name, RefusalError) for name in error_names()}
    said = 0
    for heading, text in sections("Errors").items():
        for code in re.findall(r"(?:[Ee]xit code|exits with) (\d+)", text):
            assert int(code) == kinds[heading.strip("`")].exit_code, heading
            said += 1
    assert said > 20


def test_events_metrics_options_and_commands_exist() -> None:
    events = set(
        re.findall(r"^\| `([a-z-]+)", (ROOT / "docs" / "logs.md").read_text(), re.MULTILINE)
    )
    for event in ("certificate-renewed", "dropped", "wrong-shares", "resumed", "refused"):
        assert f"`{event}`" in TEXT
        assert event in events
    operations = (ROOT / "docs" / "operations.md").read_text()
    for metric in re.findall(r"`(collabedit_\w+)`", TEXT):
        assert f"| `{metric}`" in operations, metric
    root: Any = typer.main.get_command(cli.app)
    options: set[str] = set()
    leaves = [root]
    while leaves:
        command = leaves.pop()
        leaves += getattr(command, "commands", {}).values()
        options |= set(options_of(command))
    for option in re.findall(r"`--([a-z-]+)", TEXT):
        assert option in options, option
    for line in re.findall(r"`collabedit ([a-z ]+)", TEXT):
        command = root
        for word in line.split():
            command = command.commands[word]


def test_links_lead_to_sections_and_files() -> None:
    anchors = {
        re.sub(r"[^a-z0-9_ -]", "", heading.casefold()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        name, _, anchor = target.partition("#")
        if name:
            assert (ROOT / "docs" / name).is_file(), target
        else:
            assert anchor in anchors, target
