"""Replay of session.json: every party and the aggregator once more, from seeds. No project code.

Taken from the file: the plan's text, the seeds of the identities, keys and residuals, who falls
silent when, and the released bundles, whose last bits are the machine's. Everything else is
computed, and compared in full.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from independent import primitives as p
from independent.aggregator import Aggregator
from independent.party import Draws, Party
from independent.plan import Plan, first_chain, next_chain
from independent.statements import Aborts, owner_bytes
from independent.updates import (
    Matrix,
    Update,
    dense_solution,
    exact_contribution,
    matrix,
    merge,
    read_bundle,
    respects_bounds,
    summed_statistics,
    write_bundle,
)
from independent.wire import (
    Json,
    Packet,
    context_bytes,
    decode_body,
    decode_packet,
    encode_packet,
    make_context,
    make_envelope,
    un,
)

Probe = Callable[[int, int, "Party | Aggregator"], None]
"""Told of every packet (number in `packets`) before its receiver takes it: number, who, machine."""

DENSE_TOLERANCE = 1e-5
"""Of entries of an update, about 1: summed rounding is 3e-8, times the condition of ρI + S."""


def task_draws(seed: bytes, owner: bytes) -> Callable[[int], bytes]:
    """SPEC 4.10(a): one stream, read from its beginning, which need not be at a block's end."""
    key, position = p.derive(seed, "task-randomness", owner), 0

    def draw(size: int) -> bytes:
        nonlocal position
        position += size
        return p.counter_mode(key, position)[-size:]

    return draw


def show_message(message: Json) -> Json:
    """The message with relayed envelopes as README shows them."""
    shown = dict(message)
    for name, value in message.items():
        if isinstance(value, list):
            shown[name] = [
                {
                    "sender": each["sender"],
                    "body_sha256": p.sha256(un(each["body"])).hex(),
                    "signature": each["signature"],
                }
                for each in value
            ]
    return shown


class Replay:
    def __init__(self, given: Json, probe: Probe = lambda _number, _who, _machine: None) -> None:
        self.given = given
        self.probe = probe
        self.plan = Plan.read(given["plan"]["toml"])
        self.seeds = {int(end): un(each["seed"]) for end, each in given["identities"].items()}
        self.packets: list[Json] = []
        self.tasks: list[Json] = []
        self.outcomes: dict[str, str] = {}
        """How the session ended, by end; the aggregator's under 0."""
        self.lines: list[str] = []
        """What does not agree beyond the comparison of the two trees."""

    def run(self) -> Json:
        self.session_id = un(self.given["session_id"])
        chain = first_chain(self.plan.digest, self.session_id)
        self.join(chain)
        present = self.plan.parties
        for task in range(len(self.given["tasks"])):
            present, chain = self.task(task, present, chain)
        votes: Json = {}
        if "votes" in self.given:
            votes = {"votes": self.given["votes"], "outcomes": self.outcomes}
        return votes | {
            "generator": self.given["generator"],
            "plan": {
                "toml": self.given["plan"]["toml"],
                "canonical": self.plan.canonical,
                "digest": self.plan.digest.hex(),
            },
            "identities": {
                str(end): {"seed": seed.hex(), "public": p.identity_of(seed).hex()}
                for end, seed in self.seeds.items()
            },
            "dropped": self.given["dropped"],
            "tolerance": self.given["tolerance"],
            "session_id": self.session_id.hex(),
            "tasks": self.tasks,
            "packets": self.packets,
        }

    def log(self, data: bytes, receivers: list[int]) -> int:
        packet = decode_packet(data)
        envelope = packet.envelope
        shown = {
            "from": envelope.sender,
            "to": receivers,
            "task": envelope.context["task"],
            "kind": envelope.kind,
            "message": show_message(decode_body(envelope.kind, envelope.body)),
            "signature": envelope.signature.hex(),
            "attachments": [p.sha256(each).hex() for each in packet.attachments],
            "bytes": data.hex(),
        }
        self.packets.append(shown)
        return len(self.packets) - 1

    def join(self, chain: bytes) -> None:
        """SPEC 4.8(a)."""
        nowhere = make_context(self.plan.digest, bytes(32), 0, bytes(32))
        first = make_context(self.plan.digest, self.session_id, 0, chain)
        for party in self.plan.parties:
            request = make_envelope({"type": "Join"}, nowhere, party, self.seeds[party])
            answer = make_envelope({"type": "Welcome"}, first, 0, self.seeds[0])
            self.log(encode_packet(Packet(request)), [0])
            self.log(encode_packet(Packet(answer)), [party])

    def task(self, task: int, present: list[int], chain: bytes) -> tuple[list[int], bytes]:
        context = make_context(self.plan.digest, self.session_id, task, chain)
        self.aggregator = self.aggregate(context, present)
        self.parties: dict[int, Party] = {}
        for party in present:
            self.parties[party] = self.prepare(party, task, context)
        for party in present:
            self.deliver(party, self.parties[party].start())
        for _ in range(3):
            self.show(self.aggregator.end())
        for party in present:
            self.upload(party, task)
        for _ in range(2):
            self.show(self.aggregator.end())
        total = self.opened()
        bundle = self.bundle_of(task, total)
        self.show(self.aggregator.release(bundle, total))
        for party in self.aggregator.waits_for:
            vote = self.given["votes"][str(party)] if self.plan.is_voted(task) else 0
            self.deliver(party, self.parties[party].verify(bundle, vote))
        self.outcomes = dict.fromkeys(map(str, self.parties), "completed")
        self.show(self.aggregator.end())
        self.outcomes["0"] = self.aggregator.outcome
        survivors = sorted(self.aggregator.answers["Contribute"])
        one = self.parties[survivors[0]]
        after = next_chain(chain, p.sha256(bundle))
        self.tasks.append(
            {
                "task": task,
                "layers": [layer["index"] for layer in self.plan.tasks[task]],
                "present": present,
                "chain": chain.hex(),
                "context": context_bytes(context).hex(),
                "parties": {str(party): self.describe(party, task) for party in present},
                "roster_transcript": one.transcript.hex(),
                "group_secret": one.group_secret.hex(),
                "survivors": survivors,
                "survivor_transcript": one.survivor_transcript.hex(),
                "opening": self.aggregator.shown["opening"],
                "sum": total.hex(),
                "sum_digest": p.sha256(total).hex(),
                **self.merged(task, total, survivors, bundle),
                "bundle": bundle.hex(),
                "update_digest": p.sha256(bundle).hex(),
                "next_chain": after.hex(),
            }
        )
        return sorted(self.aggregator.answers["VerifyUpdate"]), after

    def aggregate(self, context: Json, present: list[int]) -> Aggregator:
        return Aggregator(self.plan, self.seeds[0], context, present)

    def opened(self) -> bytes:
        """What r5 comes to: the opened ring vector."""
        return self.aggregator.open_sum()

    def bundle_of(self, task: int, total: bytes) -> bytes:
        """The released bytes: those of the file, whose last bits are the machine's."""
        del total
        return un(self.given["tasks"][task]["bundle"])

    def prepare(self, party: int, task: int, context: Json) -> Party:
        """SPEC 4.4(a): encode before the first message, here from exact sums."""
        given = self.given["tasks"][task]["parties"][str(party)]
        exact = exact_contribution(self.plan, task, given["statistics"])
        self.check_vector(f"tasks[{task}].parties.{party}.vector", exact, given["vector"])
        section = self.plan.aggregation
        bits = {name: section[name] for name in ("fractional_bits", "ring_bits")}
        encoded = [p.to_ring(float(number), **bits) for number in exact]
        draws = Draws(task_draws(un(given["seed"]), owner_bytes(context, party)))
        return Party(self.plan, party, self.seeds[party], context, draws, encoded)

    def check_vector(self, path: str, exact: list[Fraction], given: list[str]) -> None:
        bound = Fraction(self.plan.aggregation["magnitude_bound"])
        if len(given) != len(exact) or any(abs(number) > bound for number in exact):
            self.lines.append(f"{path}: length or magnitude")
        for i, (number, text) in enumerate(zip(exact, given, strict=False)):
            if abs(Fraction(float.fromhex(text)) - number) > Fraction(1, 10**11):
                self.lines.append(f"{path}[{i}]: {text} is not {float(number).hex()}")

    def deliver(self, party: int, data: bytes) -> None:
        number = self.log(data, [0])
        self.probe(number, 0, self.aggregator)
        self.aggregator.deliver(data)

    def show(self, outbound: list[tuple[int, bytes]]) -> None:
        """Give everybody its packet; equal packets are one entry, at its first receiver's place."""
        numbers: dict[bytes, int] = {}
        placed = []
        for receiver, data in sorted(outbound):
            if data in numbers:
                self.packets[numbers[data]]["to"].append(receiver)
            else:
                numbers[data] = self.log(data, [receiver])
            placed.append((numbers[data], receiver, data))
        for number, receiver, _ in placed:
            self.probe(number, receiver, self.parties[receiver])
        for _, receiver, data in placed:
            self.take(receiver, data)

    def take(self, party: int, data: bytes) -> None:
        try:
            answers = self.parties[party].receive(data)
        except Aborts as ended:
            if (ended.reason, ended.culprit) not in {("TIMEOUT", party), ("UPDATE_REJECTED", None)}:
                raise
            self.outcomes[str(party)] = ended.reason
            return
        for answer in answers:
            self.deliver(party, answer)

    def upload(self, party: int, task: int) -> None:
        dropped = self.given["dropped"]
        machine = self.parties[party]
        if dropped is not None and (dropped["task"], dropped["party"]) == (task, party):
            for frame in machine.frames[:-1]:
                self.aggregator.put_frame(party, frame)
            return
        for frame in machine.frames:
            self.aggregator.put_frame(party, frame)
        self.deliver(party, machine.contribute())

    def describe(self, party: int, task: int) -> Json:
        machine = self.parties[party]
        given = self.given["tasks"][task]["parties"][str(party)]
        return {
            **self.brought(given),
            "encoded": p.bytes_of(machine.encoded, self.plan.width).hex(),
            "seed": given["seed"],
            "draws": machine.draws.named,
            **machine.shown,
        }

    def brought(self, given: Json) -> Json:
        """What `prepare` compared, or has from the file."""
        return {"statistics": given["statistics"], "vector": given["vector"]}

    def merged(self, task: int, total: bytes, survivors: list[int], bundle: bytes) -> Json:
        """SPEC 6.3, 6.5 and 6.6: the bundle's bytes exactly, its numbers by two other ways."""
        section = self.plan.aggregation
        bits = {name: section[name] for name in ("fractional_bits", "ring_bits")}
        decoded = [
            p.from_ring(element, **bits) for element in p.elements_of(total, self.plan.width)
        ]
        path = f"tasks[{task}]"
        largest = len(survivors) * (section["magnitude_bound"] + 2.0 ** -bits["fractional_bits"])
        if max(map(abs, decoded)) > largest * (1 + 1e-6):
            self.lines.append(f"{path}.decoded: beyond SPEC 6.6(b)")
        updates = read_bundle(self.plan, task, bundle)
        if write_bundle(updates) != bundle:
            self.lines.append(f"{path}.bundle: is not what its numbers encode to")
        sums = summed_statistics(self.plan, task, decoded)
        shown = {}
        for layer, pair in zip(self.plan.tasks[task], sums, strict=True):
            update = updates[layer["index"]]
            where = f"{path}.updates.{layer['index']}"
            self.check_update(where, update, layer, pair, survivors)
            listed = self.given["tasks"][task]["updates"][str(layer["index"])]
            product = update.left @ update.right
            off = np.argwhere(np.abs(matrix(listed["product"]) - product) > self.tolerance)
            self.lines += [f"{where}.product[{i}][{j}]: is not left times right" for i, j in off]
            shown[str(layer["index"])] = {
                "left": [[number.hex() for number in row] for row in update.left.tolist()],
                "right": [[number.hex() for number in row] for row in update.right.tolist()],
                "product": listed["product"],
            }
        return {"decoded": [number.hex() for number in decoded], "updates": shown}

    @property
    def tolerance(self) -> float:
        return float.fromhex(self.given["tolerance"])

    def check_update(
        self,
        where: str,
        update: Update,
        layer: Json,
        sums: tuple[Matrix, Matrix],
        survivors: list[int],
    ) -> None:
        expected = merge(self.plan, layer, sums, len(survivors))
        for name in ("left", "right"):
            if not is_near(getattr(update, name), getattr(expected, name), self.tolerance):
                self.lines.append(f"{where}.{name}: is not what SPEC 6.5 gives")
        dense = dense_solution(self.plan, layer, sums)
        if not is_near(update.left @ update.right, dense, DENSE_TOLERANCE):
            self.lines.append(f"{where}: is not T(ρI + S)⁻¹")
        if not respects_bounds(self.plan, sums, layer, update, survivors):
            self.lines.append(f"{where}: beyond SPEC 6.6")


def is_near(found: Matrix, expected: Matrix, tolerance: float) -> bool:
    if found.shape != expected.shape:
        return False
    return not found.size or float(np.abs(found - expected).max()) <= tolerance


def compare(given: object, computed: object, path: str = "") -> list[str]:
    """One line for each leaf that differs."""
    if isinstance(given, dict) and isinstance(computed, dict):
        lines = []
        for key in given.keys() | computed.keys():
            where = f"{path}.{key}".removeprefix(".")
            if key not in given or key not in computed:
                lines.append(f"{where}: only in {'the vectors' if key in given else 'the replay'}")
            else:
                lines += compare(given[key], computed[key], where)
        return sorted(lines)
    if isinstance(given, list) and isinstance(computed, list) and len(given) == len(computed):
        pairs = enumerate(zip(given, computed, strict=True))
        return [line for i, pair in pairs for line in compare(*pair, f"{path}[{i}]")]
    same = type(given) is type(computed) and given == computed
    return [] if same else [f"{path}: {shorten(given)} is not {shorten(computed)}"]


def shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def verify_session(given: Json) -> list[str]:
    replay = Replay(given)
    computed = replay.run()
    return compare(given, computed) + replay.lines
