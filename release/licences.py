"""Read what the packages of a release say about their licences, and hold it against a list.

    python release/licences.py          # every package of the run-time extras, and refusals

A licence that is not on the list fails: a person reads it, then adds it to `ALLOWED` or, for one
package alone, to `READ`. This is a guard against surprises, not a legal opinion.
"""

import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution
from typing import Final

from closure import RUN_TIME_EXTRAS, closure

ALLOWED: Final = frozenset(
    {
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause"),
        *("BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib"),
    }
)
"""SPDX identifiers. All permissive: they ask for notices, not for source."""

READ: Final = {
    # Copyleft of single files, which this project neither changes nor carries.
    "certifi": "MPL-2.0",
    "tqdm": "MPL-2.0 AND MIT",
}
"""What one package may say beside that, since somebody read it."""

SPDX: Final = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
"""Of classifiers and free texts. "BSD" is two or three clauses, which makes no difference here."""


def stated(distribution: Distribution) -> str:
    """Return the licence a package states, as an SPDX expression where that is known.

    In the order of trust: the expression of PEP 639, a short `License` field, the classifiers.
    """
    metadata = distribution.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    field = metadata["License"].strip() if "License" in metadata else ""
    if "\n" not in field and field.lower() not in {"", "unknown"}:
        return SPDX.get(field.lower(), field)
    names = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    return " AND ".join(SPDX.get(name.lower(), name) for name in names) or "none stated"


def is_allowed(name: str, expression: str) -> bool:
    """Say whether a package may have this licence: one of `OR`, and each of `AND`, is allowed."""
    if READ.get(name) == expression:
        return True
    # Brackets are rare, and nothing is allowed by reading them too simply.
    if re.search(r"[()]", expression):
        return expression in ALLOWED
    return all(
        any(one.strip() in ALLOWED for one in part.split(" OR "))
        for part in expression.split(" AND ")
    )


def refused(distributions: Iterable[tuple[str, Distribution]]) -> dict[str, str]:
    """Return the licences that are not allowed, by package."""
    found = {name: stated(distribution) for name, distribution in distributions}
    return {name: text for name, text in found.items() if not is_allowed(name, text)}


def main() -> int:
    """Print name, version and licence of each package."""
    found = closure(RUN_TIME_EXTRAS)
    for name, distribution in found.items():
        print(f"{name} {distribution.version}: {stated(distribution)}")
    wrong = refused(found.items())
    for name, text in wrong.items():
        print(f"error: {name}: {text} is not on the list of release/licences.py", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
