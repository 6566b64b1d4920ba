"""`collabedit party export`: a stored update in the files of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from collabedit.api.publishing import make_card
from collabedit.api.results import check_output
from collabedit.cli.console import PreviousOption, say
from collabedit.cli.credentials import PlanOption
from collabedit.cli.publishing import (
    AuditOption,
    BaseModelOption,
    ReportOption,
    read_audit,
    read_figures,
)
from collabedit.errors import InputError
from collabedit.plan import load_plan

FORMATS = ("peft",)


def run(
    plan_file: PlanOption,
    update: Annotated[Path, typer.Option(help="An update that `party join` wrote.")],
    output: Annotated[Path, typer.Option(help="Directory to write; must not exist.")],
    to: Annotated[
        str, typer.Option("--format", help="peft: a LoRA adapter that `peft` loads.")
    ] = "peft",
    previous: PreviousOption = None,
    base_model: BaseModelOption = None,
    report: ReportOption = None,
    audit: AuditOption = None,
) -> None:
    """Write a stored update as an adapter for the model from before.

    The update is of low rank already, so the adapter is exact up to float32. It needs no model, and
    updates of earlier sessions (--previous) are added to it.
    """
    from collabedit.party.editing.adapters import combine, write_adapter
    from collabedit.party.editing.architectures import architecture_for
    from collabedit.party.editing.updates import load_chain

    if to not in FORMATS:
        raise InputError(f"--format {to}: must be {' or '.join(FORMATS)}")
    check_output(output)
    plan = load_plan(plan_file)
    chain = load_chain([*(previous or ()), update], weights=plan.model.weights)
    combined = combine(chain)
    ranks = {layer: each.rank for layer, each in combined.items()}
    card = make_card(
        plan,
        kind="adapter",
        base_model=base_model,
        sessions=[saved.session for saved in chain],
        ranks=ranks,
        session=read_figures(report, plan, chain[-1].session),
        audit=read_audit(audit),
    )
    write_adapter(
        combined,
        architecture_for(plan.model.architecture),
        output,
        base_model=base_model or plan.model.name,
        card=card,
    )
    described = ", ".join(f"{rank} in layer {layer}" for layer, rank in ranks.items())
    say(f"adapter written to {output}: rank {described}")
