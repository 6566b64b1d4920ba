"""Kill real processes at random points and see that every session ends as if nothing had happened.

    python -m tests.crash --points 200 --seed 1 --out out/crash-test.json

Exits with 1 if a sum, an update or an exit code differs from what it is without a crash. The
directory of a session that failed is kept, and named.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import typer

from tests.crash.campaign import run_campaign

ROLES = ("aggregator", "party")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200, help="kills of each role")
    parser.add_argument("--per-session", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--role", choices=ROLES, action="append")
    parser.add_argument("--out", type=Path, default=Path("out/crash-test.json"))
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="collabedit-crash-"))
    results = [
        run_campaign(
            role,
            directory / role,
            points=options.points,
            per_session=options.per_session,
            seed=options.seed,
            tell=typer.echo,
        )
        for role in options.role or ROLES
    ]
    report = {
        "command": f"python -m tests.crash --points {options.points} --seed {options.seed}",
        "seed": options.seed,
        "campaigns": [result.to_dict() for result in results],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    failures = [failure for result in results for failure in result.failures]
    for failure in failures:
        typer.echo(f"FAILED: {failure} (see {directory})")
    typer.echo(f"{sum(result.kills for result in results)} kills, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
