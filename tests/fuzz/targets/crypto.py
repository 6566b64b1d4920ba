"""What a peer or a file hands to `crypto`: sealed shares, shares to combine, keys, certificates.

The first byte chooses. Each may only raise what it documents; what it gives back is what went in.
"""

import base64
import contextlib
import datetime as dt
import functools
import json
from pathlib import Path

from collabedit.crypto.agreement import AgreementKey, check_public
from collabedit.crypto.certificates import certificate_name, check_certificate_pair
from collabedit.crypto.sealed import OVERHEAD_BYTES, open_sealed, seal
from collabedit.crypto.shamir import PRIME, SHARE_BYTES, combine, split
from collabedit.crypto.signing import SigningKey, VerifyKey
from collabedit.errors import (
    InvalidPublicKeyError,
    InvalidSealError,
    InvalidShareError,
    InvalidSignatureError,
    KeyFileError,
)
from tests.fuzz.choices import Choices
from tests.support.randomness import InsecureTestRandomness

SEALED, SHARES, PUBLIC_KEYS, SIGNING_KEY, CERTIFICATE = range(5)
VECTORS = Path(__file__).parents[2] / "vectors" / "crypto" / "signing.json"
SECRET = bytes(range(32))
PLAINTEXT = b"what one party tells another"
THRESHOLD = 3
PLACES = (1, 2, 3, 4, 5)


@functools.cache
def keys() -> tuple[AgreementKey, AgreementKey]:
    return AgreementKey.from_secret(b"\x11" * 32), AgreementKey.from_secret(b"\x22" * 32)


@functools.cache
def sealed_box() -> bytes:
    return seal(
        sender=keys()[0],
        receiver_public=keys()[1].public,
        plaintext=PLAINTEXT,
        associated_data=b"where it belongs",
        randomness=InsecureTestRandomness(0),
    )


@functools.cache
def shares() -> dict[int, bytes]:
    randomness = InsecureTestRandomness(1)
    return split(SECRET, threshold=THRESHOLD, abscissas=PLACES, randomness=randomness)


def run(data: bytes) -> None:
    """Hand the bytes to one of the readers."""
    choice, data = (data[0] % 5 if data else 0), data[1:]
    if choice == SEALED:
        _sealed(data)
    elif choice == SHARES:
        _shares(Choices(data))
    elif choice == PUBLIC_KEYS:
        _public_keys(data)
    elif choice == SIGNING_KEY:
        _signing_key(data)
    else:
        _certificate(data)


def _sealed(data: bytes) -> None:
    try:
        opened = open_sealed(
            receiver=keys()[1],
            sender_public=keys()[0].public,
            sealed=data,
            associated_data=b"where it belongs",
        )
    except InvalidSealError:
        assert data != sealed_box()
        return
    assert data == sealed_box(), "an altered message opened"
    assert opened == PLAINTEXT
    assert len(data) == len(opened) + OVERHEAD_BYTES


def _shares(choices: Choices) -> None:
    """Combine true shares, altered ones, and shares at places where none belongs."""
    given: dict[int, bytes] = {}
    for _ in range(choices.below(7)):
        place = (0, *PLACES, 65535, 65536)[choices.below(8)]
        share = shares().get(place, bytes(SHARE_BYTES))
        match choices.below(4):
            case 0 | 1:
                given[place] = share
            case 2:
                given[place] = choices.take(choices.below(SHARE_BYTES + 2))
            case _:
                value = (int.from_bytes(share, "big") + 1 + choices.byte()) % PRIME
                given[place] = value.to_bytes(SHARE_BYTES, "big")
    honest = {place for place, share in given.items() if shares().get(place) == share}
    try:
        secret = combine(given, threshold=THRESHOLD)
    except InvalidShareError:
        assert len(honest) < len(given) or len(honest) < THRESHOLD
        return
    assert len(given) >= THRESHOLD
    if len(honest) >= THRESHOLD:
        assert honest == set(given), "a wrong share beside enough right ones went unnoticed"
        assert secret == SECRET


def _public_keys(data: bytes) -> None:
    try:
        check_public(data)
    except InvalidPublicKeyError:
        pass
    else:
        assert len(data) == 32
        if data != keys()[0].public:
            keys()[0].agree(data, label="test", context=b"")
    try:
        key = VerifyKey.from_bytes(data)
    except InvalidPublicKeyError:
        return
    assert key.to_bytes() == data
    try:
        key.verify(data + data, b"message")
    except InvalidSignatureError:
        return
    raise AssertionError("a signature that nobody made verifies")


def _armoured(data: bytes, label: str) -> bytes:
    """Put bytes that are no PEM into one, so that a fuzzer can alter the DER inside."""
    if data.startswith(b"-----"):
        return data
    return (
        f"-----BEGIN {label}-----\n{base64.encodebytes(data).decode()}-----END {label}-----\n"
    ).encode()


def _signing_key(data: bytes) -> None:
    try:
        key = SigningKey.from_pem(_armoured(data, "PRIVATE KEY"))
    except KeyFileError:
        return
    assert SigningKey.from_pem(key.to_pem()).verify_key == key.verify_key


def _certificate(data: bytes) -> None:
    pem = _armoured(data, "CERTIFICATE")
    with contextlib.suppress(KeyFileError):
        assert isinstance(certificate_name(pem), str)
    for certificate, authority in ((pem, CERTIFICATE_PEM), (CERTIFICATE_PEM, pem)):
        try:
            check_certificate_pair(certificate, KEY_PEM, authority, MOMENT)
        except KeyFileError:
            continue
        raise AssertionError("a certificate fits a key that was never its own")


# A self-signed ECDSA certificate of CN=x; its key was thrown away.
KEY_PEM = SigningKey.from_seed(bytes(32)).to_pem()
MOMENT = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
CERTIFICATE_PEM = b"""-----BEGIN CERTIFICATE-----
MIIBXzCCAQWgAwIBAgIUTLt37wrL14O79WC+u5T6jrxG/d0wCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBeDAeFw0yNTEyMzEyMzAwMDBaFw0zNTEyMzAwMDAwMDBaMAwx
CjAIBgNVBAMMAXgwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATbBthlyxnPzCbA
dN3xPo4V3nIKUrKxOl6SCbNksiRTbmzdPUA+zm+FQwc3XgRnuXXlDb/JnfWgaQHw
cUGEDpREo0UwQzAdBgNVHQ4EFgQUpnmXdq48iwzBZ/zuyvhVP+EEg6UwEgYDVR0T
AQH/BAgwBgEB/wIBADAOBgNVHQ8BAf8EBAMCAQYwCgYIKoZIzj0EAwIDSAAwRQIg
UL+Ec2UZBhj4qjXsQ2co0HG/KiVNOVRi4LSz0qTWUacCIQC+s1hoPHE7NC/s1mzT
MfX9mHgi6v6JOfYNx3kVPf3ogQ==
-----END CERTIFICATE-----
"""


def _der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def seeds() -> dict[str, bytes]:
    """Return what each reader accepts, and published keys that must be refused."""
    made = {
        "sealed": bytes([SEALED]) + sealed_box(),
        "shares": bytes([SHARES, 3, 1, 0, 2, 0, 3, 0]),
        "surplus-share": bytes([SHARES, 4, 1, 0, 2, 0, 3, 0, 4, 3, 7]),
        "agreement-key": bytes([PUBLIC_KEYS]) + keys()[1].public,
        "identity-key": bytes([PUBLIC_KEYS])
        + SigningKey.from_seed(bytes(32)).verify_key.to_bytes(),
        "signing-key": bytes([SIGNING_KEY]) + KEY_PEM,
        "signing-key-der": bytes([SIGNING_KEY]) + _der(KEY_PEM),
        "certificate": bytes([CERTIFICATE]) + CERTIFICATE_PEM,
        "certificate-der": bytes([CERTIFICATE]) + _der(CERTIFICATE_PEM),
    }
    cases = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
    refused = [
        case["input"][field]
        for case in cases
        if "error" in case
        for field in case["input"]
        if "public" in field or "key" in field
    ]
    for number, key in enumerate(sorted(set(refused))):
        made[f"vector-{number:02}"] = bytes([PUBLIC_KEYS]) + bytes.fromhex(key)
    return made
