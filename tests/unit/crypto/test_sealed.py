import pytest

from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.sealed import OVERHEAD_BYTES, Channel, open_sealed, seal
from collabedit.errors import InvalidPublicKeyError, InvalidSealError
from tests.support.randomness import InsecureTestRandomness

RANDOMNESS = InsecureTestRandomness(2)
ALICE = AgreementKey.generate(RANDOMNESS)
BOB = AgreementKey.generate(RANDOMNESS)
EVE = AgreementKey.generate(RANDOMNESS)
TEXT = b"two shares and a group secret"
CONTEXT = b"session, task, from, to"


def sealed_for_bob() -> bytes:
    return seal(
        sender=ALICE,
        receiver_public=BOB.public,
        plaintext=TEXT,
        associated_data=CONTEXT,
        randomness=RANDOMNESS,
    )


def opened(
    sealed: bytes,
    *,
    receiver: AgreementKey = BOB,
    sender: bytes = ALICE.public,
    context: bytes = CONTEXT,
) -> bytes:
    return open_sealed(
        receiver=receiver, sender_public=sender, sealed=sealed, associated_data=context
    )


def test_the_receiver_opens_it() -> None:
    sealed = sealed_for_bob()
    assert opened(sealed) == TEXT
    assert len(sealed) == len(TEXT) + OVERHEAD_BYTES
    assert TEXT not in sealed


def test_sealing_twice_gives_unrelated_bytes() -> None:
    one, other = sealed_for_bob(), sealed_for_bob()
    assert one[:12] != other[:12]
    assert one[12:] != other[12:]


def test_no_bit_can_be_altered() -> None:
    sealed = sealed_for_bob()
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 0x80
        with pytest.raises(InvalidSealError):
            opened(bytes(altered))


def test_no_truncation_opens() -> None:
    sealed = sealed_for_bob()
    for length in range(len(sealed)):
        with pytest.raises(InvalidSealError):
            opened(sealed[:length])


def test_wrong_ends_and_context_do_not_open() -> None:
    sealed = sealed_for_bob()
    with pytest.raises(InvalidSealError):
        opened(sealed, receiver=EVE)
    with pytest.raises(InvalidSealError):
        opened(sealed, sender=EVE.public)
    with pytest.raises(InvalidSealError):
        opened(sealed, context=CONTEXT + b"!")


def test_a_message_reflected_to_its_sender_does_not_open() -> None:
    with pytest.raises(InvalidSealError):
        opened(sealed_for_bob(), receiver=ALICE, sender=BOB.public)


@pytest.mark.parametrize("sender", [bytes(32), b"", b"\xff" * 32, BOB.public])
def test_an_unusable_sender_key_is_a_seal_that_does_not_open(sender: bytes) -> None:
    with pytest.raises(InvalidSealError):
        opened(sealed_for_bob(), sender=sender)


def test_nothing_is_sealed_to_an_unusable_key() -> None:
    with pytest.raises(InvalidPublicKeyError):
        seal(
            sender=ALICE,
            receiver_public=bytes(32),
            plaintext=TEXT,
            associated_data=CONTEXT,
            randomness=RANDOMNESS,
        )


def test_a_channel_seals_and_opens_as_the_functions_do() -> None:
    here, there = Channel(ALICE, BOB.public), Channel(BOB, ALICE.public)
    sealed = here.seal(TEXT, associated_data=CONTEXT, randomness=RANDOMNESS)
    assert there.open(sealed, associated_data=CONTEXT) == opened(sealed) == TEXT
    assert there.open(sealed_for_bob(), associated_data=CONTEXT) == TEXT


def test_a_channel_has_a_key_for_each_direction() -> None:
    here = Channel(ALICE, BOB.public)
    sealed = here.seal(TEXT, associated_data=CONTEXT, randomness=RANDOMNESS)
    with pytest.raises(InvalidSealError):
        here.open(sealed, associated_data=CONTEXT)
    assert repr(here) == "Channel(<secret>)"
