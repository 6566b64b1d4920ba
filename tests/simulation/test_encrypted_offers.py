"""Sums that a lying aggregator offers to the opener: refused by name, or told nothing by."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from collabedit import simulation as simulation_module
from collabedit.aggregator.encrypted import EncryptedUploads
from collabedit.aggregator.tiles import TileStore
from collabedit.attacks.ckks_key import chosen_pair, lift
from collabedit.ciphertexts import WORDS, plan_parameters
from collabedit.crypto.ckks import opening as opening_module
from collabedit.crypto.ckks.modular import Residues, add_mod
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.seal import seal_context
from collabedit.crypto.ckks.wire import HEADER_BYTES, Chunk, Form, decode_chunk, encode_chunk
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import RingArray
from collabedit.encrypted import CHUNK_WORDS, SEED_BYTES, SUM_CHUNK_BYTES
from collabedit.ids import PartyId, TaskIndex
from collabedit.party.contribution import uploaded_vector
from collabedit.party.states import Aborted, TaskSetup
from collabedit.plan import Plan
from collabedit.simulation import Outcome
from tests.support.federations import MAPPED, OUTPUTS, encrypted_federation
from tests.support.keeper import Keeper
from tests.support.lies import Refusal
from tests.support.updates import run

FIRST = TaskIndex(0)
HONEST_OFFER = EncryptedUploads.offer
Forge = Callable[[Plan, TileStore, frozenset[PartyId], bytes], bytes]


def honest_offer(plan: Plan, store: TileStore, survivors: Iterable[PartyId]) -> bytes:
    """What an honest aggregator offers of these uploads."""
    return b"".join(HONEST_OFFER(EncryptedUploads(plan, FIRST, store), survivors))


def lying_offer(monkeypatch: pytest.MonkeyPatch, forge: Forge) -> None:
    def lying(uploads: EncryptedUploads, survivors: Iterable[PartyId]) -> Iterator[bytes]:
        members, offer = frozenset(survivors), b"".join(HONEST_OFFER(uploads, survivors))
        yield forge(uploads._plan, uploads._store, members, offer)

    monkeypatch.setattr(EncryptedUploads, "offer", lying)


@pytest.fixture
def shown(forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Aborted:
    """Show the opener what `forge` makes, and return how it ended; nothing was released."""
    lying_offer(monkeypatch, forge)
    federation = encrypted_federation(5)
    outcome, received = run(federation, federation.simulation(tmp_path))
    assert not received
    assert not outcome.sums
    state = outcome.party_states[PartyId(1)]
    assert isinstance(state, Aborted)
    return state


def one_upload(plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes) -> bytes:
    """Party 2's upload alone in the place of the sum, with all seeds."""
    del plan, survivors
    words = store.read(PartyId(2), ring=WORDS)
    chunk = words[:CHUNK_WORDS].astype("<u8").tobytes()
    start = len(offer) - SUM_CHUNK_BYTES
    header = offer[start : start + HEADER_BYTES]
    return offer[:start] + header + chunk[HEADER_BYTES + SEED_BYTES :]


def fewer_terms(plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes) -> bytes:
    """A sum without party 5, and its seeds in the place of all."""
    shorter = honest_offer(plan, store, survivors - {5})
    seeds = len(survivors) * SEED_BYTES
    return offer[:seeds] + shorter[seeds - SEED_BYTES :]


def other_seed(plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes) -> bytes:
    del plan, store, survivors
    return bytes(SEED_BYTES) + offer[SEED_BYTES:]


def swapped_seeds(
    plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes
) -> bytes:
    del plan, store, survivors
    return offer[SEED_BYTES : 2 * SEED_BYTES] + offer[:SEED_BYTES] + offer[2 * SEED_BYTES :]


def first_of(plan: Plan, offer: bytes, terms: int) -> Residues:
    """Σc₀ of the only chunk of an offer, [primes, n]."""
    data = offer[-SUM_CHUNK_BYTES:]
    parameters = plan_parameters(plan)
    chunk = decode_chunk(parameters, data, form=Form.FIRST, index=0, chunks=1, terms=terms)
    first: Residues = chunk.residues[0]
    return first


def with_first(plan: Plan, offer: bytes, terms: int, first: Residues) -> bytes:
    """The same offer with another Σc₀ under an honest header."""
    chunk = Chunk(Form.FIRST, terms, 0, 1, first[None])
    return offer[:-SUM_CHUNK_BYTES] + encode_chunk(plan_parameters(plan), chunk)


def part_as_all(plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes) -> bytes:
    """The sum without party 5, said to be that of all, with the seeds of all."""
    shorter = honest_offer(plan, store, survivors - {5})
    first = first_of(plan, shorter, len(survivors) - 1)
    return with_first(plan, offer, len(survivors), first)


def nothing(plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes) -> bytes:
    """c₀ = 0: what opens is s·Σc₁ and no number of anybody's."""
    first = first_of(plan, offer, len(survivors))
    return with_first(plan, offer, len(survivors), np.zeros_like(first))


def alone(plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes) -> bytes:
    """Party 2's upload as the sum that it is, with its own seed."""
    return honest_offer(plan, store, [PartyId(2)])


def part(plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes) -> bytes:
    """The sum without party 5 as the sum that it is."""
    return honest_offer(plan, store, survivors - {5})


def own_second(plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes) -> bytes:
    """A pair whose c₁ is the aggregator's, of which the opening would be the key."""
    parameters = plan_parameters(plan)
    pair = Chunk(Form.PAIR, len(survivors), 0, 1, chosen_pair(parameters))
    return offer[:-SUM_CHUNK_BYTES] + encode_chunk(parameters, pair)


def own_first(plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes) -> bytes:
    """The same pair cut to the length of an offer: of its form, and as if of the right one."""
    return own_second(plan, store, survivors, offer)[: len(offer)]


@pytest.mark.lie(
    role="aggregator",
    lie="offers a sum with other seeds than the contributors signed",
    round="r5",
    refused_by="DIGEST_MISMATCH",
)
@pytest.mark.parametrize("forge", [other_seed, swapped_seeds])
def test_an_opener_is_shown_other_seeds(shown: Aborted, refusal: Refusal) -> None:
    refusal(shown.reason)
    assert shown.culprit == 0


@pytest.mark.lie(
    role="aggregator",
    lie="offers a sum over fewer contributors",
    round="r5",
    refused_by="MALFORMED_MESSAGE",
)
@pytest.mark.parametrize("forge", [fewer_terms])
def test_an_opener_is_shown_fewer_contributors(shown: Aborted, refusal: Refusal) -> None:
    refusal(shown.reason)
    assert shown.culprit == 0


@pytest.mark.lie(
    role="aggregator",
    lie="offers one upload in the place of the sum",
    round="r5",
    refused_by="BOUNDS_EXCEEDED",
)
@pytest.mark.parametrize("forge", [one_upload])
def test_an_opener_is_shown_one_upload(shown: Aborted, refusal: Refusal) -> None:
    """With the seeds of all it does not open, and with its own alone it is refused before."""
    refusal(shown.reason)
    assert shown.culprit is None


@pytest.mark.lie(
    role="aggregator",
    lie="offers another sum than it signed",
    round="r5",
    refused_by="DIGEST_MISMATCH",
)
def test_an_offer_that_is_not_the_announced_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    federation = encrypted_federation(5)
    own = federation.simulation(tmp_path)
    honest = own.coordinator.download

    def altered(party: PartyId, task: TaskIndex) -> Iterator[bytes]:
        offer = b"".join(honest(party, task))
        yield offer[:-1] + bytes([offer[-1] ^ 1])

    monkeypatch.setattr(own.coordinator, "download", altered)
    outcome, received = run(federation, own)
    state = outcome.party_states[PartyId(1)]
    assert isinstance(state, Aborted)
    refusal(state.reason)
    assert state.culprit == 0
    assert not received


@pytest.mark.lie(
    role="aggregator",
    lie="offers the sum of some contributors as that of all",
    round="r5",
    refused_by="BOUNDS_EXCEEDED",
)
@pytest.mark.parametrize("forge", [part_as_all, nothing])
def test_a_sum_that_its_seeds_do_not_fit_does_not_open(shown: Aborted, refusal: Refusal) -> None:
    """What lacks a c₀ or has a c₁ too many is off by s times something uniform."""
    refusal(shown.reason)
    assert shown.culprit is None


@pytest.mark.lie(
    role="aggregator",
    lie="offers one upload or a part of them with their own seeds, or a second polynomial",
    round="r5",
    refused_by="MALFORMED_MESSAGE",
)
@pytest.mark.parametrize("forge", [alone, part, own_second, own_first])
def test_an_offer_over_others_than_the_survivors_is_refused(
    shown: Aborted, refusal: Refusal
) -> None:
    refusal(shown.reason)
    assert shown.culprit == 0


@pytest.mark.lie(
    role="aggregator",
    lie="takes one ciphertext of two parties",
    round="r5",
    refused_by="REPEATED_PARTY",
)
def test_an_opener_notices_one_seed_of_two_survivors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    """Party 4 repeats party 2's upload and signs it, and the aggregator lets it pass."""
    seen: list[RingArray] = []

    def repeat(setup: TaskSetup, vector: RingArray, group_secret: bytes | None) -> RingArray:
        seen.append(uploaded_vector(setup, vector, group_secret))
        return seen[1] if setup.me == 4 else seen[-1]

    monkeypatch.setattr(simulation_module, "uploaded_vector", repeat)
    monkeypatch.setattr(EncryptedUploads, "check", lambda *_: None)
    federation = encrypted_federation(5)
    outcome, received = run(federation, federation.simulation(tmp_path))
    state = outcome.party_states[PartyId(1)]
    assert isinstance(state, Aborted)
    refusal(state.reason)
    assert state.culprit == 0
    assert not received
    assert not outcome.sums


# Offsets of c₀, which the opener cannot see


def offset_by(amount: Callable[[CkksParameters], int], *, start: int = 0) -> Forge:
    """An offer with so much added to every number of the sum, from one on."""

    def forge(plan: Plan, store: TileStore, survivors: frozenset[PartyId], offer: bytes) -> bytes:
        parameters = plan_parameters(plan)
        added, context = amount(parameters), seal_context(parameters)
        first = first_of(plan, offer, len(survivors))
        for place, prime in enumerate(parameters.wire_primes):
            polynomial = np.zeros((1, parameters.ring_degree), np.uint64)
            polynomial[0, start : plan.statistics_length(FIRST)] = added % prime
            turned = context.to_ntt(polynomial, prime=place)[0]
            first[place] = add_mod(first[place], turned, prime)
        return with_first(plan, offer, len(survivors), first)

    return forge


@pytest.mark.lie(
    role="aggregator",
    lie="adds to the sum that it offers",
    round="r5",
    refused_by="MERGE_UNVERIFIED",
)
def test_a_sum_with_numbers_of_the_aggregator_in_it_is_not_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    # 2^-8, to each number of Z alone: more is beyond the bounds of a merge, 2^-12 is within the
    # tolerance of the check.
    federation = encrypted_federation(5)
    size = federation.plan.statistics_length(FIRST)
    start = size * MAPPED // (MAPPED + OUTPUTS)
    lying_offer(monkeypatch, offset_by(lambda parameters: parameters.guard << 26, start=start))
    outcome, received = run(federation, federation.simulation(tmp_path))
    assert not received
    state = outcome.party_states[PartyId(2)]
    assert isinstance(state, Aborted)
    refusal(state.reason)


def signs_and_bits(
    directory: Path, monkeypatch: pytest.MonkeyPatch, amount: Callable[[CkksParameters], int]
) -> tuple[Outcome, np.ndarray, np.ndarray]:
    """Offset a session's sum: which errors are negative, and by how much it opens too low."""
    phases: list[Residues] = []
    opened_by: Callable[..., np.ndarray] = opening_module.__dict__["rescale_flooded"]

    def seen(
        parameters: CkksParameters, phase: Residues, stream: Keystream, tile: int
    ) -> np.ndarray:
        phases.append(phase)
        return opened_by(parameters, phase, stream, tile)

    monkeypatch.setattr(opening_module, "rescale_flooded", seen)
    lying_offer(monkeypatch, offset_by(amount))
    federation, keeper = encrypted_federation(5), Keeper(monkeypatch)
    outcome, _ = run(federation, federation.simulation(directory))
    size = federation.plan.statistics_length(FIRST)
    parts = [keeper.held[party][FIRST].contribution for party in federation.plan.party_ids]
    total: RingArray = np.sum(parts, axis=0, dtype=np.uint64)
    plain = total[:size].view(np.int64)
    parameters = plan_parameters(federation.plan)
    errors = [
        value - int(number) * parameters.guard - amount(parameters)
        for value, number in zip(lift(parameters, phases[0]), plain, strict=False)
    ]
    assert max(map(abs, errors)) <= 5 * 21
    low = plain - outcome.sums[FIRST][:size].view(np.int64)
    return outcome, np.array(errors) < 0, low


def test_an_offset_below_a_step_tells_nothing_of_the_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a step makes each released number a coin toss, of which the errors know nothing."""
    outcome, negative, low = signs_and_bits(
        tmp_path, monkeypatch, lambda parameters: -(parameters.guard // 2)
    )
    assert outcome.aborted is None, "half of 2^-34 is within what the check allows"
    assert set(low.tolist()) == {0, 1}
    reach = 5 * 0.5 / np.sqrt(len(low))
    assert abs(low.mean() - 0.5) < reach
    assert abs(np.mean((low == 1) == negative) - 0.5) < reach


def test_without_flooding_every_error_s_sign_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control of the above: a floor without noise tells the sign of every error."""

    def floor(
        parameters: CkksParameters, phase: Residues, stream: Keystream, tile: int
    ) -> np.ndarray:
        del stream, tile
        return np.array([value // parameters.guard for value in lift(parameters, phase)], np.int64)

    monkeypatch.setattr(opening_module, "rescale_flooded", floor)
    _, negative, low = signs_and_bits(tmp_path, monkeypatch, lambda parameters: 0)
    assert ((low == 1) == negative).all()
    assert 0.3 < negative.mean() < 0.7
