"""Write tests/vectors/crypto/*.json with the code under test. Deterministic.

    python tests/vectors/generate_crypto.py [folder]

A case names an operation and its input, and either the output or the error. Cases with a `source`
carry a published output, and generation fails if the code disagrees. Bytes are hexadecimal; numbers
that may exceed 2^53, and integer fields, are decimal strings; floats are C99 hex floats.
`verify_crypto.py` recomputes every case without this package.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from collabedit.crypto import agreement, kdf, masking, ring, sealed, shamir
from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.fixedpoint import FixedPoint
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring
from collabedit.crypto.signing import SigningKey, VerifyKey
from collabedit.ids import PartyId

Json: TypeAlias = dict[str, Any]


def pseudo(name: str, count: int = 32) -> str:
    """Return reproducible bytes, in hex: SHAKE-256 of the name."""
    return hashlib.shake_256(f"collabedit test vector: {name}".encode()).hexdigest(count)


class RecordedRandomness:
    """Serves a given byte string in order."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream

    def random_bytes(self, count: int) -> bytes:
        drawn, self._stream = self._stream[:count], self._stream[count:]
        assert len(drawn) == count
        return drawn


@dataclass
class Case:
    name: str
    operation: str
    input: Json
    output: Json | None = None
    error: str | None = None
    source: str | None = None


un = bytes.fromhex


def fields_of(given: Json) -> list[bytes | str | int]:
    readers: dict[str, Callable[[str], bytes | str | int]] = {
        "bytes": un,
        "str": str,
        "int": int,
        "bool": lambda text: text == "true",
    }
    return [readers[kind](value) for kind, value in given["fields"]]


def setting_of(given: Json) -> FixedPoint:
    return FixedPoint(
        Ring.from_bits(given["bits"]),
        given["fractional_bits"],
        float.fromhex(given["magnitude_bound"]),
        given["parties"],
    )


def elements_of(given: Json, name: str = "values") -> ring.RingArray:
    return ring.from_bytes(Ring.from_bits(given["bits"]), un(given[name])).copy()


def signed_masks(given: Json) -> list[masking.SignedMask]:
    return [masking.SignedMask(sign, Keystream(un(key))) for sign, key in given["masks"]]


def op_hkdf(given: Json) -> Json:
    hkdf = HKDF(SHA256(), given["length"], un(given["salt"]), un(given["info"]))
    return {"key": hkdf.derive(un(given["secret"])).hex()}


def op_derive_key(given: Json) -> Json:
    key = kdf.derive_key(
        un(given["secret"]),
        label=given["label"],
        context=un(given["context"]),
        length=given["length"],
    )
    return {"key": key.hex()}


def op_agree(given: Json) -> Json:
    key = AgreementKey.from_secret(un(given["secret"]))
    agreed = key.agree(un(given["peer_public"]), label=given["label"], context=un(given["context"]))
    return {"key": agreed.hex()}


def op_x25519(given: Json) -> Json:
    key = AgreementKey.from_secret(un(given["secret"]))
    shared = agreement._exchange(key._private, un(given["peer_public"]))
    return {"public": key.public.hex(), "shared": shared.hex()}


def op_check_public(given: Json) -> Json:
    agreement.check_public(un(given["public"]))
    return {}


def op_seal(given: Json) -> Json:
    made = sealed.seal(
        sender=AgreementKey.from_secret(un(given["sender_secret"])),
        receiver_public=un(given["receiver_public"]),
        plaintext=un(given["plaintext"]),
        associated_data=un(given["associated_data"]),
        randomness=RecordedRandomness(un(given["nonce"])),
    )
    return {"sealed": made.hex()}


def op_open(given: Json) -> Json:
    plaintext = sealed.open_sealed(
        receiver=AgreementKey.from_secret(un(given["receiver_secret"])),
        sender_public=un(given["sender_public"]),
        sealed=un(given["sealed"]),
        associated_data=un(given["associated_data"]),
    )
    return {"plaintext": plaintext.hex()}


def op_sign(given: Json) -> Json:
    key = SigningKey.from_seed(un(given["seed"]))
    return {
        "verify_key": key.verify_key.to_bytes().hex(),
        "signature": key.sign(un(given["message"])).hex(),
    }


def op_verify(given: Json) -> Json:
    key = VerifyKey.from_bytes(un(given["verify_key"]))
    key.verify(un(given["signature"]), un(given["message"]))
    return {}


def op_tile(given: Json) -> Json:
    stream = Keystream(un(given["key"]))
    tile = stream.tile(int(given["index"]), given["elements"], Ring.from_bits(given["bits"]))
    return {"tile": ring.to_bytes(tile).hex()}


def op_split(given: Json) -> Json:
    shares = shamir.split(
        un(given["secret"]),
        threshold=given["threshold"],
        abscissas=given["abscissas"],
        randomness=RecordedRandomness(un(given["randomness"])),
    )
    return {"shares": [[x, share.hex()] for x, share in shares.items()]}


def op_combine(given: Json) -> Json:
    shares = {x: un(share) for x, share in given["shares"]}
    return {"secret": shamir.combine(shares, threshold=given["threshold"]).hex()}


def op_weights(given: Json) -> Json:
    weights = shamir.lagrange_weights_at_zero(given["abscissas"])
    return {"weights": [str(weight) for weight in weights]}


def op_setting(given: Json) -> Json:
    return {"step": setting_of(given).step.hex()}


def op_encode(given: Json) -> Json:
    values = np.array([float.fromhex(value) for value in given["values"]], dtype=np.float64)
    return {"elements": ring.to_bytes(setting_of(given).encode(values)).hex()}


def op_decode(given: Json) -> Json:
    values = setting_of(given).decode(elements_of(given, "elements"))
    return {"values": [float(value).hex() for value in values]}


def op_pair_sign(given: Json) -> Json:
    return {"sign": masking.pair_sign(PartyId(given["me"]), PartyId(given["peer"]))}


def op_self_mask_key(given: Json) -> Json:
    return {"key": masking.self_mask_key(un(given["seed"]), un(given["context"])).hex()}


def op_pair_mask_key(given: Json) -> Json:
    key = AgreementKey.from_secret(un(given["secret"]))
    derived = masking.pair_mask_key(key, un(given["peer_public"]), un(given["context"]))
    return {"key": derived.hex()}


def op_mask_tile(given: Json) -> Json:
    values = elements_of(given)
    masking.mask_tile(values, tile_index=int(given["tile_index"]), masks=signed_masks(given))
    return {"masked": ring.to_bytes(values).hex()}


def op_masked_vectors(given: Json) -> Json:
    """Mask one tile of every party, as in round 3, under one context."""
    context = un(given["context"])
    keys = {p["id"]: AgreementKey.from_secret(un(p["mask_secret"])) for p in given["parties"]}
    masked = []
    for party in given["parties"]:
        me = PartyId(party["id"])
        own = Keystream(masking.self_mask_key(un(party["seed"]), context))
        masks = [masking.SignedMask(1, own)]
        for peer, key in keys.items():
            if peer != me:
                pair = Keystream(masking.pair_mask_key(keys[me], key.public, context))
                masks.append(masking.SignedMask(masking.pair_sign(me, peer), pair))
        values = elements_of({"bits": given["bits"], "values": party["values"]})
        masking.mask_tile(values, tile_index=int(given["tile_index"]), masks=masks)
        masked.append([me, ring.to_bytes(values).hex()])
    return {"masked": masked}


OPERATIONS: dict[str, Callable[[Json], Json]] = {
    "encode_fields": lambda given: {"encoded": kdf.encode_fields(*fields_of(given)).hex()},
    "transcript_hash": lambda given: {
        "digest": kdf.transcript_hash(given["label"], *fields_of(given)).hex()
    },
    "commit": lambda given: {
        "digest": kdf.commit(given["label"], un(given["context"]), un(given["secret"])).hex()
    },
    "hkdf": op_hkdf,
    "derive_key": op_derive_key,
    "agree": op_agree,
    "x25519": op_x25519,
    "check_public": op_check_public,
    "seal": op_seal,
    "open": op_open,
    "sign": op_sign,
    "verify": op_verify,
    "tile": op_tile,
    "split": op_split,
    "combine": op_combine,
    "weights": op_weights,
    "setting": op_setting,
    "encode": op_encode,
    "decode": op_decode,
    "pair_sign": op_pair_sign,
    "self_mask_key": op_self_mask_key,
    "pair_mask_key": op_pair_mask_key,
    "mask_tile": op_mask_tile,
    "masked_vectors": op_masked_vectors,
}


def run(operation: str, **given: object) -> Json:
    return OPERATIONS[operation](dict(given))


def flip(text: str, byte: int) -> str:
    data = bytearray(un(text))
    data[byte] ^= 1
    return data.hex()


def kdf_cases() -> list[Case]:
    def fields(name: str, *given: tuple[str, str], error: str | None = None) -> Case:
        return Case(name, "encode_fields", {"fields": [list(f) for f in given]}, error=error)

    def derived(name: str, error: str | None = None, **changed: object) -> Case:
        given = {"secret": pseudo("ikm"), "label": "a label", "context": pseudo("ctx", 7)}
        return Case(name, "derive_key", given | {"length": 32} | changed, error=error)

    committed = {"label": "seed", "context": pseudo("task", 9), "secret": pseudo("seed")}
    rfc = "RFC 5869, appendix A."
    a2 = {k: bytes(range(s, s + 80)).hex() for k, s in (("secret", 0), ("salt", 96), ("info", 176))}
    return [
        fields("no field"),
        fields("one empty byte string", ("bytes", "")),
        fields("two empty byte strings", ("bytes", ""), ("bytes", "")),
        fields("the boundary is part of the value", ("bytes", "6162"), ("bytes", "63")),
        fields("the same bytes with another boundary", ("bytes", "61"), ("bytes", "6263")),
        fields("text is not bytes", ("str", "abc")),
        fields("non-ASCII text", ("str", "Zürich")),
        fields("smallest and largest integer", ("int", "0"), ("int", str(2**64 - 1))),
        fields("negative integer", ("int", "-1"), error="ValueError"),
        fields("integer too large", ("int", str(2**64)), error="ValueError"),
        fields("a truth value is not a number", ("bool", "true"), error="TypeError"),
        Case(
            "transcript hash",
            "transcript_hash",
            {"label": "roster", "fields": [["bytes", "00ff"], ["str", "party"], ["int", "7"]]},
        ),
        derived("32 bytes"),
        derived("one byte", length=1),
        derived("100 bytes", length=100),
        derived("shortest secret", secret=pseudo("ikm", 16)),
        derived("another label", label="another label"),
        derived("secret too short", secret=pseudo("ikm", 15), error="ValueError"),
        derived("nothing asked for", length=0, error="ValueError"),
        derived("more than HKDF gives", length=8161, error="ValueError"),
        Case("commitment", "commit", committed),
        Case("short secret", "commit", committed | {"secret": "00" * 31}, error="ValueError"),
        Case(
            "HKDF-SHA256, basic",
            "hkdf",
            {
                "secret": "0b" * 22,
                "salt": bytes(range(13)).hex(),
                "info": bytes(range(0xF0, 0xFA)).hex(),
                "length": 42,
            },
            {
                "key": "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
                "34007208d5b887185865"
            },
            source=rfc + "1",
        ),
        Case(
            "HKDF-SHA256, longer inputs",
            "hkdf",
            a2 | {"length": 82},
            {
                "key": "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
                "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
                "cc30c58179ec3e87c14c01d5c1f3434f1d87"
            },
            source=rfc + "2",
        ),
        Case(
            "HKDF-SHA256, no salt",
            "hkdf",
            {"secret": "0b" * 22, "salt": "", "info": "", "length": 42},
            {
                "key": "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
                "9d201395faa4b61a96c8"
            },
            source=rfc + "3",
        ),
    ]


ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
ALICE_BOB = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

# The low-order u of Curve25519: 0, 1, -1, and the two of order 8 (Bernstein, "Curve25519", FAQ).
LOW_ORDER = {
    "0": "00" * 32,
    "1": "01" + "00" * 31,
    "-1": "ec" + "ff" * 30 + "7f",
    "of order 8, first": "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "of order 8, second": "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
}


def agreement_cases() -> list[Case]:
    base = {"label": "pair-mask", "context": pseudo("agreement context", 11)}
    rfc = {"source": "RFC 7748, section 6.1"}
    bad = "InvalidPublicKeyError"
    over = {
        "u = p, another 0": "ed" + "ff" * 30 + "7f",
        "u = 2^255 - 1": "ff" * 31 + "7f",
        "top bit set": ALICE_PUBLIC[:-2] + f"{int(ALICE_PUBLIC[-2:], 16) | 0x80:02x}",
    }
    return [
        Case(
            "Alice",
            "x25519",
            {"secret": ALICE, "peer_public": BOB_PUBLIC},
            {"public": ALICE_PUBLIC, "shared": ALICE_BOB},
            **rfc,
        ),
        Case(
            "Bob",
            "x25519",
            {"secret": BOB, "peer_public": ALICE_PUBLIC},
            {"public": BOB_PUBLIC, "shared": ALICE_BOB},
            **rfc,
        ),
        Case("Alice's key", "agree", base | {"secret": ALICE, "peer_public": BOB_PUBLIC}),
        Case("Bob's is the same", "agree", base | {"secret": BOB, "peer_public": ALICE_PUBLIC}),
        Case(
            "another label",
            "agree",
            base | {"label": "seal", "secret": ALICE, "peer_public": BOB_PUBLIC},
        ),
        Case(
            "one's own key",
            "agree",
            base | {"secret": ALICE, "peer_public": ALICE_PUBLIC},
            None,
            bad,
        ),
        Case("a good key", "check_public", {"public": ALICE_PUBLIC}),
        Case("too short", "check_public", {"public": ALICE_PUBLIC[:-2]}, error=bad),
        Case("too long", "check_public", {"public": ALICE_PUBLIC + "00"}, error=bad),
        Case("empty", "check_public", {"public": ""}, error=bad),
        *(
            Case(f"low order: {n}", "check_public", {"public": u}, error=bad)
            for n, u in LOW_ORDER.items()
        ),
        *(
            Case(
                f"low order in an exchange: {n}",
                "agree",
                base | {"secret": BOB, "peer_public": u},
                None,
                bad,
            )
            for n, u in LOW_ORDER.items()
        ),
        *(
            Case(f"not canonical: {n}", "check_public", {"public": u}, error=bad)
            for n, u in over.items()
        ),
    ]


def sealed_cases() -> list[Case]:
    def made(plaintext: str, associated: str) -> Json:
        return {
            "sender_secret": ALICE,
            "receiver_public": BOB_PUBLIC,
            "plaintext": plaintext,
            "associated_data": associated,
            "nonce": pseudo("nonce", 12),
        }

    first = made(pseudo("plaintext", 65), pseudo("associated", 20))
    good = {
        "receiver_secret": BOB,
        "sender_public": ALICE_PUBLIC,
        "sealed": run("seal", **first)["sealed"],
        "associated_data": first["associated_data"],
    }
    text = good["sealed"]
    bad = "InvalidSealError"

    def refused(name: str, **changed: str) -> Case:
        return Case(name, "open", good | changed, error=bad)

    return [
        Case("a share", "seal", first),
        Case("nothing", "seal", made("", "")),
        Case("opens", "open", good),
        refused("empty", sealed=""),
        refused("shorter than nonce and tag", sealed=text[: 2 * 27]),
        refused("last byte missing", sealed=text[:-2]),
        refused("one byte more", sealed=text + "00"),
        refused("nonce altered", sealed=flip(text, 0)),
        refused("ciphertext altered", sealed=flip(text, 12)),
        refused("tag altered", sealed=flip(text, -1)),
        refused("other associated data", associated_data=flip(good["associated_data"], 3)),
        refused("no associated data", associated_data=""),
        refused(
            "another sender",
            sender_public=run("x25519", secret=pseudo("eve"), peer_public=BOB_PUBLIC)["public"],
        ),
        refused("another receiver", receiver_secret=pseudo("eve")),
        refused("reflected to its sender", receiver_secret=ALICE, sender_public=BOB_PUBLIC),
        refused("a sender key of low order", sender_public="00" * 32),
    ]


def signing_cases() -> list[Case]:
    rfc = "RFC 8032, section 7.1, test "
    seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    good = {"verify_key": public, "signature": signature, "message": "72"}
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(un(signature)[32:], "little")
    malleable = signature[:64] + (s + order).to_bytes(32, "little").hex()
    p = 2**255 - 19
    order_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
    small = {
        "y = 0": 0,
        "y = 1": 1,
        "y = -1": p - 1,
        "order 8": order_8,
        "its negative": p - order_8,
    }
    over = {"y = p": p, "y = 2^255 - 1": 2**255 - 1}
    bad, no_key = "InvalidSignatureError", "InvalidPublicKeyError"
    return [
        Case(
            "empty message",
            "sign",
            {
                "seed": "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "message": "",
            },
            {
                "verify_key": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "signature": "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
                "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            },
            source=rfc + "1",
        ),
        Case(
            "one byte",
            "sign",
            {"seed": seed, "message": "72"},
            {"verify_key": public, "signature": signature},
            source=rfc + "2",
        ),
        Case("verifies", "verify", good),
        Case("another message", "verify", good | {"message": "73"}, error=bad),
        Case("empty signature", "verify", good | {"signature": ""}, error=bad),
        Case("63 bytes", "verify", good | {"signature": signature[:-2]}, error=bad),
        Case("65 bytes", "verify", good | {"signature": signature + "00"}, error=bad),
        Case("R altered", "verify", good | {"signature": flip(signature, 0)}, error=bad),
        Case("S altered", "verify", good | {"signature": flip(signature, 40)}, error=bad),
        Case("S plus the group order", "verify", good | {"signature": malleable}, error=bad),
        Case("another key", "verify", good | {"verify_key": ALICE_PUBLIC}, error=bad),
        Case("short key", "verify", good | {"verify_key": public[:-2]}, error=no_key),
        *(
            Case(
                f"key of small order: {n}",
                "verify",
                good | {"verify_key": y.to_bytes(32, "little").hex()},
                None,
                no_key,
            )
            for n, y in small.items()
        ),
        *(
            Case(
                f"key not canonical: {n}",
                "verify",
                good | {"verify_key": y.to_bytes(32, "little").hex()},
                None,
                no_key,
            )
            for n, y in over.items()
        ),
    ]


def keystream_cases() -> list[Case]:
    def tile(name: str, index: int, elements: int, bits: int, error: str | None = None) -> Case:
        given = {
            "key": pseudo("keystream"),
            "index": str(index),
            "elements": elements,
            "bits": bits,
        }
        return Case(name, "tile", given, error=error)

    return [
        tile("first tile, 64-bit", 0, 9, 64),
        tile("first tile, 32-bit: the same bytes", 0, 18, 32),
        tile("a prefix of it", 0, 3, 64),
        tile("second tile", 1, 9, 64),
        tile("index beyond 64 bits", 2**64 + 5, 4, 64),
        tile("last index", 2**96 - 1, 4, 32),
        tile("nothing", 7, 0, 64),
        tile("more than 256 blocks", 3, 520, 64),
        tile("negative index", -1, 4, 64, "ValueError"),
        tile("index too large", 2**96, 4, 64, "ValueError"),
        tile("negative size", 0, -1, 64, "ValueError"),
        tile("tile too large", 0, 2**27 + 1, 64, "ValueError"),
        Case(
            "short key",
            "tile",
            {"key": "00" * 16, "index": "0", "elements": 1, "bits": 64},
            error="ValueError",
        ),
    ]


def shamir_cases() -> list[Case]:
    p = shamir.PRIME
    given = {
        "secret": pseudo("shared secret"),
        "threshold": 3,
        "abscissas": [1, 2, 3, 4, 5],
        # One draw at p exactly, which must be rejected, then enough for two coefficients.
        "randomness": p.to_bytes(33, "big").hex() + pseudo("coefficients", 33 * 16),
    }
    shares = run("split", **given)["shares"]

    def constant(value: int, places: int = 2) -> list[list[object]]:
        return [[x, value.to_bytes(33, "big").hex()] for x in range(1, places + 1)]

    def split(name: str, error: str | None = None, **changed: object) -> Case:
        return Case(name, "split", given | changed, error=error)

    def combine(name: str, chosen: object, threshold: int = 3, error: str | None = None) -> Case:
        return Case(name, "combine", {"shares": chosen, "threshold": threshold}, error=error)

    bad = "InvalidShareError"
    altered = [*shares[:4], [5, flip(shares[4][1], 32)]]
    return [
        split("3 of 5, with a rejected draw"),
        split("secret of zeros", secret="00" * 32),
        split("secret of ones", secret="ff" * 32),
        split("far abscissas", abscissas=[65535, 7, 300]),
        split("abscissa 0", abscissas=[0, 1, 2], error="ValueError"),
        split("abscissa too large", abscissas=[1, 2, 65536], error="ValueError"),
        split("abscissa repeated", abscissas=[1, 2, 2], error="ValueError"),
        split("threshold 1", threshold=1, error="ValueError"),
        split("threshold above the number of shares", threshold=6, error="ValueError"),
        split("short secret", secret="00" * 31, error="ValueError"),
        combine("the first three", shares[:3]),
        combine("the last three", shares[2:]),
        combine("three in another order", [shares[4], shares[0], shares[2]]),
        combine("all five, consistent", shares),
        combine("largest secret", constant(2**256 - 1), 2),
        combine("one too few", shares[:2], error=bad),
        combine("none", [], error=bad),
        combine("a surplus share altered", altered, error=bad),
        combine(
            "a used share altered, seen by the surplus",
            [[1, flip(shares[0][1], 32)], *shares[1:]],
            error=bad,
        ),
        combine("a share short", [[1, shares[0][1][2:]], *shares[1:3]], error=bad),
        combine("a share long", [[1, "00" + shares[0][1]], *shares[1:3]], error=bad),
        combine("a share equal to p", [[1, p.to_bytes(33, "big").hex()], *shares[1:3]], error=bad),
        combine("abscissa 0", [[0, shares[0][1]], *shares[1:3]], error=bad),
        combine("abscissa too large", [*shares[:2], [65536, shares[2][1]]], error=bad),
        combine("no secret is 2^256", constant(2**256), 2, bad),
        combine("no secret is p - 1", constant(p - 1), 2, bad),
        combine("threshold 1", shares, 1, "ValueError"),
        Case("weights", "weights", {"abscissas": [1, 2, 4]}),
        Case("weights in another order", "weights", {"abscissas": [4, 1, 2]}),
        Case("weights of a repeated place", "weights", {"abscissas": [4, 4]}, error="ValueError"),
        Case("weights of 0", "weights", {"abscissas": [0, 4]}, error="ValueError"),
    ]


def fixedpoint_cases() -> list[Case]:
    def setting(bits: int, fractional: int, bound: float, parties: int) -> Json:
        return {
            "bits": bits,
            "fractional_bits": fractional,
            "magnitude_bound": bound.hex(),
            "parties": parties,
        }

    def encode(name: str, base: Json, *values: float, error: str | None = None) -> Case:
        return Case(name, "encode", base | {"values": [v.hex() for v in values]}, error=error)

    def decode(name: str, base: Json, *elements: int) -> Case:
        raw = b"".join(e.to_bytes(base["bits"] // 8, "little") for e in elements)
        return Case(name, "decode", base | {"elements": raw.hex()})

    narrow, wide = setting(32, 16, 100.0, 10), setting(64, 40, 1000.0, 16)
    ties = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5]
    inf, bad = float("inf"), "NumericError"
    return [
        Case("32-bit setting", "setting", narrow),
        Case("64-bit setting", "setting", wide),
        # N * ceil(B * 2^f + 1/2) = 2^31 - 1 and 2^31: either side of the bound.
        Case("largest that fits", "setting", setting(32, 0, 2.0**31 - 2, 1)),
        Case("smallest that does not", "setting", setting(32, 0, 2.0**31 - 1, 1), error=bad),
        Case("two parties do not fit", "setting", setting(32, 0, 2.0**30 - 1, 2), error=bad),
        Case("too fine for 64 bits", "setting", setting(64, 60, 10.0, 3), error=bad),
        Case("negative fraction", "setting", setting(32, -1, 1.0, 1), error="ValueError"),
        Case("fraction too long", "setting", setting(32, 31, 1.0, 1), error="ValueError"),
        Case("no bound", "setting", setting(32, 8, 0.0, 1), error="ValueError"),
        Case("infinite bound", "setting", setting(32, 8, inf, 1), error="ValueError"),
        Case("no party", "setting", setting(32, 8, 1.0, 0), error="ValueError"),
        encode("halves go to even", setting(32, 0, 100.0, 3), *ties),
        encode("32-bit", narrow, 0.0, -0.0, 1.0, -1.0, 0.1, -0.1, 100.0, -100.0),
        encode("64-bit", wide, 0.0, 1e-15, 0.1, -0.1, 1000.0, -1000.0, 5e-324),
        encode("nothing", narrow),
        encode("beyond the bound", narrow, 1.0, 100.00001, error=bad),
        encode("beyond the negative bound", narrow, 1.0, -100.00001, error=bad),
        encode("infinite", narrow, inf, error=bad),
        encode("negative infinite", narrow, -inf, error=bad),
        encode("not a number", narrow, 1.0, float("nan"), error=bad),
        decode("32-bit back", narrow, 0, 1, 2**16, 2**32 - 1, 2**31, 2**31 - 1),
        decode("64-bit back", wide, 0, 1, 2**40, 2**64 - 1, 2**63, 2**53 + 1),
    ]


def masking_cases() -> list[Case]:
    context = pseudo("task context", 13)
    bad_key, wrong = "InvalidPublicKeyError", "ValueError"

    def tile(name: str, signs: list[int], bits: int = 64, error: str | None = None) -> Case:
        given = {
            "bits": bits,
            "values": pseudo("tile values", 40),
            "tile_index": "2",
            "masks": [[sign, pseudo(f"mask {i}")] for i, sign in enumerate(signs)],
        }
        return Case(name, "mask_tile", given, error=error)

    def vectors(name: str, bits: int, count: int) -> Case:
        parties = [
            {
                "id": i,
                "mask_secret": pseudo(f"mask secret {i}"),
                "seed": pseudo(f"self mask seed {i}"),
                "values": pseudo(f"contribution {i}", 24),
            }
            for i in range(1, count + 1)
        ]
        given = {"bits": bits, "context": context, "tile_index": "1", "parties": parties}
        return Case(name, "masked_vectors", given)

    pair = {"secret": ALICE, "peer_public": BOB_PUBLIC, "context": context}
    return [
        Case("the smaller adds", "pair_sign", {"me": 1, "peer": 2}),
        Case("the larger subtracts", "pair_sign", {"me": 9, "peer": 2}),
        Case("no pair with oneself", "pair_sign", {"me": 3, "peer": 3}, error=wrong),
        Case("self mask key", "self_mask_key", {"seed": pseudo("seed"), "context": context}),
        Case("short seed", "self_mask_key", {"seed": "00" * 31, "context": context}, error=wrong),
        Case("pair mask key", "pair_mask_key", pair),
        Case(
            "at the other end", "pair_mask_key", pair | {"secret": BOB, "peer_public": ALICE_PUBLIC}
        ),
        Case("low-order peer", "pair_mask_key", pair | {"peer_public": "00" * 32}, error=bad_key),
        tile("no mask", []),
        tile("one mask", [1]),
        tile("three masks", [1, -1, 1]),
        tile("three masks, 32-bit", [1, -1, 1], 32),
        tile("a sign of 0", [1, 0], error=wrong),
        tile("a sign of 2", [2], error=wrong),
        vectors("three parties, 64-bit", 64, 3),
        vectors("four parties, 32-bit", 32, 4),
    ]


FILES: dict[str, Callable[[], list[Case]]] = {
    "kdf": kdf_cases,
    "agreement": agreement_cases,
    "sealed": sealed_cases,
    "signing": signing_cases,
    "keystream": keystream_cases,
    "shamir": shamir_cases,
    "fixedpoint": fixedpoint_cases,
    "masking": masking_cases,
}


def complete(case: Case) -> Json:
    """Run a case and write down what came out, or fail if it is not what the case expects."""
    try:
        output = OPERATIONS[case.operation](case.input)
    except Exception as error:
        if type(error).__name__ != case.error:
            raise
        outcome: Json = {"error": case.error}
    else:
        if case.error is not None or (case.output is not None and case.output != output):
            raise SystemExit(f"{case.operation}, {case.name}: unexpected result {output}")
        outcome = {"output": output}
    source = {} if case.source is None else {"source": case.source}
    return {
        "name": case.name,
        "operation": case.operation,
        **source,
        "input": case.input,
        **outcome,
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "crypto"
    for name, cases in FILES.items():
        content = {
            "generator": "tests/vectors/generate_crypto.py",
            "cases": [complete(case) for case in cases()],
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
