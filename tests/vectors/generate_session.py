"""Write tests/vectors/session.json and refusals.json with the code under test.

    python tests/vectors/generate_session.py [folder]

A session of four parties (threshold 3) and two tasks, run with the machines that are deployed. In
task 0 party 3 falls silent in r3 after two tiles, so shares of both kinds are revealed; it is not
in task 1. `README.md` says what the fields are.

Deterministic but for the merge, whose last bits depend on the linear algebra library: a bundle that
`session.json` holds already is released again if the new one is the same up to `TOLERANCE`.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from collabedit.acceptance import Vote
from collabedit.aggregator import coordinator as coordinator_module
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.opening import OpenedTask, Outcome, open_and_merge
from collabedit.aggregator.states import Merged, Opening, Summing
from collabedit.aggregator.tiles import TileStore
from collabedit.crypto.agreement import AgreementKey
from collabedit.crypto.kdf import encode_fields
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.masking import pair_mask_key, pair_sign, self_mask_key
from collabedit.crypto.ring import RingArray, to_bytes
from collabedit.crypto.rng import Randomness, ReplayableRandomness
from collabedit.crypto.sealed import open_sealed
from collabedit.crypto.shamir import PRIME, combine
from collabedit.crypto.signing import SigningKey
from collabedit.exchange import contribution_vector, decode_bundle, plan_encoding
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party import task as party_task
from collabedit.party.contribution import masked_upload
from collabedit.party.witness import Witness
from collabedit.plan import Plan, parse_plan
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_body, decode_packet, encode_packet
from collabedit.proto.envelope import (
    context_fields,
    first_chain,
    next_chain,
    sign_message,
)
from collabedit.proto.statements import (
    owner_context,
    share_associated_data,
)
from collabedit.sketch import LowRankUpdate, Matrix

FOLDER = Path(__file__).parent
TOLERANCE = 1e-9
"""Largest difference of entries of updates (of magnitude about 1) between two libraries."""

DROPPED, SILENT_AFTER = PartyId(3), 2
"""Who falls silent in r3 of task 0, and after how many tiles."""

TYPES = {kind: message for message, kind in m.KINDS.items()}


def pseudo(name: str, count: int = 32) -> bytes:
    """Return reproducible bytes: SHAKE-256 of the name."""
    return hashlib.shake_256(f"collabedit session vector: {name}".encode()).digest(count)


class Recorder:
    """Keeps every draw."""

    def __init__(self, source: Randomness) -> None:
        self._source = source
        self.drawn: list[bytes] = []

    def random_bytes(self, count: int) -> bytes:
        data = self._source.random_bytes(count)
        self.drawn.append(data)
        return data


class SessionIds:
    """What an aggregator draws."""

    def random_bytes(self, count: int) -> bytes:
        return pseudo("session id", count)


def task_seed(party: int, task: int) -> bytes:
    """The seed of a party's draws in a task (SPEC 4.10(a))."""
    return pseudo(f"seed of party {party} in task {task}")


SEEDS = {PartyId(end): pseudo(f"identity {end}") for end in range(5)}
KEYS = {end: SigningKey.from_seed(seed) for end, seed in SEEDS.items()}


def public(end: int) -> str:
    return KEYS[PartyId(end)].verify_key.to_bytes().hex()


# Not in the order of the fields, with whole numbers for reals, and with text that JSON escapes.
PLAN = f"""\
version = 1
name = "session-vector"

[federation]
threshold = 3
parties = [
  {{ name = "party-1", identity = "{public(1)}", max_edits = 2 }},
  {{ name = "party-2", identity = "{public(2)}", max_edits = 1 }},
  {{ name = "party-3", identity = "{public(3)}", max_edits = 1 }},
  {{ name = "party-4", identity = "{public(4)}", max_edits = 1 }},
]
aggregator = {{ name = "aggregator", identity = "{public(0)}" }}

[aggregation]
backend = "masked"
statistics = "sketch"
capacity = 13
ring_bits = 64
fractional_bits = 24
magnitude_bound = 1000
tile_bytes = 256
test_matrix_seed = "{pseudo("test matrix").hex()}"

[model]
name = 'none "at all" \\ é 😀'
architecture = "llama\\n\\u007f"
dtype = "float64"
weights = "sha256:{pseudo("weights").hex()}"
tokenizer = "sha256:{pseudo("tokenizer").hex()}"

[editing]
editor = "memit"
schedule = "sequential"
covariance_weight = 15000
covariance = "sha256:{pseudo("covariance").hex()}"
ridge = 1
context_templates = ["{{}}", "Été. {{}}"]
layers = [
  {{ index = 3, inputs = 9, outputs = 4, mapped = 7 }},
  {{ index = 8, inputs = 9, outputs = 5, mapped = 6 }},
]
targets = {{ learning_rate = 0.5, steps = 20, clamp_factor = 4, weight_decay = 0.00001, \
kl_weight = 0.0625, stop_loss = 0.05 }}

[bounds]
key_energy = 30
residual_energy = 40.5

[timing]
round = 60
"""


def statistics(plan: Plan, party: PartyId, task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
    """Keys and residuals in eighths, -2 to 2, so that their float64 is exact."""
    edits = plan.federation.parties[party - 1].max_edits

    def numbers(what: str, rows: int) -> Matrix:
        data = pseudo(f"{what} of party {party} in task {task}", rows * edits)
        return np.array([byte % 33 - 16 for byte in data]).reshape(rows, edits) / 8

    return [
        (numbers("keys", layer.mapped), numbers("residuals", layer.outputs))
        for layer in plan.tasks[task]
    ]


def floats(matrix: Matrix) -> list[Any]:
    """C99 hexadecimal floats, nested like the array."""
    return [float(x).hex() if np.ndim(x) == 0 else floats(x) for x in matrix]


def check_rounding(vector: Matrix, fractional_bits: int) -> None:
    """Refuse a value so close to a tie that another machine's float64 could round it elsewhere."""
    for value in vector:
        scaled = Fraction(float(value)) * 2**fractional_bits
        if abs(abs(scaled - round(scaled)) - Fraction(1, 2)) < Fraction(1, 2**16):
            raise SystemExit("a value is close to a tie: take other statistics")


def show_message(message: m.Message) -> dict[str, Any]:
    """Show a message field by field; relayed envelopes by what transcripts take of them."""
    shown: dict[str, Any] = {"type": type(message).__name__}
    for name in message.__slots__:
        value = getattr(message, name)
        if value is not Vote.NONE and (name, value) != ("seeds", b""):
            shown[name] = _show_field(value)
    return shown


def _show_field(value: object) -> Any:  # noqa: ANN401  whatever JSON can hold
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [
            {
                "sender": each.sender,
                "body_sha256": hashlib.sha256(each.body).hexdigest(),
                "signature": each.signature.hex(),
            }
            for each in value
        ]
    if isinstance(value, m.SelfMaskShare | m.MaskKeyShare):
        return {"type": type(value).__name__, "value": value.value.hex()}
    if hasattr(value, "items"):
        return {str(key): _show_field(item) for key, item in value.items()}
    return value


def show_packet(packet: m.Packet, receivers: list[int]) -> dict[str, Any]:
    envelope = packet.envelope
    return {
        "from": envelope.sender,
        "to": receivers,
        "task": envelope.context.task,
        "kind": envelope.kind,
        "message": show_message(decode_body(envelope.kind, envelope.body)),
        "signature": envelope.signature.hex(),
        "attachments": [hashlib.sha256(data).hexdigest() for data in packet.attachments],
        "bytes": encode_packet(packet).hex(),
    }


Probe = Callable[["Run", int, PartyId, m.Packet], None]
"""Told of every packet before its receiver takes it: its number, the receiver, the packet."""


@dataclass
class Run:
    """The session, message by message, in lock-step."""

    directory: Path
    recorded: dict[int, bytes]
    probe: Probe = lambda _run, _number, _receiver, _packet: None
    plan_text: str = PLAN
    dropped: PartyId | None = DROPPED
    votes: Mapping[PartyId, Vote] = field(default_factory=dict)
    packets: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    states: dict[PartyId, s.State] = field(default_factory=dict)
    seen: dict[tuple[PartyId, TaskIndex, type], s.State] = field(default_factory=dict)
    witnesses: dict[PartyId, Witness] = field(default_factory=dict)
    aggregator_before: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = parse_plan(self.plan_text, source="session vector")
        self.randomness: dict[PartyId, Recorder] = {}
        self.coordinator = Coordinator(
            self.plan,
            KEYS[AGGREGATOR],
            directory=self.directory,
            randomness=SessionIds(),
        )
        self.session_id = self.coordinator.session_id
        self.chain = first_chain(self.plan.digest, self.session_id)
        self.cursors = dict.fromkeys(self.plan.party_ids, 0)
        self.encoded: dict[PartyId, RingArray] = {}

    def run(self) -> "Run":
        for party in self.plan.party_ids:
            nowhere = m.Context(self.plan.digest, bytes(32), TaskIndex(0), bytes(32))
            request = m.Packet(
                sign_message(m.Join(), context=nowhere, sender=party, key=KEYS[party])
            )
            self.log(request, [AGGREGATOR])
            self.log(self.coordinator.welcome(request), [party])
        present = list(self.plan.party_ids)
        for index in self.tasks_to_run():
            self.run_task(TaskIndex(index), present)
            present = [p for p in present if isinstance(self.states[p], s.Completed)]
        return self

    def tasks_to_run(self) -> range:
        return range(len(self.plan.tasks))

    def log(self, packet: m.Packet, receivers: list[PartyId]) -> int:
        self.packets.append(show_packet(packet, [int(each) for each in receivers]))
        return len(self.packets) - 1

    def run_task(self, task: TaskIndex, present: list[PartyId]) -> None:
        self.context = m.Context(self.plan.digest, self.session_id, task, self.chain)
        self.frames: dict[PartyId, list[bytes]] = {}
        self.vectors: dict[PartyId, Matrix] = {}
        for party in present:
            self.bring(party, task)
            self.witnesses[party] = Witness(self.plan)
        for party in present:
            source = ReplayableRandomness(
                task_seed(party, task), owner_context(self.context, party)
            )
            self.randomness[party] = Recorder(source)
            setup = s.TaskSetup(self.plan, self.context, party, KEYS[party], self.randomness[party])
            self.take(party, party_task.start_task(setup))
        opened = self.drive(task, present)
        self.tasks.append(self.describe(task, present, opened))
        self.chain = next_chain(self.chain, opened.event.update_digest)

    def bring(self, party: PartyId, task: TaskIndex) -> None:
        """Fix what a party contributes, before its first message."""
        vector = contribution_vector(self.plan, task, statistics(self.plan, party, task))
        check_rounding(vector, self.plan.aggregation.fractional_bits)
        self.vectors[party] = vector
        self.encoded[party] = plan_encoding(self.plan).encode(vector)

    def drive(self, task: TaskIndex, present: list[PartyId]) -> OpenedTask:
        opened: OpenedTask | None = None
        while True:
            shown = self.collect(task)
            if not shown:
                if len(self.coordinator.records) > task or self.coordinator.finished:
                    assert opened is not None
                    return opened
                if isinstance(self.coordinator.state, Summing | Opening):
                    with mock.patch.object(coordinator_module, "open_and_merge", self.open_sum):
                        opened = self.coordinator.open_pending()
                else:
                    self.coordinator.close_round()
                continue
            for number, receiver, packet in shown:
                self.probe(self, number, receiver, packet)
            for _, receiver, packet in shown:
                self.take(receiver, self.witnesses[receiver].receive(self.states[receiver], packet))

    def open_sum(self, state: Opening, store: TileStore, opened: TileStore | None) -> Outcome:
        """Open and merge, and take the recorded bundle if it is the same up to rounding."""
        outcome = open_and_merge(state, store, opened)
        task = state.progress.setup.context.task
        recorded = self.recorded.get(task)
        if recorded is None or not isinstance(outcome, OpenedTask):
            return outcome
        fresh, old = (decode_bundle(self.plan, task, b) for b in (outcome.bundle, recorded))
        if not all(is_close(fresh[layer], old[layer]) for layer in fresh):
            return outcome
        digest = hashlib.sha256(recorded).digest()
        return OpenedTask(
            Merged(digest, len(recorded), outcome.event.sum_digest), recorded, outcome.total
        )

    def collect(self, task: TaskIndex) -> list[tuple[int, PartyId, m.Packet]]:
        """Take what is new in the mailboxes; equal packets to several parties are logged once."""
        shown: list[tuple[int, PartyId, m.Packet]] = []
        numbers: dict[bytes, int] = {}
        for party in self.plan.party_ids:
            for packet in self.coordinator.mailbox(party, cursor=self.cursors[party]):
                self.cursors[party] += 1
                data = encode_packet(packet)
                if data in numbers:
                    self.packets[numbers[data]]["to"].append(int(party))
                else:
                    numbers[data] = self.log(packet, [party])
                if packet.envelope.context.task == task:
                    shown.append((numbers[data], party, packet))
        return shown

    def take(self, party: PartyId, step: s.Step) -> None:
        self.states[party] = step.state
        if isinstance(step.state, s.Aborted):
            return
        if not isinstance(step.state, s.Completed):
            self.seen[party, step.state.setup.context.task, type(step.state)] = step.state
        for packet in step.outbound:
            number = self.log(packet, [AGGREGATOR])
            self.probe(self, number, AGGREGATOR, packet)
            self.coordinator.deliver(decode_packet(encode_packet(packet)))
        if isinstance(step.state, s.Contributing):
            self.upload(party, step.state)
        elif isinstance(step.state, s.FetchingUpdate):
            bundle = self.coordinator.bundle(step.state.setup.context.task)
            asked = self.plan.is_voted(step.state.setup.context.task)
            vote = self.votes[party] if asked else Vote.NONE
            fetched = s.UpdateFetched(hashlib.sha256(bundle).digest(), vote)
            self.take(party, party_task.advance(step.state, fetched))

    def upload(self, party: PartyId, state: s.Contributing) -> None:
        task = state.setup.context.task
        upload = masked_upload(self.plan, task, self.encoded[party], state.masks)
        self.frames[party] = list(upload.frames())
        silent = task == 0 and party == self.dropped
        for frame in self.frames[party][: SILENT_AFTER if silent else None]:
            self.coordinator.put_frame(party, task, frame)
        if not silent:
            self.take(party, party_task.advance(state, upload.uploaded()))

    # What the session showed

    def state(self, party: PartyId, kind: type[Any]) -> Any:  # noqa: ANN401  one of many
        return self.seen[party, self.context.task, kind]

    def describe(
        self,
        task: TaskIndex,
        present: list[PartyId],
        opened: OpenedTask,
    ) -> dict[str, Any]:
        survivors = sorted(p for p in present if (p, task, s.AwaitingVerification) in self.seen)
        total = opened.total
        confirming = self.state(survivors[0], s.AwaitingConfirmations)
        surviving = self.state(survivors[0], s.AwaitingSurvivorConfirmations)
        return {
            "task": int(task),
            "layers": [layer.index for layer in self.plan.tasks[task]],
            "present": [int(party) for party in present],
            "chain": self.chain.hex(),
            "context": context_fields(self.context).hex(),
            "parties": {str(party): self.describe_party(party) for party in present},
            "roster_transcript": confirming.transcript.hex(),
            "group_secret": confirming.group_secret.hex(),
            "survivors": [int(party) for party in survivors],
            "survivor_transcript": surviving.survivor_transcript.hex(),
            "opening": self.describe_opening(present, survivors),
            "sum": bytes(to_bytes(total)).hex(),
            "sum_digest": opened.event.sum_digest.hex(),
            **self.describe_released(task, opened),
            "bundle": opened.bundle.hex(),
            "update_digest": opened.event.update_digest.hex(),
            "next_chain": next_chain(self.chain, opened.event.update_digest).hex(),
        }

    def describe_released(self, task: TaskIndex, opened: OpenedTask) -> dict[str, Any]:
        updates = decode_bundle(self.plan, task, opened.bundle)
        return {
            "decoded": floats(plan_encoding(self.plan).decode(opened.total)),
            "updates": {
                str(layer): {
                    "left": floats(update.left),
                    "right": floats(update.right),
                    "product": floats(update.dense()),
                }
                for layer, update in updates.items()
            },
        }

    def describe_brought(self, party: PartyId) -> dict[str, Any]:
        return {
            "statistics": [
                {"keys": floats(keys), "residuals": floats(residuals)}
                for keys, residuals in statistics(self.plan, party, self.context.task)
            ],
            "vector": floats(self.vectors[party]),
        }

    def describe_party(self, party: PartyId) -> dict[str, Any]:
        start: s.AwaitingRoster = self.state(party, s.AwaitingRoster)
        sharing: s.AwaitingShares = self.state(party, s.AwaitingShares)
        confirming: s.AwaitingConfirmations = self.state(party, s.AwaitingConfirmations)
        contributing: s.Contributing = self.state(party, s.Contributing)
        owner = owner_context(self.context, party)
        commitment = decode_body(sharing.commitment.kind, sharing.commitment.body)
        assert isinstance(commitment, m.ShareKeys)
        task = self.context.task
        return {
            **self.describe_brought(party),
            "encoded": bytes(to_bytes(self.encoded[party])).hex(),
            "seed": task_seed(party, task).hex(),
            "draws": self.name_draws(party, self.randomness[party].drawn),
            "mask_public": start.mask_key.public.hex(),
            "seal_public": start.seal_key.public.hex(),
            "owner_context": owner.hex(),
            "shares": {
                str(holder): {
                    "self_mask": self.held(holder, party).self_mask.hex(),
                    "mask_key": self.held(holder, party).mask_key.hex(),
                }
                for holder in sharing.roster
            },
            "sealed": {
                str(to): self.describe_seal(party, to) for to in sharing.roster if to != party
            },
            "self_mask_commitment": commitment.self_mask_commitment.hex(),
            "group_commitment": commitment.group_commitment.hex(),
            **self.describe_upload(confirming, contributing, owner),
        }

    def describe_upload(
        self, confirming: s.AwaitingConfirmations, contributing: s.Contributing, owner: bytes
    ) -> dict[str, Any]:
        party, task = contributing.setup.me, self.context.task
        return {
            "masks": self.describe_masks(confirming, contributing, owner),
            "frames": [frame.hex() for frame in self.frames[party]],
            "root": masked_upload_root(self.plan, task, self.encoded[party], contributing).hex(),
        }

    def held(self, holder: PartyId, owner: PartyId) -> s.HeldShares:
        confirming: s.AwaitingConfirmations = self.state(holder, s.AwaitingConfirmations)
        return confirming.shares[owner]

    def name_draws(self, party: PartyId, drawn: list[bytes]) -> list[list[str]]:
        """Say what each draw is: see README."""
        roster = self.state(party, s.AwaitingShares).roster
        terms = range(1, self.plan.threshold)
        names = iter(
            ["mask key", "seal key", "self-mask seed", "group part"]
            + [f"{what} coefficient {i}" for what in ("self-mask", "mask-key") for i in terms]
            + [f"nonce for {peer}" for peer in sorted(roster) if peer != party]
        )
        named = []
        for data in drawn:
            rejected = len(data) == 33 and int.from_bytes(data, "big") % 2**257 >= PRIME
            named.append(["rejected" if rejected else next(names), data.hex()])
        assert next(names, None) is None, "a draw is missing"
        return named

    def describe_seal(self, sender: PartyId, to: PartyId) -> dict[str, str]:
        sharing: s.AwaitingShares = self.state(sender, s.AwaitingShares)
        receiving: s.AwaitingShares = self.state(to, s.AwaitingShares)
        sealed = self.sealed(sender, to)
        mine, peer = sharing.seal_key, sharing.roster[to].seal_public
        data = share_associated_data(self.context, sender=sender, receiver=to)
        plaintext = open_sealed(
            receiver=receiving.seal_key,
            sender_public=mine.public,
            sealed=sealed,
            associated_data=data,
        )
        key = mine.agree(peer, label="seal", context=encode_fields(mine.public, peer))
        parts = {"key": key, "associated_data": data, "plaintext": plaintext, "sealed": sealed}
        return {name: value.hex() for name, value in parts.items()}

    def sealed(self, sender: PartyId, to: PartyId) -> bytes:
        """Find what `sender` attached for `to`."""
        for shown in self.packets:
            packet = decode_packet(bytes.fromhex(shown["bytes"]))
            envelope = packet.envelope
            if envelope.sender != sender or envelope.context != self.context:
                continue
            keys = decode_body(envelope.kind, envelope.body)
            if isinstance(keys, m.ShareKeys):
                return packet.attachments[sorted(keys.digests).index(to)]
        raise AssertionError("no shares were sent")

    def describe_masks(
        self, confirming: s.AwaitingConfirmations, contributing: s.Contributing, owner: bytes
    ) -> list[dict[str, Any]]:
        me, ctx = confirming.setup.me, context_fields(self.context)
        keys = [("self", 1, self_mask_key(confirming.self_mask_seed, owner))]
        keys += [
            (
                str(peer),
                pair_sign(me, peer),
                pair_mask_key(confirming.mask_key, confirming.roster[peer].mask_public, ctx),
            )
            for peer in sorted(confirming.neighbours)
        ]
        keys += self.further_masks(me, contributing)
        ring = plan_encoding(self.plan).ring
        described = []
        for (peer, sign, key), mask in zip(keys, contributing.masks, strict=True):
            per_stream = 32 // ring.element_bytes
            streams = [bytes(to_bytes(Keystream(key).tile(i, per_stream, ring))) for i in (0, 1)]
            used = [bytes(to_bytes(mask.keystream.tile(i, per_stream, ring))) for i in (0, 1)]
            assert (sign, streams) == (mask.sign, used), "not the masks that the party used"
            shown = [stream.hex() for stream in streams]
            described.append({"with": peer, "sign": sign, "key": key.hex(), "keystream": shown})
        return described

    def further_masks(
        self, me: PartyId, contributing: s.Contributing
    ) -> list[tuple[str, int, bytes]]:
        """Masks of some tasks only: with whom, sign, key."""
        del me, contributing
        return []

    def describe_opening(self, present: list[PartyId], survivors: list[PartyId]) -> dict[str, Any]:
        """Reconstruct once more from what the survivors revealed."""
        revealed: dict[PartyId, m.Unmask] = {}
        for shown in self.packets:
            envelope = decode_packet(bytes.fromhex(shown["bytes"])).envelope
            if envelope.context == self.context and TYPES[envelope.kind] is m.Unmask:
                unmask = decode_body(envelope.kind, envelope.body)
                assert isinstance(unmask, m.Unmask)
                revealed[envelope.sender] = unmask
        secrets = {
            owner: combine(
                {p: unmask.shares[owner].value for p, unmask in revealed.items()},
                threshold=self.plan.threshold,
            )
            for owner in present
        }
        roster = self.state(survivors[0], s.AwaitingShares).roster
        dropped = [owner for owner in present if owner not in survivors]
        ctx = context_fields(self.context)
        return {
            "revealed_by": sorted(int(party) for party in revealed),
            "self_mask_seeds": {str(o): secrets[o].hex() for o in survivors},
            "mask_keys": {str(o): secrets[o].hex() for o in dropped},
            "pair_masks": [
                {
                    "survivor": int(survivor),
                    "dropped": int(owner),
                    "sign": pair_sign(survivor, owner),
                    "key": pair_mask_key(
                        AgreementKey.from_secret(secrets[owner]), roster[survivor].mask_public, ctx
                    ).hex(),
                }
                for owner in dropped
                for survivor in survivors
            ],
        }


def masked_upload_root(
    plan: Plan, task: TaskIndex, encoded: RingArray, state: s.Contributing
) -> bytes:
    upload = masked_upload(plan, task, encoded, state.masks)
    for _ in upload.frames():
        pass
    return upload.uploaded().root


def is_close(first: LowRankUpdate, second: LowRankUpdate) -> bool:
    pairs = ((first.left, second.left), (first.right, second.right))
    return all(
        a.shape == b.shape and float(np.abs(a - b).max(initial=0.0)) <= TOLERANCE for a, b in pairs
    )


def recorded_bundles(path: Path) -> dict[int, bytes]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {task["task"]: bytes.fromhex(task["bundle"]) for task in content["tasks"]}


def run_session(directory: Path, probe: Probe | None = None) -> Run:
    recorded = recorded_bundles(FOLDER / "session.json")
    run = Run(directory, recorded) if probe is None else Run(directory, recorded, probe)
    return run.run()


def content(run: Run, *, generator: str = "generate_session.py") -> dict[str, Any]:
    canonical = json.dumps(
        run.plan.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":")
    )
    return {
        "generator": f"tests/vectors/{generator}",
        "plan": {"toml": run.plan_text, "canonical": canonical, "digest": run.plan.digest.hex()},
        "identities": {
            str(end): {"seed": seed.hex(), "public": public(end)} for end, seed in SEEDS.items()
        },
        "dropped": None if run.dropped is None else {"task": 0, "party": int(run.dropped)},
        "tolerance": TOLERANCE.hex(),
        "session_id": run.session_id.hex(),
        "tasks": run.tasks,
        "packets": run.packets,
    }


def write(path: Path, value: object) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    with tempfile.TemporaryDirectory() as directory:
        run = run_session(Path(directory))
    write(folder / "session.json", content(run))


if __name__ == "__main__":
    main()
