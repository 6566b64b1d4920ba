import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from collabedit.crypto import agreement
from collabedit.crypto.agreement import AgreementKey, check_public
from collabedit.errors import InvalidPublicKeyError
from tests.support.randomness import InsecureTestRandomness

RANDOMNESS = InsecureTestRandomness(1)
ALICE = AgreementKey.generate(RANDOMNESS)
BOB = AgreementKey.generate(RANDOMNESS)
EVE = AgreementKey.generate(RANDOMNESS)

# u of order 1, 2, 4 and 8 on curve and twist, canonical.
LOW_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "ec" + "ff" * 30 + "7f",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
]


def agree(mine: AgreementKey, peer: AgreementKey, label: str = "a", context: bytes = b"") -> bytes:
    return mine.agree(peer.public, label=label, context=context)


def test_both_ends_agree_and_nobody_else_does() -> None:
    assert agree(ALICE, BOB) == agree(BOB, ALICE)
    assert len({agree(ALICE, BOB), agree(ALICE, EVE), agree(BOB, EVE)}) == 3


def test_label_and_context_separate_keys() -> None:
    keys = {agree(ALICE, BOB), agree(ALICE, BOB, "b"), agree(ALICE, BOB, context=b"b")}
    assert len(keys) == 3


def test_a_key_survives_its_secret() -> None:
    again = AgreementKey.from_secret(ALICE.secret())
    assert again.public == ALICE.public
    assert agree(again, BOB) == agree(ALICE, BOB)


def test_the_secret_is_what_was_drawn_not_clamped() -> None:
    # Shamir shares this value and a commitment covers it: it must come back bit by bit.
    raw = b"\xff" * 32
    assert AgreementKey.from_secret(raw).secret() == raw


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        AgreementKey.from_secret(bytes(size))


@pytest.mark.parametrize("public", LOW_ORDER)
def test_low_order_points_are_refused(public: str) -> None:
    with pytest.raises(InvalidPublicKeyError, match="low order"):
        check_public(bytes.fromhex(public))
    with pytest.raises(InvalidPublicKeyError, match="low order"):
        ALICE.agree(bytes.fromhex(public), label="a", context=b"")


@pytest.mark.parametrize("public", [b"", ALICE.public[:31], ALICE.public + b"\x00"])
def test_malformed_points_are_refused(public: bytes) -> None:
    with pytest.raises(InvalidPublicKeyError, match="32 bytes"):
        check_public(public)
    with pytest.raises(InvalidPublicKeyError, match="32 bytes"):
        BOB.agree(public, label="a", context=b"")


def test_a_second_encoding_of_a_point_is_refused() -> None:
    twin = ALICE.public[:31] + bytes([ALICE.public[31] | 0x80])
    with pytest.raises(InvalidPublicKeyError, match="canonical"):
        check_public(twin)
    with pytest.raises(InvalidPublicKeyError, match="canonical"):
        BOB.agree(twin, label="a", context=b"")


def test_good_points_pass() -> None:
    for key in (ALICE, BOB, EVE):
        check_public(key.public)


def test_a_reflected_key_is_refused() -> None:
    with pytest.raises(InvalidPublicKeyError, match="our own"):
        agree(ALICE, ALICE)


@pytest.mark.parametrize("public", LOW_ORDER)
def test_the_list_of_low_order_points_is_what_the_library_refuses(public: str) -> None:
    """The lookup replaces an exchange; the library's own check is the reference."""
    peer = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
    with pytest.raises(ValueError, match="Error computing shared key"):
        X25519PrivateKey.from_private_bytes(b"\x42" * 32).exchange(peer)
    assert int.from_bytes(bytes.fromhex(public), "little") in agreement._LOW_ORDER_U
    assert len(agreement._LOW_ORDER_U) == len(LOW_ORDER)


def test_one_exchange_gives_the_keys_of_all_contexts() -> None:
    contexts = (b"there", b"back", b"")
    together = ALICE.agree_all(BOB.public, label="a", contexts=contexts)
    assert together == tuple(ALICE.agree(BOB.public, label="a", context=c) for c in contexts)
    assert len(set(together)) == 3
