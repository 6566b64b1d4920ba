"""SPEC 4: one task as a party sees it. No project code.

Takes and gives bytes of packets. `Refused` leaves the state as it was, `Aborts` ends the task.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from independent import primitives as p
from independent.graph import neighbourhood
from independent.plan import Plan
from independent.statements import (
    Aborts,
    Refused,
    breaks_receivers,
    breaks_vote,
    is_another_update,
    is_invalid_relay,
    neighbours_of,
    owner_bytes,
    owners_held_by,
    relayed,
    roster_transcript,
    survivor_transcript,
)
from independent.updates import frame, tiles_root
from independent.wire import (
    KINDS,
    LISTS,
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


class Draws:
    """Randomness of one end, in the order of the vectors (README); keeps names for comparison."""

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source
        self.named: list[list[str]] = []

    def take(self, name: str, count: int) -> bytes:
        data = self._source(count)
        self.named.append([name, data.hex()])
        return data

    def element(self, name: str) -> int:
        """SPEC 7.3: 257 of the 264 bits of 33 bytes, again until they are below p."""
        while True:
            data = self._source(33)
            value = int.from_bytes(data, "big") % 2**257
            self.named.append([name if value < p.SHAMIR_PRIME else "rejected", data.hex()])
            if value < p.SHAMIR_PRIME:
                return value


@dataclass
class Party:
    """One task of a party. What the vectors show of it is collected in `shown`."""

    plan: Plan
    me: int
    seed: bytes
    context: Json
    draws: Draws
    encoded: list[int]
    awaits: int | None = None
    shown: Json = field(default_factory=dict)
    first: dict[int, bytes] = field(default_factory=dict)
    frames: list[bytes] = field(default_factory=list)

    def packet(self, message: Json, *attachments: bytes) -> bytes:
        envelope = make_envelope(message, self.context, self.me, self.seed)
        self.own = envelope.body
        return encode_packet(Packet(envelope, attachments))

    def start(self) -> bytes:
        self.mask_secret = self.draws.take("mask key", 32)
        self.seal_secret = self.draws.take("seal key", 32)
        keys = {
            "mask_public": p.public_of(self.mask_secret).hex(),
            "seal_public": p.public_of(self.seal_secret).hex(),
        }
        self.shown |= keys
        self.awaits = KINDS["Roster"]
        return self.packet({"type": "Advertise", **keys})

    def receive(self, data: bytes) -> list[bytes]:
        """Take a packet; return what the party then sends."""
        try:
            packet = decode_packet(data)
        except Malformed:
            raise Refused("malformed") from None
        envelope = packet.envelope
        authentic = envelope.context == self.context and is_signed(envelope, self.plan.identities)
        # SPEC 11.4(a).
        if authentic and envelope.sender == 0 and (envelope.kind in LISTS or envelope.kind == 61):
            body = self.first.setdefault(envelope.kind, envelope.body)
            if body != envelope.body:
                reason = {11: "ROSTER_FORK", 21: "ROSTER_FORK", 31: "ROSTER_FORK"}
                reason |= {41: "REPEATED_OPENING", 51: "REPEATED_OPENING"}
                raise Aborts(reason.get(envelope.kind, "UPDATE_FORK"), 0)
        # SPEC 4.8(g).
        if envelope.sender != 0 or envelope.kind not in {self.awaits, KINDS["Abort"]}:
            raise Refused("unexpected")
        if envelope.context != self.context:
            raise self.malformed(envelope)
        if not authentic:
            raise Refused("signature")
        try:
            message = decode_body(envelope.kind, envelope.body)
        except Malformed:
            raise self.malformed(envelope) from None
        if envelope.kind == KINDS["Abort"]:
            if REASONS[message["reason"]] == "UPDATE_REJECTED":
                raise Aborts("MALFORMED_MESSAGE", 0)
            raise Aborts(REASONS[message["reason"]], message["culprit"])
        self.attachments = packet.attachments
        step: Callable[[Json], list[bytes]] = getattr(self, f"on_{message['type'].lower()}")
        return step(message)

    def malformed(self, envelope: Envelope) -> Exception:
        """SPEC 4.8(g): a list that proves its signer's lie by itself ends the session."""
        signed = is_signed(envelope, self.plan.identities)
        ours = envelope.context["plan_digest"] == self.plan.digest.hex()
        if signed and ours and is_invalid_relay(self.plan, envelope):
            return Aborts("MALFORMED_MESSAGE", 0)
        return Refused("malformed")

    def require_own(self, opened: dict[int, tuple[Envelope, Json]], own: bytes) -> None:
        """L6."""
        if self.me not in opened:
            raise Aborts("MISSING_SELF", 0)
        if opened[self.me][0].body != own:
            raise Aborts("ALTERED_OWN_MESSAGE", 0)

    def on_roster(self, message: Json) -> list[bytes]:
        opened = relayed(self.plan, self.context, message, self.plan.parties)
        self.require_own(opened, self.own)
        seen: set[str] = set()
        for party, (_, keys) in opened.items():
            mask, seal = keys["mask_public"], keys["seal_public"]
            if mask == seal:
                raise Aborts("INVALID_PUBLIC_KEY", party)
            for key in (mask, seal):
                if not p.is_usable_key(un(key)):
                    raise Aborts("INVALID_PUBLIC_KEY", party)
                if key in seen:
                    raise Aborts("INVALID_PUBLIC_KEY", 0)
                seen.add(key)
        self.advertisements = [envelope for envelope, _ in opened.values()]
        self.roster = {party: keys for party, (_, keys) in opened.items()}
        return [self.share()]

    def share(self) -> bytes:
        """SPEC 4.2(a) and (b), in the full graph."""
        self.degree, threshold = neighbourhood(self.plan, self.context["task"], len(self.roster))
        if self.degree != len(self.roster) - 1:
            raise NotImplementedError("the vectors have no session with a sparse graph")
        self.self_seed = self.draws.take("self-mask seed", 32)
        self.part = self.draws.take("group part", 32)
        seed_terms, key_terms = (
            [self.draws.element(f"{name} coefficient {i}") for i in range(1, threshold)]
            for name in ("self-mask", "mask-key")
        )
        shares = {
            j: (
                p.share_at(self.self_seed, seed_terms, j),
                p.share_at(self.mask_secret, key_terms, j),
            )
            for j in self.roster
        }
        self.held = {self.me: shares[self.me]}
        sealed, cases = {}, {}
        for j in sorted(self.roster.keys() - {self.me}):
            key = p.seal_key(self.seal_secret, un(self.roster[j]["seal_public"]), is_sender=True)
            nonce = self.draws.take(f"nonce for {j}", 12)
            plaintext = b"".join(shares[j]) + self.part
            data = p.encode("collabedit/v1/share", context_bytes(self.context), self.me, j)
            sealed[j] = p.seal(key, nonce, plaintext, data)
            parts = {"key": key, "associated_data": data, "plaintext": plaintext}
            parts["sealed"] = sealed[j]
            cases[str(j)] = {name: value.hex() for name, value in parts.items()}
        owner = owner_bytes(self.context, self.me)
        commitments = {
            "self_mask_commitment": p.commit("self-mask", owner, self.self_seed).hex(),
            "group_commitment": p.commit("group-part", owner, self.part).hex(),
        }
        self.shown |= {
            "owner_context": owner.hex(),
            "shares": {
                str(j): {"self_mask": one.hex(), "mask_key": two.hex()}
                for j, (one, two) in shares.items()
            },
            "sealed": cases,
            **commitments,
        }
        digests = {str(j): p.sha256(data).hex() for j, data in sealed.items()}
        self.awaits = KINDS["RelayShares"]
        message = {"type": "ShareKeys", **commitments, "digests": digests}
        return self.packet(message, *sealed.values())

    def on_relayshares(self, message: Json) -> list[bytes]:
        opened = relayed(self.plan, self.context, message, self.roster)
        self.require_own(opened, self.own)
        self.sharers = {sender: keys for sender, (_, keys) in opened.items()}
        for sender, keys in self.sharers.items():
            if breaks_receivers(keys, sender, self.roster, self.degree):
                raise Aborts("MALFORMED_MESSAGE", 0)
        owners = [o for o in owners_held_by(self.me, self.sharers) if o != self.me]
        if len(owners) != len(self.attachments):
            raise Aborts("MALFORMED_MESSAGE", 0)
        held, parts = dict(self.held), {self.me: self.part}
        for owner, sealed in zip(owners, self.attachments, strict=True):
            plaintext = self.open(owner, sealed)
            held[owner] = plaintext[:33], plaintext[33:66]
            parts[owner] = plaintext[66:]
        self.held = held
        commitments = [envelope for envelope, _ in opened.values()]
        self.transcript = roster_transcript(self.context, self.advertisements, commitments)
        joined = b"".join(parts[party] for party in sorted(parts))
        self.group_secret = p.derive(joined, "group-secret", self.transcript)
        self.awaits = KINDS["Confirmed"]
        return [self.packet({"type": "Confirm", "transcript": self.transcript.hex()})]

    def open(self, sender: int, sealed: bytes) -> bytes:
        """SPEC 4.2(c) to (e) for one sender."""
        keys = self.sharers[sender]
        if p.sha256(sealed).hex() != keys["digests"][str(self.me)]:
            raise Aborts("DIGEST_MISMATCH", 0)
        public = un(self.roster[sender]["seal_public"])
        key = p.seal_key(self.seal_secret, public, is_sender=False)
        data = p.encode("collabedit/v1/share", context_bytes(self.context), sender, self.me)
        plaintext = p.open_sealed(key, sealed, data)
        if plaintext is None or len(plaintext) != 98:
            raise Aborts("INVALID_SEAL", sender)
        owner = owner_bytes(self.context, sender)
        if p.commit("group-part", owner, plaintext[66:]).hex() != keys["group_commitment"]:
            raise Aborts("INVALID_SHARE", sender)
        return plaintext

    def on_confirmed(self, message: Json) -> list[bytes]:
        opened = relayed(self.plan, self.context, message, self.sharers)
        if any(confirm["transcript"] != self.transcript.hex() for _, confirm in opened.values()):
            raise Aborts("ROSTER_FORK", 0)
        ctx = context_bytes(self.context)
        own = p.derive(self.self_seed, "self-mask", owner_bytes(self.context, self.me))
        masks = [("self", 1, own)]
        for peer in neighbours_of(self.me, self.sharers):
            public = un(self.roster[peer]["mask_public"])
            key = p.agree(self.mask_secret, public, "pair-mask", ctx)
            masks.append((str(peer), 1 if self.me < peer else -1, key))
        masks += self.further_masks()
        self.mask([(sign, key) for _, sign, key in masks])
        self.shown["masks"] = [
            {
                "with": peer,
                "sign": sign,
                "key": key.hex(),
                "keystream": [p.keystream(key, tile, 32).hex() for tile in (0, 1)],
            }
            for peer, sign, key in masks
        ]
        digests = [each[16:48] for each in self.frames]
        self.root = tiles_root(digests)
        self.shown |= {"frames": [each.hex() for each in self.frames], "root": self.root.hex()}
        # What is next is the party's own doing: the upload.
        self.awaits = None
        return []

    def further_masks(self) -> list[tuple[str, int, bytes]]:
        """Masks of some tasks only: with whom, sign, key."""
        return []

    def mask(self, masks: list[tuple[int, bytes]]) -> None:
        """SPEC 7.5 and 6.1."""
        width, at = self.plan.width, 0
        for index, size in enumerate(self.plan.tile_sizes(self.context["task"])):
            tile = self.encoded[at : at + size]
            for sign, key in masks:
                stream = p.elements_of(p.keystream(key, index, size * width), width)
                tile = [
                    (x + sign * y) % 2 ** (8 * width) for x, y in zip(tile, stream, strict=True)
                ]
            self.frames.append(frame(index, p.bytes_of(tile, width)))
            at += size

    def contribute(self) -> bytes:
        self.awaits = KINDS["ProposeSurvivors"]
        return self.packet(
            {
                "type": "Contribute",
                "elements": self.plan.uploaded_elements(self.context["task"]),
                "tiles": len(self.frames),
                "root": self.root.hex(),
            }
        )

    def on_proposesurvivors(self, message: Json) -> list[bytes]:
        opened = relayed(self.plan, self.context, message, self.sharers)
        self.require_own(opened, self.own)
        # SPEC 4.12(b).
        if any(("seeds" in each) != self.plan.is_encrypted for _, each in opened.values()):
            raise Aborts("MALFORMED_MESSAGE", 0)
        self.contributed = {party: each for party, (_, each) in opened.items()}
        self.survivors = sorted(opened)
        contributions = [envelope for envelope, _ in opened.values()]
        self.survivor_transcript = survivor_transcript(self.context, self.transcript, contributions)
        self.awaits = KINDS["SurvivorsConfirmed"]
        shown = self.survivor_transcript.hex()
        return [self.packet({"type": "ConfirmSurvivors", "transcript": shown})]

    def on_survivorsconfirmed(self, message: Json) -> list[bytes]:
        opened = relayed(self.plan, self.context, message, self.survivors)
        own = self.survivor_transcript.hex()
        if any(confirm["transcript"] != own for _, confirm in opened.values()):
            raise Aborts("SURVIVOR_FORK", 0)
        return self.after_survivors()

    def after_survivors(self) -> list[bytes]:
        """SPEC 4.6(a)."""
        shares = {
            str(owner): {"type": "SelfMaskShare", "value": seed_share.hex()}
            if owner in self.survivors
            else {"type": "MaskKeyShare", "value": key_share.hex()}
            for owner, (seed_share, key_share) in sorted(self.held.items())
        }
        self.awaits = KINDS["Release"]
        return [self.packet({"type": "Unmask", "shares": shares})]

    def on_release(self, message: Json) -> list[bytes]:
        if message["update_bytes"] > self.plan.largest_bundle(self.context["task"]):
            raise Aborts("MALFORMED_MESSAGE", 0)
        self.release = message
        self.awaits = None
        return []

    def verify(self, bundle: bytes, vote: int = 0) -> bytes:
        """SPEC 4.7(b) and (c)."""
        if p.sha256(bundle).hex() != self.release["update_digest"]:
            raise Aborts("DIGEST_MISMATCH", 0)
        self.awaits = KINDS["UpdateVerified"]
        seen = {name: self.release[name] for name in ("update_digest", "sum_digest")}
        return self.packet({"type": "VerifyUpdate", **seen, "vote": vote})

    def on_updateverified(self, message: Json) -> list[bytes]:
        opened = relayed(self.plan, self.context, message, self.survivors)
        own = {name: self.release[name] for name in ("update_digest", "sum_digest")}
        statements = [statement for _, statement in opened.values()]
        if any(is_another_update(statement, own) for statement in statements):
            raise Aborts("UPDATE_FORK", 0)
        if any(breaks_vote(self.plan, self.context, statement) for statement in statements):
            raise Aborts("MALFORMED_MESSAGE", 0)
        self.awaits = None
        if self.plan.is_voted(self.context["task"]):
            self.require_own(opened, self.own)
            if not self.plan.keeps([statement["vote"] for statement in statements]):
                raise Aborts("UPDATE_REJECTED", None)
        return []
