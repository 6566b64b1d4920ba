"""Plans from a model, a covariance and who takes part."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from collabedit.acceptance import Acceptance
from collabedit.closed import Closed
from collabedit.crypto.rng import SystemRandomness
from collabedit.editing import EditorName
from collabedit.federation import Coordinator, Party
from collabedit.memory import Memory
from collabedit.plan import BackendName, Plan, Timing, plan_errors

if TYPE_CHECKING:
    from collabedit.party.editing.covariance import Covariance
    from collabedit.party.editing.model import EditableModel
    from collabedit.party.editing.proposal import OverlapWish
    from collabedit.party.editing.updates import SavedUpdate


class PlanOptions(TypedDict, total=False):
    """What a plan may choose, as `party.editing.proposal.propose_plan` explains it.

    All have a default; `layers` the covariance's, or as published for the model.
    """

    layers: Sequence[int]
    editor: EditorName
    covariance_weight: float
    nullspace_threshold: float
    l2: float
    shift: float
    schedule: Literal["sequential", "parallel"]
    statistics: Literal["sketch", "dense"]
    backend: BackendName
    timing: Timing
    target_steps: int
    skip_residual: float
    length_units: float
    memory: Memory
    history: "Sequence[SavedUpdate]"
    overlap: "OverlapWish"
    acceptance: Acceptance
    closed: Closed | None


def given_options(**options: object) -> PlanOptions:
    """Leave out what is None: the plan has a default for it."""
    return cast(
        "PlanOptions", {name: value for name, value in options.items() if value is not None}
    )


def party_entry(name: str, *, identity: str, max_edits: int) -> Party:
    """Return a party of a plan.

    Args:
        name: also the common name of its TLS certificate.
        identity: Ed25519 public key, hex.
        max_edits: how many edits it may bring, at least 1.

    Raises:
        PlanError: one of them is not of that form; names the party.
    """
    with plan_errors(f"party {name}"):
        return Party(name=name, identity=identity, max_edits=max_edits)


def coordinator_entry(name: str, *, identity: str) -> Coordinator:
    """Return the aggregator of a plan.

    Args:
        name: also the common name of its TLS certificate.
        identity: Ed25519 public key, hex.

    Raises:
        PlanError: one of them is not of that form; names the aggregator.
    """
    with plan_errors(f"aggregator {name}"):
        return Coordinator(name=name, identity=identity)


def default_layers(
    model: "EditableModel", covariance: "Covariance | None", *, editor: EditorName
) -> tuple[int, ...]:
    """Return the covariance's layers, ascending; without one those published for the editor."""
    from collabedit.party.editing.hyperparameters import defaults_for

    if covariance is not None:
        return tuple(sorted(covariance.matrices))
    return defaults_for(model.architecture, editor).layers(model.n_layers)


def read_covariance(covariance: "Path | Covariance | None") -> "Covariance | None":
    """Return second moments, from a file of `collabedit covariance` or as they are."""
    if isinstance(covariance, Path):
        from collabedit.party.editing.covariance import load_covariance

        return load_covariance(covariance)
    return covariance


def propose(
    model: "EditableModel",
    covariance: "Covariance | None",
    *,
    name: str,
    model_name: str,
    parties: Sequence[Party],
    aggregator: Coordinator,
    options: PlanOptions,
) -> Plan:
    """Fill in a plan.

    Args:
        model: the unedited model.
        covariance: its second moments; `ridge` needs none.
        name: of the plan.
        model_name: for people.
        parties: names, identities and bounds; their order fixes the ids.
        aggregator: name and identity.
        options: everything else.

    Raises:
        InputError: see `propose_plan`.
        PlanError: the plan does not hold together.
    """
    from collabedit.party.editing.proposal import propose_plan

    chosen = dict(options)
    layers = options.get("layers") or default_layers(
        model, covariance, editor=options.get("editor", "memit")
    )
    chosen.pop("layers", None)
    with plan_errors(f"the plan {name}"):
        return propose_plan(
            model,
            covariance,
            name=name,
            model_name=model_name,
            parties=parties,
            aggregator=aggregator,
            layers=layers,
            randomness=SystemRandomness(),
            **chosen,  # type: ignore[arg-type]  # a TypedDict of its own keyword arguments
        )
