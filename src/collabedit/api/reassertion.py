"""What a party does about re-assertions: true facts beside its edits."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from collabedit.api.reporting import Reporter
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import InputError
from collabedit.party.editing.means import OWN_MEANS, Means
from collabedit.party.edits import Edit, load_true_facts
from collabedit.party.items import Item, edit_items
from collabedit.party.member import SessionReport
from collabedit.plan import Plan

if TYPE_CHECKING:
    from collabedit.party.editing.model import EditableModel
    from collabedit.party.editing.ranks import Ranks
    from collabedit.party.editing.reassertion import Reassertions, Wish
    from collabedit.party.editing.selection import Selection

OPTION: Final = "--reassert"
COUNT_OPTION: Final = "--reassert-count"
FILE: Final = "reassertions.safetensors"


def read_wish(
    plan: Plan,
    name: str,
    edits: tuple[Edit, ...],
    work: Path,
    *,
    file: Path | None,
    count: int | None,
) -> "Wish | None":
    """Read what is asked for, before anything is computed; None if nothing is.

    Raises:
        InputError: there is no room for it in the plan, the file has no usable facts, or
            re-assertions were prepared and are not asked for now.
    """
    if file is None:
        if count is not None:
            raise InputError(f"{COUNT_OPTION}: needs {OPTION}")
        if (work / FILE).exists():
            # To leave them out in silence would take away a cover that somebody counts on.
            raise InputError(
                f"{work / FILE}: re-assertions were prepared: name their file with {OPTION}, or "
                "remove this one to take part without"
            )
        return None
    from collabedit.party.editing.reassertion import Wish

    pool = load_true_facts(file)
    if plan.overlap is not None:
        edit_items(pool)  # refuses a text that has no digest
    wanted = len(edits) if count is None else count
    allowed = plan.max_edits([plan.party_id(name)])
    if len(edits) + wanted > allowed:
        raise InputError(
            f"{file}: {wanted} re-assertions beside {len(edits)} edits, the plan allows {name} "
            f"{allowed} of both: ask for fewer with {COUNT_OPTION}, or raise its max_edits and the "
            "capacity in a new plan"
        )
    return Wish(file, pool, wanted, edits)


def take_reassertions(
    plan: Plan,
    model: "EditableModel",
    wish: "Wish | None",
    chosen: "Selection",
    work: Path,
    *,
    reporter: Reporter,
    past: Sequence[Edit] = (),
    resumes: bool = False,
    ranks: "Ranks | None" = None,
    means: Means = OWN_MEANS,
) -> "Reassertions | None":
    """Read the re-assertions that `prepare` left, or make them now and leave them.

    Args:
        plan: the plan.
        model: as it is at the session's start.
        wish: what is asked for.
        chosen: the edits that are edited, whose lengths are drawn.
        work: the party's directory.
        reporter: told what is done.
        past: past edits; what they are about is left alone.
        resumes: whether a session goes on that began with re-assertions of its own.
        ranks: that share the search (`reassertion.make_reassertions`); None is one process.
        means: of the search.

    Raises:
        InputError: those that are there were made for something else, there are too few facts, or
            those of a session that goes on are gone.
    """
    from collabedit.party.editing.editor import edited_layers, start_weights, target_settings
    from collabedit.party.editing.ranks import ALONE
    from collabedit.party.editing.reassertion import (
        Search,
        load_reassertions,
        make_reassertions,
        residual_lengths,
    )

    if wish is None:
        return None
    if not chosen.edits:
        reporter.say("the model satisfies all edits already: nothing is re-asserted beside them")
        return None
    ranks = ranks or ALONE
    path, layer = work / FILE, edited_layers(plan.editing)[-1]
    search = Search(
        model,
        layer,
        tuple(plan.editing.context_templates),
        target_settings(plan.editing),
        start_weights(plan),
        ranks,
        means,
    )
    if ranks.decide(path.exists()):
        if not ranks.is_first:
            return None
        reporter.say(f"using the re-assertions in {path}")
        made = load_reassertions(path, search, wish)
    elif resumes:
        raise InputError(f"{path}: is gone, and the session that goes on began with it: restore it")
    else:
        lengths = residual_lengths(model, chosen.edits, chosen.targets, layer)
        with reporter.progress("re-assertions") as advance:
            made = make_reassertions(
                search, wish, lengths, path, SystemRandomness(), progress=advance
            )
    brought = made.without_subjects_of(past)
    left_out = len(made.facts) - len(brought.facts)
    if left_out:
        reporter.say(f"{left_out} re-assertions are about subjects of past edits: left out")
    return brought


def reasserted_items(plan: Plan, made: "Reassertions | None") -> tuple[Item, ...]:
    """Return what a counting task looks up; nothing for plans that count nothing."""
    return () if plan.overlap is None or made is None else edit_items(made.facts)


def reassertion_report(
    made: "Reassertions | None", session: SessionReport
) -> dict[str, dict[str, int]]:
    """Return what a report says of them; nothing without any."""
    if made is None:
        return {}
    contested = sum(count > 0 for count in session.reasserted_claims)
    return {"reasserted": {"brought": len(made.facts), "contested": contested}}
