"""Vectors over Z/2^32 and Z/2^64.

A ring element is an unsigned integer of the ring's width; sums wrap. Arrays are little-endian in
memory on every machine, so that the bytes of an array are its wire form.
"""

import enum
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

RingArray: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""An array of `<u4` or `<u8`."""

_T = TypeVar("_T", bound=np.generic)


class Ring(enum.Enum):
    """Where masked values live. The value is the width in bits."""

    Z32 = 32
    Z64 = 64

    @property
    def bits(self) -> int:
        """Width in bits."""
        return self.value

    @property
    def element_bytes(self) -> int:
        """Width in bytes."""
        return self.value // 8

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """`<u4` or `<u8`."""
        return _DTYPES[self]

    @classmethod
    def from_bits(cls, bits: int) -> "Ring":
        """Look a ring up by its width.

        Raises:
            ValueError: neither 32 nor 64.
        """
        try:
            return cls(bits)
        except ValueError:
            raise ValueError(f"a ring has 32 or 64 bits, not {bits}") from None

    @classmethod
    def of(cls, values: npt.NDArray[_T]) -> "Ring":
        """Name the ring of an array by its element type.

        Raises:
            TypeError: not an array of `<u4` or `<u8`.
        """
        for ring, dtype in _DTYPES.items():
            if values.dtype == dtype:
                return ring
        raise TypeError(f"a ring array holds <u4 or <u8, not {values.dtype.str}")


# Asked for with every tile of every mask.
_DTYPES: Final[dict[Ring, np.dtype[np.unsignedinteger[Any]]]] = {
    ring: np.dtype(f"<u{ring.element_bytes}") for ring in Ring
}


def _check_pair(accumulator: RingArray, values: RingArray) -> None:
    # Without this numpy would broadcast a shorter vector, or cast a narrower one, in silence.
    if Ring.of(accumulator) is not Ring.of(values):
        raise TypeError(f"rings differ: {accumulator.dtype.str} and {values.dtype.str}")
    if accumulator.shape != values.shape:
        raise ValueError(f"shapes differ: {accumulator.shape} and {values.shape}")


def add_into(accumulator: RingArray, values: RingArray) -> None:
    """Add `values` to `accumulator` in place, modulo 2^bits.

    Raises:
        TypeError: not ring arrays, or of different rings.
        ValueError: shapes differ, or the accumulator is read-only.
    """
    _check_pair(accumulator, values)
    np.add(accumulator, values, out=accumulator)


def subtract_from(accumulator: RingArray, values: RingArray) -> None:
    """Subtract `values` from `accumulator` in place, modulo 2^bits.

    Raises:
        TypeError: not ring arrays, or of different rings.
        ValueError: shapes differ, or the accumulator is read-only.
    """
    _check_pair(accumulator, values)
    np.subtract(accumulator, values, out=accumulator)


def to_bytes(values: RingArray) -> memoryview:
    """Return the wire form: little-endian elements in C order.

    No copy is made of a contiguous array: the result is a read-only window on it and changes with
    it.

    Raises:
        TypeError: not a ring array.
    """
    Ring.of(values)
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(np.uint8).data.toreadonly()


def from_bytes(ring: Ring, data: bytes | bytearray | memoryview) -> RingArray:
    """Return the vector whose wire form `data` is, without a copy: read-only if `data` is.

    Raises:
        ValueError: the length is not a multiple of the element size. The codec checks what a peer
            sent before.
    """
    length = memoryview(data).nbytes
    if length % ring.element_bytes:
        raise ValueError(f"{length} bytes are not a whole number of {ring.bits}-bit elements")
    return np.frombuffer(data, dtype=ring.dtype)
