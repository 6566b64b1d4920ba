"""What parties brought, by files that they hand to the auditor, and candidates around it.

A subject whose place is not known, in the sum or not, is no candidate at all: neither a member nor
somebody who would be counted as a false alarm.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collabedit.attacks.counts import EDITS_IN_ALL
from collabedit.attacks.network import edits_of
from collabedit.attacks.truth import Fact, Truth
from collabedit.audit.pool import Candidates
from collabedit.audit.recorded.sessions import RecordedSession
from collabedit.errors import InputError, PlanError
from collabedit.experiments.deal import Pool
from collabedit.ids import PartyId
from collabedit.party.edits import Edit, edits_digest, load_edits
from collabedit.party.items import edit_item, normalise
from collabedit.plan import Plan
from collabedit.sketch import Matrix

_LEAVING_OUT = frozenset({"majority", "drop"})
"""Policies about overlap under which a contested edit may not be edited."""


@dataclass(frozen=True, slots=True)
class Brought:
    """The files of parties.

    Attributes:
        edits: of each party whose file was given.
        past: past edits and re-assertions of parties that said which.
    """

    edits: Mapping[PartyId, tuple[Edit, ...]] = field(repr=False)
    past: Mapping[PartyId, tuple[Edit, ...]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Known:
    """Whom adversaries choose among, and what is known of who brought whom.

    Attributes:
        candidates: one for each subject.
        members: numbers of candidates by party, of those in the sum; empty where no file was given.
        unknown: parties in the sum whose files were not given.
        counts: edits of a file, by party; of those whose number in the sum is known.
        notes: for the report, in sentences.
    """

    candidates: Candidates
    members: Mapping[PartyId, tuple[int, ...]] = field(repr=False)
    unknown: frozenset[PartyId]
    counts: Mapping[PartyId, int]
    notes: tuple[str, ...]

    @property
    def member_numbers(self) -> tuple[int, ...]:
        """All members, each once, ascending."""
        return tuple(sorted({number for own in self.members.values() for number in own}))

    def truth(
        self, plan: Plan, keys: Matrix, *, parties: frozenset[PartyId] | None = None
    ) -> Truth:
        """State what was really there; for scoring alone.

        Args:
            plan: of the session.
            keys: mapped keys of `member_numbers` at the first edited layer, [d', members].
            parties: whose edits count; None counts all.
        """
        kept = {p: own for p, own in self.members.items() if parties is None or p in parties}
        facts = {
            number: Fact(edit.subject, edit.prompt, edit.target_new, edit.target_true or "")
            for own in kept.values()
            for number in own
            for edit in [self.candidates.edits[number]]
        }
        columns = [place for place, n in enumerate(self.member_numbers) if n in facts]
        counts = {edits_of(plan, p): float(self.counts[p]) for p in kept if p in self.counts}
        if self.counts.keys() >= self.members.keys():
            counts[EDITS_IN_ALL] = float(sum(self.counts[p] for p in self.members))
        size = len(self.candidates.edits)
        return Truth(size, kept, facts, {"keys": keys[:, columns]}, counts)


def read_brought(plan: Plan, edits: Sequence[str], past: Sequence[str]) -> Brought:
    """Read the files of parties.

    Args:
        plan: of the session.
        edits: `NAME=FILE` each, by the parties' names in the plan.
        past: likewise, of past edits and re-assertions; no file after `=` says that there are none.

    Raises:
        InputError: no such party, one twice, or more edits than the plan lets it bring.
        EditFileError: a file cannot be used.
    """
    own = {}
    for party, path in _by_party(plan, edits, "--edits").items():
        own[party] = load_edits(Path(path))
        name, most = plan.party_name(party), plan.max_edits([party])
        if len(own[party]) > most:
            raise InputError(
                f"{path}: {len(own[party])} edits, the recorded plan let {name} bring {most}: ask "
                f"{name} for the file of this session"
            )
    if not own:
        raise InputError("--edits: give the file of one party at least, as party-1=FILE")
    earlier = {
        party: load_edits(Path(path)) if path else ()
        for party, path in _by_party(plan, past, "--past").items()
    }
    return Brought(own, earlier)


def _by_party(plan: Plan, given: Sequence[str], option: str) -> dict[PartyId, str]:
    found: dict[PartyId, str] = {}
    for text in given:
        name, separator, path = text.partition("=")
        try:
            party = plan.party_id(name)
        except PlanError as error:
            names = ", ".join(plan.party_name(each) for each in plan.party_ids)
            raise InputError(
                f"{option} {text}: the recorded plan has no party {name!r}; it has {names}"
            ) from error
        if not separator or (option == "--edits" and not path):
            raise InputError(f"{option} {text}: write NAME=FILE")
        if party in found:
            raise InputError(f"{option} {text}: {name} is there twice; give one file")
        found[party] = path
    return found


def draw_known(
    session: RecordedSession, brought: Brought, pool: Pool, *, candidates: int, seed: int
) -> Known:
    """Put members among other subjects of the data.

    Args:
        session: that was recorded.
        brought: by its parties.
        pool: where other candidates are from.
        candidates: members included.
        seed: of which records become candidates, and of their order.

    Raises:
        InputError: the files contradict plan or recording, or the data is too small.
    """
    plan, summed = session.plan, session.summed
    _check_complete(session, brought)
    contested = _contested(plan, brought)
    # Whose place in the sum nobody can say.
    hidden = contested | _subjects(each for own in brought.past.values() for each in own)
    hidden |= _subjects(
        each for party, own in brought.edits.items() if party not in summed for each in own
    )
    first: dict[str, Edit] = {}
    own: dict[PartyId, list[str]] = {party: [] for party in sorted(summed)}
    for party in sorted(summed & brought.edits.keys()):
        for edit in sorted(brought.edits[party], key=_rank):
            subject = normalise(edit.subject)
            if subject not in contested:
                first.setdefault(subject, edit)
                own[party].append(subject)
    if not first:
        raise InputError("--edits: no edit of these files is surely in the recorded sums")
    if 2 * len(first) > candidates:
        raise InputError(
            f"--candidates {candidates}: the files have {len(first)} subjects, and at most half of "
            f"the candidates may be members: ask for {2 * len(first)} or more"
        )
    others: dict[str, Edit] = {}
    for edit in pool.edits:
        subject = normalise(edit.subject)
        if subject not in first and subject not in hidden:
            others.setdefault(subject, edit)
    missing = candidates - len(first) - len(others)
    if missing > 0:
        raise InputError(
            f"{pool.name}: has {len(others)} subjects that nobody edited, {missing} fewer than "
            f"--candidates {candidates} needs beside the {len(first)} members: give --data with "
            "more, or ask for fewer"
        )
    drawn = sorted(others.items(), key=lambda each: _rank(each[1], f"pool {seed}"))
    columns = sorted(
        [*first.items(), *drawn[: candidates - len(first)]],
        key=lambda each: _rank(each[1], f"column {seed}"),
    )
    place = {subject: number for number, (subject, _) in enumerate(columns)}
    members = {party: tuple(dict.fromkeys(place[each] for each in own[party])) for party in own}
    unknown = frozenset(summed - brought.edits.keys())
    counts = {
        party: len(edits)
        for party, edits in brought.edits.items()
        if party in summed and not contested & _subjects(edits) and not _adds(plan)
    }
    return Known(
        Candidates(tuple(edit for _, edit in columns), (), pool.name),
        members,
        unknown,
        counts,
        _notes(session, brought, own=own, contested=contested, members=len(first)),
    )


def _check_complete(session: RecordedSession, brought: Brought) -> None:
    plan, summed = session.plan, session.summed
    names = {party: plan.party_name(party) for party in plan.party_ids}
    if plan.overlap is not None and plan.overlap.policy in _LEAVING_OUT:
        for party in plan.party_ids:
            if party not in brought.edits:
                raise InputError(
                    f"--edits: the plan's policy {plan.overlap.policy} leaves out contested edits, "
                    f"and which are contested depends on {names[party]}'s: give everybody's files"
                )
    if plan.max_past_edits:
        for party in sorted(summed - brought.past.keys()):
            raise InputError(
                f"--past: the plan lets {names[party]} bring {plan.max_past_edits} past edits: "
                f"give --past {names[party]}=FILE with those that it brought, or --past "
                f"{names[party]}= if there were none"
            )
    known = sum(len(brought.edits[party]) for party in summed & brought.edits.keys())
    least = 0 if plan.closed is None else plan.closed.min_edits
    if summed <= brought.edits.keys() and known < least:
        raise InputError(
            f"--edits: {known} edits of all parties in the sum, which its parties would not have "
            f"let pass (closed.min_edits {least}): a file is not that of this session"
        )
    recording = session.recipient
    # Every edit adds 1 to the rank of an update at most; noise and re-assertions add to it, too.
    if recording is None or plan.privacy is not None or brought.past or _adds(plan):
        return
    if not summed <= brought.edits.keys():
        return
    rank = max(update.left.shape[1] for update in recording.updates().values())
    if rank > known:
        raise InputError(
            f"{recording.path}: the update has rank {rank}, the files have {known} edits: a file "
            "is not that of this session, or --past is missing for what a party re-asserted"
        )


def _adds(plan: Plan) -> bool:
    """Whether parties may add paraphrases of edits."""
    return plan.overlap is not None and plan.overlap.paraphrases is not None


def _contested(plan: Plan, brought: Brought) -> set[str]:
    """Return subjects of edits that the plan's policy may have left out."""
    if plan.overlap is None or plan.overlap.policy not in _LEAVING_OUT:
        return set()
    facts: dict[bytes, set[bytes]] = {}
    items = [(edit, edit_item(edit)) for own in brought.edits.values() for edit in own]
    for _, item in items:
        facts.setdefault(item.topic, set()).add(item.fact)
    return _subjects(edit for edit, item in items if len(facts[item.topic]) > 1)


def _subjects(edits: Iterable[Edit]) -> set[str]:
    return {normalise(edit.subject) for edit in edits}


def _rank(edit: Edit, salt: str = "member") -> bytes:
    return hashlib.sha256(f"{salt}\n{edits_digest((edit,))}".encode()).digest()


def _notes(
    session: RecordedSession,
    brought: Brought,
    *,
    own: Mapping[PartyId, Sequence[str]],
    contested: set[str],
    members: int,
) -> tuple[str, ...]:
    plan, summed = session.plan, session.summed
    found = []
    absent = sorted(frozenset(plan.party_ids) - summed)
    if absent:
        found.append(
            f"{_named(plan, absent)} dropped out: only the edits of {_named(plan, sorted(summed))} "
            "are in the sums. Edits of who dropped out are no candidates."
        )
    if len(set(session.survivors.values())) > 1:
        found.append(
            "Parties dropped out between the sums of layers: what counts is the sum of the first."
        )
    brought_subjects = sum(len(each) for each in own.values())
    if brought_subjects > members:
        found.append(
            f"{brought_subjects} edits are about {members} subjects: a subject is one candidate, "
            "with the prompt and object of one of its edits."
        )
    if contested:
        found.append(
            f"{len(contested)} subjects are contested, and the plan may have left them out: they "
            "are no candidates."
        )
    if any(brought.past.values()):
        found.append("Subjects of past edits and re-assertions are no candidates.")
    found.append(
        "The parties' own files are taken as what they brought; nothing in a recording proves it."
    )
    return tuple(found)


def _named(plan: Plan, parties: Iterable[PartyId]) -> str:
    return ", ".join(plan.party_name(party) for party in parties)
