"""Ask whether advisories are known for what a release needs; fail if nobody could be asked.

    python release/advisories.py PINS [--service pypi|osv] [--out out/advisories.json]

pip-audit (beside this Python, from `release/tools.txt`) does the asking. Of its own it counts a
package that the service does not know as fine, so its answer is read here: every pinned package
must have been looked up. Exit codes: 0 no advisory is known, 1 some are, 2 somebody could not be
asked, which says nothing about the packages.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from closure import read_pins


class UnansweredError(Exception):
    """Say what the service did not answer."""


@dataclass(frozen=True)
class Advisory:
    """What is known about one version of a package; `fixed` in the versions that are named."""

    package: str
    version: str
    name: str
    fixed: tuple[str, ...]


def judge(report: Mapping[str, Any], pinned: Mapping[str, str]) -> list[Advisory]:
    """Return the advisories of a pip-audit report.

    Raises:
        UnansweredError: a pinned package is not in it, was skipped, or is of another version.
    """
    found: list[Advisory] = []
    answered: dict[str, str] = {}
    for entry in report.get("dependencies", []):
        if "vulns" not in entry:
            raise UnansweredError(entry.get("skip_reason", f"{entry.get('name')}: no answer"))
        answered[entry["name"]] = entry["version"]
        found += [
            Advisory(entry["name"], entry["version"], one["id"], tuple(one["fix_versions"]))
            for one in entry["vulns"]
        ]
    absent = [name for name, version in pinned.items() if answered.get(name) != version]
    if absent:
        raise UnansweredError(f"no answer about {', '.join(absent)}")
    return found


def ask(pins: Path, service: str) -> Mapping[str, Any]:
    """Return the report of pip-audit on these pins.

    Raises:
        UnansweredError: there is none, with pip-audit's last line.
    """
    program = Path(sys.executable).with_name("pip-audit")
    done = subprocess.run(
        [
            *(program, "--requirement", pins, "--no-deps", "--disable-pip"),
            *("--vulnerability-service", service, "--progress-spinner", "off", "--format", "json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        report: Mapping[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UnansweredError(last) from None
    return report


def main() -> int:
    """Print advisories, one line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("pins", type=Path)
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pinned = read_pins(options.pins)
    try:
        report = ask(options.pins, options.service)
        found = judge(report, pinned)
    except UnansweredError as error:
        print(
            f"error: {options.service} was not reached or did not answer: {error}\n"
            "nothing is known about the dependencies: run this where it can be reached, or with "
            "the other --service",
            file=sys.stderr,
        )
        return 2
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    for one in found:
        print(f"{one.package} {one.version}: {one.name}, fixed in {', '.join(one.fixed) or '-'}")
    print(f"{len(pinned)} packages, {len(found)} advisories")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
