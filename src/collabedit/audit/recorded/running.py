"""From recordings and the parties' files to jobs for the grid.

Names of results follow from what determines them, as all jobs' do. A digest of edits could be
guessed from a folder that is handed on, so theirs goes in under a key that stays in the cache.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from collabedit import __version__
from collabedit.attacks.registry import Entry
from collabedit.audit.recorded.attacking import (
    KeysTask,
    RecordedTask,
    Source,
    attack_recordings,
    prepare_keys,
)
from collabedit.audit.recorded.sessions import RecordedSession, recording_digest
from collabedit.audit.recorded.truth import Known
from collabedit.audit.recorded.views import lacking
from collabedit.audit.running import code_digest
from collabedit.audit.schema import PriorName, Scope
from collabedit.crypto.rng import SystemRandomness
from collabedit.durable import replace_file
from collabedit.errors import InputError
from collabedit.grid import Fields, Job, job_id
from collabedit.plan import format_digest

RESULTS_VERSION: Final = 1
"""Raised when the meaning of a stored number changes."""

_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class RecordedAudit:
    """What is asked of recordings.

    Attributes:
        sessions: one, and a second one for attacks on a pair.
        source: where everything is.
        known: candidates and members.
        prior: what adversaries know of candidates.
        seed: of what attacks draw, and of the candidates.
        cache: private.
    """

    sessions: Sequence[RecordedSession]
    source: Source
    known: Known = field(repr=False)
    prior: PriorName
    seed: int
    cache: Path

    @property
    def session(self) -> RecordedSession:
        """That is audited."""
        return self.sessions[0]

    @property
    def second(self) -> RecordedSession | None:
        """For attacks on a pair."""
        return self.sessions[1] if len(self.sessions) > 1 else None

    def digests(self) -> dict[str, str]:
        """Say what the report is about, by content; nothing of the parties' files."""
        plan = self.session.plan
        settings = {
            "candidates": len(self.known.candidates.edits),
            "prior": self.prior,
            "seed": self.seed,
            "given": sorted(plan.party_name(p) for p, own in self.known.members.items() if own),
        }
        found = {"configuration": job_id(settings), "plan": format_digest(plan.digest)}
        for number, session in enumerate(self.sessions):
            for recording in session.recordings:
                name = f"recording of {recording.origin}"
                name += ", second session" if number else ""
                found[name] = f"sha256:{recording_digest(recording)}"
        found["model"] = plan.model.weights
        if plan.editing.covariance is not None:
            found["covariance"] = plan.editing.covariance
        return found | {"collabedit": __version__}


@dataclass(frozen=True, slots=True)
class RecordedJobs:
    """What an audit of recordings consists of.

    Attributes:
        attacks: a job for each attack that has a view, by its name.
        preparations: the candidates' keys.
        left_out: attack and reason of each without a view.
    """

    attacks: Mapping[str, Job]
    preparations: tuple[Job, ...]
    left_out: Mapping[str, str]


def make_jobs(audit: RecordedAudit, entries: Sequence[Entry]) -> RecordedJobs:
    """Make a job of each attack that has a view.

    Raises:
        StorageError: the cache refuses.
    """
    identity: Fields = {
        "version": RESULTS_VERSION,
        "digests": audit.digests(),
        "edits": _keyed(audit.known, _cache_key(audit.cache / "audit")),
    }
    left_out, attacks = {}, {}
    shared: dict[str, Job] = {}
    for entry in entries:
        why = lacking(entry.view, audit.session, audit.second)
        if why is not None:
            left_out[entry.name] = why
            continue
        keys, before = _keys(audit, "first" if entry.first_layer_only else "all", identity)
        shared.setdefault(before.id, before)
        own = {**identity, "attack": entry.name, "code": code_digest(entry)}
        attacks[entry.name] = Job(
            id=job_id(own),
            label=f"{entry.name} on the recorded session",
            identity=own,
            work=attack_recordings,
            given=RecordedTask(entry.name, keys, audit.seed),
            after=(before.id,),
        )
    return RecordedJobs(attacks, tuple(shared.values()), left_out)


def chosen_entries(
    known: Mapping[str, Entry], faults: Mapping[str, str], only: Sequence[str]
) -> tuple[Entry, ...]:
    """Return the attacks that are asked for, all without a choice.

    Raises:
        InputError: one is not installed, or cannot be used.
    """
    for name in only or faults:
        if name not in known:
            missing = (
                f"attack {name} is not installed; `collabedit audit list` shows those that are"
            )
            raise InputError(faults.get(name, missing))
    return tuple(entry for name, entry in known.items() if not only or name in only)


def _keys(audit: RecordedAudit, scope: Scope, identity: Fields) -> tuple[KeysTask, Job]:
    name = job_id({**identity, "scope": scope})
    path = (audit.cache / "audit" / "keys" / f"{name}.npz").resolve()
    task = KeysTask(audit.source, audit.known, audit.prior, scope, path)
    job = Job(
        id=f"keys-{name}",
        label=f"keys of {len(audit.known.candidates.edits)} candidates, {scope} layers",
        identity={},
        work=prepare_keys,
        given=task,
    )
    return task, job


def _keyed(known: Known, key: bytes) -> str:
    digest = hashlib.blake2b(key=key)
    digest.update(known.candidates.digest.encode())
    for party, own in sorted(known.members.items()):
        digest.update(f"\n{party} {known.counts.get(party)} {own}".encode())
    return digest.hexdigest()[:64]


def _cache_key(folder: Path) -> bytes:
    """Return the cache's key, made the first time."""
    path = folder / "key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        replace_file(path, SystemRandomness().random_bytes(_KEY_BYTES), private=True)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise InputError(f"{path}: is no key; remove it, and results are computed again")
    return key
