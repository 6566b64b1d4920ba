import numpy as np
import pytest

from collabedit.crypto.ring import Ring, RingArray, add_into, from_bytes, subtract_from, to_bytes

RINGS = list(Ring)


def test_the_two_rings() -> None:
    assert [(r.bits, r.element_bytes, r.dtype.str) for r in RINGS] == [
        (32, 4, "<u4"),
        (64, 8, "<u8"),
    ]
    assert [Ring.from_bits(bits) for bits in (32, 64)] == RINGS
    assert [Ring.of(np.zeros(1, dtype=r.dtype)) for r in RINGS] == RINGS


@pytest.mark.parametrize("bits", [0, 8, 33, 128])
def test_there_is_no_other_ring(bits: int) -> None:
    with pytest.raises(ValueError, match=f"not {bits}"):
        Ring.from_bits(bits)


@pytest.mark.parametrize("dtype", ["<i8", "<f8", ">u8", "<u2"])
def test_other_arrays_are_no_ring_arrays(dtype: str) -> None:
    with pytest.raises(TypeError, match="<u4 or <u8"):
        Ring.of(np.zeros(1, dtype=dtype))


@pytest.mark.parametrize("ring", RINGS)
def test_addition_and_subtraction_wrap_in_place(ring: Ring) -> None:
    top = 2**ring.bits - 1
    values: RingArray = np.array([0, 1, top, top], dtype=ring.dtype)
    alias = values
    other: RingArray = np.array([0, top, 1, top], dtype=ring.dtype)
    add_into(values, other)
    assert values.tolist() == [0, 0, 0, top - 1]
    assert alias is values
    subtract_from(values, other)
    assert values.tolist() == [0, 1, top, top]
    assert other.tolist() == [0, top, 1, top]


@pytest.mark.parametrize("operation", [add_into, subtract_from])
def test_nothing_is_broadcast_or_cast(operation: object) -> None:
    assert callable(operation)
    wide, narrow = np.zeros((2, 3), dtype="<u8"), np.zeros((2, 3), dtype="<u4")
    with pytest.raises(TypeError, match="rings differ"):
        operation(wide, narrow)
    with pytest.raises(TypeError, match="<u4 or <u8"):
        operation(wide, np.zeros((2, 3), dtype="<i8"))
    with pytest.raises(ValueError, match="shapes differ"):
        operation(wide, np.zeros(3, dtype="<u8"))
    with pytest.raises(ValueError, match="shapes differ"):
        operation(wide, np.zeros((2, 1), dtype="<u8"))


def test_a_received_vector_is_never_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        add_into(from_bytes(Ring.Z32, bytes(4)), np.ones(1, dtype="<u4"))


def test_the_wire_form_is_little_endian() -> None:
    assert bytes(to_bytes(np.array([1, 0x0203], dtype="<u4"))).hex() == "0100000003020000"
    assert from_bytes(Ring.Z64, bytes(range(8))).tolist() == [0x0706050403020100]


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("shape", [(0,), (5,), (2, 3)])
def test_a_vector_survives_the_wire(ring: Ring, shape: tuple[int, ...]) -> None:
    values = (np.arange(np.prod(shape)) - 2).astype(ring.dtype).reshape(shape)
    wire = to_bytes(values)
    assert wire.nbytes == values.nbytes
    assert wire.format == "B"
    assert from_bytes(ring, wire).tolist() == values.reshape(-1).tolist()


def test_a_strided_array_is_written_in_its_logical_order() -> None:
    values = np.arange(6, dtype="<u4").reshape(2, 3).T
    assert from_bytes(Ring.Z32, to_bytes(values)).tolist() == [0, 3, 1, 4, 2, 5]


def test_the_wire_form_cannot_be_used_to_change_the_vector() -> None:
    assert to_bytes(np.zeros(2, dtype="<u8")).readonly


@pytest.mark.parametrize(("ring", "size"), [(Ring.Z32, 6), (Ring.Z64, 12)])
def test_a_broken_element_is_refused(ring: Ring, size: int) -> None:
    with pytest.raises(ValueError, match="whole number"):
        from_bytes(ring, bytes(size))


def test_only_ring_arrays_are_written() -> None:
    with pytest.raises(TypeError, match="<u4 or <u8"):
        to_bytes(np.zeros(2))  # type: ignore[arg-type]
