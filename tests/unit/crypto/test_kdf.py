from typing import Any, cast

import pytest

from collabedit.crypto.kdf import commit, derive_key, encode_fields, is_equal, transcript_hash

SECRET = bytes(range(32))


def test_an_encoding_is_tag_length_value() -> None:
    assert encode_fields(b"ab", "c", 5).hex() == (
        "01" + "0000000000000002" + "6162"
        "02" + "0000000000000001" + "63"
        "03" + "0000000000000005"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((b"ab", b"c"), (b"a", b"bc")),
        ((b"",), ()),
        ((b"", b""), (b"",)),
        (("a",), (b"a",)),
        ((1,), (b"\x00\x00\x00\x00\x00\x00\x00\x01",)),
        ((encode_fields(b"a", b"b"),), (b"a", b"b")),
    ],
)
def test_different_lists_are_encoded_differently(
    one: tuple[bytes | str | int, ...], other: tuple[bytes | str | int, ...]
) -> None:
    assert encode_fields(*one) != encode_fields(*other)
    assert transcript_hash("x", *one) != transcript_hash("x", *other)


@pytest.mark.parametrize("field", [-1, 2**64, "\ud800"])
def test_fields_out_of_range_are_refused(field: str | int) -> None:
    with pytest.raises(ValueError, match=r"2\^64-1|surrogates"):
        encode_fields(field)


@pytest.mark.parametrize("field", [None, 1.0, True, bytearray(b"a"), [b"a"]])
def test_fields_of_other_types_are_refused(field: object) -> None:
    with pytest.raises(TypeError, match="bytes, str or int"):
        encode_fields(cast("Any", field))


def test_a_key_depends_on_secret_label_and_context() -> None:
    keys = {
        derive_key(SECRET, label="a", context=b"b"),
        derive_key(SECRET, label="ab", context=b""),
        derive_key(SECRET, label="", context=b"ab"),
        derive_key(SECRET, label="a", context=b"c"),
        derive_key(SECRET[::-1], label="a", context=b"b"),
    }
    assert len(keys) == 5


def test_a_shorter_key_is_a_prefix() -> None:
    long = derive_key(SECRET, label="a", context=b"", length=100)
    assert derive_key(SECRET, label="a", context=b"", length=7) == long[:7]


@pytest.mark.parametrize("length", [0, -1, 8161])
def test_a_length_out_of_range_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="8160"):
        derive_key(SECRET, label="a", context=b"", length=length)


def test_guessable_key_material_is_refused() -> None:
    derive_key(bytes(16), label="a", context=b"")
    with pytest.raises(ValueError, match="at least 16 bytes"):
        derive_key(bytes(15), label="a", context=b"")


def test_a_commitment_is_bound_to_all_its_inputs() -> None:
    commitments = {
        commit("a", b"b", SECRET),
        commit("c", b"b", SECRET),
        commit("a", b"c", SECRET),
        commit("a", b"b", SECRET[::-1]),
        transcript_hash("a", b"b", SECRET),
    }
    assert len(commitments) == 5
    assert commit("a", b"b", SECRET) == transcript_hash("commit", "a", b"b", SECRET)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_only_32_byte_secrets_are_committed_to(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        commit("a", b"", bytes(size))


def test_comparison() -> None:
    assert is_equal(b"abc", b"abc")
    assert not is_equal(b"abc", b"abd")
    assert not is_equal(b"abc", b"abcd")
