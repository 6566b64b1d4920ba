"""What a peer hands to the CKKS backend: chunks of uploads and of sums, keys.

The first byte chooses. Whole chunks are long, so the rest patches a good one: where, and with what;
a length may be changed too. Each reader refuses with the one error that it documents, or has read
what it would write.
"""

import functools
import struct

import numpy as np

from collabedit.crypto.ckks.adding import Adder
from collabedit.crypto.ckks.keys import PublicKey, SecretKey, pack_ternary
from collabedit.crypto.ckks.parameters import CkksParameters
from collabedit.crypto.ckks.seal import seal_context
from collabedit.crypto.ckks.wire import Chunk, Form, decode_chunk, encode_chunk
from collabedit.errors import MalformedMessageError
from collabedit.ids import PartyId
from tests.fuzz.choices import Choices

SEEDED, PAIR, FIRST, SECRET, PUBLIC = range(5)
SETTING = CkksParameters(2048, (27, 27), scale_bits=10, shift_bits=8)
FORMS = {SEEDED: Form.SEEDED, PAIR: Form.PAIR, FIRST: Form.FIRST}
ONE = PartyId(1)


@functools.cache
def good(choice: int) -> bytes:
    """A message that is accepted. No randomness: fuzzing is repeatable."""
    if choice in FORMS:
        form = FORMS[choice]
        residues = np.arange(form.polynomials * 2048, dtype=np.uint64).reshape(-1, 1, 2048)
        return encode_chunk(SETTING, Chunk(form, 1, 0, 1, residues, bytes(form.seed_bytes)))
    if choice == SECRET:
        return pack_ternary(SETTING, np.resize([0, 1, -1, 1], 2048))
    return SETTING.fingerprint() + bytes(8 * 2 * 2 * 2048)


def patched(choice: int, choices: Choices) -> bytes:
    data = bytearray(good(choice))
    (cut,) = struct.unpack("<b", choices.take(1) or b"\0")
    if cut < 0:
        del data[cut:]
    data += bytes(max(cut, 0))
    for _ in range(choices.below(4)):
        offset = int.from_bytes(choices.take(2), "little") % (len(data) + 1)
        patch = choices.take(choices.below(17))
        data[offset : offset + len(patch)] = patch
    return bytes(data)


def run(data: bytes) -> None:
    """Hand the bytes to one of the readers."""
    choice = data[0] % 5 if data else 0
    message = patched(choice, Choices(data[1:]))
    try:
        again = read(choice, message)
    except MalformedMessageError:
        assert message != good(choice)
        return
    assert again == message, "two encodings of one thing"


def read(choice: int, message: bytes) -> bytes:
    """Read a message, use it, and write it again."""
    if choice == SECRET:
        return SecretKey.from_bytes(SETTING, message).to_bytes()
    if choice == PUBLIC:
        public = PublicKey.from_bytes(SETTING, message)
        seal_context(SETTING).encryptor(public.seal_key())
        return public.to_bytes()
    form = FORMS[choice]
    chunk = decode_chunk(SETTING, message, form=form, index=0, chunks=1)
    if form is not Form.FIRST:
        adder = Adder(SETTING, values=5, contributors=(ONE,), form=form)
        adder.add(ONE, 0, message)
        taken = adder.take(0)
        assert taken.seeds == ({ONE: chunk.seed} if form is Form.SEEDED else {})
    key = SecretKey.from_bytes(SETTING, good(SECRET)).seal_key()
    context = seal_context(SETTING)
    if form is Form.PAIR:
        phase = context.phase(key, *chunk.residues)
    else:
        phase = context.phase_of_seeds(key, chunk.residues[0], [chunk.seed or bytes(64)])
    assert int(phase.max()) < SETTING.data_prime
    return encode_chunk(SETTING, chunk)


def seeds() -> dict[str, bytes]:
    """Return the good messages and some patches of their headers."""
    names = {
        "seeded": SEEDED,
        "pair": PAIR,
        "first": FIRST,
        "secret-key": SECRET,
        "public-key": PUBLIC,
    }
    made = {name: bytes([choice]) for name, choice in names.items()}
    for name, choice in names.items():
        for offset in (0, 4, 6, 16, 100):
            patch = struct.pack("<bBHB", 0, 1, offset, 1) + b"\xff"
            made[f"{name}-at-{offset}"] = bytes([choice]) + patch
        made[f"{name}-short"] = bytes([choice]) + b"\xff"
    return made
