from hypothesis import given
from hypothesis import strategies as st

from collabedit.crypto.kdf import encode_fields

Field = bytes | str | int
FIELDS: st.SearchStrategy[list[Field]] = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.text(max_size=6),
        st.integers(min_value=0, max_value=2**64 - 1),
    ),
    max_size=5,
)


def decode(data: bytes) -> list[Field]:
    """Parse an encoding back. That this works for every list is injectivity."""
    fields: list[Field] = []
    while data:
        tag, number, data = data[0], int.from_bytes(data[1:9], "big"), data[9:]
        if tag == 3:
            fields.append(number)
            continue
        value, data = data[:number], data[number:]
        fields.append(value if tag == 1 else value.decode())
    return fields


@given(FIELDS)
def test_an_encoding_can_be_parsed_back(fields: list[Field]) -> None:
    assert decode(encode_fields(*fields)) == fields


@given(FIELDS, FIELDS)
def test_an_encoding_is_never_a_prefix_by_accident(one: list[Field], other: list[Field]) -> None:
    # Concatenation of encodings is the encoding of the concatenation: nothing else is.
    assert encode_fields(*one) + encode_fields(*other) == encode_fields(*one, *other)
    assert (encode_fields(*one) == encode_fields(*other)) == (one == other)
