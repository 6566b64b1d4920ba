"""Attacks on transcripts of sessions with ciphertexts: they work where they must, and only there.

`pytest -s` prints the figures of THREAT_MODEL.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from collabedit import ciphertexts
from collabedit import simulation as simulation_module
from collabedit.attacks import ckks_sessions as attacks
from collabedit.attacks.attack import Attack, Prior
from collabedit.attacks.encrypted_views import (
    EncryptedCollusion,
    EncryptedView,
    MaskedCollusion,
    PartyView,
)
from collabedit.attacks.ica import Demixing
from collabedit.attacks.leverage import Leverage
from collabedit.attacks.metrics import auc
from collabedit.attacks.span import SumSpan, UploadSpan
from collabedit.attacks.spectrum import SpectrumMatch
from collabedit.attacks.views import AggregatorView
from collabedit.crypto.ckks import opening as opening_module
from collabedit.crypto.ckks.flooding import FloodingPlan
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.modular import Residues, to_centred
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ring import RingArray
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party import decryption
from collabedit.party.states import TaskSetup
from collabedit.plan import Plan
from collabedit.simulation import Outcome
from tests.e2e.test_grpc_session import run, with_timing
from tests.security.test_attacks_closed import prior_of
from tests.support.federations import TestFederation, encrypted_federation
from tests.support.keeper import Keeper
from tests.support.networks import Network

FIRST = TaskIndex(0)
PARTIES = 5
LAYERS = 2


@dataclass(frozen=True)
class Session:
    """One played session and what is kept of it."""

    federation: TestFederation
    outcome: Outcome
    keeper: Keeper

    @property
    def plan(self) -> Plan:
        return self.federation.plan

    def party(self, party: int) -> PartyView:
        own = self.keeper.of(party)
        return PartyView.of(self.plan, PartyId(party), self.outcome.transcript, own)

    def encrypted(self) -> EncryptedView:
        return EncryptedView.of(self.plan, self.outcome.transcript)

    def masked(self, *parties: int) -> MaskedCollusion:
        return MaskedCollusion.of(
            AggregatorView.of(self.plan, self.outcome),
            [self.party(party) for party in parties],
            self.outcome.transcript,
        )

    def contribution(self, party: PartyId, task: TaskIndex) -> RingArray:
        return self.keeper.held[party][task].contribution


def play(federation: TestFederation, directory: Path) -> Session:
    with pytest.MonkeyPatch.context() as patched:
        keeper = Keeper(patched)
        outcome = federation.simulation(directory).run(federation.statistics)
    return Session(federation, outcome, keeper)


def replay(session: Session, directory: Path) -> Session:
    """Play a masked session in which each party contributes the very vectors of `session`.

    Their basis is that of the other plan, so the parties refuse the update in the end; by then the
    aggregator has opened the sum. Only the first task comes to that.
    """
    federation = masked_federation()
    with pytest.MonkeyPatch.context() as patched:
        keeper = Keeper(patched)
        honest = keeper._contributed

        def same(
            setup: TaskSetup, brought: bytes | memoryview, group_secret: bytes | None
        ) -> RingArray:
            honest(setup, brought, group_secret)
            return session.contribution(setup.me, setup.context.task).copy()

        patched.setattr(simulation_module, "contributed_vector", same)
        outcome = federation.simulation(directory).run(federation.statistics)
    return Session(federation, outcome, keeper)


def masked_federation() -> TestFederation:
    """The federation of `encrypted_federation`, but for the backend."""
    return encrypted_federation(PARTIES, layers=LAYERS, backend='"masked"')


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Session:
    federation = encrypted_federation(PARTIES, layers=LAYERS)
    return play(federation, tmp_path_factory.mktemp("encrypted"))


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return play(masked_federation(), tmp_path_factory.mktemp("masked"))


def equal_bits(found: RingArray, wanted: RingArray) -> float:
    """The share of bits in which two vectors agree."""
    return 1 - float(np.bitwise_count(found ^ wanted).mean()) / 64


def is_uniform(found: RingArray, wanted: RingArray) -> bool:
    """Whether a recovered vector has nothing to do with the true one: its bits are coin tosses."""
    tosses = 64 * found.size
    return abs(equal_bits(found, wanted) - 0.5) < 5 * 0.5 / float(np.sqrt(tosses))


# The aggregator and one party


@pytest.mark.parametrize(
    "colluder", [1, 3, *(pytest.param(party, marks=pytest.mark.slow) for party in (2, 4, 5))]
)
def test_the_aggregator_and_any_one_party_open_every_upload_exactly(
    colluder: int, encrypted: Session
) -> None:
    view = EncryptedCollusion(encrypted.encrypted(), encrypted.party(colluder))
    numbers = 0
    for task in view.aggregator.tasks:
        opened = attacks.open_uploads(view, task)
        assert opened.keys() == set(encrypted.plan.party_ids)
        for party, found in opened.items():
            wanted = encrypted.contribution(party, task)[: found.size]
            np.testing.assert_array_equal(found, wanted)
            numbers += found.size * (party != colluder)
    print(f"party {colluder} and the aggregator: {numbers} of {numbers} numbers of others exact")  # noqa: T201


@pytest.mark.slow
def test_so_they_do_over_grpc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation, keeper = with_timing(encrypted_federation(4)), Keeper(monkeypatch)
    network = Network(federation, tmp_path / "state", records=tmp_path / "records")
    run(network, [1, 2, 3, 4])
    assert not network.errors
    transcript, plan = network.transcript, federation.plan
    party = PartyView.of(plan, PartyId(3), transcript, keeper.of(3))
    view = EncryptedCollusion(EncryptedView.of(plan, transcript), party)
    for owner, found in attacks.open_uploads(view, FIRST).items():
        wanted = keeper.held[owner][FIRST].contribution[: found.size]
        np.testing.assert_array_equal(found, wanted)


def test_the_same_coalition_gets_nothing_of_masked_uploads(
    encrypted: Session, masked: Session
) -> None:
    """Nothing but the sum: uploads less every mask that the two know are uniform."""
    for colluder in encrypted.plan.party_ids:
        view = masked.masked(colluder)
        for task in view.aggregator.sums:
            for party, found in attacks.strip_masks(view, task).items():
                wanted = masked.contribution(party, task)
                if party == colluder:
                    np.testing.assert_array_equal(found, wanted)
                    continue
                assert not np.count_nonzero(found == wanted)
                assert is_uniform(found, wanted)
            others = view.aggregator.sums[task] - masked.contribution(colluder, task)
            plain = [
                masked.contribution(party, task)
                for party in masked.plan.party_ids
                if party != colluder
            ]
            np.testing.assert_array_equal(others, np.sum(plain, axis=0, dtype=np.uint64))


def test_masks_come_off_if_all_others_collude(masked: Session) -> None:
    """Control: what stops one party is the mask that it lacks, not the attack."""
    for colluders, is_open in (((1, 2, 3, 4), True), ((1, 2, 3), False)):
        view = masked.masked(*colluders)
        found = attacks.strip_masks(view, FIRST)[PartyId(5)]
        wanted = masked.contribution(PartyId(5), FIRST)
        assert np.array_equal(found, wanted) == is_open


def test_the_coalition_knows_who_edited_what_of_ciphertexts_alone(
    encrypted: Session, masked: Session
) -> None:
    prior, owners = prior_of(encrypted.federation)
    values: dict[str, list[float]] = {"ciphertexts": [], "masks": []}
    for layer in prior.mapped_keys:
        span = attacks.CollusionSpan(layer)
        views: dict[str, EncryptedCollusion | MaskedCollusion] = {
            "ciphertexts": EncryptedCollusion(encrypted.encrypted(), encrypted.party(2)),
            "masks": masked.masked(2),
        }
        for name, view in views.items():
            finding = span.run(view, prior)
            assert finding.about == encrypted.plan.party_ids
            values[name] += [
                auc(row, owners == party).value
                for party, row in zip(finding.about, finding.scores, strict=True)
                if party is not None and party != 2
            ]
    assert min(values["ciphertexts"]) == 1.0
    assert len(values["masks"]) == LAYERS * (PARTIES - 1)
    # An AUC of 3 members among 215 has a deviation of 0.168 by chance.
    mean = float(np.mean(values["masks"]))
    assert abs(mean - 0.5) < 4 * 0.168 / np.sqrt(len(values["masks"]))
    print(f"AUC of who edited what: ciphertexts 1.000, masks {mean:.3f}")  # noqa: T201


def test_a_party_with_another_group_secret_opens_nothing(encrypted: Session) -> None:
    own = encrypted.party(3)
    held = own.own[TaskIndex(1)]
    wrong = PartyView(own.plan, own.party, {FIRST: held}, own.survivors, {})
    found = attacks.open_uploads(EncryptedCollusion(encrypted.encrypted(), wrong), FIRST)
    for party, opened in found.items():
        assert not np.count_nonzero(opened == encrypted.contribution(party, FIRST)[: opened.size])


# The aggregator alone


def keys_of(session: Session) -> dict[TaskIndex, SecretKey]:
    return {
        task: decryption.task_key(session.plan, held.context, held.group_secret)
        for task, held in session.keeper.of(1).items()
    }


def large_federation() -> TestFederation:
    """Whose vectors have more than one chunk: the first is released whole."""
    return encrypted_federation(3, capacity=150)


def test_no_released_sum_gives_a_key(encrypted: Session, tmp_path: Path) -> None:
    for session in (encrypted, play(large_federation(), tmp_path)):
        found = attacks.keys_from_released(session.encrypted())
        assert found.keys() == session.encrypted().tasks.keys()
        assert {key for keys in found.values() for key in keys} == {None}


class Unguarded(CkksParameters):
    """Numbers at the bottom of the ciphertext, where its error is, as tutorials put them."""

    @property
    def guard(self) -> int:
        return 1


def published(parameters: CkksParameters, phase: Residues, stream: object, tile: int) -> np.ndarray:
    """Open without noise: Σz + e."""
    del stream, tile
    return to_centred(phase[0], parameters.data_prime)


@pytest.fixture
def unflooded(monkeypatch: pytest.MonkeyPatch) -> CkksParameters:
    """Switch guard and flooding off, at both ends."""
    plain = ciphertexts.plan_parameters(large_federation().plan)
    unguarded = Unguarded(plain.ring_degree, plain.moduli_bits, plain.scale_bits, plain.shift_bits)
    for module in (ciphertexts, decryption):
        monkeypatch.setattr(module, "plan_parameters", lambda plan: unguarded)
    monkeypatch.setattr(opening_module, "rescale_flooded", published)
    monkeypatch.setattr(
        opening_module,
        "flooding_plan",
        lambda parameters, **sizes: FloodingPlan(sizes["values"], sizes["parties"], 1, 1, 1),
    )
    return unguarded


def test_without_flooding_the_same_transcript_gives_every_key(
    unflooded: CkksParameters, tmp_path: Path
) -> None:
    """Control of the above: the attack finds keys where a session publishes errors."""
    session = play(large_federation(), tmp_path)
    view = session.encrypted()
    plain: RingArray = np.sum(
        [session.contribution(party, FIRST) for party in session.plan.party_ids],
        axis=0,
        dtype=np.uint64,
    )
    opened = view.tasks[FIRST].opened
    assert opened is not None
    error = (opened - plain[: opened.size]).view(np.int64)
    assert 0 < np.abs(error).max() <= 3 * 21
    found = attacks.keys_from_released(view, parameters=unflooded)
    keys = keys_of(session)
    assert found.keys() == keys.keys()
    for task, (whole, rest) in found.items():
        assert whole is not None
        assert whole.fingerprint() == keys[task].fingerprint()
        # Of the last chunk the aggregator has numbers of a part only.
        assert rest is None


@pytest.fixture(scope="module")
def replayed(encrypted: Session, tmp_path_factory: pytest.TempPathFactory) -> AggregatorView:
    other = replay(encrypted, tmp_path_factory.mktemp("replayed"))
    return AggregatorView.of(other.plan, other.outcome)


def test_the_opened_vector_is_that_of_masks(encrypted: Session, replayed: AggregatorView) -> None:
    """Ciphertexts change nothing of what the aggregator alone reads in an opened sum."""
    ours = encrypted.encrypted().as_masked()
    assert replayed.sums.keys() == {FIRST}
    np.testing.assert_array_equal(ours.sums[FIRST], replayed.sums[FIRST])
    np.testing.assert_array_equal(encrypted.outcome.sums[FIRST], replayed.sums[FIRST])
    assert ours.survivors[FIRST] == replayed.survivors[FIRST]


@pytest.mark.parametrize(
    "attack",
    [
        SumSpan(),
        *(
            pytest.param(attack, marks=pytest.mark.slow)
            for attack in (Leverage(), Demixing(), SpectrumMatch(chains=4, steps=50))
        ),
    ],
    ids=lambda attack: attack.name,
)
def test_attacks_on_the_sum_find_the_same_with_either_backend(
    attack: Attack[AggregatorView], encrypted: Session, replayed: AggregatorView
) -> None:
    prior, _ = prior_of(encrypted.federation)
    ours = attack.run(encrypted.encrypted().as_masked(), prior)
    theirs = attack.run(replayed, prior)
    assert ours.about == theirs.about
    np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_no_key_is_found_in_an_encrypted_sum_without_the_basis(encrypted: Session) -> None:
    prior, owners = prior_of(encrypted.federation)
    values = [
        auc(SumSpan(layer).run(encrypted.encrypted().as_masked(), prior).scores[0], owners > 0)
        for layer in prior.mapped_keys
    ]
    # 15 members among 215: a deviation of 0.078 by chance.
    mean = float(np.mean([found.value for found in values]))
    assert abs(mean - 0.5) < 4 * 0.078 / np.sqrt(len(values))
    turned = attacks.turn_candidates(
        encrypted.plan,
        LayerIndex(0),
        encrypted.party(2).own[FIRST],
        prior.mapped_keys[LayerIndex(0)],
    )
    scores = SumSpan().run(encrypted.encrypted().as_masked(), Prior({LayerIndex(0): turned}))
    assert auc(scores.scores[0], owners > 0).value == 1.0


def test_ciphertexts_read_as_statistics_tell_nothing(encrypted: Session) -> None:
    prior, owners = prior_of(encrypted.federation)
    view, values = AggregatorView.of(encrypted.plan, encrypted.outcome), []
    for layer in prior.mapped_keys:
        finding = UploadSpan(layer).run(view, prior)
        values += [
            auc(row, owners == party).value
            for party, row in zip(finding.about, finding.scores, strict=True)
        ]
    assert abs(float(np.mean(values)) - 0.5) < 4 * 0.168 / np.sqrt(len(values))
