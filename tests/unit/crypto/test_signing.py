import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from collabedit.crypto.signing import (
    _SMALL_ORDER_Y,
    SigningKey,
    VerifyKey,
    read_private,
    read_signing_key,
    write_private,
)
from collabedit.errors import InvalidPublicKeyError, InvalidSignatureError, KeyFileError
from tests.support.randomness import InsecureTestRandomness

RANDOMNESS = InsecureTestRandomness(3)
KEY = SigningKey.generate(RANDOMNESS)
OTHER = SigningKey.generate(RANDOMNESS)


def test_only_the_signer_and_the_message_verify() -> None:
    signature = KEY.sign(b"message")
    KEY.verify_key.verify(signature, b"message")
    with pytest.raises(InvalidSignatureError):
        KEY.verify_key.verify(signature, b"massage")
    with pytest.raises(InvalidSignatureError):
        OTHER.verify_key.verify(signature, b"message")


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(InvalidSignatureError):
        KEY.verify_key.verify(bytes(size), b"message")


def test_keys_are_equal_by_their_bytes() -> None:
    again = VerifyKey.from_bytes(KEY.verify_key.to_bytes())
    assert again == KEY.verify_key
    assert {again, KEY.verify_key, OTHER.verify_key} == {KEY.verify_key, OTHER.verify_key}
    assert again != OTHER.verify_key
    assert again != KEY.verify_key.to_bytes()


def test_a_small_order_key_would_verify_a_forgery() -> None:
    # Why such keys are refused: with A = R = neutral and S = 0 the equation S·B = R + k·A holds
    # for every message, with no private key anywhere.
    neutral = (1).to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"anything at all")
    with pytest.raises(InvalidPublicKeyError):
        VerifyKey.from_bytes(neutral)


@pytest.mark.parametrize("sign", [0, 1 << 255])
@pytest.mark.parametrize("y", sorted(_SMALL_ORDER_Y))
def test_small_order_keys_are_refused(y: int, sign: int) -> None:
    with pytest.raises(InvalidPublicKeyError, match="small order"):
        VerifyKey.from_bytes((y | sign).to_bytes(32, "little"))


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(33), b"\xff" * 32])
def test_malformed_keys_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidPublicKeyError, match=r"32 bytes|canonical"):
        VerifyKey.from_bytes(data)


@pytest.mark.parametrize("size", [31, 33])
def test_a_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey.from_seed(bytes(size))


def test_a_key_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    write_private(path, KEY.to_pem())
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_signing_key(path).verify_key == KEY.verify_key


def test_a_private_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    write_private(path, KEY.to_pem())
    with pytest.raises(KeyFileError, match=r"identity\.pem: exists already"):
        write_private(path, OTHER.to_pem())
    assert path.read_bytes() == KEY.to_pem()


def test_a_link_is_not_followed_when_writing(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    path.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(KeyFileError, match="exists already"):
        write_private(path, KEY.to_pem())
    assert not (tmp_path / "elsewhere.pem").exists()


def test_an_impossible_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"no/such/identity.pem: cannot be created"):
        write_private(tmp_path / "no/such/identity.pem", KEY.to_pem())


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        write_private(tmp_path / "identity.pem", KEY.to_pem())
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"identity.pem: cannot be read"):
        read_signing_key(tmp_path / "identity.pem")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_open_to_others_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.pem"
    write_private(path, KEY.to_pem())
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=r"chmod 600 .*identity.pem"):
        read_signing_key(path)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_private(tmp_path)
    with pytest.raises(KeyFileError, match="not a regular file"):
        read_private(Path(os.devnull))


def _pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "PEM form"),
        (b"not a key", "PEM form"),
        (KEY.to_pem()[:60], "PEM form"),
        (_pem(ec.generate_private_key(ec.SECP256R1())), "not Ed25519"),
        (
            KEY._private.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
            ),
            "encrypted with a password",
        ),
    ],
)
def test_files_that_hold_no_identity_are_refused(tmp_path: Path, pem: bytes, message: str) -> None:
    path = tmp_path / "identity.pem"
    write_private(path, pem)
    with pytest.raises(KeyFileError, match=f"identity.pem: .*{message}"):
        read_signing_key(path)
