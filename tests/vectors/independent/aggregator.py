"""SPEC 4: one task as the aggregator sees it. No project code."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, islice

from independent import primitives as p
from independent.graph import neighbourhood
from independent.plan import Plan
from independent.statements import (
    Aborts,
    Refused,
    breaks_receivers,
    breaks_vote,
    is_another_update,
    neighbours_of,
    owner_bytes,
    owners_held_by,
    receivers_of,
    roster_transcript,
    survivor_transcript,
)
from independent.updates import frame, read_frame, tiles_root
from independent.wire import (
    KINDS,
    REASONS,
    Envelope,
    Json,
    Malformed,
    Packet,
    context_bytes,
    decode_body,
    decode_packet,
    encode_packet,
    is_signed,
    make_envelope,
    un,
)

SUBSETS = 2000
"""SPEC 4.6(c)."""


@dataclass
class Aggregator:
    """One task of the aggregator. `end` closes a round and gives what goes to whom."""

    plan: Plan
    seed: bytes
    context: Json
    expected: list[int]
    answers: dict[str, dict[int, tuple[Packet, Json]]] = field(default_factory=dict)
    tiles: dict[int, dict[int, bytes]] = field(default_factory=dict)
    round: str = "Advertise"
    shown: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waits_for = list(self.expected)
        self.answers[self.round] = {}

    def packet(self, message: Json, *attachments: bytes) -> bytes:
        envelope = make_envelope(message, self.context, 0, self.seed)
        return encode_packet(Packet(envelope, attachments))

    def envelopes(self, name: str) -> list[Envelope]:
        return [packet.envelope for _, (packet, _) in sorted(self.answers[name].items())]

    def messages(self, name: str) -> dict[int, Json]:
        return {sender: message for sender, (_, message) in sorted(self.answers[name].items())}

    def put_frame(self, party: int, data: bytes) -> None:
        sizes = self.plan.tile_sizes(self.context["task"])
        index, payload = read_frame(data, sizes, self.plan.width)
        self.tiles.setdefault(party, {})[index] = payload

    def deliver(self, data: bytes) -> None:
        """SPEC 4.8(j): check a delivery and file it."""
        try:
            packet = decode_packet(data)
        except Malformed:
            raise Refused("malformed") from None
        envelope, here = packet.envelope, self.context
        sender, waited = envelope.sender, KINDS[self.round]
        if envelope.context["session_id"] != here["session_id"]:
            raise Refused("unexpected")
        answered = self.answers[self.round]
        if sender not in self.waits_for or sender in answered or envelope.kind != waited:
            raise Refused("unexpected")
        if envelope.context != here:
            raise Refused("malformed")
        if not is_signed(envelope, self.plan.identities):
            raise Refused("signature")
        try:
            message = decode_body(envelope.kind, envelope.body)
        except Malformed:
            raise Refused("malformed") from None
        reason = getattr(self, f"refuse_{self.round.lower()}")(sender, message, packet.attachments)
        if reason is not None:
            raise Refused("rule", reason, sender)
        answered[sender] = packet, message

    def refuse_advertise(self, _: int, message: Json, __: tuple[bytes, ...]) -> str | None:
        keys = [message["mask_public"], message["seal_public"]]
        taken = {
            other[name]
            for other in self.messages("Advertise").values()
            for name in ("mask_public", "seal_public")
        }
        usable = all(p.is_usable_key(un(key)) for key in keys)
        fresh = len(set(keys)) == 2 and not taken & set(keys)
        return None if usable and fresh else "INVALID_PUBLIC_KEY"

    def refuse_sharekeys(
        self, sender: int, message: Json, attachments: tuple[bytes, ...]
    ) -> str | None:
        roster = self.answers["Advertise"]
        degree, _ = neighbourhood(self.plan, self.context["task"], len(roster))
        if breaks_receivers(message, sender, roster, degree):
            return "MALFORMED_MESSAGE"
        digests = [digest for _, digest in sorted(message["digests"].items(), key=by_number)]
        found = [p.sha256(each).hex() for each in attachments]
        return None if digests == found else "DIGEST_MISMATCH"

    def refuse_confirm(self, _: int, message: Json, __: tuple[bytes, ...]) -> str | None:
        return None if un(message["transcript"]) == self.transcript else "ROSTER_FORK"

    def refuse_contribute(self, sender: int, message: Json, _: tuple[bytes, ...]) -> str | None:
        sizes = self.plan.tile_sizes(self.context["task"])
        stored = self.tiles.get(sender, {})
        if len(stored) != len(sizes):
            return "MALFORMED_MESSAGE"
        root = tiles_root([frame(i, stored[i])[16:48] for i in range(len(sizes))])
        if message["root"] != root.hex() or message["tiles"] != len(sizes):
            return "DIGEST_MISMATCH"
        correct = message["elements"] == self.plan.uploaded_elements(self.context["task"])
        # SPEC 4.12(b).
        fits = ("seeds" in message) == self.plan.is_encrypted
        return None if correct and fits else "MALFORMED_MESSAGE"

    def refuse_confirmsurvivors(self, _: int, message: Json, __: tuple[bytes, ...]) -> str | None:
        return None if un(message["transcript"]) == self.survivor_transcript else "SURVIVOR_FORK"

    def refuse_unmask(self, sender: int, message: Json, _: tuple[bytes, ...]) -> str | None:
        shares = {int(owner): share for owner, share in message["shares"].items()}
        if sorted(shares) != owners_held_by(sender, self.messages("ShareKeys")):
            return "INVALID_SHARE"
        for owner, share in shares.items():
            survived = owner in self.answers["Contribute"]
            if (share["type"] == "SelfMaskShare") != survived:
                return "INVALID_SHARE"
        return None

    def refuse_verifyupdate(self, _: int, message: Json, __: tuple[bytes, ...]) -> str | None:
        if is_another_update(message, self.released):
            return "UPDATE_FORK"
        return "MALFORMED_MESSAGE" if breaks_vote(self.plan, self.context, message) else None

    def end(self) -> list[tuple[int, bytes]]:
        """End the round: what the aggregator sends, and farewells to those who were silent."""
        answered, name = sorted(self.answers[self.round]), self.round
        silent = [party for party in self.waits_for if party not in answered]
        if len(answered) < self.plan.threshold:
            raise NotImplementedError("the vectors have no session that ends early")
        out = getattr(self, f"end_{name.lower()}")(answered)
        self.waits_for = answered
        for party in silent:
            reason = {"reason": REASONS.index("TIMEOUT"), "culprit": party}
            out.append((party, self.packet({"type": "Abort", **reason})))
        return list(out)

    def begin(self, name: str) -> None:
        self.round = name
        self.answers[name] = {}

    def to_all(
        self, answered: list[int], name: str, field_name: str, listed: str
    ) -> list[tuple[int, bytes]]:
        shown = [envelope.show() for envelope in self.envelopes(listed)]
        data = self.packet({"type": name, field_name: shown})
        return [(party, data) for party in answered]

    def end_advertise(self, answered: list[int]) -> list[tuple[int, bytes]]:
        self.begin("ShareKeys")
        return self.to_all(answered, "Roster", "advertisements", "Advertise")

    def end_sharekeys(self, answered: list[int]) -> list[tuple[int, bytes]]:
        sealed: dict[int, list[bytes]] = {party: [] for party in answered}
        for _, (packet, keys) in sorted(self.answers["ShareKeys"].items()):
            for j, data in zip(sorted(receivers_of(keys)), packet.attachments, strict=True):
                if j in sealed:
                    sealed[j].append(data)
        commitments = self.envelopes("ShareKeys")
        relay = {"type": "RelayShares", "commitments": [each.show() for each in commitments]}
        self.transcript = roster_transcript(self.context, self.envelopes("Advertise"), commitments)
        self.begin("Confirm")
        return [(party, self.packet(relay, *sealed[party])) for party in answered]

    def end_confirm(self, answered: list[int]) -> list[tuple[int, bytes]]:
        self.begin("Contribute")
        return self.to_all(answered, "Confirmed", "confirmations", "Confirm")

    def end_contribute(self, answered: list[int]) -> list[tuple[int, bytes]]:
        self.survivor_transcript = survivor_transcript(
            self.context, self.transcript, self.envelopes("Contribute")
        )
        self.begin("ConfirmSurvivors")
        return self.to_all(answered, "ProposeSurvivors", "contributions", "Contribute")

    def end_confirmsurvivors(self, answered: list[int]) -> list[tuple[int, bytes]]:
        self.begin("Unmask")
        return self.to_all(answered, "SurvivorsConfirmed", "confirmations", "ConfirmSurvivors")

    def end_verifyupdate(self, answered: list[int]) -> list[tuple[int, bytes]]:
        self.outcome = "completed"
        if self.plan.is_voted(self.context["task"]):
            votes = [message["vote"] for message in self.messages("VerifyUpdate").values()]
            self.outcome = "completed" if self.plan.keeps(votes) else "UPDATE_REJECTED"
        return self.to_all(answered, "UpdateVerified", "confirmations", "VerifyUpdate")

    def open_sum(self) -> bytes:
        """SPEC 4.6(c) and (d): the opened ring vector in its wire form."""
        roster, sharers = self.messages("Advertise"), self.messages("ShareKeys")
        survivors, ctx = sorted(self.answers["Contribute"]), context_bytes(self.context)
        seeds, mask_keys, masks, pairs = {}, {}, [], []
        for owner in sorted(sharers):
            context = owner_bytes(self.context, owner)
            if owner in survivors:
                expected = un(sharers[owner]["self_mask_commitment"])
                seed = self.secret(owner, expected, partial(p.commit, "self-mask", context))
                seeds[str(owner)] = seed.hex()
                masks.append((1, p.derive(seed, "self-mask", context)))
                continue
            secret = self.secret(owner, un(roster[owner]["mask_public"]), p.public_of)
            mask_keys[str(owner)] = secret.hex()
            for survivor in survivors:
                if survivor not in neighbours_of(owner, sharers):
                    continue
                public = un(roster[survivor]["mask_public"])
                key = p.agree(secret, public, "pair-mask", ctx)
                sign = 1 if survivor < owner else -1
                masks.append((sign, key))
                pairs.append(
                    {"survivor": survivor, "dropped": owner, "sign": sign, "key": key.hex()}
                )
        self.shown["opening"] = {
            "revealed_by": sorted(self.answers["Unmask"]),
            "self_mask_seeds": seeds,
            "mask_keys": mask_keys,
            "pair_masks": pairs,
        }
        return self.add_up(survivors, masks)

    def secret(self, owner: int, expected: bytes, image: Callable[[bytes], bytes]) -> bytes:
        shares = {
            sender: un(unmask["shares"][str(owner)]["value"])
            for sender, unmask in self.messages("Unmask").items()
            if str(owner) in unmask["shares"]
        }
        _, threshold = neighbourhood(
            self.plan, self.context["task"], len(self.answers["Advertise"])
        )
        for places in islice(subsets(sorted(shares), threshold), SUBSETS):
            secret = p.reconstruct({place: shares[place] for place in places})
            if secret is not None and image(secret) == expected:
                return secret
        raise Aborts("INVALID_SHARE", None)

    def add_up(self, survivors: list[int], masks: list[tuple[int, bytes]]) -> bytes:
        width, out = self.plan.width, b""
        for index, size in enumerate(self.plan.tile_sizes(self.context["task"])):
            total = [0] * size
            for party in survivors:
                tile = p.elements_of(self.tiles[party][index], width)
                total = [x + y for x, y in zip(total, tile, strict=True)]
            for sign, key in masks:
                stream = p.elements_of(p.keystream(key, index, size * width), width)
                total = [x - sign * y for x, y in zip(total, stream, strict=True)]
            out += p.bytes_of([x % 2 ** (8 * width) for x in total], width)
        return out

    def to_release_to(self) -> list[int]:
        """SPEC 4.6(f)."""
        return sorted(self.answers["Unmask"])

    def release(self, bundle: bytes, total: bytes) -> list[tuple[int, bytes]]:
        self.released = {
            "update_digest": p.sha256(bundle).hex(),
            "sum_digest": p.sha256(total).hex(),
        }
        message = {"type": "Release", **self.released, "update_bytes": len(bundle)}
        data = self.packet(message)
        self.waits_for = self.to_release_to()
        self.begin("VerifyUpdate")
        return [(party, data) for party in self.waits_for]


def by_number(item: tuple[str, object]) -> int:
    return int(item[0])


def subsets(places: list[int], threshold: int) -> Iterator[tuple[int, ...]]:
    """The different sets of SPEC 4.6(c): as if nobody lied, then one, then two, and so on."""
    seen = set()
    for liars in range(len(places) - threshold + 1):
        for without in combinations(places, liars):
            chosen = tuple(place for place in places if place not in without)[:threshold]
            if chosen not in seen:
                seen.add(chosen)
                yield chosen
