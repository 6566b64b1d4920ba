from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.crypto.shamir import (
    MAX_ABSCISSA,
    PRIME,
    SHARE_BYTES,
    combine,
    lagrange_weights_at_zero,
    split,
)
from tests.support.randomness import InsecureTestRandomness

SECRETS = st.binary(min_size=32, max_size=32)
PLACES = st.lists(
    st.integers(min_value=1, max_value=MAX_ABSCISSA), min_size=2, max_size=9, unique=True
)


@settings(max_examples=60, deadline=None)
@given(st.data(), SECRETS, PLACES, st.integers())
def test_any_large_enough_subset_reconstructs(
    data: st.DataObject, secret: bytes, places: list[int], seed: int
) -> None:
    threshold = data.draw(st.integers(min_value=2, max_value=len(places)))
    shares = split(
        secret, threshold=threshold, abscissas=places, randomness=InsecureTestRandomness(seed)
    )
    chosen = data.draw(
        st.lists(st.sampled_from(places), min_size=threshold, max_size=len(places), unique=True)
    )
    assert combine({x: shares[x] for x in chosen}, threshold=threshold) == secret


@settings(max_examples=60, deadline=None)
@given(st.data(), SECRETS, SECRETS, PLACES, st.integers())
def test_one_share_too_few_is_consistent_with_every_secret(
    data: st.DataObject, secret: bytes, other: bytes, places: list[int], seed: int
) -> None:
    """For t - 1 shares and any other secret there is a t-th share that leads to that secret.

    It is computed from the equation sum of w_i y_i = other, and must be a legal field element.
    Together with uniform coefficients this is perfect secrecy.
    """
    threshold = data.draw(st.integers(min_value=2, max_value=len(places)))
    shares = split(
        secret, threshold=threshold, abscissas=places, randomness=InsecureTestRandomness(seed)
    )
    *known, free = data.draw(st.permutations(places))[:threshold]
    weights = dict(zip([*known, free], lagrange_weights_at_zero([*known, free]), strict=True))
    partial = sum(weights[x] * int.from_bytes(shares[x], "big") for x in known)
    rest = (int.from_bytes(other, "big") - partial) * pow(weights[free], -1, PRIME) % PRIME
    completed = {x: shares[x] for x in known} | {free: rest.to_bytes(SHARE_BYTES, "big")}
    assert combine(completed, threshold=threshold) == other
