"""`collabedit plan`: write, read and check the text that all parties agree on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, get_args

import typer
from rich.table import Table

from collabedit.accounting import check_claim
from collabedit.api.checks import check_count
from collabedit.api.credentials import read_identity
from collabedit.api.places import check_place
from collabedit.api.proposing import coordinator_entry, given_options, party_entry, propose
from collabedit.cli.acceptance import (
    AcceptanceOption,
    DropOption,
    EfficacyOption,
    RatioOption,
    VotesOption,
    choose_acceptance,
)
from collabedit.cli.closed import (
    CheckColumnsOption,
    CheckToleranceOption,
    CoverOption,
    DecoyBoundOption,
    EqualLengthsOption,
    LengthUnitsOption,
    MinEditsOption,
    OpenSumsOption,
    choose_closed,
    choose_length,
    describe_closed,
    propose_min_edits,
)
from collabedit.cli.console import PreviousOption, parse_layers, say, terminal
from collabedit.cli.privacy import (
    DeltaOption,
    EpsilonOption,
    HonestOption,
    UnitOption,
    add_privacy,
    describe_privacy,
)
from collabedit.crypto.graph import plan_neighbourhood
from collabedit.editing import Editing, EditorName
from collabedit.errors import InputError, PlanError
from collabedit.federation import Party
from collabedit.ids import AGGREGATOR, TaskIndex
from collabedit.memory import Memory
from collabedit.overlap import Policy
from collabedit.plan import BackendName, Plan, Timing, format_digest, load_plan, plan_errors
from collabedit.proto.envelope import check_identities
from collabedit.threat_model import maximum_corruptions

if TYPE_CHECKING:
    from collabedit.party.editing.proposal import OverlapWish

OverlapOption: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Count shared edits; of conflicts: majority, drop, keep or augment."),
]
FalsePositiveOption: TypeAlias = Annotated[
    float | None, typer.Option(help="Probability that any count is too high; default: 1e-6.")
]
ParaphrasesOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Most that augment adds to a winning edit; default: 2.")
]

BackendOption: TypeAlias = Annotated[
    str,
    typer.Option(
        help="masked, or ckks: parties need not be there together, but the aggregator and any one "
        "of them read all uploads."
    ),
]

app = typer.Typer(help="The plan that all parties agree on.", no_args_is_help=True)


def _party(text: str) -> Party:
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].isdecimal():
        raise PlanError(f"--party {text}: must be NAME:IDENTITY:MAX_EDITS (`keys new` prints it)")
    return party_entry(parts[0], identity=parts[1], max_edits=int(parts[2]))


@app.command("new")
def new(
    out: Annotated[Path, typer.Option(help="Plan file to write.")],
    name: Annotated[str, typer.Option(help="Name of the plan.")],
    model: Annotated[Path, typer.Option(help="Model directory.")],
    aggregator: Annotated[str, typer.Option(help="NAME:IDENTITY of the aggregator.")],
    party: Annotated[
        list[str], typer.Option(help="NAME:IDENTITY:MAX_EDITS; once for each, order matters.")
    ],
    covariance: Annotated[
        Path | None, typer.Option(help="File of `collabedit covariance`; ridge needs none.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Like 4-8; default: the covariance's, else as published.")
    ] = None,
    editor: Annotated[str, typer.Option(help="memit, ridge, alphaedit or emmet.")] = "memit",
    covariance_weight: Annotated[
        float | None, typer.Option(help="λ of memit and emmet; default: as published.")
    ] = None,
    nullspace_threshold: Annotated[
        float | None, typer.Option(help="Of alphaedit; default: as published.")
    ] = None,
    l2: Annotated[float | None, typer.Option(help="Of alphaedit; default: as published.")] = None,
    shift: Annotated[
        float | None, typer.Option(help="Of ridge, the logarithm of its ridge; default: 0.")
    ] = None,
    schedule: Annotated[str, typer.Option(help="sequential or parallel.")] = "sequential",
    statistics: Annotated[str, typer.Option(help="sketch or dense.")] = "sketch",
    backend: BackendOption = "masked",
    acceptance: AcceptanceOption = False,
    votes: VotesOption = None,
    efficacy: EfficacyOption = None,
    neighbourhood_drop: DropOption = None,
    perplexity_ratio: RatioOption = None,
    dtype: Annotated[str, typer.Option(help="Of the model's weights.")] = "float32",
    skip_residual: Annotated[
        float | None,
        typer.Option(help="Do not edit what the model is this close to already, like 0.05."),
    ] = None,
    previous: PreviousOption = None,
    window: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=168,
            help="Hours that a party may be away in any round; default: minutes, and an hour for "
            "what takes long, for parties that are there together.",
        ),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(
            min=0, help="Most past edits that a party brings; its edits are kept. Default: none."
        ),
    ] = None,
    memory_weight: Annotated[
        float | None, typer.Option(help="Of a past edit against a new one; default: 1.")
    ] = None,
    overlap: OverlapOption = None,
    false_positive: FalsePositiveOption = None,
    paraphrases: ParaphrasesOption = None,
    open_sums: OpenSumsOption = False,
    check_columns: CheckColumnsOption = None,
    check_tolerance: CheckToleranceOption = None,
    cover_edits: CoverOption = None,
    min_edits: MinEditsOption = None,
    decoy_bound: DecoyBoundOption = None,
    equal_lengths: EqualLengthsOption = False,
    length_units: LengthUnitsOption = None,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    privacy_unit: UnitOption = None,
    honest: HonestOption = None,
) -> None:
    """Write a plan from a model, a covariance and the parties' public keys."""
    from collabedit.party.editing.covariance import load_covariance
    from collabedit.party.editing.model import load_model
    from collabedit.party.editing.proposal import LENGTH_UNITS
    from collabedit.party.editing.updates import load_chain

    if out.exists():
        raise InputError(f"{out}: exists already")
    check_place(out)
    if schedule not in {"sequential", "parallel"}:
        raise InputError(f"--schedule {schedule}: must be sequential or parallel")
    if statistics not in {"sketch", "dense"}:
        raise InputError(f"--statistics {statistics}: must be sketch or dense")
    if memory_weight is not None and memory is None:
        raise InputError("--memory-weight: needs --memory")
    chosen_editor, chosen_backend = parse_editor(editor), parse_backend(backend)
    wish = parse_overlap(overlap, false_positive, paraphrases)
    members = [_party(text) for text in party]
    if min_edits is None and not open_sums:
        min_edits = propose_min_edits(sum(member.max_edits for member in members))
    closed = choose_closed(
        open_sums=open_sums,
        check_columns=check_columns,
        check_tolerance=check_tolerance,
        cover_edits=cover_edits,
        min_edits=min_edits,
        decoy_bound=decoy_bound,
        equal_lengths=equal_lengths,
    )
    moments = None if covariance is None else load_covariance(covariance)
    loaded = load_model(model, dtype=dtype)
    history = load_chain(previous or (), weights=f"sha256:{loaded.weights_digest()}")
    coordinator, _, identity = aggregator.partition(":")
    with plan_errors("the new plan"):
        options = given_options(
            layers=parse_layers(layers) if layers else None,
            editor=chosen_editor,
            covariance_weight=covariance_weight,
            nullspace_threshold=nullspace_threshold,
            l2=l2,
            shift=shift,
            schedule=schedule,
            statistics=statistics,
            backend=chosen_backend,
            skip_residual=skip_residual,
            timing=None if window is None else _patient(3600 * window),
            memory=_new_memory(memory, memory_weight),
            history=history,
            overlap=wish,
            length_units=choose_length(
                equal_lengths=equal_lengths, length_units=length_units, proposed=LENGTH_UNITS
            ),
            acceptance=choose_acceptance(
                asked=acceptance,
                votes=votes,
                efficacy=efficacy,
                neighbourhood_drop=neighbourhood_drop,
                perplexity_ratio=perplexity_ratio,
                parties=len(party),
            ),
        )
        options["closed"] = closed
        plan = propose(
            loaded,
            moments,
            name=name,
            model_name=model.name,
            parties=members,
            aggregator=coordinator_entry(coordinator, identity=identity),
            options=options,
        )
        plan = add_privacy(plan, epsilon=epsilon, delta=delta, unit=privacy_unit, honest=honest)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(plan.to_toml(), encoding="utf-8")
    say(f"wrote {out}; every party reads it and compares this digest:")
    typer.echo(format_digest(plan.digest))


def _patient(seconds: float) -> Timing:
    return Timing(join=seconds, compute=seconds, round=seconds, upload=seconds, liveness=seconds)


def _new_memory(max_edits: int | None, weight: float | None) -> Memory | None:
    if max_edits is None:
        return None
    return Memory(weight=1.0 if weight is None else weight, max_edits=max_edits)


@app.command("show")
def show(plan_file: Annotated[Path, typer.Argument(help="Plan file.")]) -> None:
    """Print a plan for people, and its digest."""
    plan = load_plan(plan_file)
    editing, aggregation = plan.editing, plan.aggregation
    outputs = min(layer.outputs for layer in editing.layers)
    table = Table(title=f"plan {plan.name}", show_header=False)
    for label, value in (
        ("digest", format_digest(plan.digest)),
        ("model", f"{plan.model.name} ({plan.model.architecture}, {plan.model.dtype})"),
        ("weights", plan.model.weights),
        *(("continues session", session) for session in plan.model.previous or ()),
        ("editor", f"{editing.editor}, {editing.schedule}, {_parameters(editing)}"),
        ("layers", ", ".join(str(layer.index) for layer in editing.layers)),
        ("keys", f"of length {editing.key_length:.4g}" if editing.key_length else "as they are"),
        ("covariance", editing.covariance or "none"),
        ("memory", _memory(plan)),
        (
            "sum",
            f"{describe_backend(plan)}, {aggregation.statistics}, capacity {aggregation.capacity}",
        ),
        ("ring", f"{aggregation.ring_bits} bits, {aggregation.fractional_bits} fractional"),
        ("threshold", f"{plan.threshold} of {len(plan.federation.parties)}"),
        ("collusion", _collusion(plan)),
        ("overlap", _overlap(plan)),
        ("vote", _vote(plan)),
        ("sums", describe_closed(plan.closed, outputs=outputs)),
        ("privacy", describe_privacy(plan)),
        ("upload", f"{_upload_bytes(plan) / 1e6:.1f} MB each, in {len(plan.tasks)} sums"),
    ):
        table.add_row(label, value)
    terminal.print(table)
    parties = Table("id", "party", "identity", "max edits")
    parties.add_row(
        "0", f"{plan.party_name(AGGREGATOR)} (aggregator)", plan.identity(AGGREGATOR).hex(), ""
    )
    for party, entry in zip(plan.party_ids, plan.federation.parties, strict=True):
        parties.add_row(str(party), entry.name, entry.identity, str(entry.max_edits))
    terminal.print(parties)


def parse_editor(text: str) -> EditorName:
    """Read the name of an editor.

    Raises:
        InputError: no such editor; lists them.
    """
    for name in get_args(EditorName):
        if text == name:
            editor: EditorName = name
            return editor
    raise InputError(f"--editor {text}: must be one of {', '.join(get_args(EditorName))}")


def parse_backend(text: str) -> BackendName:
    """Read the name of a backend.

    Raises:
        InputError: no such backend; lists them.
    """
    for name in get_args(BackendName):
        if text == name:
            backend: BackendName = name
            return backend
    raise InputError(f"--backend {text}: must be one of {', '.join(get_args(BackendName))}")


def parse_overlap(
    policy: str | None, false_positive: float | None, paraphrases: int | None
) -> "OverlapWish | None":
    """Read `--overlap` and what goes with it.

    Raises:
        InputError: no such policy, or an option that has no meaning with it.
    """
    from collabedit.party.editing.proposal import FALSE_POSITIVE, PARAPHRASES, OverlapWish

    if policy is None:
        if false_positive is not None or paraphrases is not None:
            raise InputError("--false-positive and --paraphrases need --overlap")
        return None
    for name in get_args(Policy):
        if policy == name:
            if paraphrases is not None and name != "augment":
                raise InputError(f"--paraphrases has no meaning with --overlap {name}")
            return OverlapWish(
                name,
                FALSE_POSITIVE if false_positive is None else false_positive,
                PARAPHRASES if paraphrases is None else paraphrases,
            )
    raise InputError(f"--overlap {policy}: must be one of {', '.join(get_args(Policy))}")


def describe_backend(plan: Plan) -> str:
    """Say for people how uploads are hidden, and from whom."""
    if not plan.is_encrypted:
        return plan.aggregation.backend
    return "ckks (the aggregator and any one party together read every upload)"


def _overlap(plan: Plan) -> str:
    overlap = plan.overlap
    if overlap is None:
        return "not counted"
    added = "" if overlap.paraphrases is None else f", up to {overlap.paraphrases} paraphrases"
    return (
        f"{overlap.policy}{added}; 2 tables of {overlap.rows} x {overlap.width}, a count is too "
        f"high with probability {overlap.false_positive:g}"
    )


def _parameters(editing: Editing) -> str:
    """The editor's own parameters, for people."""
    if editing.editor == "ridge":
        shifts = {f"{layer.shift:g}" for layer in editing.layers if layer.shift is not None}
        return f"shift {', '.join(sorted(shifts))}"
    if editing.editor == "alphaedit":
        kept = ", ".join(f"{layer.kept} of {layer.inputs}" for layer in editing.layers)
        return f"L2 = {editing.l2:g}, threshold {editing.nullspace_threshold:g} keeps {kept}"
    return f"λ = {editing.covariance_weight:g}, ρ = {editing.ridge:g}"


def _memory(plan: Plan) -> str:
    if plan.memory is None:
        return "none"
    return f"up to {plan.memory.max_edits} past edits of each party, weight {plan.memory.weight:g}"


def _collusion(plan: Plan) -> str:
    parties = len(plan.federation.parties)
    layers = TaskIndex(len(plan.tasks) - 1)
    graph = plan_neighbourhood(plan, parties, task=layers)
    bound = plan.federation.corruptions
    if bound is None or graph.degree == parties - 1:
        bound = maximum_corruptions(parties, plan.threshold)
        return f"up to {bound} parties with the aggregator; full graph"
    return (
        f"up to {bound} parties with the aggregator; each party shares with {graph.degree} others"
    )


def _vote(plan: Plan) -> str:
    asked = plan.acceptance
    if asked is None:
        return "none"
    return (
        f"{asked.votes} must accept: {asked.efficacy:g} of own edits hold, at most "
        f"{asked.neighbourhood_drop:g} of neighbourhood prompts lost, perplexity at most "
        f"x {asked.perplexity_ratio:g}"
    )


def _upload_bytes(plan: Plan) -> int:
    elements = sum(plan.upload_length(TaskIndex(task)) for task in range(len(plan.tasks)))
    return elements * plan.aggregation.ring_bits // 8


@app.command("check")
def check(
    plan_file: Annotated[Path, typer.Argument(help="Plan file.")],
    model: Annotated[Path | None, typer.Option(help="Is this the plan's model?")] = None,
    covariance: Annotated[Path | None, typer.Option(help="Is this the plan's covariance?")] = None,
    edits: Annotated[Path | None, typer.Option(help="Do these edits fit? Needs --name.")] = None,
    identity: Annotated[Path | None, typer.Option(help="Is this --name's identity key?")] = None,
    name: Annotated[str | None, typer.Option(help="Own name in the plan.")] = None,
    previous: PreviousOption = None,
) -> None:
    """Check a plan, and what a party has, before anything is sent. Prints the digest."""
    plan = load_plan(plan_file)
    check_identities(plan)
    if plan.privacy is not None:
        say(f"the noise gives epsilon {check_claim(plan):.4g} at delta {plan.privacy.delta:g}")
    party = AGGREGATOR if name in {None, plan.party_name(AGGREGATOR)} else plan.party_id(str(name))
    if identity is not None:
        if name is None:
            raise InputError("--identity needs --name")
        read_identity(identity, plan, party)
    if edits is not None:
        from collabedit.party.edits import load_edits

        if party == AGGREGATOR:
            raise InputError("--edits needs --name of a party")
        check_count(plan, name=str(name), edits=len(load_edits(edits)), source=edits)
    if covariance is not None:
        from collabedit.party.editing.editor import load_plan_covariance

        load_plan_covariance(plan, covariance)
    if model is not None:
        from collabedit.party.editing.editor import load_plan_model

        load_plan_model(plan, model, previous=previous or ())
    elif previous:
        from collabedit.party.editing.updates import load_history

        sessions = plan.model.previous or ()
        load_history(previous, weights=plan.model.weights, sessions=sessions)
    say(f"{plan_file}: valid")
    typer.echo(format_digest(plan.digest))
