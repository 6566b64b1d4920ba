"""Write tests/vectors/encrypted.json with the code under test (SPEC 4.12 and 6.11).

    python tests/vectors/generate_encrypted.py [folder]

The first task of a session of four parties (threshold 3) that upload ciphertexts, run with the
machines that are deployed. Party 1 falls silent in r3 after two tiles, so party 2 opens the sum.
The second task, which is not run, has the longer statistics, from which the guard follows. Besides,
uploads, offers and statements that have to be refused. `README.md` says what the fields are.

A ciphertext is shown by its seed and its error. SEAL draws both, so those that `encrypted.json`
holds already are put in the place of new ones; and reals are kept as by `generate_closed.py`.
"""

import hashlib
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from generate_closed import (
    CLOSED_PLAN,
    TASK,
    ClosedRun,
    keep_recorded,
    recorded_content,
)
from generate_session import (
    FOLDER,
    KEYS,
    SILENT_AFTER,
    content,
    pseudo,
    recorded_bundles,
    write,
)

from collabedit.ciphertexts import (
    WORDS,
    plan_packing,
    plan_parameters,
    seeds_digest,
    upload_seeds,
)
from collabedit.crypto.ckks.keys import SecretKey
from collabedit.crypto.ckks.modular import subtract_mod, to_centred, to_residues
from collabedit.crypto.ckks.seal import seal_context
from collabedit.crypto.ckks.wire import HEADER_BYTES, Chunk, Form, decode_chunk, encode_chunk
from collabedit.crypto.kdf import derive_key
from collabedit.crypto.keystream import KEY_BYTES
from collabedit.crypto.ring import RingArray, from_bytes, to_bytes
from collabedit.encrypted import CHUNK_WORDS, SEED_BYTES, SUM_CHUNK_BYTES
from collabedit.ids import PartyId
from collabedit.party import states as s
from collabedit.party import task as party_task
from collabedit.party.contribution import (
    contributed_vector,
    masked_upload,
    uploaded_vector,
)
from collabedit.party.decryption import open_offer, opened_upload, task_key
from collabedit.proto import messages as m
from collabedit.proto.envelope import context_fields, sign_message
from collabedit.proto.statements import RefusalError

LOST = PartyId(1)
LIAR = PartyId(4)
"""Who uploads last, and so is refused for what the others uploaded, too."""

LARGEST_ERROR = 21
ENCRYPTED_PLAN = (
    CLOSED_PLAN.replace('"closed-vector"', '"encrypted-vector"')
    .replace('"masked"', '"ckks"')
    .replace('"parallel"', '"sequential"')
    .replace("ring_bits = 32", "ring_bits = 64")
    .replace("fractional_bits = 20", "fractional_bits = 34")
    .replace("tile_bytes = 256", "tile_bytes = 1024")
    .replace(
        "index = 8, inputs = 9, outputs = 5, mapped = 6",
        LONG_LAYER := ("index = 8, inputs = 600, outputs = 5, mapped = 600"),
    )
    .replace("min_edits = 4", "min_edits = 3")
)
assert LONG_LAYER in ENCRYPTED_PLAN
Errors = npt.NDArray[np.int64]


class NoiseKey:
    """What the opener draws."""

    def random_bytes(self, count: int) -> bytes:
        assert count == KEY_BYTES
        return pseudo("key of the opener's noise", count)


class EncryptedRun(ClosedRun):
    """That session."""

    ciphertexts: Mapping[str, tuple[bytes, Errors]] = {}
    """Seed and error by party, as they were recorded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.uploads: dict[PartyId, RingArray] = {}
        self.cases: dict[str, list[dict[str, Any]]] = {"uploads": [], "offers": [], "opened": []}

    def tasks_to_run(self) -> range:
        return range(1)

    @property
    def key(self) -> SecretKey:
        return task_key(self.plan, self.context, self.secret)

    def take(self, party: PartyId, step: s.Step) -> None:
        super().take(party, step)
        state = self.states[party]
        if isinstance(state, s.OpeningSum) and not hasattr(self, "offer"):
            self.open(party, state)

    # r3

    def upload(self, party: PartyId, state: s.Contributing) -> None:
        vector = contributed_vector(state.setup, self.brought(party), state.group_secret)
        self.encoded[party] = vector
        words = uploaded_vector(state.setup, vector, state.group_secret).copy()
        sealed = Ciphertext(self, vector)
        seed, error = sealed.taken_apart(words)
        assert (sealed.put_together(seed, error) == words[:CHUNK_WORDS]).all()
        seed, error = self.ciphertexts.get(str(party), (seed, error))
        words[:CHUNK_WORDS] = sealed.put_together(seed, error)
        self.uploads[party] = words
        upload = masked_upload(self.plan, TASK, words, ())
        self.frames[party] = list(upload.frames())
        if party == LIAR:
            self.refuse_uploads(party, words)
        for frame in self.frames[party][: SILENT_AFTER if party == self.dropped else None]:
            self.coordinator.put_frame(party, TASK, frame)
        if party != self.dropped:
            self.take(party, party_task.advance(state, upload.uploaded()))

    def refuse_uploads(self, party: PartyId, words: RingArray) -> None:
        """Show the aggregator altered uploads, whole and signed."""
        other = upload_seeds(self.plan, TASK, self.uploads[PartyId(2)])
        own = upload_seeds(self.plan, TASK, words)
        seeds, residues = HEADER_BYTES, HEADER_BYTES + SEED_BYTES
        cases = (
            ("no chunk", 0, b"SKKC", None),
            ("another version", 4, b"\x02", None),
            ("the form of a sum", 5, b"\x03", None),
            ("two terms", 6, b"\x02", None),
            ("the second chunk", 8, b"\x01", None),
            ("of two chunks", 12, b"\x02", None),
            ("other parameters", 16, bytes(16), None),
            ("a residue that is not below its prime", residues, b"\xff" * 8, None),
            ("a seed that is not the signed one", seeds, bytes(64), seeds_digest(own)),
            ("no digest of seeds", 0, b"", b""),
            ("the seed of another party", seeds, other, seeds_digest(other)),
        )
        for case, offset, patch, digest in cases:
            data = bytearray(bytes(to_bytes(words)))
            data[offset : offset + len(patch)] = patch
            altered = from_bytes(WORDS, bytes(data))
            upload = masked_upload(self.plan, TASK, altered, ())
            for frame in upload.frames():
                self.coordinator.put_frame(party, TASK, frame)
            said = upload.uploaded()
            signed = said.seeds if digest is None else digest
            message = m.Contribute(said.elements, said.tiles, said.root, signed)
            self.cases["uploads"].append(
                {
                    "case": case,
                    "party": int(party),
                    "offset": offset,
                    "patch": patch.hex(),
                    "seeds": signed.hex(),
                    "reason": self.refusal(party, message),
                }
            )
            # As if nothing of it had come: other bytes for a tile are refused.
            self.coordinator._store._uploads.pop(party)
            self.coordinator._journal.forget_tiles(TASK, party)

    def refusal(self, party: PartyId, message: m.Message) -> str:
        envelope = sign_message(message, context=self.context, sender=party, key=KEYS[party])
        try:
            self.coordinator.deliver(m.Packet(envelope))
        except RefusalError as refused:
            reason, culprit = refused.reason.name, refused.culprit
        else:
            raise AssertionError("this was taken")
        assert culprit == party
        return reason

    # r5

    def open(self, party: PartyId, state: s.OpeningSum) -> None:
        self.opener = party
        self.offer = b"".join(self.coordinator.download(party, TASK))
        self.integers = open_offer(state, self.offer, NoiseKey())
        self.refuse_offers(state)
        upload = opened_upload(self.plan, TASK, self.integers)
        self.frames_of_opening = list(upload.frames())
        for frame in self.frames_of_opening[:-1]:
            self.coordinator.put_frame(party, TASK, frame)
        said = upload.uploaded()
        opened = m.SumOpened(state.sum_digest, said.elements, said.tiles, said.root)
        self.refuse_opened("a tile is missing", party, opened)
        self.coordinator.put_frame(party, TASK, self.frames_of_opening[-1])
        self.refuse_opened("another sum", party, replace(opened, sum_digest=bytes(32)))
        fewer = replace(opened, elements=said.elements - 1)
        self.refuse_opened("an integer less", party, fewer)
        self.refuse_opened("another root", party, replace(opened, root=bytes(32)))
        self.take(party, party_task.advance(state, said))

    def refuse_opened(self, case: str, party: PartyId, message: m.SumOpened) -> None:
        shown = {
            name: value.hex() if isinstance(value, bytes) else value
            for name in ("sum_digest", "elements", "tiles", "root")
            for value in [getattr(message, name)]
        }
        reason = self.refusal(party, message)
        self.cases["opened"].append({"case": case, "message": shown, "reason": reason})

    def refuse_offers(self, state: s.OpeningSum) -> None:
        """Show the opener altered sums, announced as they are or not."""
        seeds = self.offer[:SEED_BYTES], self.offer[SEED_BYTES : 2 * SEED_BYTES]
        chunk = len(self.offer) - SUM_CHUNK_BYTES
        residues = chunk + HEADER_BYTES
        low = bytes([self.offer[residues] ^ 1])
        one = self.uploads[PartyId(3)][:CHUNK_WORDS].astype("<u8").tobytes()
        alone = one[HEADER_BYTES + SEED_BYTES :]
        cases = (
            ("as offered", 0, b"", True),
            ("other bytes than announced", residues, low, False),
            ("a residue that is off by one", residues, low, True),
            ("one upload in the place of the sum", residues, alone, True),
            ("a seed that nobody signed", 0, bytes(SEED_BYTES), True),
            ("seeds of each other", 0, seeds[1] + seeds[0], True),
            ("one seed twice", 0, seeds[1], True),
            ("no chunk", chunk, b"SKKC", True),
            ("another version", chunk + 4, b"\x02", True),
            ("the form of an upload", chunk + 5, b"\x01", True),
            ("two terms", chunk + 6, b"\x02", True),
            ("the second chunk", chunk + 8, b"\x01", True),
            ("of two chunks", chunk + 12, b"\x02", True),
            ("other parameters", chunk + 16, bytes(16), True),
            ("a residue that is not below its prime", residues, b"\xff" * 8, True),
        )
        for case, offset, patch, announced in cases:
            data = bytearray(self.offer)
            data[offset : offset + len(patch)] = patch
            digest = hashlib.sha256(data).digest() if announced else state.sum_digest
            reason, culprit = None, None
            try:
                open_offer(replace(state, sum_digest=digest), bytes(data), NoiseKey())
            except RefusalError as refused:
                reason, culprit = refused.reason.name, refused.culprit
            self.cases["offers"].append(
                {
                    "case": case,
                    "offset": offset,
                    "patch": patch.hex() if len(patch) < SUM_CHUNK_BYTES // 2 else "upload of 3",
                    "announced": announced,
                    "reason": reason,
                    "culprit": culprit,
                }
            )

    # What is shown

    def describe_upload(
        self, confirming: s.AwaitingConfirmations, contributing: s.Contributing, owner: bytes
    ) -> dict[str, Any]:
        del confirming, owner
        party = contributing.setup.me
        assert contributing.masks == ()
        words = self.uploads[party]
        seed, error = Ciphertext(self, self.encoded[party]).taken_apart(words)
        upload = masked_upload(self.plan, TASK, words, ())
        return {
            "seed_of_chunk": seed.hex(),
            "error": (error + LARGEST_ERROR).astype(np.uint8).tobytes().hex(),
            "chunk": hashlib.sha256(words[:CHUNK_WORDS].astype("<u8").tobytes()).hexdigest(),
            "frames": [hashlib.sha256(frame).hexdigest() for frame in self.frames[party]],
            "last_frame": self.frames[party][-1].hex(),
            "root": upload.uploaded().root.hex(),
            "seeds": upload.seeds.hex(),
        }

    def describe_opening(self, present: list[PartyId], survivors: list[PartyId]) -> dict[str, Any]:
        del present, survivors
        fields = context_fields(self.context)
        chunks = self.offer[-SUM_CHUNK_BYTES:]
        return {
            "opener": int(self.opener),
            "key_seed": derive_key(self.secret, label="ckks-secret", context=fields).hex(),
            "key": hashlib.sha256(self.key.to_bytes()).hexdigest(),
            "key_fingerprint": self.key.fingerprint().hex(),
            "shift_bits": self.plan.guard_bits,
            "seeds": self.offer[:-SUM_CHUNK_BYTES].hex(),
            "chunk": hashlib.sha256(chunks).hexdigest(),
            "offer_bytes": len(self.offer),
            "noise": NoiseKey().random_bytes(KEY_BYTES).hex(),
            "integers": bytes(to_bytes(self.integers)).hex(),
            "frames": [frame.hex() for frame in self.frames_of_opening],
        }


class Ciphertext:
    """A chunk, and what it is made of."""

    def __init__(self, run: EncryptedRun, vector: RingArray) -> None:
        self.parameters = plan_parameters(run.plan)
        self.context = seal_context(self.parameters)
        self.key = run.key
        integers = vector[: run.plan.statistics_length(TASK)].view(np.int64)
        self.message = plan_packing(run.plan).encode_integers(integers)[0]

    def zeros(self) -> npt.NDArray[np.uint64]:
        return np.zeros((len(self.parameters.wire_primes), self.parameters.ring_degree), np.uint64)

    def taken_apart(self, words: RingArray) -> tuple[bytes, Errors]:
        """Return seed and error of an upload's chunk."""
        data = words[:CHUNK_WORDS].astype("<u8").tobytes()
        chunk = decode_chunk(self.parameters, data, form=Form.SEEDED, index=0, chunks=1)
        phase = self.context.phase_of_seeds(self.key.seal_key(), chunk.residues[0], [chunk.seed])
        errors = []
        for place, prime in enumerate(self.parameters.wire_primes):
            found = self.context.from_ntt(phase[place][None], prime=place)[0]
            message = self.zeros()[0] if place else self.message
            errors.append(to_centred(subtract_mod(message, found, prime), prime))
        assert (errors[0] == errors[1]).all()
        assert np.abs(errors[0]).max() <= LARGEST_ERROR
        return chunk.seed, errors[0]

    def put_together(self, seed: bytes, error: Errors) -> RingArray:
        """Return the words of the chunk with this seed and error."""
        masks = self.context.phase_of_seeds(self.key.seal_key(), self.zeros(), [seed])
        first = []
        for place, prime in enumerate(self.parameters.wire_primes):
            message = self.zeros()[0] if place else self.message
            plain = subtract_mod(message, to_residues(error, prime), prime)
            transformed = self.context.to_ntt(plain[None], prime=place)[0]
            first.append(subtract_mod(transformed, masks[place], prime))
        chunk = Chunk(Form.SEEDED, 1, 0, 1, np.stack(first)[None], seed)
        return from_bytes(WORDS, encode_chunk(self.parameters, chunk))


def recorded_ciphertexts(old: Mapping[str, Any]) -> dict[str, tuple[bytes, Errors]]:
    parties = old["tasks"][0]["parties"] if "tasks" in old else {}
    return {
        party: (
            bytes.fromhex(given["seed_of_chunk"]),
            np.frombuffer(bytes.fromhex(given["error"]), np.uint8).astype(np.int64) - LARGEST_ERROR,
        )
        for party, given in parties.items()
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    path = FOLDER / "encrypted.json"
    old = recorded_content(path)
    with tempfile.TemporaryDirectory() as directory:
        run = EncryptedRun(
            Path(directory), recorded_bundles(path), plan_text=ENCRYPTED_PLAN, dropped=LOST
        )
        run.ciphertexts = recorded_ciphertexts(old)
        run.run()
    made = content(run, generator="generate_encrypted.py") | {"refusals": run.cases}
    write(folder / "encrypted.json", keep_recorded(made, old))


if __name__ == "__main__":
    main()
