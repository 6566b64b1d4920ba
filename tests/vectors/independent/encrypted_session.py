"""Replay of encrypted.json: a session with ciphertexts, and what it refuses. No project code.

Taken from the file, beyond what `closed_session` takes: seed and error of each ciphertext, the key
of the opener's noise, and how uploads, offers and statements of `refusals` are altered.
"""

from dataclasses import dataclass, field

from independent import primitives as p
from independent.aggregator import Aggregator
from independent.ckks import FIRST, SEEDED
from independent.closed_session import ClosedParty, ClosedReplay
from independent.encrypted import CHUNK, HEADER, LARGEST_ERROR, SEED, Key, seeds_digest
from independent.party import Draws, Party
from independent.session import compare, task_draws
from independent.statements import Aborts, owner_bytes, relayed
from independent.updates import frame, read_frame, tiles_root
from independent.wire import KINDS, Json, un


@dataclass
class EncryptedParty(ClosedParty):
    """A party that uploads a ciphertext, and opens the sum if it is the first of the survivors."""

    seed_of_chunk: bytes = b""
    error: list[int] = field(default_factory=list)

    def on_confirmed(self, message: Json) -> list[bytes]:
        opened = relayed(self.plan, self.context, message, self.sharers)
        if any(confirm["transcript"] != self.transcript.hex() for _, confirm in opened.values()):
            raise Aborts("ROSTER_FORK", 0)
        self.further_masks()
        self.key = Key(self.plan, self.context, self.group_secret)
        count = self.plan.statistics_elements(self.context["task"])
        integers = [centred(element) for element in self.encoded[:count]]
        chunk = self.key.chunk(integers, self.seed_of_chunk, self.error)
        self.uploaded = chunk + p.bytes_of(self.encoded[count:], self.plan.width)
        self.frames = framed(self.uploaded, self.plan.tile_sizes(self.context["task"]))
        self.root = tiles_root([each[16:48] for each in self.frames])
        self.shown |= {
            "chunk": p.sha256(chunk).hex(),
            "frames": [p.sha256(each).hex() for each in self.frames],
            "last_frame": self.frames[-1].hex(),
            "root": self.root.hex(),
            "seeds": seeds_digest(self.seed_of_chunk).hex(),
        }
        self.awaits = None
        return []

    def contribute(self) -> bytes:
        self.awaits = KINDS["ProposeSurvivors"]
        return self.packet(contribute(self.frames, len(self.uploaded) // 8, self.shown["seeds"]))

    def after_survivors(self) -> list[bytes]:
        """SPEC 4.12(c)."""
        opens = self.me == min(self.survivors)
        self.awaits = KINDS["OfferSum" if opens else "Release"]
        return []

    def on_offersum(self, message: Json) -> list[bytes]:
        """SPEC 4.12(d)."""
        if message["sum_bytes"] != len(self.survivors) * SEED + CHUNK - SEED:
            raise Aborts("MALFORMED_MESSAGE", 0)
        self.offered = un(message["sum_digest"])
        self.awaits = None
        return []

    def open_offer(self, offer: bytes, offered: bytes, noise: bytes) -> list[int]:
        """SPEC 4.12(e)."""
        if p.sha256(offer) != offered:
            raise Aborts("DIGEST_MISMATCH", 0)
        count = len(self.survivors)
        seeds = [offer[i * SEED : (i + 1) * SEED] for i in range(count)]
        for party, seed in zip(self.survivors, seeds, strict=True):
            if seeds_digest(seed).hex() != self.contributed[party]["seeds"]:
                raise Aborts("DIGEST_MISMATCH", 0)
        chunk = offer[count * SEED :]
        if not self.key.is_chunk(chunk, FIRST, count):
            raise Aborts("MALFORMED_MESSAGE", 0)
        if len(set(seeds)) < count:
            raise Aborts("REPEATED_PARTY", 0)
        released = self.key.open(chunk, seeds, noise)
        if max(map(abs, released)) > self.key.largest_sum():
            raise Aborts("BOUNDS_EXCEEDED", None)
        return released[: self.plan.statistics_elements(self.context["task"])]

    def open_sum(self, offer: bytes, noise: bytes) -> bytes:
        """SPEC 4.12(e) and (f): what is uploaded, and SumOpened."""
        self.integers = self.open_offer(offer, self.offered, noise)
        data = p.bytes_of([number % 2**64 for number in self.integers], 8)
        self.opened_frames = framed(data, self.plan.cut(len(self.integers)))
        self.awaits = KINDS["Release"]
        root = tiles_root([each[16:48] for each in self.opened_frames])
        said = {"elements": len(self.integers), "tiles": len(self.opened_frames)}
        opened = {"type": "SumOpened", "sum_digest": self.offered.hex(), "root": root.hex()}
        return self.packet(opened | said)


def centred(element: int) -> int:
    return element - 2**64 if element >= 2**63 else element


def framed(data: bytes, sizes: list[int]) -> list[bytes]:
    """SPEC 6.1."""
    frames, at = [], 0
    for index, size in enumerate(sizes):
        frames.append(frame(index, data[at : at + 8 * size]))
        at += 8 * size
    return frames


def contribute(frames: list[bytes], elements: int, seeds: str) -> Json:
    root = tiles_root([each[16:48] for each in frames])
    said = {"elements": elements, "tiles": len(frames), "root": root.hex()}
    return {"type": "Contribute", **said} | ({"seeds": seeds} if seeds else {})


@dataclass
class EncryptedAggregator(Aggregator):
    """The aggregator, which has no key: `key` serves only what is public of it."""

    key: Key | None = None
    opened: dict[int, bytes] = field(default_factory=dict)

    def upload(self, party: int) -> bytes:
        tiles = self.tiles[party]
        return b"".join(tiles[index] for index in sorted(tiles))

    def seed_of(self, party: int) -> bytes:
        return self.upload(party)[HEADER : HEADER + SEED]

    def refuse_contribute(self, sender: int, message: Json, rest: tuple[bytes, ...]) -> str | None:
        """SPEC 4.12(b)."""
        reason = super().refuse_contribute(sender, message, rest)
        if reason is not None:
            return reason
        assert self.key is not None
        if not self.key.is_chunk(self.upload(sender)[:CHUNK], SEEDED, 1):
            return "MALFORMED_MESSAGE"
        seed = self.seed_of(sender)
        if seeds_digest(seed).hex() != message["seeds"]:
            return "DIGEST_MISMATCH"
        taken = [self.seed_of(other) for other in self.answers["Contribute"]]
        return "REPEATED_PARTY" if seed in taken else None

    def end_confirmsurvivors(self, answered: list[int]) -> list[tuple[int, bytes]]:
        out = super().end_confirmsurvivors(answered)
        self.begin("SumOpened")
        return out

    def offer_sum(self) -> tuple[int, bytes]:
        """SPEC 4.12(c) and (d)."""
        assert self.key is not None
        survivors = sorted(self.answers["Contribute"])
        uploads = [self.upload(party)[:CHUNK] for party in survivors]
        self.offer = b"".join(map(self.seed_of, survivors)) + self.key.summed(uploads)
        self.waits_for = [survivors[0]]
        message = {"type": "OfferSum", "sum_digest": p.sha256(self.offer).hex()}
        return survivors[0], self.packet(message | {"sum_bytes": len(self.offer)})

    def put_opened(self, data: bytes) -> None:
        sizes = self.plan.cut(self.plan.statistics_elements(self.context["task"]))
        index, payload = read_frame(data, sizes, 8)
        self.opened[index] = payload

    def refuse_sumopened(self, _: int, message: Json, __: tuple[bytes, ...]) -> str | None:
        """SPEC 4.12(f)."""
        count = self.plan.statistics_elements(self.context["task"])
        tiles = len(self.plan.cut(count))
        if len(self.opened) != tiles:
            return "MALFORMED_MESSAGE"
        root = tiles_root([frame(i, self.opened[i])[16:48] for i in range(tiles)])
        if message["root"] != root.hex() or message["tiles"] != tiles:
            return "DIGEST_MISMATCH"
        if message["sum_digest"] != p.sha256(self.offer).hex():
            return "DIGEST_MISMATCH"
        return None if message["elements"] == count else "MALFORMED_MESSAGE"

    def open_sum(self) -> bytes:
        """SPEC 4.12(g)."""
        start, total = CHUNK // 8, [0] * self.plan.closed_elements(self.context["task"])
        for party in sorted(self.answers["Contribute"]):
            checks = p.elements_of(self.upload(party), 8)[start:]
            total = [(x + y) % 2**64 for x, y in zip(total, checks, strict=True)]
        integers = b"".join(self.opened[index] for index in sorted(self.opened))
        return integers + p.bytes_of(total, 8)

    def to_release_to(self) -> list[int]:
        return sorted(self.answers["ConfirmSurvivors"])


class EncryptedReplay(ClosedReplay):
    def prepare(self, party: int, task: int, context: Json) -> Party:
        given = self.given["tasks"][task]["parties"][str(party)]
        draws = Draws(task_draws(un(given["seed"]), owner_bytes(context, party)))
        error = [byte - LARGEST_ERROR for byte in un(given["error"])]
        if max(map(abs, error)) > LARGEST_ERROR:
            self.lines.append(f"tasks[{task}].parties.{party}.error: is too large")
        self.context = context
        machine = EncryptedParty(self.plan, party, self.seeds[party], context, draws, [])
        machine.statistics = given["statistics"]
        machine.seed_of_chunk, machine.error = un(given["seed_of_chunk"]), error
        return machine

    def aggregate(self, context: Json, present: list[int]) -> Aggregator:
        key = Key(self.plan, context, bytes(32))  # of which the setting alone is used
        return EncryptedAggregator(self.plan, self.seeds[0], context, present, key=key)

    def upload(self, party: int, task: int) -> None:
        if self.given["refusals"]["uploads"][0]["party"] == party:
            self.refuse_uploads(party)
        super().upload(party, task)

    def refuse_uploads(self, party: int) -> None:
        machine, aggregator = self.parties[party], self.aggregator
        assert isinstance(machine, EncryptedParty)
        for i, case in enumerate(self.given["refusals"]["uploads"]):
            data = patched(machine.uploaded, case["offset"], un(case["patch"]))
            frames = framed(data, self.plan.tile_sizes(machine.context["task"]))
            aggregator.tiles[party] = {}
            for each in frames:
                aggregator.put_frame(party, each)
            message = contribute(frames, len(data) // 8, case["seeds"])
            self.expect(f"uploads[{i}]", case, aggregator.refuse_contribute(party, message, ()))

    def expect(
        self, where: str, case: Json, reason: str | None, culprit: int | None = None
    ) -> None:
        for name, found in (("reason", reason), ("culprit", culprit)):
            if found != case.get(name):
                self.lines.append(f"refusals.{where}.{name}: {case['case']!r} gives {found}")

    def opened(self) -> bytes:
        aggregator = self.aggregator
        assert isinstance(aggregator, EncryptedAggregator)
        receiver, data = aggregator.offer_sum()
        self.show([(receiver, data)])
        opener = self.parties[receiver]
        assert isinstance(opener, EncryptedParty)
        given = self.given["tasks"][0]["opening"]
        noise = un(given["noise"])
        said = opener.open_sum(aggregator.offer, noise)
        self.refuse_offers(opener, aggregator, noise)
        for each in opener.opened_frames[:-1]:
            aggregator.put_opened(each)
        for i, case in enumerate(self.given["refusals"]["opened"]):
            message = case["message"] | {"type": "SumOpened"}
            self.expect(f"opened[{i}]", case, aggregator.refuse_sumopened(receiver, message, ()))
            aggregator.put_opened(opener.opened_frames[-1])
        self.deliver(receiver, said)
        chunk = aggregator.offer[-(CHUNK - SEED) :]
        plain = [
            sum(self.integers_of(party)[i] for party in opener.survivors)
            for i in range(len(opener.integers))
        ]
        # Flooding rounds a sum, whose error is less than one part in 2^40 of a step, down or not.
        if opener.integers != plain:
            self.lines.append("tasks[0].opening.integers: is not the sum of what was encrypted")
        aggregator.shown["opening"] = {
            "opener": receiver,
            "key_seed": opener.key.seed.hex(),
            "key": p.sha256(opener.key.data).hex(),
            "key_fingerprint": p.labelled_hash("ckks-key", opener.key.data).hex(),
            "shift_bits": opener.key.setting.shift,
            "seeds": aggregator.offer[: -len(chunk)].hex(),
            "chunk": p.sha256(chunk).hex(),
            "offer_bytes": len(aggregator.offer),
            "noise": noise.hex(),
            "integers": p.bytes_of([number % 2**64 for number in opener.integers], 8).hex(),
            "frames": [each.hex() for each in opener.opened_frames],
        }
        return aggregator.open_sum()

    def integers_of(self, party: int) -> list[int]:
        return [centred(element) for element in self.parties[party].encoded]

    def refuse_offers(
        self, opener: EncryptedParty, aggregator: EncryptedAggregator, noise: bytes
    ) -> None:
        upload = aggregator.upload(3)[HEADER + SEED : CHUNK]
        for i, case in enumerate(self.given["refusals"]["offers"]):
            patch = upload if case["patch"] == "upload of 3" else un(case["patch"])
            offer = patched(aggregator.offer, case["offset"], patch)
            announced = p.sha256(offer) if case["announced"] else opener.offered
            reason, culprit = None, None
            try:
                opener.open_offer(offer, announced, noise)
            except Aborts as ended:
                reason, culprit = ended.reason, ended.culprit
            self.expect(f"offers[{i}]", case, reason, culprit)

    def describe(self, party: int, task: int) -> Json:
        given = self.given["tasks"][task]["parties"][str(party)]
        shown = super().describe(party, task)
        return shown | {name: given[name] for name in ("seed_of_chunk", "error")}


def patched(data: bytes, offset: int, patch: bytes) -> bytes:
    return data[:offset] + patch + data[offset + len(patch) :]


def verify_encrypted(given: Json) -> list[str]:
    replay = EncryptedReplay(given)
    computed = replay.run()
    return compare(given, computed | {"refusals": given["refusals"]}) + replay.lines
