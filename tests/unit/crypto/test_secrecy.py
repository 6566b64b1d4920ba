"""A secret never shows: not in a repr, not in an exception, not in a pickle."""

import logging
import pickle
import traceback
from collections.abc import Callable

import numpy as np
import pytest

from collabedit.crypto import kdf, masking, sealed, shamir
from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.certificates import create_authority, issue_certificate
from collabedit.crypto.fixedpoint import FixedPoint
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import SignedMask
from collabedit.crypto.ring import Ring
from collabedit.crypto.rng import ReplayableRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.crypto.storage import FileKey
from tests.support.randomness import InsecureTestRandomness

RANDOMNESS = InsecureTestRandomness(6)
CANARY = b"canary-canary-canary-canary-cana"
AUTHORITY = create_authority("leak test")
ISSUED = issue_certificate(AUTHORITY, name="leak-test", hosts=[], lifetime_days=1)
PEER = AgreementKey.generate(RANDOMNESS)


def traces(secret: bytes) -> list[str]:
    number = str(int.from_bytes(secret, "big"))
    return [secret.hex(), repr(secret)[2:-1], number, str(list(secret))[1:-1]]


def assert_clean(text: str, secret: bytes = CANARY) -> None:
    for trace in traces(secret):
        assert trace not in text


SECRET_OBJECTS = {
    "agreement": AgreementKey.from_secret(CANARY),
    "signing": SigningKey.from_seed(CANARY),
    "keystream": Keystream(CANARY),
    "mask": SignedMask(1, Keystream(CANARY)),
    "randomness": ReplayableRandomness(CANARY, b""),
    "storage": FileKey(CANARY, name="", salt=bytes(32)),
}


@pytest.mark.parametrize("name", SECRET_OBJECTS)
def test_no_form_of_printing_shows_a_secret(name: str, caplog: pytest.LogCaptureFixture) -> None:
    thing = SECRET_OBJECTS[name]
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("leak test").debug("%r %s", thing, [thing])
    for text in (repr(thing), str(thing), f"{thing}", repr({"x": [thing]}), caplog.text):
        assert text
        assert_clean(text)


@pytest.mark.parametrize("name", SECRET_OBJECTS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_secrets_are_not_pickled(name: str, protocol: int) -> None:
    thing = SECRET_OBJECTS[name]
    with pytest.raises(TypeError):
        pickle.dumps(thing, protocol)


@pytest.mark.parametrize("name", SECRET_OBJECTS)
def test_secrets_are_not_compared_by_value(name: str) -> None:
    makers: dict[str, Callable[[], object]] = {
        "agreement": lambda: AgreementKey.from_secret(CANARY),
        "signing": lambda: SigningKey.from_seed(CANARY),
        "keystream": lambda: Keystream(CANARY),
        "mask": lambda: SignedMask(1, Keystream(CANARY)),
        "randomness": lambda: ReplayableRandomness(CANARY, b""),
        "storage": lambda: FileKey(CANARY, name="", salt=bytes(32)),
    }
    assert makers[name]() != makers[name]()


@pytest.mark.parametrize("holder", [AUTHORITY, ISSUED])
def test_certificate_holders_do_not_print_their_keys(holder: object) -> None:
    text = repr(holder) + str(holder)
    assert "CERTIFICATE" in text
    assert "PRIVATE" not in text


FAILURES: dict[str, Callable[[], object]] = {
    "derive": lambda: kdf.derive_key(CANARY[:15], label="a", context=b""),
    "commit": lambda: kdf.commit("a", b"", CANARY[:31]),
    "agreement": lambda: AgreementKey.from_secret(CANARY[:31]),
    "low order": lambda: AgreementKey.from_secret(CANARY).agree(bytes(32), label="", context=b""),
    "signing": lambda: SigningKey.from_seed(CANARY[:31]),
    "pem": lambda: SigningKey.from_pem(SigningKey.from_seed(CANARY).to_pem()[:70]),
    "keystream": lambda: Keystream(CANARY[:31]),
    "self mask": lambda: masking.self_mask_key(CANARY[:31], b""),
    "tile": lambda: Keystream(CANARY).tile(-1, 1, Ring.Z32),
    "split": lambda: shamir.split(CANARY, threshold=3, abscissas=[1, 2], randomness=RANDOMNESS),
    "split length": lambda: shamir.split(
        CANARY[:31], threshold=2, abscissas=[1, 2], randomness=RANDOMNESS
    ),
    "share": lambda: shamir.combine({1: CANARY[:31], 2: CANARY[:31]}, threshold=2),
    "shares": lambda: shamir.combine(dict.fromkeys([1, 2], b"\xff" + CANARY), threshold=2),
    "surplus": lambda: shamir.combine(
        {1: b"\x00" + CANARY, 2: b"\x00" + CANARY, 3: bytes(33)}, threshold=2
    ),
    "open": lambda: sealed.open_sealed(
        receiver=AgreementKey.from_secret(CANARY),
        sender_public=PEER.public,
        sealed=CANARY * 2,
        associated_data=b"",
    ),
    "encode": lambda: kdf.encode_fields(int.from_bytes(CANARY, "big")),
}


@pytest.mark.parametrize("name", FAILURES)
def test_no_failure_shows_a_secret(name: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, it is silent
        FAILURES[name]()
    error: BaseException | None = caught.value
    while error is not None:
        for length in (15, 31, 32):
            assert_clean(repr(error) + str(error), CANARY[:length])
        error = error.__cause__ or error.__context__
    shown = "".join(traceback.format_exception_only(caught.value))
    assert_clean(shown)


def test_a_refused_statistic_is_not_shown() -> None:
    setting = FixedPoint(Ring.Z32, fractional_bits=8, magnitude_bound=10.0, parties=3)
    with pytest.raises(Exception, match="bound") as caught:
        setting.encode(np.array([1.0, 31.4159]))
    assert "31.4" not in repr(caught.value)
