"""Bugs that are planted on purpose: the fault simulation must find each, and by its name."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pytest

from collabedit.aggregator import states as a
from collabedit.aggregator import task as aggregator_task
from collabedit.aggregator import tiles
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.mailboxes import Mailboxes
from collabedit.aggregator.rounds import waiting_for as waiting_in
from collabedit.aggregator.states import Outbound
from collabedit.aggregator.tiles import TileStore
from collabedit.crypto.ring import RingArray, add_into
from collabedit.ids import PartyId
from collabedit.party import checks
from collabedit.party import states as s
from collabedit.party import task as party_task
from collabedit.party.replay import InputLog
from collabedit.party.task import receive
from collabedit.party.witness import Witness
from collabedit.plan import Plan
from collabedit.proto import messages as m
from collabedit.proto.statements import survivor_transcript
from tests.simulation.faults.campaign import play_afresh
from tests.simulation.faults.generate import flavour_of, scenario, sums_of
from tests.simulation.faults.ops import Sums

LISTS = 700
"""Numbers of scenarios to look through; those of other flavours than a bug's are left out."""


@dataclass(frozen=True)
class Bug:
    """A planted bug.

    Attributes:
        name: what is wrong.
        plant: makes it so.
        found: rules that may name it.
        flavours: kinds of scenario that can meet it.
        sums: of the scenarios that can; of all if empty.
    """

    name: str
    plant: Callable[[], AbstractContextManager[object]]
    found: frozenset[str]
    flavours: tuple[str, ...]
    sums: tuple[Sums, ...] = ()


def skip_journal() -> AbstractContextManager[object]:
    real = Coordinator._keep

    def keep(self: Coordinator, change: a.Event | m.Packet) -> None:
        if isinstance(change, m.Packet) and change.envelope.kind == m.KINDS[m.ConfirmSurvivors]:
            return
        real(self, change)

    return patch.object(Coordinator, "_keep", keep)


def journal_after() -> AbstractContextManager[object]:
    real = Coordinator.close_round

    def close_round(self: Coordinator) -> None:
        late: list[a.Event | m.Packet] = []
        with patch.object(Coordinator, "_keep", lambda _self, change: late.append(change)):
            real(self)
        for change in late:
            self._keep(change)

    return patch.object(Coordinator, "close_round", close_round)


def forget_accepted() -> AbstractContextManager[object]:
    real = Coordinator._replay

    def replay(self: Coordinator) -> None:
        real(self)
        self._accepted.clear()

    return patch.object(Coordinator, "_replay", replay)


def acknowledge_early() -> AbstractContextManager[object]:
    def settle(self: TileStore, party: PartyId) -> None:
        upload = self._upload(party)
        upload.settled.update(upload.pending)
        upload.pending.clear()

    return patch.object(TileStore, "settle", settle)


def keep_inputs() -> AbstractContextManager[object]:
    def end(self: Journal, outcome: str) -> None:
        with self._transaction() as database:
            database.execute("UPDATE sessions SET outcome = ?", (outcome,))

    return patch.object(Journal, "end", end)


def lose_mail() -> AbstractContextManager[object]:
    real = Mailboxes.post

    def post(self: Mailboxes, outbound: Iterable[Outbound]) -> None:
        kept = [
            item
            for item in outbound
            if (item.receiver, item.packet.envelope.kind) != (2, m.KINDS[m.Confirmed])
        ]
        real(self, kept)

    return patch.object(Mailboxes, "post", post)


def lower_threshold() -> AbstractContextManager[object]:
    lowered = property(lambda plan: max(3, plan.federation.threshold - 1))
    return patch.object(Plan, "threshold", lowered)


def count_twice() -> AbstractContextManager[object]:
    added: list[int] = []

    def add(total: RingArray, value: RingArray) -> None:
        # Once in a while, as a lost race between two uploads would.
        added.append(1)
        for _ in range(1 + (len(added) % 9 == 0)):
            add_into(total, value)

    return patch.object(tiles, "add_into", add)


def end_rounds_early() -> AbstractContextManager[object]:
    real = waiting_in

    def waiting_for(state: a.State) -> frozenset[PartyId]:
        waiting = real(state)
        if isinstance(state, a.CollectingContributions) and len(waiting) == 1:
            enough = len(state.answers) >= state.progress.setup.plan.threshold
            return frozenset() if enough else waiting
        return waiting

    return patch.object(aggregator_task, "waiting_for", waiting_for)


def take_any_share() -> AbstractContextManager[object]:
    def on_unmask(
        state: a.CollectingUnmaskings, sender: PartyId, message: m.Unmask, _: m.Packet
    ) -> a.State:
        return replace(state, answers={**state.answers, sender: message})

    key = (a.CollectingUnmaskings, m.Unmask)
    return patch.dict(aggregator_task.MESSAGES, {key: on_unmask})


def reveal_wrong_kind() -> AbstractContextManager[object]:
    real = party_task._on_survivors_confirmed

    def confirmed(
        state: s.AwaitingSurvivorConfirmations,
        message: m.SurvivorsConfirmed,
        _: Any,  # noqa: ANN401
    ) -> s.Step:
        step = real(state, message, ())
        if not step.outbound:
            return step
        shares: dict[PartyId, m.Share] = {
            owner: m.SelfMaskShare(held.self_mask) for owner, held in state.shares.items()
        }
        unmask = m.Packet(party_task._sign(state.setup, m.Unmask(shares)))
        return s.Step(step.state, (unmask,) if state.setup.me == 1 else step.outbound)

    key = (s.AwaitingSurvivorConfirmations, m.SurvivorsConfirmed)
    return patch.dict(party_task.MESSAGES, {key: confirmed})


def sign_twice() -> AbstractContextManager[object]:
    def again(
        state: s.AwaitingSurvivorConfirmations,
        message: m.ProposeSurvivors,
        _: Any,  # noqa: ANN401
    ) -> s.Step:
        transcript = survivor_transcript(
            state.setup.context, roster=bytes(32), contributions=message.contributions
        )
        signed = party_task._sign(state.setup, m.ConfirmSurvivors(transcript))
        return s.Step(replace(state, survivor_transcript=transcript), (m.Packet(signed),))

    key = (s.AwaitingSurvivorConfirmations, m.ProposeSurvivors)
    stack = ExitStack()
    stack.enter_context(patch.dict(party_task.MESSAGES, {key: again}))
    # The witness would stop a party at the second proposal: two defences for one danger.
    real = Witness.receive

    def hear(self: Witness, state: s.State, packet: m.Packet) -> s.Step:
        if (type(state), packet.envelope.kind) == (key[0], m.KINDS[key[1]]):
            return receive(state, packet)
        return real(self, state, packet)

    stack.enter_context(patch.object(Witness, "receive", hear))
    return stack


def ignore_own_entry() -> AbstractContextManager[object]:
    return patch.object(party_task, "check_own", lambda *_: None)


class Unseen(dict[PartyId, Any]):
    """What others signed, as seen by a party that does not look."""

    def values(self) -> Any:  # noqa: ANN401
        return ()


def ignore(kind: type[m.Message]) -> Callable[[], AbstractContextManager[object]]:
    """Let parties skip the comparison of what others signed with what they saw."""

    def plant() -> AbstractContextManager[object]:
        real = checks.open_relayed

        def open_relayed(setup: s.TaskSetup, envelopes: Any, expected: type, **rest: Any) -> Any:  # noqa: ANN401
            opened: dict[PartyId, Any] = real(setup, envelopes, expected, **rest)
            return Unseen(opened) if expected is kind else opened

        return patch.object(party_task, "open_relayed", open_relayed)

    return plant


def forget_what_was_heard() -> AbstractContextManager[object]:
    return patch.object(InputLog, "received", lambda *_: None)


def throw_proof_away() -> AbstractContextManager[object]:
    return patch.object(Witness, "_report", lambda *_: True)


def skip_digest() -> AbstractContextManager[object]:
    return patch.object(party_task, "is_equal", lambda *_: True)


CRASHES = ("crashing", "harmless", "slow", "everything")
LIES = ("lying-aggregator", "forking", "everything")
BUGS = (
    Bug("an input is not journalled", skip_journal, frozenset({"state-lost"}), CRASHES),
    Bug(
        "an input is journalled after it took effect",
        journal_after,
        frozenset({"state-lost", "refusal-changed"}),
        CRASHES,
    ),
    Bug(
        "what was accepted is forgotten in a restart",
        forget_accepted,
        frozenset({"receipt-lost"}),
        CRASHES,
    ),
    Bug(
        "tiles are acknowledged before they are kept",
        acknowledge_early,
        frozenset({"tile-lost"}),
        CRASHES,
    ),
    Bug("inputs outlive their session", keep_inputs, frozenset({"share-kept"}), CRASHES),
    Bug("a packet is not filed", lose_mail, frozenset({"waited-for", "liveness"}), CRASHES),
    Bug("the threshold is lowered", lower_threshold, frozenset({"sum-threshold"}), CRASHES),
    Bug("a tile is added twice", count_twice, frozenset({"sum-exact"}), CRASHES),
    Bug(
        "a round ends once enough have answered",
        end_rounds_early,
        frozenset({"liveness", "wrong-reason"}),
        CRASHES,
    ),
    Bug("any kind of share is taken", take_any_share, frozenset({"pair-stored"}), ("lying-party",)),
    Bug("a party reveals the wrong kind", reveal_wrong_kind, frozenset({"one-kind"}), CRASHES),
    Bug("a party signs twice", sign_twice, frozenset({"two-statements"}), LIES),
    Bug(
        "a party does not look for itself",
        ignore_own_entry,
        frozenset({"lie-accepted", "error"}),
        LIES,
    ),
    Bug(
        "a party ignores which survivors others saw",
        ignore(m.ConfirmSurvivors),
        frozenset({"one-kind"}),
        ("forking",),
    ),
    Bug(
        "a party ignores which update others saw",
        ignore(m.VerifyUpdate),
        frozenset({"update-fork"}),
        ("forking",),
    ),
    Bug(
        "a party does not journal what it heard",
        forget_what_was_heard,
        frozenset({"party-lost", "error"}),
        CRASHES,
    ),
    Bug("a party throws proof away", throw_proof_away, frozenset({"no-evidence"}), ("forking",)),
    Bug("a party takes any update", skip_digest, frozenset({"lie-accepted", "update-fork"}), LIES),
)


def search(bug: Bug) -> tuple[int, str] | None:
    """Play scenarios until one names the bug."""
    for seed in range(LISTS):
        if flavour_of(seed) not in bug.flavours or (bug.sums and sums_of(seed) not in bug.sums):
            continue
        with ExitStack() as stack:
            stack.enter_context(bug.plant())
            finding = play_afresh(scenario(seed)).finding
        if finding is not None:
            return seed, finding.name
    return None


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_found_and_named(bug: Bug) -> None:
    found = search(bug)
    assert found is not None, f"{LISTS} lists did not find that {bug.name}"
    seed, name = found
    assert name in bug.found, f"scenario {seed} calls it {name}"
