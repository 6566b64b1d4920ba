"""Looking facts up in the tables of a counting task: what the key and the pads are there against.

A fact is a short text, so whoever knows where a fact counts, and what is counted there, needs only
a list of candidates. Two things stand in the way: places follow from the group secret, and the
opened tables are under pads of the same secret. The attack tries every 32 bytes that its adversary
holds as that secret, with the pads taken off and without, and believes a candidate if its count is
one that edits can have: 1 to n. A table without a single such cell counts nothing, so that most
secrets are done with at a glance; subjects and relations are looked up before objects.

Whoever has the group secret wins, and that is every party of the task. `CuriousView` is a party's.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Self

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.claims import LackingError
from collabedit.attacks.registry import Entry
from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.masking import unmask_tile
from collabedit.crypto.ring import RingArray
from collabedit.crypto.shamir import combine
from collabedit.errors import InputError, MalformedMessageError
from collabedit.exchange import TileLayout
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.overlap import TABLES
from collabedit.party.counting import Counter
from collabedit.party.edits import Edit
from collabedit.party.items import Item, edit_item
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, decode_packet
from collabedit.recording import Delivery, Recording
from collabedit.simulation import Outcome
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

_COUNTING = TaskIndex(0)
_ANY_PROMPT = "{}"


@dataclass(frozen=True, slots=True)
class CountingView:
    """A counting task as an adversary has it.

    Attributes:
        plan: public.
        context: of the task.
        total: the opened vector, [elements].
        survivors: whose tables are in it.
        secrets: all 32 bytes that it holds and could try as the group secret.
    """

    plan: Plan
    context: m.Context
    total: RingArray = field(repr=False)
    survivors: frozenset[PartyId]
    secrets: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def of_recording(cls, recording: Recording) -> Self:
        """Cut the view from what an aggregator or a simulation recorded.

        Raises:
            InputError: no tables were opened in it, or it is damaged.
        """
        sums, survivors = recording.sums(), recording.survivors()
        if recording.plan.counting(_COUNTING) is None or _COUNTING not in sums:
            raise InputError(f"{recording.path}: no tables of a counting task were opened in it")
        crossed = recording.deliveries(kind="packet", task=_COUNTING)
        return cls._of(recording.plan, crossed, sums[_COUNTING], survivors[_COUNTING])

    @classmethod
    def of_aggregator(cls, plan: Plan, outcome: Outcome) -> Self:
        """Cut the view of a simulated session's aggregator, with whatever it could reconstruct."""
        survivors = outcome.records[_COUNTING].survivors
        return cls._of(plan, outcome.transcript, outcome.sums[_COUNTING], survivors)

    @classmethod
    def _of(
        cls,
        plan: Plan,
        transcript: Iterable[Delivery],
        total: RingArray,
        survivors: frozenset[PartyId],
    ) -> Self:
        envelopes = list(_envelopes(transcript))
        context = next(e.context for e in envelopes if e.kind == m.KINDS[m.Release])
        messages = [decode_body(e.kind, e.body) for e in envelopes]
        found = dict.fromkeys(_constants(context))
        for envelope, message in zip(envelopes, messages, strict=True):
            found |= dict.fromkeys(_byte_strings(message))
            found |= dict.fromkeys(_byte_strings(envelope.context))
        found |= dict.fromkeys(_reconstructed(plan, envelopes))
        secrets = tuple(value for value in found if len(value) == SECRET_BYTES)
        return cls(plan, context, total, survivors, secrets)

    def with_secret(self, secret: bytes) -> Self:
        """Return the view of somebody who has one more secret: a party has the group secret."""
        return replace(self, secrets=(*self.secrets, secret))

    def with_total(self, total: RingArray) -> Self:
        """Return the undefended control: another vector opened in the same task."""
        return replace(self, total=total)


@dataclass(frozen=True, slots=True)
class CuriousView(CountingView):
    """A counting task as one of its parties has it.

    Its own counts are taken off `total`, and its secret is the right one.
    """


@dataclass(frozen=True, slots=True)
class TableLookup:
    """Which candidates' facts were counted, by whomever.

    Attributes:
        adversary: whose view it is.
        name: in reports.
    """

    adversary: Adversary = Adversary.HONEST_AGGREGATOR
    name: str = "table-lookup"

    def run(self, view: CountingView, prior: Prior) -> Finding:
        """Score subjects by the best of all facts about them that the prior can put together.

        Raises:
            LackingError: subjects, prompts or objects are missing.
        """
        for what in ("subjects", "prompts", "objects"):
            if not getattr(prior, what):
                raise LackingError(f"the dictionary needs {what}")
        scores = np.zeros(len(prior.subjects))
        said: list[tuple[str, str | None]] = [(prompt, None) for prompt in prior.prompts]
        # An edit with a relation id counts under that, whatever its prompt.
        said += [(_ANY_PROMPT, relation) for relation in prior.relations]
        for tables in _tables(view):
            for (prompt, relation), (place, subject) in product(said, enumerate(prior.subjects)):
                edit = Edit(str(place), prompt, subject, prior.objects[0], relation=relation)
                if scores[place] or not tables.holds(edit_item(edit).topic, table=0):
                    continue
                facts = (edit_item(replace(edit, target_new=each)).fact for each in prior.objects)
                scores[place] = float(any(tables.holds(fact, table=1) for fact in facts))
        matrix: Matrix = scores[None, :]
        return Finding(self.name, (None,), matrix)

    def look_up(self, view: CountingView, candidates: Sequence[Item]) -> Finding:
        """Score facts: 1 if any secret gives the fact a count that edits can have, else 0."""
        scores = np.zeros(len(candidates))
        for tables in _tables(view):
            found = [float(tables.holds(item.fact, table=1)) for item in candidates]
            scores = np.maximum(scores, found)
        matrix: Matrix = scores[None, :]
        return Finding(self.name, (None,), matrix)


@dataclass(frozen=True, slots=True)
class CuriousLookup(TableLookup):
    """Which candidates' facts others counted, by a party."""

    adversary: Adversary = Adversary.PARTY
    name: str = "table-lookup-party"


@dataclass(frozen=True, slots=True)
class _Tables:
    """Opened tables, read with a secret that may be the right one."""

    counter: Counter
    cells: RingArray = field(repr=False)
    most: int

    def holds(self, digest: bytes, *, table: int) -> bool:
        """Whether a count is one that edits can have."""
        return 1 <= int(self.cells[self.counter.cells(digest, table=table)].min()) <= self.most


def _tables(view: CountingView) -> Iterator[_Tables]:
    """Read the tables with every secret, as they are and without pads; skip what counts nothing."""
    overlap, most = view.plan.counting(view.context.task), view.plan.max_edits(view.survivors)
    facts = slice(0, 0) if overlap is None else slice(overlap.cells // TABLES, overlap.cells)
    for secret in view.secrets:
        counter = Counter(view.plan, view.context, secret)
        for cells in (view.total, _without_pads(view, counter)):
            if ((cells[facts] >= 1) & (cells[facts] <= most)).any():
                yield _Tables(counter, cells, most)


def _without_pads(view: CountingView, counter: Counter) -> RingArray:
    opened = view.total.copy()
    layout = TileLayout.of(view.plan, view.context.task)
    pads = [counter.pad(party) for party in sorted(view.survivors)]
    for index in range(layout.tiles):
        unmask_tile(opened[layout.bounds(index)], tile_index=index, masks=pads)
    return opened


def _constants(context: m.Context) -> Iterator[bytes]:
    yield bytes(SECRET_BYTES)
    yield from (context.plan_digest, context.session_id, context.chain)


def _envelopes(transcript: Iterable[Delivery]) -> Iterator[m.Envelope]:
    for delivery in transcript:
        if delivery.kind != "packet" or delivery.task != _COUNTING:
            continue
        try:
            yield decode_packet(delivery.data).envelope
        except MalformedMessageError:
            continue  # damaged on the way; the machine refused it, too


def _byte_strings(thing: object) -> Iterator[bytes]:
    if isinstance(thing, bytes):
        yield thing
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from _byte_strings(value)
    elif isinstance(thing, tuple):
        for value in thing:
            yield from _byte_strings(value)
    elif dataclasses.is_dataclass(thing):
        for part in dataclasses.fields(thing):
            yield from _byte_strings(getattr(thing, part.name))


def _reconstructed(plan: Plan, envelopes: Sequence[m.Envelope]) -> Iterator[bytes]:
    """Self-mask seeds of survivors and mask keys of dropped parties, from the revealed shares."""
    shares: dict[PartyId, dict[PartyId, bytes]] = {}
    for envelope in envelopes:
        message = decode_body(envelope.kind, envelope.body)
        if isinstance(message, m.Unmask) and envelope.sender != AGGREGATOR:
            for owner, share in message.shares.items():
                shares.setdefault(owner, {})[envelope.sender] = share.value
    for held in shares.values():
        yield combine(held, threshold=plan.threshold)


ENTRY = Entry(
    name="table-lookup",
    asks="Which facts were counted, by the opened tables of a counting task?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=CountingView,
    make=TableLookup,
    source="folklore: a dictionary against digests of short texts (docs/adr/0012)",
    departs="every secret that the adversary holds is tried as the key, with the pads and without",
    headline="auc",
    needs=("subjects", "prompts", "objects"),
)

CURIOUS = Entry(
    name="table-lookup-party",
    asks="Which facts did others count, by the tables as a party of the task has them?",
    adversary=Adversary.PARTY,
    view=CuriousView,
    make=CuriousLookup,
    source=ENTRY.source,
    departs="the party's own counts are taken off, and its key is the right one",
    headline="auc",
    needs=ENTRY.needs,
)
