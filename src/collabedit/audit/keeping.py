"""Sessions in the private cache: one file each, numbers and JSON, nothing that runs on reading.

A session of an audit holds statistics of its candidates, keys and masks, so its file is its owner's
alone. It is no recording (docs/transcripts.md): it has what parties know beside what was sent.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from collabedit.aggregator.records import TaskRecord
from collabedit.audit.sessions import Secrets, Session, SessionTask
from collabedit.durable import replace_file
from collabedit.errors import InputError
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.plan import Plan
from collabedit.proto.messages import Context
from collabedit.recording import Delivery
from collabedit.simulation import Outcome
from collabedit.sketch import LowRankUpdate

LAYOUT = 2
"""Of a session's file, and part of its name: raised when the file has other fields."""

Arrays = dict[str, NDArray[Any]]


def save_arrays(path: Path, header: Mapping[str, Any], arrays: Arrays) -> None:
    """Write arrays with a JSON header, whole or not at all, for the owner alone.

    Raises:
        StorageError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    text = np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **{"header": text, **arrays})
    replace_file(path, stream.getvalue(), private=True)


def load_arrays(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Read `save_arrays` output.

    Raises:
        InputError: the file is not there, or damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        header = json.loads(arrays.pop("header").tobytes())
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: cannot be read; remove it, and it is made again") from error
    return header, arrays


def save_session(path: Path, session: Session) -> None:
    """Keep a session, without its repetition."""
    arrays: Arrays = {f"vector {name}": each for name, each in session.vectors.items()}
    outcome = session.outcome
    for task, total in outcome.sums.items():
        arrays[f"sum {task}"] = total
    for task, updates in outcome.updates.items():
        for layer, update in updates.items():
            arrays |= _factors(f"update {task} {layer}", update)
    for layer, update in session.released.items():
        arrays |= _factors(f"released {layer}", update)
    for task, secrets in session.secrets.items():
        for party, vector in secrets.encoded.items():
            arrays[f"encoded {task} {party}"] = vector
    # A control without masks is about what was encoded; large uploads are not kept twice.
    is_clear = session.task.defence.is_clear
    deliveries = [each for each in outcome.transcript if not (is_clear and each.kind == "frame")]
    sent = b"".join(each.data for each in deliveries)
    arrays["transcript"] = np.frombuffer(sent, dtype=np.uint8)
    header = {
        "plan": session.plan.model_dump(mode="json", exclude_none=True),
        "deliveries": [
            [each.sender, each.receiver, each.task, each.kind, len(each.data), each.at]
            for each in deliveries
        ],
        "records": [
            {
                "task": record.task,
                "survivors": sorted(record.survivors),
                "update": record.update_digest.hex(),
                "sum": record.sum_digest.hex(),
            }
            for record in outcome.records
        ],
        "bytes_sent": {str(party): count for party, count in outcome.bytes_sent.items()},
        "secrets": {
            str(task): {
                "session": each.context.session_id.hex(),
                "chain": each.context.chain.hex(),
                "secret": None if each.group_secret is None else each.group_secret.hex(),
            }
            for task, each in session.secrets.items()
        },
    }
    save_arrays(path, header, arrays)


def load_session(path: Path, task: SessionTask, again: Session | None = None) -> Session:
    """Read a session that was kept.

    Args:
        path: of its file.
        task: what was run.
        again: its repetition.

    Raises:
        InputError: the file is not there, or damaged.
    """
    header, arrays = load_arrays(path)
    plan = Plan.model_validate_json(json.dumps(header["plan"]), strict=False)
    tasks = [TaskIndex(index) for index in range(len(plan.tasks))]
    outcome = Outcome(
        records=tuple(
            TaskRecord(
                TaskIndex(each["task"]),
                frozenset(map(PartyId, each["survivors"])),
                bytes.fromhex(each["update"]),
                bytes.fromhex(each["sum"]),
                (),
            )
            for each in header["records"]
        ),
        sums={index: arrays[f"sum {index}"] for index in tasks if f"sum {index}" in arrays},
        updates={
            index: found for index in tasks if (found := _updates(arrays, f"update {index} "))
        },
        aborted=None,
        party_states={},
        decisions={},
        refusals=(),
        transcript=_deliveries(header["deliveries"], arrays["transcript"].tobytes()),
        bytes_sent={PartyId(int(party)): count for party, count in header["bytes_sent"].items()},
    )
    secrets = {
        TaskIndex(int(index)): Secrets(
            Context(
                plan.digest,
                bytes.fromhex(each["session"]),
                TaskIndex(int(index)),
                bytes.fromhex(each["chain"]),
            ),
            None if each["secret"] is None else bytes.fromhex(each["secret"]),
            {
                PartyId(int(name.split()[-1])): vector
                for name, vector in arrays.items()
                if name.startswith(f"encoded {index} ")
            },
        )
        for index, each in header["secrets"].items()
    }
    return Session(
        task=task,
        plan=plan,
        outcome=outcome,
        secrets=secrets,
        released=_updates(arrays, "released "),
        vectors={
            name.removeprefix("vector "): each
            for name, each in arrays.items()
            if name.startswith("vector ")
        },
        again=again,
    )


def _factors(name: str, update: LowRankUpdate) -> Arrays:
    return {f"{name} left": update.left, f"{name} right": update.right}


def _updates(arrays: Arrays, prefix: str) -> dict[LayerIndex, LowRankUpdate]:
    layers = sorted(
        int(name.removeprefix(prefix).split()[0])
        for name in arrays
        if name.startswith(prefix) and name.endswith(" left")
    )
    return {
        LayerIndex(layer): LowRankUpdate(
            arrays[f"{prefix}{layer} left"], arrays[f"{prefix}{layer} right"]
        )
        for layer in layers
    }


def _deliveries(listed: list[list[Any]], data: bytes) -> tuple[Delivery, ...]:
    found, start = [], 0
    for sender, receiver, task, kind, size, at in listed:
        found.append(
            Delivery(
                PartyId(sender),
                PartyId(receiver),
                TaskIndex(task),
                kind,
                data[start : start + size],
                at,
            )
        )
        start += size
    return tuple(found)
