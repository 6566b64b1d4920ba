"""Licences of what a release needs are on a list; nobody asked is not nothing known."""

import json
import subprocess
import sys
from email.message import EmailMessage
from importlib.metadata import Distribution
from pathlib import Path

import advisories
import closure
import licences
import pytest

SCRIPT = Path(__file__).parents[2] / "release" / "advisories.py"
PINNED = {"rich": "15.0.0", "typer": "0.29.2"}
FINE = [{"name": name, "version": version, "vulns": []} for name, version in PINNED.items()]


def test_every_package_of_a_release_has_a_licence_of_the_list() -> None:
    assert licences.refused(closure.closure(closure.RUN_TIME_EXTRAS).items()) == {}


def test_no_entry_for_one_package_is_left_over() -> None:
    found = closure.closure(closure.RUN_TIME_EXTRAS)
    assert {name: licences.stated(found[name]) for name in licences.READ} == licences.READ


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT AND LGPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only)", False),
        ("AGPL-3.0-or-later", False),
        ("MPL-2.0", False),
        ("none stated", False),
    ],
)
def test_what_is_allowed(expression: str, allowed: bool) -> None:
    assert licences.is_allowed("anything", expression) is allowed


class Stating(Distribution):
    """A distribution of some metadata."""

    def __init__(self, **fields: str) -> None:
        message = EmailMessage()
        for name, value in fields.items():
            message[name.replace("_", "-")] = value
        self._text = message.as_string()

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        return Path(str(path))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "MIT", "License": "GPL"}, "MIT"),
        ({"License": "Apache 2.0"}, "Apache-2.0"),
        ({"License": "Sold by the pound"}, "Sold by the pound"),
        ({"License": "UNKNOWN", "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"Classifier": "Topic :: Software"}, "none stated"),
        (
            {"Classifier": "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"},
            "GNU General Public License v3 (GPLv3)",
        ),
    ],
)
def test_what_a_package_states(fields: dict[str, str], expected: str) -> None:
    assert licences.stated(Stating(**fields)) == expected


def test_answers_about_every_package_are_believed() -> None:
    assert advisories.judge({"dependencies": FINE}, PINNED) == []
    vulnerable = FINE[0] | {"vulns": [{"id": "PYSEC-1", "fix_versions": ["15.0.1"]}]}
    (found,) = advisories.judge({"dependencies": [vulnerable, FINE[1]]}, PINNED)
    assert found == advisories.Advisory("rich", "15.0.0", "PYSEC-1", ("15.0.1",))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "no answer about rich, typer"),
        (FINE[:1], "no answer about typer"),
        ([FINE[0], FINE[1] | {"version": "0.1"}], "no answer about typer"),
        ([FINE[0], {"name": "typer", "skip_reason": "not found on PyPI"}], "not found on PyPI"),
    ],
)
def test_a_package_that_nobody_looked_up_is_no_good_news(
    entries: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(advisories.UnansweredError, match=message):
        advisories.judge({"dependencies": entries}, PINNED)


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ({"dependencies": FINE}, 0, "2 packages, 0 advisories"),
        ({"dependencies": [*FINE[:1]]}, 2, "no answer about typer"),
        (None, 2, "ConnectionError: no route"),
    ],
)
def test_the_exit_code_says_whether_somebody_answered(
    answer: object, code: int, words: str, tmp_path: Path
) -> None:
    """With a program in pip-audit's place that prints what pip-audit printed."""
    pins = tmp_path / "pins.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in PINNED.items()))
    environment = closure.make_environment(
        tmp_path / "environment", [closure.closure(())["typer"], *packaging()]
    )
    program = environment.with_name("pip-audit")
    said = f"echo '{json.dumps(answer)}'" if answer else "echo 'ConnectionError: no route' >&2"
    program.write_text(f"#!/bin/sh\n{said}\nexit 1\n")
    program.chmod(0o755)
    done = subprocess.run(
        [str(environment), str(SCRIPT), str(pins)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert ("error: pypi was not reached" in done.stderr) == (code == 2)


def packaging() -> list[Distribution]:
    return [Distribution.from_name("packaging")]


def test_the_script_reports_a_file_that_is_no_list_of_pins(tmp_path: Path) -> None:
    (tmp_path / "pins.txt").write_text("rich>=15\n")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "pins.txt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "not an exact pin" in done.stderr
