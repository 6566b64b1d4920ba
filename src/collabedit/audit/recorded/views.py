"""From recordings to what an attack is handed: one `RecordedKind` for each type of view.

A recording has what crossed the network, and no secret of a party; views that take more are named
with what they lack. Other packages call `register` when the module of their attack is imported.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from collabedit.attacks.encrypted_views import EncryptedCollusion, EncryptedView
from collabedit.attacks.grey_box import GreyBoxView
from collabedit.attacks.network import NetworkView
from collabedit.attacks.stage import Stage
from collabedit.attacks.views import AggregatorView, ColludingView, RecipientView, SessionPair
from collabedit.audit.recorded.sessions import RecordedSession
from collabedit.audit.views import Seen
from collabedit.errors import InputError
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.model import EditableModel
from collabedit.recording import Recording

_NO_AGGREGATOR = "no recording is the aggregator's or of a simulation, which alone have sums"
_NO_RECIPIENT = (
    "no recording is a party's or of a simulation, which alone have the update in the model's "
    "coordinates"
)
_NO_SECRETS = "a recording never has what a party contributed before it was masked or encrypted"
_NO_ACTS = "a recorded session is over: nobody can lie in it; `audit run` has sessions to lie in"


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that views of recordings are cut from. No attack is handed it.

    Attributes:
        session: that is audited.
        second: of the same plan and edits, if there is one.
        model: loads the model as the session began on it.
        maps: makes Φ of all layers from the plan's covariance.
    """

    session: RecordedSession
    second: RecordedSession | None
    model: Callable[[], EditableModel] = field(repr=False)
    maps: Callable[[], Mapping[int, KeyMap]] = field(repr=False)


See: TypeAlias = Callable[[Evidence], Iterable[Seen]]
Lacking: TypeAlias = Callable[[RecordedSession, RecordedSession | None], str | None]


@dataclass(frozen=True, slots=True)
class RecordedKind:
    """How views of a type are cut from recordings.

    Attributes:
        view: the type, as `Entry.view` names it.
        see: cuts the views.
        lacking: says why the recordings, of one session or of two, have none; None if they have.
    """

    view: type
    see: See
    lacking: Lacking


def _see_nothing(evidence: Evidence) -> list[Seen]:
    del evidence
    return []


def _aggregator_of(session: RecordedSession) -> Recording:
    if session.aggregator is None:
        raise InputError(_NO_AGGREGATOR)
    return session.aggregator


def _recipient(session: RecordedSession) -> RecipientView:
    if session.recipient is None:
        raise InputError(_NO_RECIPIENT)
    return RecipientView.of_recording(session.recipient)


def _see_aggregator(evidence: Evidence) -> list[Seen]:
    return [Seen(AggregatorView.of_recording(_aggregator_of(evidence.session)))]


def _lacking_aggregator(session: RecordedSession, second: RecordedSession | None) -> str | None:
    del second
    return _NO_AGGREGATOR if session.aggregator is None else None


def _see_recipient(evidence: Evidence) -> list[Seen]:
    return [Seen(_recipient(evidence.session))]


def _lacking_recipient(session: RecordedSession, second: RecordedSession | None) -> str | None:
    del second
    return _NO_RECIPIENT if session.recipient is None else None


def _see_grey_box(evidence: Evidence) -> list[Seen]:
    view = _recipient(evidence.session)
    return [Seen(GreyBoxView.of(view, model=evidence.model(), maps=evidence.maps()))]


def _see_network(evidence: Evidence) -> list[Seen]:
    """Prefer whoever saw all ends."""
    session = evidence.session
    recording = session.aggregator or session.recordings[0]
    note = "" if session.aggregator is not None else f"of the link of {recording.origin} alone"
    return [Seen(NetworkView.of_recording(recording), note=note)]


def _see_pair(evidence: Evidence) -> list[Seen]:
    first, second = evidence.session, evidence.second
    if second is None:
        raise InputError(_no_pair(first, second) or "")
    views = [AggregatorView.of_recording(_aggregator_of(each)) for each in (first, second)]
    return [
        Seen(
            SessionPair(*views),
            note="two sessions were recorded, of the same edits by the parties' own word",
            parties=first.summed - second.summed,
        )
    ]


def _no_pair(session: RecordedSession, second: RecordedSession | None) -> str | None:
    if second is None:
        return "recordings of one session were given, not of a second one of the same edits"
    if session.aggregator is None or second.aggregator is None:
        return _NO_AGGREGATOR
    if session.plan.is_encrypted:
        return "a sum of ciphertexts is opened by one party, who is there for all"
    if not second.summed < session.summed:
        return "the second session has no fewer parties than the first, so nothing is left over"
    return None


def _see_encrypted(evidence: Evidence) -> list[Seen]:
    recording = _aggregator_of(evidence.session)
    return [Seen(EncryptedView.of(recording.plan, tuple(recording.deliveries())))]


def _lacking_encrypted(session: RecordedSession, second: RecordedSession | None) -> str | None:
    if not session.plan.is_encrypted:
        return "there are no ciphertexts"
    return _lacking_aggregator(session, second)


KINDS: dict[type, RecordedKind] = {
    each.view: each
    for each in (
        RecordedKind(AggregatorView, _see_aggregator, _lacking_aggregator),
        RecordedKind(RecipientView, _see_recipient, _lacking_recipient),
        RecordedKind(GreyBoxView, _see_grey_box, _lacking_recipient),
        RecordedKind(NetworkView, _see_network, lambda *_: None),
        RecordedKind(SessionPair, _see_pair, _no_pair),
        RecordedKind(EncryptedView, _see_encrypted, _lacking_encrypted),
        RecordedKind(ColludingView, _see_nothing, lambda *_: _NO_SECRETS),
        RecordedKind(EncryptedCollusion, _see_nothing, lambda *_: _NO_SECRETS),
        RecordedKind(Stage, _see_nothing, lambda *_: _NO_ACTS),
    )
}


def register(kind: RecordedKind) -> None:
    """Make views of another type known.

    Raises:
        InputError: there is another kind of that type.
    """
    if KINDS.setdefault(kind.view, kind) is not kind:
        raise InputError(f"views of type {kind.view.__name__} are registered twice")


def lacking(
    view: type, session: RecordedSession, second: RecordedSession | None = None
) -> str | None:
    """Say why recordings have no view of a type; None if they have one."""
    kind = KINDS.get(view)
    if kind is None:
        return f"nothing makes views of its type {view.__name__} from recordings"
    return kind.lacking(session, second)
