"""What this project's extras need, directly and transitively, among the packages installed here.

    python release/closure.py party                       # lines NAME==VERSION
    python release/closure.py party --without torch       # ... for a lock: see locks/
    python release/closure.py attacks ckks --environment out/runtime

The last makes a virtual environment that holds the closure and nothing else: its packages are links
to the files of the packages here, so that nothing is downloaded. Reports about what a release needs
(licences, SBOM) are made from it, and tests import this project in it.
"""

import argparse
import importlib.metadata
import re
import sys
import tomllib
import venv
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT: Final = Path(__file__).resolve().parent.parent
PROJECT: Final = "collabedit"
# What users run; the rest is for work on the project.
RUN_TIME_EXTRAS: Final = (
    "attacks",
    "ckks",
    "multi-gpu",
    "privacy",
    "aggregator",
    "reflection",
)


class MissingError(Exception):
    """Say which package is absent, or too old or new, and which one asks for it."""


@dataclass(frozen=True)
class Need:
    """One requirement, and the name of the package that states it."""

    of: str
    requirement: Requirement


def declared(extras: Iterable[str], root: Path = ROOT) -> list[Need]:
    """Return what pyproject.toml asks for with these extras, without what that needs in turn.

    Raises:
        KeyError: an extra that pyproject.toml does not have.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    found = [Requirement(line) for line in project["dependencies"]]
    waiting, seen = list(extras), set[str]()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == PROJECT:
                waiting.extend(requirement.extras)
            else:
                found.append(requirement)
    return [Need(PROJECT, requirement) for requirement in found]


def extras_of(root: Path = ROOT) -> list[str]:
    """Return the names of all extras, sorted."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return sorted(project["optional-dependencies"])


def closure(extras: Iterable[str], root: Path = ROOT) -> dict[str, Distribution]:
    """Return what is installed here of all that these extras need, by canonical name.

    Raises:
        MissingError: something is absent, or of a version that is not asked for.
    """
    found: dict[str, Distribution] = {}
    followed: set[tuple[str, str]] = set()
    waiting = declared(extras, root)
    while waiting:
        need = waiting.pop()
        if not _applies(need.requirement, ""):
            continue
        name = canonicalize_name(need.requirement.name)
        if name not in found:
            found[name] = _installed(need)
        version = found[name].version
        if not need.requirement.specifier.contains(version, prereleases=True):
            raise MissingError(f"{need.of} asks for {need.requirement}, {version} is installed")
        for extra in ("", *need.requirement.extras):
            if (name, extra) in followed:
                continue
            followed.add((name, extra))
            # A requirement without a marker on extras is met again with each extra, and once is
            # enough; one with such a marker is met with its own only.
            waiting.extend(
                Need(name, _without_marker(requirement))
                for requirement in map(Requirement, found[name].requires or ())
                if _applies(requirement, extra)
            )
    return dict(sorted(found.items()))


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _without_marker(requirement: Requirement) -> Requirement:
    bare = Requirement(str(requirement))
    bare.marker = None
    return bare


def _installed(need: Need) -> Distribution:
    try:
        return importlib.metadata.distribution(need.requirement.name)
    except importlib.metadata.PackageNotFoundError:
        raise MissingError(
            f"{need.of} asks for {need.requirement}, which is not installed"
        ) from None


def pins(distributions: Iterable[Distribution]) -> list[str]:
    """Return NAME==VERSION of each, sorted, without the build that a local part (`+cpu`) names."""
    return sorted(
        f"{canonicalize_name(d.name)}=={Version(d.version).public}" for d in distributions
    )


def read_pins(path: Path) -> dict[str, str]:
    """Return the versions that a constraints or lock file pins, by canonical name.

    Raises:
        ValueError: a line that is no exact pin.
    """
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        stated = line.split("#")[0].split("\\")[0].strip()
        if not stated or stated.startswith("--hash"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", stated)
        if match is None:
            raise ValueError(f"{path.name}: not an exact pin: {line}")
        found[canonicalize_name(match[1])] = match[2]
    return found


def make_environment(where: Path, distributions: Iterable[Distribution]) -> Path:
    """Make a virtual environment of links to these distributions' files; return its Python.

    Raises:
        FileExistsError: two distributions install one file.
    """
    venv.create(where, symlinks=True, clear=True)
    (site,) = where.glob("lib/python*/site-packages")
    for distribution in distributions:
        for file in distribution.files or ():
            # Programs and other data outside of site-packages are not imported.
            if ".." in file.parts:
                continue
            link = site / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(str(distribution.locate_file(file)))
    return where / "bin" / "python"


def main(arguments: Collection[str] | None = None) -> int:
    """Print pins, or make an environment."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("extras", nargs="*", default=list(RUN_TIME_EXTRAS))
    parser.add_argument("--without", action="append", default=[], help="leave a package out")
    parser.add_argument("--environment", type=Path, help="make this virtual environment")
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        found = closure(options.extras)
    except MissingError as error:
        print(f"error: {error}: run `make check` once, which installs it", file=sys.stderr)
        return 2
    kept = [item for name, item in found.items() if name not in options.without]
    if options.environment is None:
        print("\n".join(pins(kept)))
    else:
        print(make_environment(options.environment, kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
