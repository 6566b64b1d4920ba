"""Closed sums at the parties: in and out of the secret basis, and a merge held against its sums."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from collabedit.crypto.ring import RingArray, add_into
from collabedit.errors import AbortReason, BoundsError, MalformedMessageError, NumericError
from collabedit.exchange import encode_bundle, encode_checks, merge_vector, plan_encoding
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.closing import (
    ClosedTask,
    OpenedUpdate,
    UnverifiedError,
    statistics_from_bytes,
    statistics_to_bytes,
)
from collabedit.party.merge_check import MergeCheck
from collabedit.plan import Plan
from collabedit.proto.messages import Context
from collabedit.sketch import DenseStatistics, LowRankUpdate, Matrix
from tests.support.federations import TestFederation, build_federation

SECRET = bytes(range(32))
TASK = TaskIndex(0)
FORMS = ('"sketch"', '"dense"')
Updates = dict[LayerIndex, LowRankUpdate]


def closed_federation(
    parties: int = 4, *, layers: int = 1, section: str = "check_columns = 4", **changes: object
) -> TestFederation:
    text: dict[str, object] = {"schedule": '"parallel"', "closed": section, **changes}
    return build_federation(parties, layers=layers, seed=0, **text)  # type: ignore[arg-type]


@dataclass
class Merging:
    """What an aggregator does with a closed task, and may do differently."""

    federation: TestFederation
    total: RingArray
    survivors: tuple[PartyId, ...]

    @classmethod
    def of(
        cls,
        federation: TestFederation,
        survivors: Sequence[int] | None = None,
        statistics: Callable[[PartyId], list[tuple[Matrix, Matrix]]] | None = None,
    ) -> "Merging":
        plan = federation.plan
        parties = tuple(map(PartyId, survivors or plan.party_ids))
        total = np.zeros(plan.task_length(TASK), dtype=plan_encoding(plan).ring.dtype)
        for party in parties:
            given = federation.statistics(party, TASK) if statistics is None else statistics(party)
            seed = bytes([party]) * 32 if plan.decoys else None
            add_into(total, closed(plan).contribute(party, given, decoy_seed=seed))
        return cls(federation, total, parties)

    @property
    def plan(self) -> Plan:
        return self.federation.plan

    def updates(self) -> Updates:
        plan, encoding = self.plan, plan_encoding(self.plan)
        decoded = encoding.decode(self.total[: plan.statistics_length(TASK)])
        noise = encoding.step * float(np.sqrt(len(self.survivors) / 12))
        return merge_vector(plan, TASK, decoded, survivors=self.survivors, noise=noise)

    def open(self, updates: Updates | None = None) -> OpenedUpdate:
        bundle = encode_bundle(self.updates() if updates is None else updates)
        bundle += encode_checks(self.plan, TASK, self.total)
        return closed(self.plan).open(bundle, self.survivors)


def closed(plan: Plan, secret: bytes = SECRET) -> ClosedTask:
    return ClosedTask(plan, context(plan), secret)


def context(plan: Plan) -> Context:
    return Context(plan.digest, bytes(32), TASK, bytes(32))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 3])
def test_the_opened_update_is_the_centralised_one(form: str, layers: int) -> None:
    federation = closed_federation(layers=layers, statistics=form)
    merging = Merging.of(federation)
    opened = merging.open()
    assert [check.layer for check in opened.checks] == list(range(layers))
    for index, update in opened.updates.items():
        expected = federation.centralised(
            frozenset(federation.plan.party_ids), TaskIndex(int(index))
        )
        error = np.linalg.norm(update.dense() - expected) / np.linalg.norm(expected)
        assert error < 1e-8
    for check in opened.checks:
        assert check.miss < 1e-8 < check.tolerance < 2e-3
        assert check.edits == 12


def test_survivors_alone_count() -> None:
    federation = closed_federation(5)
    merging = Merging.of(federation, survivors=[1, 2, 4])
    expected = federation.centralised(frozenset(merging.survivors), TASK)
    np.testing.assert_allclose(merging.open().updates[LayerIndex(0)].dense(), expected, atol=1e-7)
    merging.survivors = tuple(map(PartyId, (1, 2, 3, 4)))
    with pytest.raises(UnverifiedError, match="tags"):
        merging.open()


def test_the_aggregator_sees_another_basis_each_time() -> None:
    federation = closed_federation()
    plan, pairs = federation.plan, federation.statistics(PartyId(1), TASK)
    vectors = [
        plan_encoding(plan).decode(
            closed(plan, secret).contribute(PartyId(1), pairs)[: plan.statistics_length(TASK)]
        )
        for secret in (SECRET, bytes(32))
    ]
    plain = federation.contribute(PartyId(1), TASK)
    for vector in (*vectors, plain):
        assert np.linalg.norm(vector) > 1
    overlap = [
        abs(np.corrcoef(a, b)[0, 1]) for a, b in ((vectors[0], vectors[1]), (vectors[0], plain))
    ]
    assert max(overlap) < 0.3


def scaled(updates: Updates, factor: float) -> Updates:
    (layer,) = updates
    update = updates[layer]
    return {layer: LowRankUpdate(update.left * factor, update.right)}


def one_entry(updates: Updates, size: float) -> Updates:
    """Alter one entry of ΔW by `size` times ‖ΔW‖."""
    (layer,) = updates
    update = updates[layer]
    left = np.zeros((len(update.left), 1))
    right = np.zeros((1, update.right.shape[1]))
    left[3], right[0, 5] = size * float(np.linalg.norm(update.dense())), 1.0
    return {layer: LowRankUpdate(np.hstack([update.left, left]), np.vstack([update.right, right]))}


def truncated(updates: Updates) -> Updates:
    (layer,) = updates
    update = updates[layer]
    return {layer: LowRankUpdate(update.left[:, :-1], update.right[:-1])}


def zero(updates: Updates) -> Updates:
    (layer,) = updates
    update = updates[layer]
    return {layer: LowRankUpdate(np.zeros((len(update.left), 0)), update.right[:0])}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "tamper",
    [
        lambda updates: scaled(updates, 1.01),
        lambda updates: scaled(updates, -1.0),
        lambda updates: one_entry(updates, 0.02),
        truncated,
        zero,
    ],
)
def test_a_tampered_update_is_refused(form: str, tamper: Callable[[Updates], Updates]) -> None:
    merging = Merging.of(closed_federation(statistics=form))
    with pytest.raises(UnverifiedError, match="layer 0 is not the merge") as caught:
        merging.open(tamper(merging.updates()))
    assert caught.value.reason is AbortReason.MERGE_UNVERIFIED


def test_another_ridge_a_stale_update_and_swapped_layers_are_refused() -> None:
    federation = closed_federation(layers=2)
    merging = Merging.of(federation)
    updates = merging.updates()
    stale = Merging.of(
        federation,
        statistics=lambda party: [(0.9 * k, r) for k, r in federation.statistics(party, TASK)],
    )
    editing = federation.plan.editing.model_copy(update={"ridge": 1.02})
    other = replace(federation, plan=federation.plan.model_copy(update={"editing": editing}))
    swapped = {LayerIndex(0): updates[LayerIndex(1)], LayerIndex(1): updates[LayerIndex(0)]}
    for lie in (
        stale.updates(),
        Merging(other, merging.total, merging.survivors).updates(),
        swapped,
    ):
        with pytest.raises(UnverifiedError, match="is not the merge"):
            merging.open(lie)
    assert merging.open(updates).checks


@pytest.mark.parametrize("ridge", [0.0, 1.0])
@pytest.mark.parametrize("bits", [14, 20])
def test_factors_that_cancel_buy_no_room_for_a_lie(bits: int, ridge: float) -> None:
    """Large columns that come to nothing make ‖Δ‖_F, and so the tolerance, what rounding says."""
    federation = closed_federation(fractional_bits=bits)
    name = "memit" if ridge else "emmet"
    editing = federation.plan.editing.model_copy(update={"ridge": ridge, "editor": name})
    plan = federation.plan.model_copy(update={"editing": editing})
    merging = Merging.of(replace(federation, plan=plan))
    assert merging.open().checks
    ((layer, update),) = merging.updates().items()
    rng = np.random.default_rng(0)
    for exponent in (8, 10, 12, 14):
        for pairs in [1, 2, 3, 4] * 15:
            signs = np.tile([1.0, -1.0], pairs)
            columns = 10.0**exponent * np.repeat(rng.normal(size=(20, pairs)), 2, axis=1) * signs
            rows = np.repeat(rng.normal(size=(pairs, 48)), 2, axis=0)
            lie = LowRankUpdate(
                np.hstack([columns, 1.05 * update.left]), np.vstack([rows, update.right])
            )
            with pytest.raises((UnverifiedError, MalformedMessageError)):
                merging.open({layer: lie})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1e100, 1e155, 1e200, 1e300])
def test_an_update_whose_squares_overflow_is_refused(form: str, size: float) -> None:
    """Without a ridge no bound of the plan stands before the check."""
    federation = closed_federation(statistics=form)
    editing = federation.plan.editing.model_copy(update={"ridge": 0.0, "editor": "emmet"})
    plan = federation.plan.model_copy(update={"editing": editing})
    merging = Merging.of(replace(federation, plan=plan))
    ((layer, update),) = merging.updates().items()
    huge = LowRankUpdate(update.left[:, :1] * size, update.right[:1])
    with pytest.raises(UnverifiedError, match="layer 0 is not the merge"):
        merging.open({layer: huge})


def test_a_dropped_party_is_noticed() -> None:
    """The aggregator merges three of four, and says that all four are in it."""
    federation = closed_federation()
    whole, part = Merging.of(federation), Merging.of(federation, survivors=[1, 2, 3])
    with pytest.raises(UnverifiedError, match="is not the merge"):
        whole.open(part.updates())
    part.survivors = whole.survivors
    with pytest.raises(UnverifiedError):
        part.open()


def test_shifting_any_check_element_is_refused_or_harmless() -> None:
    merging = Merging.of(closed_federation())
    plan = merging.plan
    start, size = plan.statistics_length(TASK), plan.check_length(TASK)
    exact = size - plan.check_tags - 4
    honest = merging.total.copy()
    for place in [0, 17, exact - 1, *range(exact, size)]:
        for shift in (1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1):
            merging.total = honest.copy()
            merging.total[start + place : start + place + 1] += np.uint64(shift)
            if place < exact and shift > 1 << 63:
                assert merging.open().checks  # one unit in the last place of a rounded number
                continue
            with pytest.raises(UnverifiedError):
                merging.open()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [0.0, 1.0, 1e3, 1e5])
def test_shifts_of_columns_buy_no_room_for_a_lie(form: str, length: float) -> None:
    """Sv shifted by a and Tv by Δ'a leave the miss of a lie Δ' as it is, and make ‖Tv‖ large."""
    merging = Merging.of(closed_federation(statistics=form))
    plan, encoding = merging.plan, plan_encoding(merging.plan)
    lie = one_entry(merging.updates(), 0.002)
    (update,) = lie.values()
    shift = length * np.random.default_rng(3).normal(size=(48, 1)) * np.ones((48, 4))
    both = np.concatenate([shift, update.dense() @ shift])
    start = plan.statistics_length(TASK)
    wide = (both / encoding.step).round().astype(np.int64).view(np.uint64).ravel()
    merging.total[start : start + wide.size] += wide
    with pytest.raises(UnverifiedError, match="is not the merge"):
        merging.open(lie)


@pytest.mark.parametrize("tagged", [True, False])
def test_inflated_integers_buy_room_for_a_lie_only_without_tags(
    tagged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tagged:
        monkeypatch.setattr(
            MergeCheck, "_tag", lambda self, _: np.zeros(self._plan.check_tags, dtype=np.uint64)
        )
    merging = Merging.of(closed_federation())
    lie = scaled(merging.updates(), 1.001)
    with pytest.raises(UnverifiedError, match="is not the merge"):
        merging.open(lie)
    # Both energies, the last integers before the tags, by half of what the plan allows them.
    end = len(merging.total) - merging.plan.check_tags
    merging.total[end - 2 : end] += np.uint64(1 << 19)
    if tagged:
        with pytest.raises(UnverifiedError, match="tags"):
            merging.open(lie)
    else:
        assert merging.open(lie).checks


@pytest.mark.parametrize("padded", [True, False])
def test_a_lie_can_be_made_to_fit_the_columns_only_without_pads(
    padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads Sv knows v on the edits' span, and adds rows of that span that are blind to it."""
    if not padded:
        monkeypatch.setattr(
            MergeCheck,
            "_pad",
            lambda self, _: np.zeros(self._plan.check_length(TASK), dtype=np.uint64),
        )
    merging = Merging.of(closed_federation(statistics='"dense"'))
    plan, encoding = merging.plan, plan_encoding(merging.plan)
    layer, ridge = plan.tasks[TASK][0], plan.editing.ridge
    start = plan.statistics_length(TASK)
    statistics = DenseStatistics.from_vector(
        encoding.decode(merging.total[:start]), mapped=layer.mapped, outputs=layer.outputs
    )
    columns = encoding.decode(merging.total[start : start + 4 * layer.mapped]).reshape(-1, 4)
    values, vectors = np.linalg.eigh(statistics.gram)
    span = vectors[:, values > 1e-6]
    inside = span.T @ columns  # what v is on the span, times S's eigenvalues
    wanted = ridge * inside / values[values > 1e-6][:, None] + inside
    blind = span @ np.linalg.svd(wanted.T)[2][-1]
    (index,) = merging.updates()
    update = merging.updates()[index]
    added = np.zeros((layer.outputs, 1))
    added[3] = 0.3 * np.linalg.norm(update.dense())
    lie = {
        index: LowRankUpdate(
            np.hstack([update.left, added]), np.vstack([update.right, blind[None]])
        ).canonical()
    }
    if padded:
        with pytest.raises(UnverifiedError, match="is not the merge"):
            merging.open(lie)
    else:
        opened = merging.open(lie).updates[index].dense()
        honest = merging.open().updates[index].dense()
        assert np.linalg.norm(opened - honest) > 0.2 * np.linalg.norm(honest)


def test_the_check_elements_look_uniform() -> None:
    federation = closed_federation()
    plan = federation.plan
    zeros = [
        (np.zeros_like(k), np.zeros_like(r)) for k, r in federation.statistics(PartyId(1), TASK)
    ]
    elements = [
        MergeCheck(plan, context(plan), number.to_bytes(32, "big")).encode(
            zeros, own=zeros, party=PartyId(1)
        )
        for number in range(60)
    ]
    # The top bytes of so many elements under so many secrets: χ² of 256 cells.
    top = (np.concatenate(elements) >> np.uint64(56)).astype(int)
    counts = np.bincount(top, minlength=256)
    expected = top.size / 256
    assert ((counts - expected) ** 2 / expected).sum() < 256 + 6 * np.sqrt(2 * 256)


def test_fewer_edits_than_the_plan_wants_are_refused() -> None:
    federation = closed_federation(section="check_columns = 2\nmin_edits = 12")
    assert Merging.of(federation).open().checks
    with pytest.raises(UnverifiedError, match=r"9 edits together.*12") as caught:
        Merging.of(federation, survivors=[1, 2, 3]).open()
    assert caught.value.reason is AbortReason.TOO_FEW_EDITS


def test_no_edits_at_all_are_an_empty_update() -> None:
    federation = closed_federation()
    merging = Merging.of(
        federation,
        statistics=lambda party: [
            (k[:, :0], r[:, :0]) for k, r in federation.statistics(party, TASK)
        ],
    )
    opened = merging.open()
    assert opened.updates[LayerIndex(0)].rank == 0
    assert opened.checks[0].edits == 0


def test_a_ring_of_32_bits_checks_more_coarsely() -> None:
    federation = closed_federation(ring_bits=32, fractional_bits=18, magnitude_bound=2000.0)
    merging = Merging.of(federation)
    assert merging.open().checks[0].miss < 1e-3
    with pytest.raises(UnverifiedError):
        merging.open(scaled(merging.updates(), -1.0))


def test_statistics_survive_their_bytes_bit_by_bit() -> None:
    federation = closed_federation(layers=2)
    pairs = federation.statistics(PartyId(2), TASK)
    pairs[1] = (pairs[1][0], pairs[1][1][:, :1])
    data = statistics_to_bytes(pairs)
    for given, found in zip(pairs, statistics_from_bytes(federation.plan, TASK, data), strict=True):
        for one, other in zip(given, found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_number_beyond_the_bound_in_the_secret_basis_is_refused() -> None:
    federation = closed_federation(magnitude_bound=1.0)
    with pytest.raises(NumericError):
        closed(federation.plan).contribute(PartyId(1), federation.statistics(PartyId(1), TASK))


def test_reprs_show_no_secret_and_no_number() -> None:
    federation = closed_federation()
    task = closed(federation.plan)
    assert repr(task) == "ClosedTask('test', task=0)"
    opened = Merging.of(federation).open()
    assert "array" not in repr(opened)


# The tolerance: never less than what an honest merge misses by.


def near_duplicates(
    federation: TestFederation, *, gap: float, scale: float
) -> Callable[[PartyId], list[tuple[Matrix, Matrix]]]:
    """Keys of the first two parties differ by `gap` of their length: S is singular but for that."""
    base = np.random.default_rng(11).normal(size=(48, 3)) * scale / 7

    def statistics(party: PartyId) -> list[tuple[Matrix, Matrix]]:
        own = np.random.default_rng(100 + party)
        keys = own.normal(size=(48, 3)) * scale / 7
        if party <= 2:
            keys = base + gap * keys
        return [(keys, own.normal(size=(20, 3)) * 3)]

    return statistics


@pytest.mark.parametrize("ridge", [1.0, 1e-3, 0.0])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gap", [0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1.0])
def test_near_duplicates_raise_no_false_alarm(form: str, ridge: float, gap: float) -> None:
    federation = closed_federation(
        statistics=form,
        section="check_tolerance = 1.0",
        key_energy=1e6,
        residual_energy=1e6,
        magnitude_bound=1e5,
    )
    name = "memit" if ridge else "emmet"
    editing = federation.plan.editing.model_copy(update={"ridge": ridge, "editor": name})
    plan = federation.plan.model_copy(update={"editing": editing})
    federation = replace(federation, plan=plan)
    for scale in (0.1, 1.0, 30.0):
        statistics = near_duplicates(federation, gap=gap, scale=scale)
        (check,) = Merging.of(federation, statistics=statistics).open().checks
        assert check.miss <= check.tolerance


@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-2, 1.0])
def test_keys_as_models_give_them_pass_the_default_cap(gap: float) -> None:
    """Equal up to float32's last bits, as of one subject at two parties, or not nearly equal."""
    federation = closed_federation()
    statistics = near_duplicates(federation, gap=gap, scale=1.0)
    (check,) = Merging.of(federation, statistics=statistics).open().checks
    assert check.miss < 1e-6


def test_a_check_of_other_sums_is_a_bounds_error() -> None:
    assert issubclass(UnverifiedError, BoundsError)
