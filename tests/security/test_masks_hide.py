"""What one party uploads looks like noise, whatever is in it; without masks it does not.

Each test has its undefended control on the same inputs, so that a test which cannot see anything
fails. All randomness is seeded: these tests do not fail by chance.
"""

import math
from pathlib import Path

import numpy as np
import pytest

from collabedit.crypto.masking import SignedMask
from collabedit.crypto.ring import from_bytes, to_bytes
from collabedit.exchange import FRAME_OVERHEAD, contribution_vector, plan_encoding
from collabedit.ids import PartyId
from collabedit.party import states as s
from collabedit.party.contribution import masked_upload
from collabedit.plan import Plan
from tests.protocol.stage import FIRST, Session, Walk, parties, walk
from tests.support.federations import MAPPED, OUTPUTS, TestFederation, build_federation

ONE = PartyId(1)


def masks_of(walked: Walk, party: int) -> tuple[SignedMask, ...]:
    state = walked.state(party, s.Uploaded)
    assert isinstance(state, s.Contributing)
    return state.masks


def payload(plan: Plan, vector: np.ndarray, masks: tuple[SignedMask, ...]) -> bytes:
    """What goes over the wire for a real vector under these masks, less the frames."""
    upload = masked_upload(plan, FIRST, plan_encoding(plan).encode(vector), masks)
    return b"".join(frame[FRAME_OVERHEAD:] for frame in upload.frames())


def chi_square(data: bytes) -> float:
    """Distance of the byte frequencies from uniform, in standard deviations of the statistic."""
    counts = np.bincount(np.frombuffer(data, dtype=np.uint8), minlength=256)
    expected = len(data) / 256
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - 255) / math.sqrt(2 * 255)


@pytest.fixture(scope="module")
def walks() -> list[Walk]:
    return [walk(contributors=parties(1, 2, 3, 4, 5), seed=seed) for seed in range(120)]


@pytest.fixture(scope="module")
def federation() -> TestFederation:
    return build_federation(5)


@pytest.mark.parametrize("party", [1, 3, 5])
def test_uploaded_bytes_are_uniform_and_unmasked_ones_are_not(
    party: int, walks: list[Walk], federation: TestFederation
) -> None:
    plan = federation.plan
    vector = federation.contribute(PartyId(party), FIRST)
    masked = b"".join(payload(plan, vector, masks_of(walked, party)) for walked in walks)
    naked = payload(plan, vector, ()) * len(walks)
    assert len(masked) == len(naked) > 1_000_000
    assert abs(chi_square(masked)) < 5
    assert chi_square(naked) > 1000


def test_every_byte_place_of_an_element_is_uniform(
    walks: list[Walk], federation: TestFederation
) -> None:
    # The high bytes of small numbers are all 0 or 255 without masks.
    vector = federation.contribute(ONE, FIRST)
    masked = b"".join(payload(federation.plan, vector, masks_of(w, 1)) for w in walks)
    naked = payload(federation.plan, vector, ()) * len(walks)
    for place in range(8):
        assert abs(chi_square(masked[place::8])) < 5
    assert chi_square(naked[7::8]) > 1000


def test_any_one_mask_alone_hides(walks: list[Walk], federation: TestFederation) -> None:
    # Whoever knows all masks of a party but one (four colluding peers, or the self mask) sees
    # noise: no mask is there for decoration.
    vector = federation.contribute(ONE, FIRST)
    for number in range(5):
        data = b"".join(
            payload(federation.plan, vector, masks_of(w, 1)[number : number + 1]) for w in walks
        )
        assert abs(chi_square(data)) < 5


def test_equal_inputs_give_unrelated_uploads(walks: list[Walk], federation: TestFederation) -> None:
    plan, vector = federation.plan, np.zeros(federation.plan.task_length(FIRST))
    uploads = [payload(plan, vector, masks_of(w, p)) for w in walks[:8] for p in range(1, 6)]
    assert len(set(uploads)) == len(uploads)
    ring = plan_encoding(plan).ring
    for other in uploads[1:]:
        difference = from_bytes(ring, uploads[0]) - from_bytes(ring, other)
        assert abs(chi_square(bytes(to_bytes(difference)))) < 5
    assert len({payload(plan, vector, ()) for _ in walks}) == 1


def two_inputs(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of an ordinary edit and of one a hundred times larger."""
    rng = np.random.default_rng(5)
    keys, residuals = rng.normal(size=(MAPPED, 3)), rng.normal(size=(OUTPUTS, 3))
    small = contribution_vector(plan, FIRST, [(0.1 * keys, 0.1 * residuals)])
    large = contribution_vector(plan, FIRST, [(keys, 10 * residuals)])
    return small, large


def features(data: bytes) -> np.ndarray:
    """Mean bits of each place of an element, byte frequencies, and the first elements."""
    elements = np.frombuffer(data, dtype="<u8")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8)).reshape(-1, 64).mean(axis=0)
    counts = np.bincount(np.frombuffer(data, dtype=np.uint8), minlength=256) / len(data)
    return np.concatenate([bits, 16 * counts, elements[:32] / 2.0**64])


def accuracy(plan: Plan, uploads: list[tuple[bytes, int]]) -> float:
    """Held-out accuracy of a classifier by the nearer mean, trained on every other upload."""
    rows = np.stack([features(data) for data, _ in uploads])
    labels = np.array([label for _, label in uploads])
    train = np.arange(len(rows)) // 2 % 2 == 0
    means = [rows[train & (labels == label)].mean(axis=0) for label in (0, 1)]
    distances = [np.linalg.norm(rows[~train] - mean, axis=1) for mean in means]
    return float(((distances[1] < distances[0]) == labels[~train]).mean())


def test_uploads_of_two_inputs_cannot_be_told_apart(
    walks: list[Walk], federation: TestFederation
) -> None:
    plan = federation.plan
    inputs = two_inputs(plan)
    masked, naked = [], []
    for number, walked in enumerate(walks):
        for party in range(1, 6):
            label = (number * 5 + party) % 2
            masked.append((payload(plan, inputs[label], masks_of(walked, party)), label))
            naked.append((payload(plan, inputs[label], ()), label))
    assert accuracy(plan, naked) == 1.0
    # 300 held-out guesses: three standard deviations are 0.087.
    assert abs(accuracy(plan, masked) - 0.5) < 0.087


def test_what_the_coordinator_stores_is_uniform(tmp_path: Path) -> None:
    # The real thing: spool files, not the function that makes frames.
    federation = build_federation(5)
    stored: dict[str, bytes] = {}

    def watch(_session: Session) -> None:
        stored.update({path.name: path.read_bytes() for path in tmp_path.rglob("*.tiles")})

    session = Session(federation, tmp_path, watch=watch).run()
    assert len(stored) == 5
    for name, data in stored.items():
        assert abs(chi_square(data)) < 5, name
    for encoded in session.encoded.values():
        assert chi_square(bytes(to_bytes(encoded))) > 50


def test_the_masks_cancel_in_the_sum_and_in_no_smaller_one(
    walks: list[Walk], federation: TestFederation
) -> None:
    # All five pairwise masks cancel; leave one party out and the rest is noise again.
    plan = federation.plan
    ring = plan_encoding(plan).ring
    vector = np.zeros(plan.task_length(FIRST))
    pairwise = {p: masks_of(walks[0], p)[1:] for p in range(1, 6)}
    uploads = {p: from_bytes(ring, payload(plan, vector, pairwise[p])) for p in pairwise}
    total = sum(uploads.values(), np.zeros_like(uploads[1]))
    assert not total.any()
    for upload in uploads.values():
        partial = total - upload
        assert abs(chi_square(bytes(to_bytes(partial)))) < 5
