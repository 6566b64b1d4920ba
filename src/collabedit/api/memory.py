"""The past edits of an institution, and how a session brings them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from collabedit.api.reporting import Reporter
from collabedit.crypto.rng import SystemRandomness
from collabedit.errors import InputError
from collabedit.party.edits import Edit
from collabedit.party.entries import OpenSession
from collabedit.party.journal import KEY_FILE
from collabedit.party.member import SessionReport
from collabedit.party.memory import (
    FILE,
    OPTION,
    MemoryFile,
    Recollection,
    RememberedSession,
    check_history,
    contested_topic,
    recall,
)
from collabedit.plan import Plan, format_digest
from collabedit.proto.envelope import session_digest

_NOTHING: Final = Recollection((), 0, 0)


def memory_file(work: Path, file: Path | None, key_file: Path | None) -> MemoryFile:
    """Return the memory of a party whose directory is `work`, where both files are by default."""
    return MemoryFile(
        work / FILE if file is None else file,
        key_file=work / KEY_FILE if key_file is None else key_file,
        randomness=SystemRandomness(),
    )


@dataclass(frozen=True, slots=True)
class OwnMemory:
    """The memory of a party that joins; of no effect if the plan has none."""

    plan: Plan
    edits: tuple[Edit, ...]
    file: MemoryFile
    sessions: tuple[RememberedSession, ...]

    @classmethod
    def open(
        cls,
        plan: Plan,
        work: Path,
        edits: tuple[Edit, ...],
        *,
        file: Path | None,
        key_file: Path | None,
    ) -> Self:
        """Read the memory.

        Raises:
            InputError: a file is named, and the plan has no memory.
            MemoryFileError, KeyFileError: it cannot be read.
        """
        if file is not None and plan.memory is None:
            raise InputError(f"{OPTION} {file}: the plan has no memory")
        memory = memory_file(work, file, key_file)
        return cls(plan, edits, memory, () if plan.memory is None else memory.sessions())

    @property
    def past(self) -> tuple[Edit, ...]:
        """Past edits by the files alone, before the model has been asked."""
        return self.recall(()).edits

    def check(self, unfinished: OpenSession | None) -> None:
        """Refuse a memory of another history than the plan's, and that of a finished session's.

        Raises:
            MemoryFileError: it is one.
        """
        history = list(self.plan.model.previous or ())
        if unfinished is not None:
            # It may have been written down just before the process died.
            digests = [done.update_digest for done in unfinished.completed]
            start = unfinished.start
            history.append(
                format_digest(session_digest(start.plan_digest, start.session_id, digests))
            )
        check_history(self.file.path, self.sessions, history)

    def recall(self, held: Sequence[Edit]) -> Recollection:
        """Choose the past edits to bring, `held` being new ones that the model satisfies."""
        if self.plan.memory is None:
            return _NOTHING
        return recall(
            self.sessions,
            history=self.plan.model.previous or (),
            new=self.edits,
            held=held,
            limit=self.plan.memory.max_edits,
        )

    def remember(
        self, session: SessionReport, edited: Sequence[Edit], recollection: Recollection
    ) -> None:
        """Keep what this session left in the model, for later ones. Durable on return.

        Args:
            session: the session.
            edited: edits that were brought to be edited.
            recollection: past edits that were brought.

        Raises:
            StorageError: the disk refuses.
        """
        if self.plan.memory is None:
            return
        decisions = session.decisions or (None,) * len(edited)
        claims = session.past_claims or (0,) * len(recollection.edits)
        refused = {
            id(edit)
            for edit, decision in zip(edited, decisions, strict=True)
            if decision is not None and not decision.is_kept
        }
        claimed = [edit for edit, count in zip(recollection.edits, claims, strict=True) if count]
        refused |= {id(edit) for edit in claimed}
        left = tuple(edit for edit in self.edits if id(edit) not in refused)
        contested = tuple(map(contested_topic, claimed))
        self.file.remember(RememberedSession(session.digest, self.plan.name, left, contested))


def tell_selection(
    plan: Plan, held: Sequence[Edit], past: Recollection, *, reporter: Reporter
) -> None:
    """Say what a session leaves out, and what it brings of the past."""
    if held:
        fate = "left out" if plan.memory is None else "brought as past ones"
        reporter.say(
            f"{len(held)} edits are satisfied by the model already: {fate}, see the report"
        )
    if plan.memory is not None:
        reporter.say(
            f"{len(past.edits)} past edits are brought, {past.superseded} are superseded, "
            f"{past.left_out} are left out: the plan's memory takes {plan.memory.max_edits}"
        )


def selection_report(
    plan: Plan, held: Sequence[Edit], past: Recollection, session: SessionReport
) -> dict[str, object]:
    """Return what a report says of it; nothing for plans that neither skip nor remember."""
    report: dict[str, object] = {}
    if plan.editing.skip_residual is not None:
        report["skipped"] = [edit.case_id for edit in held]
    if plan.memory is not None:
        report["past"] = {
            "brought": len(past.edits),
            "superseded": past.superseded,
            "left_out": past.left_out,
            "contested": sum(count > 0 for count in session.past_claims),
        }
    return report
