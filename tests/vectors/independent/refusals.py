"""refusals.json: altered packets against the second implementation. No project code."""

import copy

from independent.aggregator import Aggregator
from independent.evidence import judge
from independent.party import Party
from independent.plan import Plan
from independent.session import Replay, verify_session
from independent.statements import Aborts, Refused
from independent.wire import Json, Malformed, decode_packet, is_signed, un


def outcome_of(machine: Party | Aggregator, data: bytes) -> Json:
    """What the machine does with a packet; the machine stays as it is."""
    machine = copy.copy(machine)
    if isinstance(machine, Party):
        machine.first = dict(machine.first)
        machine.draws, machine.shown, machine.frames = copy.deepcopy(machine.draws), {}, []
    else:
        machine.answers = {name: dict(each) for name, each in machine.answers.items()}
    try:
        if isinstance(machine, Party):
            machine.receive(data)
        else:
            machine.deliver(data)
    except Refused as refusal:
        rule = {"reason": refusal.reason, "culprit": refusal.culprit}
        shown: Json = {"outcome": "refused", "how": refusal.how}
        return shown | rule if refusal.how == "rule" else shown
    except Aborts as ended:
        return {"outcome": "aborts", "reason": ended.reason, "culprit": ended.culprit}
    return {"outcome": "accepted"}


def outer_signature(plan: Plan, data: bytes) -> bool | None:
    try:
        return is_signed(decode_packet(data).envelope, plan.identities)
    except Malformed:
        return None


def verify_refusals(session: Json, given: Json) -> list[str]:
    """Replay the session and show every altered packet where it belongs."""
    lines, tried = [], 0

    def probe(number: int, who: int, machine: Party | Aggregator) -> None:
        nonlocal tried
        for i, case in enumerate(given["cases"]):
            if (case["instead_of"], case["to"]) != (number, who):
                continue
            tried += 1
            data = un(case["bytes"])
            found = outcome_of(machine, data)
            if found != case["outcome"]:
                lines.append(f"cases[{i}] {case['name']}: {case['outcome']} is not {found}")
            signed = outer_signature(machine.plan, data)
            if signed is not case["is_signed"]:
                lines.append(f"cases[{i}] {case['name']}: is_signed is not {signed}")

    Replay(session, probe).run()
    if tried != len(given["cases"]) or not tried:
        lines.append(f"{len(given['cases']) - tried} cases belong to no packet of the session")
    return lines


def verify_votes(given: Json) -> list[str]:
    """A session with votes, the same with other votes, altered packets, and evidence."""
    accepted, rejected = given["accepted"], given["rejected"]
    kept = len(accepted["packets"]) - len(rejected["packets"])
    packets = accepted["packets"][:kept] + rejected["packets"]
    lines = [f"accepted.{line}" for line in verify_session(accepted)]
    lines += [
        f"rejected.{line}" for line in verify_session({**accepted, **rejected, "packets": packets})
    ]
    lines += [f"refusals.{line}" for line in verify_refusals(accepted, given["refusals"])]
    lines += [f"evidence.{line}" for line in verify_evidence(accepted, given["evidence"])]
    return lines


def verify_evidence(session: Json, given: Json) -> list[str]:
    plan = Plan.read(session["plan"]["toml"])
    lines = [] if given["cases"] else ["no case"]
    for i, case in enumerate(given["cases"]):
        found = judge(plan, case["file"].encode())
        listed = {key: value for key, value in case.items() if key not in {"name", "file"}}
        if found != listed:
            lines.append(f"cases[{i}] {case['name']}: {listed} is not {found}")
    return lines
