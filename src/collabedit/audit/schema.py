"""What an audit file may say, and the cells that it stands for (docs/audit.md).

Every number that shapes a result is in the file, as with experiments (`experiments.schema`).
"""

import itertools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator

from collabedit.attacks.registry import Entry
from collabedit.audit.defences import DefenceName, DefenceSettings
from collabedit.errors import InputError
from collabedit.experiments.schema import (
    MAXIMUM_FILE_BYTES,
    CovarianceSource,
    DataSource,
    EditorSettings,
    ModelSource,
)
from collabedit.section import Name, Section
from collabedit.threat_model import MAXIMUM_PARTIES, MINIMUM_PARTIES, Adversary

PriorName: TypeAlias = Literal["exact", "generic"]
Scope: TypeAlias = Literal["first", "all"]
"""Whether a session edits the first layer alone, or all of the plan's."""

EVERY = "*"
"""Stands for all attacks that are installed."""

_SOME = Field(min_length=1, strict=False)


class PoolSettings(Section):
    """Whom an adversary chooses among.

    Attributes:
        candidates: subjects, members included; each of another record of the data.
        members: the edits of all draws are among so many of them, so that only these need targets;
            None takes all.
        prior: whether the adversary knows the prompts of candidates, or the subjects alone.
        reestimate: the text of a covariance of the adversary's own; None gives it the plan's.
        seed: of which records become candidates.
    """

    candidates: Annotated[int, Field(ge=4, le=1_000_000)] = 1000
    members: Annotated[int, Field(ge=3)] | None = None
    prior: PriorName = "exact"
    reestimate: CovarianceSource | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def eligible(self) -> int:
        """How many candidates may be edited."""
        return self.candidates if self.members is None else self.members


class Grid(Section):
    """All combinations of these values, less those in which an attack has no view.

    Attributes:
        attacks: names; `*` is all that are installed.
        defences: names (`defences.DEFENCES`).
        parties: of a session.
        edits: of all parties together, handed out in turn.
        seeds: each draws other edits and other keys.
    """

    attacks: Annotated[tuple[str, ...], _SOME] = (EVERY,)
    defences: Annotated[tuple[DefenceName, ...], _SOME]
    parties: Annotated[
        tuple[Annotated[int, Field(ge=MINIMUM_PARTIES, le=MAXIMUM_PARTIES)], ...], _SOME
    ]
    edits: Annotated[tuple[Annotated[int, Field(ge=1, le=100_000)], ...], _SOME]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], _SOME] = (0,)


class SeveritySettings(Section):
    """What counts as small.

    Attributes:
        margin: a row that holds chance is called chance if the upper end of its headline's interval
            is at most so far above it.
    """

    margin: Annotated[float, Field(gt=0, le=1)] = 0.15


class EpsilonSettings(Section):
    """Of lower bounds of ε.

    Attributes:
        delta: of the promise that is refuted.
    """

    delta: Annotated[float, Field(ge=0, le=1e-2)] = 1e-6


class UtilitySettings(Section):
    """Whether the edits' effect is measured beside what is hidden.

    Attributes:
        measure: edit all layers under each defence, and measure efficacy, paraphrase and
            neighbourhood (docs/metrics.md).
        defences: under which; None for all of the grids.
        seeds: of how many draws; the first ones.
    """

    measure: bool = False
    defences: Annotated[tuple[DefenceName, ...], _SOME] | None = None
    seeds: Annotated[int, Field(ge=1)] = 1


class Setting(Section):
    """One session.

    Attributes:
        again: the same plan and edits once more, with other keys and without the last party.
    """

    defence: DefenceName
    parties: int
    edits: int
    seed: int
    scope: Scope = "first"
    again: bool = False

    @property
    def label(self) -> str:
        """For people, short."""
        parts = [self.defence, f"{self.parties} parties", f"{self.edits} edits"]
        parts += ["all layers"] if self.scope == "all" else []
        parts += ["again"] if self.again else []
        return ", ".join([*parts, f"seed {self.seed}"])


class Cell(Section):
    """One attack on one session."""

    attack: str
    setting: Setting

    @property
    def label(self) -> str:
        """For people, short."""
        return f"{self.attack} on {self.setting.label}"


class Audit(Section):
    """A validated audit file.

    Attributes:
        title: of the report.
        grids: their cells together, each once.
        attacks: settings by name of the attack.
        limits: upper bounds of metrics on deployed defences, as `recall@n:honest-aggregator`, and
            of `epsilon`, what is refuted of it.
    """

    version: Literal[1]
    name: Name
    title: str
    model: ModelSource
    data: DataSource = DataSource()
    covariance: CovarianceSource | None = CovarianceSource()
    editor: EditorSettings
    pool: PoolSettings = PoolSettings()
    grids: Annotated[tuple[Grid, ...], _SOME]
    defences: DefenceSettings = DefenceSettings()
    attacks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    limits: dict[str, float] = Field(default_factory=dict)
    severity: SeveritySettings = SeveritySettings()
    epsilon: EpsilonSettings = EpsilonSettings()
    utility: UtilitySettings = UtilitySettings()

    @model_validator(mode="after")
    def _check(self) -> "Audit":
        if self.editor.editor != "ridge" and self.covariance is None:
            raise ValueError(f"editor {self.editor.editor} needs a covariance")
        if self.pool.eligible > self.pool.candidates:
            raise ValueError("pool.members exceeds pool.candidates")
        for grid in self.grids:
            if max(grid.edits) > self.pool.eligible:
                raise ValueError(
                    f"{max(grid.edits)} edits, pool.members are {self.pool.eligible}: "
                    "nobody can edit more candidates than there are"
                )
            if 2 * max(grid.edits) > self.pool.candidates:
                raise ValueError(
                    f"{max(grid.edits)} edits of {self.pool.candidates} candidates: at most half "
                    "may be members"
                )
            if min(grid.edits) < max(grid.parties):
                raise ValueError(
                    f"{min(grid.edits)} edits of {max(grid.parties)} parties: each has one at least"
                )
        for name in self.limits:
            parse_limit_name(name)
        return self

    def attack_names(self, known: Mapping[str, Entry], grid: Grid) -> tuple[str, ...]:
        """Return the names of a grid's attacks, in order.

        Raises:
            InputError: one is not installed.
        """
        names: dict[str, None] = {}
        for name in grid.attacks:
            if name != EVERY and name not in known:
                raise InputError(
                    f"attack {name} is not installed; `collabedit audit list` shows those that are"
                )
            names |= dict.fromkeys(known if name == EVERY else [name])
        return tuple(names)

    def asks_for(self, attack: str) -> bool:
        """Return whether the file names an attack, or all that there are."""
        return any({attack, EVERY} & set(grid.attacks) for grid in self.grids)

    def cells(
        self, known: Mapping[str, Entry], *, only: frozenset[str] | None = None
    ) -> tuple[Cell, ...]:
        """Expand the grids, in order; also combinations that have no view.

        Args:
            known: attacks that are installed.
            only: leave out others.

        Raises:
            InputError: an attack is not installed, or gets a setting that it doesn't have.
        """
        for name in sorted({*self.attacks, *(only or ())}):
            if name not in known:
                raise InputError(
                    f"attack {name} is not installed; `collabedit audit list` shows those that are"
                )
        for name, settings in self.attacks.items():
            known[name].create(settings, seed=0)
        found: dict[Cell, None] = {}
        for grid in self.grids:
            for attack, defence, parties, edits, seed in itertools.product(
                self.attack_names(known, grid),
                grid.defences,
                grid.parties,
                grid.edits,
                grid.seeds,
            ):
                if only is not None and attack not in only:
                    continue
                scope: Scope = "first" if known[attack].first_layer_only else "all"
                setting = Setting(
                    defence=defence, parties=parties, edits=edits, seed=seed, scope=scope
                )
                found.setdefault(Cell(attack=attack, setting=setting))
        return tuple(found)


def parse_limit_name(name: str) -> tuple[str, Adversary]:
    """Read the left side of a bound: `metric:adversary`.

    Raises:
        ValueError: it is none, or there is no such adversary.
    """
    metric, separator, adversary = name.partition(":")
    known = [each.value for each in Adversary]
    if not metric or not separator or adversary not in known:
        raise ValueError(f"limit {name!r}: write METRIC:ADVERSARY, with one of {', '.join(known)}")
    return metric, Adversary(adversary)


def load_audit(path: Path) -> Audit:
    """Read an audit file.

    Raises:
        InputError: missing, too large, not UTF-8, not TOML or not a valid audit; one line that
            names the first field at fault.
    """
    try:
        if path.stat().st_size > MAXIMUM_FILE_BYTES:
            raise InputError(f"{path}: larger than {MAXIMUM_FILE_BYTES} bytes, not an audit")
        return parse_audit(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the audit: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {name + ': ' if name else ''}{reason}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error


def parse_audit(text: str) -> Audit:
    """Read an audit's TOML.

    Raises:
        ValueError: not TOML, or not a valid audit.
    """
    return Audit.model_validate(tomllib.loads(text))
