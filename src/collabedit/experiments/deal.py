"""Who gets which edits: records drawn by a seed, shared and contradicted at given rates.

One seed gives one order of the records, of which a cell takes the first ones; cells of one seed
that need fewer edits therefore measure a part of what larger ones do, under the same targets.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path

from collabedit.errors import InputError
from collabedit.experiments.schema import Cell, DataSource
from collabedit.party.edits import Edit, edits_digest, load_edits
from collabedit.party.items import edit_item

_MINORITY_EVERY = 3
"""One party of so many holds the other side of a conflict: 1 of 3, 3 of 10."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A fact on which parties disagree: the same prompt and subject, another object.

    Attributes:
        target: the majority's edit.
        other: the minority's.
    """

    target: Edit
    other: Edit


@dataclass(frozen=True, slots=True)
class Round:
    """The edits of one session.

    Attributes:
        shares: by party, in the order of ids; all of the same length.
        intended: every fact once, with the majority's object.
        conflicts: those of the facts that are contested.
    """

    shares: tuple[tuple[Edit, ...], ...] = field(repr=False)
    intended: tuple[Edit, ...] = field(repr=False)
    conflicts: tuple[Conflict, ...] = ()

    @property
    def held(self) -> tuple[Edit, ...]:
        """Every different edit that some party has, in the order of parties."""
        return tuple(dict.fromkeys(edit for share in self.shares for edit in share))


@dataclass(frozen=True, slots=True)
class Deal:
    """The edits of a cell, round by round."""

    rounds: tuple[Round, ...]

    def digest(self) -> str:
        """Digest who has what in which round, as hex SHA-256.

        It stands in results of experiments, whose data is public; a party's own digest never does.
        """
        parts = [edits_digest(share) for each in self.rounds for share in each.shares]
        return hashlib.sha256(b"collabedit/v1/deal\n" + "\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Pool:
    """The records that experiments draw from, each topic (subject and relation) once.

    Attributes:
        name: of the file, for people.
    """

    name: str
    edits: tuple[Edit, ...] = field(repr=False)


def load_pool(source: DataSource, *, beside: Path, given: Path | None) -> Pool:
    """Read the records of an experiment.

    Args:
        source: what the file says.
        beside: the experiment file; paths are relative to its folder.
        given: `--data`.

    Raises:
        InputError: no data where the experiment needs a file.
        EditFileError: the file cannot be used.
    """
    path = given or (beside.parent / source.path if source.path else None)
    if path is None and source.source == "file" and not source.fallback:
        raise InputError(
            f"{beside}: needs a file of edits: give --data FILE (docs/experiments.md says where "
            "CounterFact comes from)"
        )
    edits = _facts() if path is None else load_edits(path)
    # A record of the same fact would be a conflict that nobody asked for.
    first = {edit_item(edit).topic: edit for edit in reversed(edits)}
    name = "the project's own facts" if path is None else path.name
    return Pool(name, tuple(first.values())[::-1])


def _facts() -> tuple[Edit, ...]:
    with as_file(files("collabedit.data").joinpath("facts.json")) as path:
        return load_edits(path)


def deal(pool: Pool, cell: Cell) -> Deal:
    """Draw the edits of a cell and hand them out.

    Args:
        pool: what to draw from, each fact once.
        cell: how many, and which share of them is held by all or contested.

    Raises:
        InputError: the pool is too small.
    """
    order = iter(_shuffled(pool.edits, seed=cell.seed))
    shared, contested = per_party(cell)
    own = cell.edits_per_party - shared - contested
    need = cell.rounds * (shared + contested + own * cell.parties)
    if need > len(pool.edits):
        raise InputError(
            f"cell {cell.label}: needs {need} different facts, {pool.name} has {len(pool.edits)}"
        )
    return Deal(
        tuple(
            _round(pool.edits, order, cell.parties, shared=shared, contested=contested, own=own)
            for _ in range(cell.rounds)
        )
    )


def per_party(cell: Cell) -> tuple[int, int]:
    """Return how many of a party's edits all parties have, and how many are contested."""
    return round(cell.edits_per_party * cell.overlap), round(cell.edits_per_party * cell.conflict)


def _shuffled(pool: Sequence[Edit], *, seed: int) -> list[Edit]:
    # By digest and not by place: records added to a file leave the order of the others as it is.
    def rank(edit: Edit) -> bytes:
        return hashlib.sha256(f"{seed}\n{edits_digest((edit,))}".encode()).digest()

    return sorted(pool, key=rank)


def _round(
    pool: Sequence[Edit],
    order: Iterator[Edit],
    parties: int,
    *,
    shared: int,
    contested: int,
    own: int,
) -> Round:
    unique = [[next(order) for _ in range(own)] for _ in range(parties)]
    common = [next(order) for _ in range(shared)]
    conflicts = [_conflict(pool, next(order)) for _ in range(contested)]
    shares = []
    for party, edits in enumerate(unique):
        sides = [
            # The minority moves on from fact to fact, so that no party is always in it.
            conflict.other if (party + place) % _MINORITY_EVERY == 0 else conflict.target
            for place, conflict in enumerate(conflicts, 1)
        ]
        shares.append((*edits, *common, *sides))
    return Round(
        shares=tuple(shares),
        intended=(
            *(edit for edits in unique for edit in edits),
            *common,
            *(conflict.target for conflict in conflicts),
        ),
        conflicts=tuple(conflicts),
    )


def _conflict(pool: Sequence[Edit], target: Edit) -> Conflict:
    """Contradict a record: with another's object of the same relation, else with the true one."""
    taken = {target.target_new, target.target_true}
    objects = [
        edit.target_new
        for edit in pool
        if edit.relation is not None
        and edit.relation == target.relation
        and edit.target_new not in taken
    ]
    # Chosen by the record, not by its place in the pool.
    objects.sort(key=lambda text: hashlib.sha256(f"{target.case_id}\n{text}".encode()).digest())
    contrary = objects[0] if objects else target.target_true
    if contrary is None:
        raise InputError(
            f"record {target.case_id}: has no other object to contradict it with: no record of the "
            "same relation, and no true object"
        )
    return Conflict(target, replace(target, target_new=contrary))
