"""What a party brings to a session: its edits, their targets, past edits, re-assertions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from collabedit.api.checks import check_count
from collabedit.api.memory import OwnMemory, tell_selection
from collabedit.api.reassertion import take_reassertions
from collabedit.api.reporting import Reporter
from collabedit.party.editing.means import Means
from collabedit.party.edits import Edit, edits_digest, load_edits
from collabedit.party.items import edit_items
from collabedit.party.memory import Recollection
from collabedit.plan import Plan

if TYPE_CHECKING:
    from collabedit.party.editing.model import EditableModel
    from collabedit.party.editing.ranks import Ranks
    from collabedit.party.editing.reassertion import Reassertions, Wish
    from collabedit.party.editing.selection import Selection
    from collabedit.party.editing.targets import Targets

Edits: TypeAlias = Path | Sequence[Edit]
"""A file in any form that `load_edits` reads, or the edits themselves."""

TARGETS_FILE = "targets.safetensors"


def own_edits(plan: Plan, name: str, edits: Edits) -> tuple[Edit, ...]:
    """Read a party's edits, and hold them against the plan.

    Raises:
        EditFileError: the file cannot be read, or a text has no digest.
        InputError: they are more than the plan allows.
    """
    records = load_edits(edits) if isinstance(edits, Path) else tuple(edits)
    source = edits if isinstance(edits, Path) else f"the edits of {name}"
    check_count(plan, name=name, edits=len(records), source=source)
    if plan.overlap is not None:
        edit_items(records)  # refuses a text that has no digest, before anything is computed
    return records


def take_targets(
    plan: Plan,
    model: "EditableModel",
    edits: tuple[Edit, ...],
    path: Path,
    *,
    ranks: "Ranks",
    means: Means,
    reporter: Reporter,
) -> "Targets":
    """Read the targets that an earlier call left at `path`, or compute them now and leave them.

    Raises:
        InputError: those that are there were made of other edits, settings or weights.
    """
    from collabedit.party.editing.editor import edited_layers, start_weights, target_settings
    from collabedit.party.editing.selection import distances
    from collabedit.party.editing.targets import compute_targets, load_targets, settings_digest

    layer = edited_layers(plan.editing)[-1]
    settings = target_settings(plan.editing)
    templates = plan.editing.context_templates
    weights = start_weights(plan)
    if ranks.decide(path.exists()):
        reporter.say(f"using the targets in {path}")
        targets = load_targets(
            path,
            edits_digest=edits_digest(edits),
            settings_digest=settings_digest(
                model, layer=layer, templates=templates, settings=settings, weights=weights
            ),
            ranks=ranks,
        )
        if targets.autocast != "off":
            reporter.say(f"they were searched with products in {targets.autocast}")
    else:
        with reporter.progress("targets") as advance:
            targets = compute_targets(
                model,
                edits,
                layer=layer,
                templates=templates,
                settings=settings,
                weights=weights,
                progress=advance,
                ranks=ranks,
                means=means,
            )
        if ranks.is_first:
            targets.save(path)
    if plan.editing.skip_residual is not None and targets.distances is None:
        found = distances(model, edits, targets, layer, ranks=ranks)
        targets = replace(targets, distances=found)
        if ranks.is_first:
            targets.save(path)
    return targets


@dataclass(frozen=True, slots=True)
class Requests:
    """What is brought.

    Attributes:
        chosen: edits, those that the model satisfies already apart.
        past: edits of earlier sessions.
        reassertions: true facts beside them, if any.
    """

    chosen: "Selection"
    past: Recollection
    reassertions: "Reassertions | None"


def take_requests(
    model: "EditableModel",
    memory: OwnMemory,
    wish: "Wish | None",
    work: Path,
    *,
    resumes: bool,
    means: Means,
    reporter: Reporter,
) -> Requests:
    """Decide which edits are edited, which past ones and what else is brought, and say so.

    Args:
        model: as it is at the session's start.
        memory: the party's, with its edits and plan.
        wish: re-assertions that are asked for.
        work: the party's directory.
        resumes: whether a session goes on.
        means: of the search.
        reporter: told of it.
    """
    from collabedit.party.editing.ranks import ALONE
    from collabedit.party.editing.selection import select_edits

    plan = memory.plan
    targets = take_targets(
        plan,
        model,
        memory.edits,
        work / TARGETS_FILE,
        ranks=ALONE,
        means=means,
        reporter=reporter,
    )
    chosen = select_edits(memory.edits, targets, plan.editing.skip_residual)
    past = memory.recall(chosen.held)
    tell_selection(plan, chosen.held, past, reporter=reporter)
    added = take_reassertions(
        plan,
        model,
        wish,
        chosen,
        work,
        reporter=reporter,
        past=memory.past,
        resumes=resumes,
        means=means,
    )
    return Requests(chosen, past, added)
