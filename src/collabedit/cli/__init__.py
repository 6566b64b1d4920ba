"""The command line: one module for each group of commands.

Heavy imports happen inside the commands, so an aggregator without torch has the same program.

Exit codes: 0 done; the rest as `collabedit.errors` lists them (`docs/errors.md`).
"""

import os
import sys

import typer

# Read once, when gRPC is imported. It writes a line for each handshake that fails, so any stranger
# could fill the aggregator's log; what a party has to know is in the errors of its calls.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from collabedit import __version__
from collabedit.cli import (
    aggregator,
    audit,
    convert,
    covariance,
    demo,
    edits,
    evaluate,
    evidence,
    experiment,
    keys,
    party,
    plan,
    simulate,
)
from collabedit.cli.console import errors_to_exit_codes
from collabedit.cli.ranks import as_one_of_several, check_alone

app = typer.Typer(
    name="collabedit",
    help="Institutions edit the facts of a language model together; nobody sees whose edit is "
    "whose.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.run)
app.add_typer(plan.app, name="plan")
app.add_typer(keys.app, name="keys")
app.add_typer(aggregator.app, name="aggregator")
app.add_typer(party.app, name="party")
app.add_typer(edits.app, name="edits")
app.add_typer(experiment.app, name="experiment")
app.add_typer(audit.app, name="audit")
app.command("convert")(convert.run)
app.command("covariance")(covariance.run)
app.command("evaluate")(evaluate.run)
app.command("simulate")(simulate.run)
app.command("verify-evidence")(evidence.run)


def _print_version(show: bool) -> None:
    if show:
        typer.echo(f"collabedit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version."
    ),
) -> None:
    check_alone(context, except_for=frozenset({"covariance", "party"}))


def main() -> None:
    """Run the command line: the entry point of the `collabedit` program."""
    with errors_to_exit_codes(), as_one_of_several():
        app()
    sys.exit(0)
