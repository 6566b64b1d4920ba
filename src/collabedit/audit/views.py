"""From a session to what an attack is handed: one `ViewKind` for each type of view.

An attack's entry names the type; the kind of that type says of which sessions there is such a view,
and cuts it. New types of this package stand in `KINDS`; other packages call `register` when the
module of their attack is imported.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from collabedit.attacks.attack import Prior
from collabedit.attacks.dictionary import CountingView, CuriousView
from collabedit.attacks.encrypted_views import (
    EncryptedCollusion,
    EncryptedView,
    HeldTask,
    PartyView,
)
from collabedit.attacks.grey_box import GreyBoxView
from collabedit.attacks.network import NetworkView
from collabedit.attacks.stage import Stage
from collabedit.attacks.views import (
    AggregatorView,
    ColludingView,
    RecipientView,
    SessionPair,
    layer_of,
)
from collabedit.audit.defences import DEFENCES
from collabedit.audit.schema import Setting
from collabedit.audit.sessions import Session, drawing
from collabedit.crypto.rng import Randomness
from collabedit.errors import InputError
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.closing import ClosedTask, Statistics
from collabedit.party.editing.editor import key_maps
from collabedit.threat_model import minimum_threshold

SAME_SUMS = "the aggregator sees the same as with closed: camouflage is for recipients"

SAME_LAYERS = (
    "layers are edited as with closed; what counting adds is in its tables, for attacks on these"
)
NO_TABLES = "nothing is counted"


@dataclass(frozen=True, slots=True)
class Seen:
    """A view, and what an adversary with it knows besides.

    Attributes:
        view: what the attack is handed.
        label: in the row's details, to tell several views of one session apart; may be empty.
        note: in the row's details; may be empty.
        parties: whose edits the attack is after; None for everybody's.
        turn: brings the candidates' keys into the coordinates of the view.
    """

    view: object
    label: str = ""
    note: str = ""
    parties: frozenset[PartyId] | None = None
    turn: Callable[[Prior], Prior] | None = field(default=None, repr=False)


See: TypeAlias = Callable[[Session], Iterable[Seen]]


@dataclass(frozen=True, slots=True)
class ViewKind:
    """How views of a type are made.

    Attributes:
        view: the type, as `Entry.view` names it.
        see: cuts the views of a session, one or more.
        lacking: says why a session has no such view, None if it has; left out if all have.
        needs_again: whether the session must have been repeated.
        of_counting: whether it is of sessions that count edits, and of these alone.
    """

    view: type
    see: See
    lacking: Callable[[Setting], str | None] | None = None
    needs_again: bool = False
    of_counting: bool = False


def _aggregator(session: Session) -> AggregatorView:
    view = AggregatorView.of(session.plan, session.outcome)
    if not DEFENCES[session.setting.defence].is_clear:
        return view
    return view.with_uploads({task: each.encoded for task, each in session.secrets.items()})


def _see_aggregator(session: Session) -> list[Seen]:
    return [Seen(_aggregator(session))]


def _lacking_aggregator(setting: Setting) -> str | None:
    return SAME_SUMS if DEFENCES[setting.defence].is_camouflaged else None


def _see_recipient(session: Session) -> list[Seen]:
    return [Seen(RecipientView(session.plan, session.released))]


def _see_pair(session: Session) -> list[Seen]:
    again = session.again
    if again is None:
        raise ValueError("the session was not repeated")
    note = (
        "the session was repeated with the same edits and without one party; in a deployment the "
        "parties' ledger refuses that"
    )
    return [Seen(SessionPair(_aggregator(session), _aggregator(again)), note=note)]


def _lacking_pair(setting: Setting) -> str | None:
    if DEFENCES[setting.defence].backend != "masked":
        return "a sum of ciphertexts is opened by one party, who is there for all"
    if setting.parties - 1 < minimum_threshold(setting.parties):
        return (
            f"a plan of {setting.parties} parties goes on without none of them, so there is no "
            "second sum"
        )
    return _lacking_aggregator(setting)


def _see_colluding(session: Session) -> list[Seen]:
    """The aggregator with all parties but one, and with one party.

    A party knows the group secret, so candidates are turned into the basis of the sums.
    """
    plan = session.plan
    parties = plan.party_ids
    found = []
    for count in dict.fromkeys((len(parties) - 1, 1)):
        colluding = frozenset(parties[:count])
        own = {
            task: {party: each.encoded[party] for party in sorted(colluding)}
            for task, each in session.secrets.items()
        }
        found.append(
            Seen(
                ColludingView(_aggregator(session), own),
                label=f"{count} of {len(parties)} parties collude",
                parties=frozenset(parties) - colluding,
                turn=None if plan.closed is None else lambda prior: turned(session, prior),
            )
        )
    return found


def _see_grey_box(session: Session) -> list[Seen]:
    maker = session.task.maker
    maps = key_maps(session.plan, maker.bench.second_moments(maker.editor))
    view = RecipientView(session.plan, session.released)
    return [Seen(GreyBoxView.of(view, model=maker.bench.load(), maps=maps))]


def _see_network(session: Session) -> list[Seen]:
    return [Seen(NetworkView.of(session.plan, session.outcome))]


def _lacking_network(setting: Setting) -> str | None:
    if DEFENCES[setting.defence].is_clear:
        return "dense uploads have the length that the plan fixes, as all others"
    return _lacking_aggregator(setting)


def _see_stage(session: Session) -> Iterator[Seen]:
    """Let an adversary run sessions of the same plan and parties.

    Files of a play are gone when the next view is asked for.
    """
    statistics = session.statistics()

    def edits(party: PartyId, task: TaskIndex) -> Statistics:
        del task  # there is one, of the first edited layer
        return [statistics[party]]

    def randomness(play: int, end: PartyId) -> Randomness:
        return drawing(session.task.id, f"play {play} of {end}")

    with tempfile.TemporaryDirectory(prefix="collabedit-") as folder:
        yield Seen(
            Stage(session.plan, session.identities, edits, Path(folder), randomness=randomness)
        )


def _lacking_stage(setting: Setting) -> str | None:
    if DEFENCES[setting.defence].is_clear:
        return "there is no protocol that could be lied in"
    if DEFENCES[setting.defence].backend != "masked":
        return "lies of sessions with ciphertexts are in docs/lie-table.md"
    if setting.scope != "first":
        return "adversaries that act are given sessions of one layer"
    return _lacking_aggregator(setting)


def _see_encrypted(session: Session) -> list[Seen]:
    return [Seen(EncryptedView.of(session.plan, session.outcome.transcript))]


def _see_encrypted_collusion(session: Session) -> list[Seen]:
    """The aggregator of ciphertexts with the last party, who does not open the sum."""
    plan, transcript = session.plan, session.outcome.transcript
    lent = plan.party_ids[-1]
    own = {
        task: HeldTask(each.context, each.group_secret, each.encoded[lent])
        for task, each in session.secrets.items()
        if each.group_secret is not None
    }
    party = PartyView.of(plan, lent, transcript, own)
    return [
        Seen(
            EncryptedCollusion(EncryptedView.of(plan, transcript), party),
            label=f"1 of {len(plan.party_ids)} parties colludes",
            parties=frozenset(plan.party_ids) - {lent},
        )
    ]


def _lacking_encrypted(setting: Setting) -> str | None:
    if DEFENCES[setting.defence].backend == "ckks":
        return None
    return "there are no ciphertexts"


def _see_counting(session: Session) -> list[Seen]:
    return [Seen(CountingView.of_aggregator(session.plan, session.outcome))]


def _see_curious(session: Session) -> list[Seen]:
    """The first party, who looks for edits that others have."""
    secrets, party = session.secrets[TaskIndex(0)], session.plan.party_ids[0]
    if secrets.group_secret is None:
        raise ValueError("a counting task without a group secret")
    view = CuriousView(
        plan=session.plan,
        context=secrets.context,
        total=session.outcome.sums[TaskIndex(0)] - secrets.encoded[party],
        survivors=session.outcome.records[0].survivors,
        secrets=(secrets.group_secret,),
    )
    note = "not defended (docs/THREAT_MODEL.md, Party): every party has the key of the tables"
    return [Seen(view, note=note, parties=frozenset(session.plan.party_ids) - {party})]


def turned(session: Session, prior: Prior) -> Prior:
    """Return a prior in the secret basis of closed sums, as whoever has the group secret can."""
    plan = session.plan
    keys = {}
    for layer, known in prior.mapped_keys.items():
        task, entry, _ = layer_of(plan, layer)
        secrets = session.secrets[task]
        if secrets.group_secret is None:
            raise ValueError("closed sums without a group secret")
        closed = ClosedTask(plan, secrets.context, secrets.group_secret)
        keys[layer] = closed.turn_keys(entry, known)
    return replace(prior, mapped_keys=keys)


KINDS: dict[type, ViewKind] = {
    each.view: each
    for each in (
        ViewKind(AggregatorView, _see_aggregator, _lacking_aggregator),
        ViewKind(RecipientView, _see_recipient),
        ViewKind(SessionPair, _see_pair, _lacking_pair, needs_again=True),
        ViewKind(ColludingView, _see_colluding, _lacking_aggregator),
        ViewKind(GreyBoxView, _see_grey_box),
        ViewKind(NetworkView, _see_network, _lacking_network),
        ViewKind(Stage, _see_stage, _lacking_stage),
        ViewKind(EncryptedView, _see_encrypted, _lacking_encrypted),
        ViewKind(EncryptedCollusion, _see_encrypted_collusion, _lacking_encrypted),
        ViewKind(CountingView, _see_counting, of_counting=True),
        ViewKind(CuriousView, _see_curious, of_counting=True),
    )
}


def register(kind: ViewKind) -> None:
    """Make views of another type known.

    Raises:
        InputError: there is another kind of that type.
    """
    if KINDS.setdefault(kind.view, kind) is not kind:
        raise InputError(f"views of type {kind.view.__name__} are registered twice")


def kind_of(view: type) -> ViewKind | None:
    """Return how views of a type are made; None if nobody said."""
    return KINDS.get(view)


def lacking(view: type, setting: Setting) -> str | None:
    """Say why an attack with views of a type has none of a session; None if it has one."""
    kind = kind_of(view)
    if kind is None:
        return f"nothing makes views of its type {view.__name__} from an audit's sessions"
    defence = DEFENCES[setting.defence]
    if kind.of_counting != defence.has_counting:
        return NO_TABLES if kind.of_counting else SAME_LAYERS
    missing = defence.missing
    return missing or (None if kind.lacking is None else kind.lacking(setting))
