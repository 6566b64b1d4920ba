"""What must hold after every step. Names and meanings: the package's docstring."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from collabedit.aggregator import states as a
from collabedit.aggregator.coordinator import Coordinator
from collabedit.crypto.kdf import derive_key
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring, RingArray, add_into, to_bytes
from collabedit.errors import AbortReason, BoundsError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.counting import Counter
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body
from collabedit.proto.envelope import context_fields
from collabedit.sketch import Matrix
from tests.simulation.faults.contributions import Countable, count_in

_TYPES = {kind: message for message, kind in m.KINDS.items()}
_LATE = (AbortReason.BELOW_THRESHOLD, AbortReason.TIMEOUT, AbortReason.PARTY_LEFT)
_STORING = (
    a.CollectingContributions
    | a.CollectingSurvivorConfirmations
    | a.CollectingUnmaskings
    | a.Summing
    | a.CollectingOpening
    | a.Opening
)
_UPDATE_ERROR = 1e-5
"""Relative, of an update that was opened against the centralised one: fixed point's."""


class FindingError(AssertionError):
    """A rule is broken."""

    def __init__(self, name: str, detail: str) -> None:
        self.name = name
        super().__init__(f"{name}: {detail}")


def reachable(root: object) -> Iterator[object]:
    """Walk every object that data of ours leads to, but the plan."""
    seen: set[int] = set()
    queue: list[object] = [root]
    while queue:
        thing = queue.pop()
        if isinstance(thing, type | int | float | str | Plan | None.__class__) or id(thing) in seen:
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, Mapping):
            queue += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset):
            queue += thing
        elif type(thing).__module__.startswith("collabedit"):
            names = [
                name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())
            ]
            names += getattr(thing, "__dict__", {})
            queue += [getattr(thing, name) for name in names if hasattr(thing, name)]


def fingerprint(thing: object) -> object:
    """Everything that a state says, by value."""
    if isinstance(thing, Keystream):
        return thing.tile(0, 4, Ring.Z64).tobytes()
    if isinstance(thing, Plan):
        return thing.name
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = dataclasses.fields(thing)
        return type(thing), *(fingerprint(getattr(thing, field.name)) for field in fields)
    if isinstance(thing, Mapping):
        return tuple((key, fingerprint(value)) for key, value in thing.items())
    if isinstance(thing, tuple | list):
        return tuple(fingerprint(item) for item in thing)
    if isinstance(thing, bytes | int | str | frozenset | type(None)):
        return thing
    return type(thing)


class Audit:
    """Watches one scenario.

    Args:
        federation: of the scenario.

    Attributes:
        liar: the lying party, None while nobody lied.
        aggregator_lied: whether the aggregator did.
        hurt: parties that the scenario harmed, so that they may drop out.
        opened: survivors of each opened sum.
    """

    def __init__(self, federation: Countable) -> None:
        self._federation = federation
        self._plan = federation.plan
        self._threshold = federation.plan.federation.threshold
        self.liar: PartyId | None = None
        self.aggregator_lied = False
        self.hurt: set[PartyId] = set()
        self.opened: dict[TaskIndex, frozenset[PartyId]] = {}
        self._said: dict[tuple[PartyId, TaskIndex, int], bytes] = {}
        self._kinds: dict[tuple[TaskIndex, PartyId], tuple[type, PartyId]] = {}
        self._shares: dict[tuple[TaskIndex, PartyId], dict[type, set[bytes]]] = {}
        self._acknowledged: dict[tuple[TaskIndex, PartyId, bool], set[int]] = {}
        self._secrets: set[bytes] = set()
        self._contributed: dict[tuple[PartyId, TaskIndex], RingArray] = {}
        self._uploads: dict[tuple[PartyId, TaskIndex], bytes] = {}
        self._openings: dict[tuple[PartyId, TaskIndex], bytes] = {}
        self._aborts: set[PartyId] = set()
        self._lost_opener = False
        self._updates: dict[TaskIndex, tuple[PartyId, bytes]] = {}
        self._reached: dict[tuple[TaskIndex, PartyId], dict[type, set[PartyId]]] = {}
        self._scanned: object = None
        self._counter: Counter | None = None
        self._counted = b""

    @property
    def nobody_lied(self) -> bool:
        """Whether both roles are honest in this scenario."""
        return self.liar is None and not self.aggregator_lied

    @property
    def must_complete(self) -> bool:
        """Whether nothing has happened that excuses an early end."""
        spare = len(self._plan.party_ids) - self._threshold
        return self.nobody_lied and len(self.hurt) <= spare and not self._lost_opener

    def sent(self, party: PartyId, packet: m.Packet) -> None:
        """Check what an honest party signs."""
        if party == self.liar:
            return
        envelope = packet.envelope
        kind, task = _TYPES[envelope.kind], envelope.context.task
        if kind is m.Abort:
            return
        said = self._said.setdefault((party, task, envelope.kind), envelope.body)
        if said != envelope.body:
            raise FindingError("two-statements", f"party {party} signed two {kind.__name__}")
        if kind is m.Unmask and self._plan.is_encrypted:
            raise FindingError("unsigned-reveal", f"party {party} reveals shares of no mask")
        signed = (party, task, m.KINDS[m.ConfirmSurvivors]) in self._said
        if kind in (m.Unmask, m.SumOpened) and not signed:
            raise FindingError("unsigned-reveal", f"party {party} signed no survivor set")
        if kind is m.Unmask:
            message = decode_body(envelope.kind, envelope.body)
            assert isinstance(message, m.Unmask)
            self._revealed(party, task, message)

    def _revealed(self, party: PartyId, task: TaskIndex, message: m.Unmask) -> None:
        for owner, share in message.shares.items():
            kind, first = self._kinds.setdefault((task, owner), (type(share), party))
            if kind is not type(share):
                raise FindingError(
                    "one-kind",
                    f"of owner {owner}, party {first} revealed a {kind.__name__} and party "
                    f"{party} a {type(share).__name__}",
                )
            held = self._shares.get((task, owner), {})
            other = {m.SelfMaskShare: m.MaskKeyShare, m.MaskKeyShare: m.SelfMaskShare}
            if share.value in held.get(other[type(share)], set()):
                raise FindingError("one-kind", f"party {party} labels a share of {owner} wrongly")

    def reached(self, packet: m.Packet) -> None:
        """Note shares that came to the aggregator, whoever sent them and whether or not it cared.

        What a lying party reveals besides is counted, too: it is the aggregator's accomplice.
        """
        if packet.envelope.kind != m.KINDS[m.Unmask]:
            return
        message = decode_body(packet.envelope.kind, packet.envelope.body)
        assert isinstance(message, m.Unmask)
        for owner, share in message.shares.items():
            kinds = self._reached.setdefault((packet.envelope.context.task, owner), {})
            kinds.setdefault(type(share), set()).add(packet.envelope.sender)
            enough = [len(senders) >= self._threshold for senders in kinds.values()]
            if enough.count(True) > 1:
                raise FindingError("secret-pair", f"of party {owner}: {kinds}")

    def holds(self, state: s.State) -> None:
        """Learn the shares that a party holds, to look for them elsewhere."""
        if isinstance(state, s.Contributing):
            setup, secret = state.setup, state.group_secret
            if self._plan.counting(setup.context.task) is not None and secret is not None:
                self._counter = Counter(self._plan, setup.context, secret)
            if self._plan.needs_secret(setup.context.task) and secret is not None:
                fields = context_fields(setup.context)
                key = derive_key(secret, label="ckks-secret", context=fields)
                self._secrets |= {secret, key}
        if isinstance(state, s.AwaitingConfirmations):
            for owner, held in state.shares.items():
                kinds = self._shares.setdefault((state.setup.context.task, owner), {})
                kinds.setdefault(m.SelfMaskShare, set()).add(held.self_mask)
                kinds.setdefault(m.MaskKeyShare, set()).add(held.mask_key)

    def ended(self, party: PartyId, state: s.State, task: TaskIndex) -> None:
        """Check how a task ended at an honest party."""
        if party == self.liar:
            return
        if isinstance(state, s.Completed):
            first, digest = self._updates.setdefault(task, (party, state.update_digest))
            if digest != state.update_digest:
                raise FindingError(
                    "update-fork", f"parties {first} and {party} completed task {task} differently"
                )
            if self._plan.counting(task) is not None:
                wanted = self._counted
            else:
                wanted = _digest(self._plain_sum(state.survivors, task))
            if not self.aggregator_lied and state.sum_digest != wanted:
                raise FindingError("sum-exact", f"party {party} completed with another sum")
        elif isinstance(state, s.Aborted):
            self._aborts.add(party)
            self._aborted(party, state)

    def _aborted(self, party: PartyId, state: s.Aborted) -> None:
        what = f"party {party}: {state.reason.name}, culprit {state.culprit}: {state.detail}"
        if state.reason is AbortReason.UNSPECIFIED or not state.detail:
            raise FindingError("no-reason", what)
        if state.reason is AbortReason.INTERNAL:
            raise FindingError("wrong-reason", what)
        if party in self.hurt:
            return
        if state.reason is AbortReason.OPENER_GONE and self._may_be_gone(state.culprit):
            return
        if self.nobody_lied and (state.reason, state.culprit) != (_LATE[0], None):
            raise FindingError("wrong-reason", what)
        # An honest end is never blamed, whoever else lies.
        guilty = {None, self.liar, AGGREGATOR if self.aggregator_lied else None}
        late = state.culprit == party and state.reason in _LATE
        if state.culprit not in guilty and not late:
            raise FindingError("wrong-reason", what)

    def _may_be_gone(self, opener: PartyId | None) -> bool:
        """Whether a party was harmed, or has refused what it was to open."""
        return opener in self.hurt or opener in self._aborts

    def contributes(self, party: PartyId, task: TaskIndex, vector: RingArray) -> None:
        """Note what goes into a closed sum, before masks or encryption."""
        known = self._contributed.setdefault((party, task), vector)
        if not np.array_equal(known, vector):
            raise FindingError("two-contributions", f"party {party} in task {task}")

    def uploads(self, party: PartyId, task: TaskIndex, upload: RingArray) -> None:
        """Hold what a party uploads against what it uploaded before."""
        digest = _digest(upload)
        if self._uploads.setdefault((party, task), digest) != digest:
            raise FindingError("two-contributions", f"party {party} uploads another to {task}")

    def opens(self, party: PartyId, task: TaskIndex, sum_digest: bytes) -> None:
        """Note that integers of an encrypted sum are durable at its opener."""
        if (party, task) in self._openings:
            raise FindingError("opened-twice", f"by party {party}, in task {task}")
        self._openings[party, task] = sum_digest

    def applies(self, party: PartyId, state: s.FetchingUpdate, update: Matrix) -> None:
        """Check an update that a party opened, and is about to verify."""
        if not self.nobody_lied or party == self.liar:
            return
        wanted = self._federation.centralised(state.survivors, state.setup.context.task)
        error = float(np.linalg.norm(update - wanted) / np.linalg.norm(wanted))
        if not error < _UPDATE_ERROR:
            raise FindingError("update-exact", f"party {party} is off by {error:.1e}")

    def _plain_sum(self, survivors: frozenset[PartyId], task: TaskIndex) -> RingArray:
        if not self._plan.is_closed(task):
            return self._federation.plain_sum(survivors, task)
        total = np.zeros_like(self._contributed[min(survivors), task])
        for party in survivors:
            add_into(total, self._contributed[party, task])
        return total

    def _describe(self, total: RingArray, task: TaskIndex) -> str:
        if not self._plan.is_closed(task):
            return self._federation.describe(total, task)
        own = {who: vector for (who, where), vector in self._contributed.items() if where == task}
        return count_in(total, own)

    def summed(self, task: TaskIndex, survivors: frozenset[PartyId], total: RingArray) -> None:
        """Check a sum at the moment when its masks are off."""
        if len(survivors) < self._threshold:
            raise FindingError("sum-threshold", f"{len(survivors)} survivors in task {task}")
        if self.opened.setdefault(task, survivors) != survivors:
            raise FindingError("sum-once", f"task {task}: {set(survivors)} after another set")
        if self._plan.counting(task) is not None:
            self._counted = _digest(total)
            self._check_tables(survivors, total)
        elif self._plan.is_encrypted and self.liar == min(survivors):
            return  # the parties' checks have to see it
        elif not np.array_equal(total, self._plain_sum(survivors, task)):
            described = self._describe(total, task)
            raise FindingError("sum-exact", f"survivors {set(survivors)}: {described}")

    def _check_tables(self, survivors: frozenset[PartyId], total: RingArray) -> None:
        assert self._counter is not None
        digests = self._federation.digests(survivors)
        try:
            tables = self._counter.open(total, survivors=survivors, own=digests)
        except BoundsError as error:
            raise FindingError("sum-exact", f"survivors {set(survivors)}: {error}") from None
        plain = self._counter.encode(digests)[: tables.counts.size]
        if not np.array_equal(tables.counts, plain):
            raise FindingError("sum-exact", f"survivors {set(survivors)}: other counts")

    def acknowledged(
        self, task: TaskIndex, party: PartyId, tiles: set[int], *, opened: bool = False
    ) -> None:
        """Note that a party was told that these tiles are stored: of its upload, or `opened`."""
        self._acknowledged.setdefault((task, party, opened), set()).update(tiles)

    def look(self, coordinator: Coordinator) -> None:
        """Check the aggregator between two steps."""
        state = coordinator.state
        if isinstance(state, _STORING):
            task, _ = coordinator.position
            for (told_in, party, opened), tiles in self._acknowledged.items():
                store = coordinator._opened if opened else coordinator._store
                stored = store.stored(party) if store is not None and told_in == task else b""
                if stored and not all(stored[tile // 8] >> tile % 8 & 1 for tile in tiles):
                    raise FindingError("tile-lost", f"of tiles {tiles} of party {party}")
        if isinstance(state, a.Aborted):
            self._session_aborted(state)
        # Nothing but sealed shares is there before r5.
        if isinstance(state, a.CollectingUnmaskings):
            where: object = (type(state), len(state.answers))
        elif isinstance(state, a.Opening | a.CollectingVerifications | a.Completed | a.Aborted):
            where = type(state)
        else:
            where = self._scanned = None
        if where != self._scanned:
            self._scanned = where
            parts = {bytes(x) for x in reachable(coordinator) if isinstance(x, bytes | bytearray)}
            self.search(b"\0".join(parts), "the aggregator's memory")

    def _session_aborted(self, state: a.Aborted) -> None:
        what = f"aggregator: {state.reason.name}, culprit {state.culprit}: {state.detail}"
        if state.reason is AbortReason.UNSPECIFIED or not state.detail:
            raise FindingError("no-reason", what)
        if state.reason is AbortReason.OPENER_GONE and self._may_be_gone(state.culprit):
            self._lost_opener = True
            return
        allowed = {AbortReason.BELOW_THRESHOLD}
        if self.liar is not None:
            allowed.add(AbortReason.INVALID_SHARE)
        if self.liar is not None and self._plan.is_encrypted:
            # Integers of a lying opener are beyond bounds, or merge to no update of the plan.
            allowed |= {AbortReason.BOUNDS_EXCEEDED, AbortReason.MERGE_FAILED}
        if state.reason not in allowed or state.culprit not in (None, self.liar):
            raise FindingError("wrong-reason", what)

    def search(self, data: bytes, where: str, *, retired: bool = False) -> None:
        """Look for both kinds of share of an owner in what the aggregator keeps."""
        if any(map(data.__contains__, self._secrets)):
            raise FindingError("secret-held", f"what opens a closed sum: {where}")
        for (task, owner), kinds in self._shares.items():
            found = {kind for kind, values in kinds.items() if any(map(data.__contains__, values))}
            if retired and found:
                raise FindingError("share-kept", f"of party {owner} in task {task}: {where}")
            if len(found) > 1:
                raise FindingError("pair-stored", f"of party {owner} in task {task}: {where}")

    def finished(self, coordinator: Coordinator, states: Mapping[PartyId, s.State | None]) -> None:
        """Check how the session ended."""
        if not self.must_complete:
            return
        tasks = len(self._plan.tasks)
        if len(coordinator.records) != tasks or len(self.opened) != tasks:
            raise FindingError(
                "liveness",
                f"hurt are {sorted(self.hurt)}, and the aggregator is in {coordinator.state!r}",
            )
        for party, state in states.items():
            if party not in self.hurt and not isinstance(state, s.Completed):
                raise FindingError("liveness", f"party {party}, unhurt, is in {state!r}")


def snapshot(coordinator: Coordinator) -> dict[str, Any]:
    """Everything that a restart must bring back."""
    return {
        "session": coordinator.session_id,
        "position": coordinator.position,
        "state": fingerprint(coordinator.state),
        "records": coordinator.records,
        "mailboxes": [coordinator.mailbox(party, cursor=0) for party in coordinator.plan.party_ids],
    }


def _digest(total: RingArray) -> bytes:
    return hashlib.sha256(to_bytes(total)).digest()
