"""Updates on disk, and the chain of sessions that they form.

A file holds one session's update in the model's own coordinates, and says in its header which
session made it: the digest over the bytes that were released (SPEC 2.4), which all its parties
signed. A plan for a later session lists these digests, oldest first, so a party applies the same
updates in the same order as everybody else or does not take part.

The digests are of released bytes and not of edited weights. A party multiplies a released factor by
Φ, and both factors with each other, on its own machine, where another number of threads already
gives other last bits. Weights of two parties therefore agree to rounding and not to the bit.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from collabedit.errors import InputError, NumericError
from collabedit.ids import LayerIndex
from collabedit.party.editing.apply import Undo, apply_update
from collabedit.party.editing.artefacts import load_tensors, save_tensors
from collabedit.party.editing.model import EditableModel
from collabedit.party.member import SessionReport
from collabedit.plan import Plan, format_digest
from collabedit.proto.envelope import session_digest
from collabedit.sketch import LowRankUpdate

PREVIOUS_OPTION = "--previous"


@dataclass(frozen=True, slots=True)
class SavedUpdate:
    """A file of `save_updates`.

    Attributes:
        path: of the file.
        session: digest of the session that made it, as plans write it.
        previous: digests of the sessions that it continues, oldest first.
        updates: by layer, in the model's own coordinates.
    """

    path: Path
    session: str
    previous: tuple[str, ...]
    updates: Mapping[LayerIndex, LowRankUpdate] = field(repr=False)


def save_updates(
    path: Path,
    updates: Mapping[LayerIndex, LowRankUpdate],
    *,
    plan: Plan,
    session: SessionReport,
) -> None:
    """Write a whole session's update, in the model's own coordinates, as safetensors.

    Tensors `layer.{i}.left` [d_out, r] and `layer.{i}.right` [r, d_in], float64. The header has
    what the session's digest is made of, and a digest of the tensors against damage.
    """
    tensors = {}
    for layer, update in sorted(updates.items()):
        tensors[f"layer.{layer}.left"] = torch.from_numpy(update.left)
        tensors[f"layer.{layer}.right"] = torch.from_numpy(update.right)
    header = {
        "plan": plan.digest.hex(),
        "weights": plan.model.weights,
        "previous": json.dumps(plan.model.previous or ()),
        "layers": json.dumps(sorted(updates)),
        "session": session.session_id,
        "released": json.dumps([task.update_digest for task in session.tasks]),
        "digest": session.digest,
        "content": _content_digest(tensors),
    }
    save_tensors(path, tensors, header, kind="update", private=False)


def move_other_update(path: Path, *, session: str) -> Path | None:
    """Make room for a session's update: the file of another session is moved aside, never lost.

    Args:
        path: where `session` will write.
        session: digest of the session.

    Returns:
        Where the other file is now; None if there was none.

    Raises:
        InputError: what is there is no update.
    """
    if not path.exists():
        return None
    _, header = load_tensors(path, kind="update")
    found = header.get("digest", "")
    if found == session:
        return None
    name = found.removeprefix("sha256:")[:16] or header.get("plan", "")[:16]
    aside = path.with_name(f"{path.stem}-{name}{path.suffix}")
    path.replace(aside)
    return aside


def _content_digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(b"collabedit/v1/update")
    for name in sorted(tensors):
        values = tensors[name].contiguous().numpy()
        digest.update(f"\n{name} {'x'.join(map(str, values.shape))}\n".encode())
        digest.update(values.astype("<f8").tobytes())
    return digest.hexdigest()


def load_update(path: Path, *, weights: str) -> SavedUpdate:
    """Read what `save_updates` wrote.

    Args:
        path: the file.
        weights: digest of the checkpoint that it shall be applied to, as plans write it.

    Raises:
        InputError: no such file, malformed or damaged, or made for other weights.
    """
    tensors, header = load_tensors(path, kind="update")
    if header.get("weights") != weights:
        raise InputError(
            f"{path}: was made for weights {header.get('weights')}, these are {weights}"
        )
    try:
        if header["content"] != _content_digest(tensors):
            raise InputError(f"{path}: is damaged: get the same file from another party")
        updates = {
            LayerIndex(layer): LowRankUpdate(
                tensors[f"layer.{layer}.left"].numpy(), tensors[f"layer.{layer}.right"].numpy()
            )
            for layer in json.loads(header["layers"])
        }
        return SavedUpdate(
            path, _checked_session(path, header), tuple(json.loads(header["previous"])), updates
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: is no complete update: {error!r}") from error


def _checked_session(path: Path, header: Mapping[str, str]) -> str:
    released = [bytes.fromhex(text[len("sha256:") :]) for text in json.loads(header["released"])]
    digest = session_digest(
        bytes.fromhex(header["plan"]), bytes.fromhex(header["session"]), released
    )
    if format_digest(digest) != header["digest"]:
        raise InputError(f"{path}: is damaged: its parts give another session than it names")
    return header["digest"]


def load_chain(paths: Sequence[Path], *, weights: str) -> tuple[SavedUpdate, ...]:
    """Read updates that continue each other, oldest first.

    Args:
        paths: of all sessions since the checkpoint.
        weights: of the checkpoint.

    Raises:
        InputError: a file cannot be used (`load_update`), or does not continue those before it.
    """
    chain: list[SavedUpdate] = []
    for path in paths:
        saved = load_update(path, weights=weights)
        _check_place(saved, chain)
        chain.append(saved)
    return tuple(chain)


def _check_place(saved: SavedUpdate, before: Sequence[SavedUpdate]) -> None:
    if saved.previous != tuple(earlier.session for earlier in before):
        raise InputError(
            f"{saved.path}: continues {_count(saved.previous)}, and not just the {len(before)} "
            f"given before it: give the updates of its whole history with {PREVIOUS_OPTION}, "
            "oldest first"
        )


def load_history(
    paths: Sequence[Path], *, weights: str, sessions: Sequence[str]
) -> tuple[SavedUpdate, ...]:
    """Read the updates of a plan's history and hold them against it.

    Args:
        paths: the files, oldest first.
        weights: of the plan.
        sessions: `model.previous` of the plan.

    Raises:
        InputError: one is missing, one is too many, or one is of another session or place. One
            line that names the file and what to do.
    """
    history: list[SavedUpdate] = []
    for path in paths:
        place = len(history)
        if place == len(sessions):
            raise InputError(
                f"{path}: is one update too many: the plan continues {_count(sessions)}"
            )
        saved = load_update(path, weights=weights)
        if saved.session != sessions[place]:
            if saved.session in sessions:
                raise InputError(
                    f"{path}: is the update of session {sessions.index(saved.session) + 1} of the "
                    f"plan's history, given as number {place + 1}: give {PREVIOUS_OPTION} in the "
                    "order of the sessions"
                )
            raise InputError(
                f"{path}: was made in session {saved.session}, the plan's history has "
                f"{sessions[place]} there: get that session's update, or agree on a plan that "
                "continues yours"
            )
        _check_place(saved, history)
        history.append(saved)
    if len(history) < len(sessions):
        raise InputError(
            f"the plan continues {_count(sessions)}, and {len(history)} updates are given: add "
            f"{PREVIOUS_OPTION} with that of session {sessions[len(history)]}"
        )
    return tuple(history)


def _count(digests: Sequence[str]) -> str:
    return f"{len(digests) or 'no'} session{'s' if len(digests) > 1 else ''}"


def apply_saved(model: EditableModel, saved: SavedUpdate) -> list[Undo]:
    """Apply one session's update; all of it, or nothing.

    Raises:
        InputError: it does not fit the model, or makes a weight that is not finite; names the file.
    """
    undos: list[Undo] = []
    try:
        for layer, update in sorted(saved.updates.items()):
            undos.append(apply_update(model, layer, update))
    except (InputError, NumericError) as error:
        while undos:
            undos.pop().restore()
        raise InputError(f"{saved.path}: {error}") from error
    return undos


@contextmanager
def continued(model: EditableModel, history: Sequence[SavedUpdate]) -> Iterator[None]:
    """Apply a history inside this context only; afterwards the model has its bits of before."""
    undos: list[Undo] = []
    try:
        for saved in history:
            undos += apply_saved(model, saved)
        yield
    finally:
        while undos:
            undos.pop().restore()
