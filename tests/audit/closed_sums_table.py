"""`make closed-sums-table`: attacks of the aggregator on sums, by how they are closed to it.

Run as `python -m tests.audit.closed_sums_table`. Candidates are subjects of `--data` (or of the
project's own 60 facts), of which a session edits some on the demo's real model. Each row is an
attack on one defence, with a number of parties and of edits, over several draws of who edits what.
Members are what was edited; with `uploads` a row of a party's own edits counts by itself.

The second table is about what a secret basis leaves: spectrum matching, by the number of edits,
with and without cover edits, from exact keys and from subjects alone; with keys of one length, that
hides lengths from S and shows them in T; and with decoys under the residuals as well.

It writes a JSON record, prints Markdown, and exits 1

* if a directional attack (all but `spectrum` and `residuals`) on a secret basis, or any attack on
  one with keys of one length and decoys, is above chance, beyond what one of so many rows may be by
  accident (Bonferroni at 5 %);
* if spectrum matching of `SPECTRUM_EDITS` or more edits in a secret basis has an AUC surely above
  `SPECTRUM_AUC`: it is never quite chance, lengths of keys show through the eigenvalues;
* if an attack on uploads in clear, or on a sum in the model's coordinates, does not succeed, with
  an AUC surely at 0.9 or more (ICA: up to `DEMIXABLE` edits).
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from statistics import NormalDist
from typing import get_args

import numpy as np

from collabedit.attacks.attack import Attack
from collabedit.attacks.ica import Demixing
from collabedit.attacks.kster import MergedSpan
from collabedit.attacks.leverage import Leverage
from collabedit.attacks.opened import Source
from collabedit.attacks.residuals import ResidualLengths
from collabedit.attacks.span import SumSpan, UploadSpan
from collabedit.attacks.spectrum import LARGEST, SpectrumMatch
from collabedit.attacks.views import AggregatorView
from collabedit.intervals import CONFIDENCE
from collabedit.party.edits import load_edits
from collabedit.sketch import Matrix
from tests.audit.closed_rows import AttackName, Row, Tally, label, markdown
from tests.audit.closed_world import (
    COVERED,
    Defence,
    PriorName,
    World,
    deal,
    load_world,
    one_of_each_subject,
    view_of,
)
from tests.audit.consoles import conclude, wide_console

DEFENCES: tuple[Defence, ...] = ("uploads", "sum", "basis", "basis+covers")
"""Of the attacks on directions; the others are for attacks by lengths."""

PARTIES = (3, 10)
EDITS = (30, 60, 200)
SPECTRUM_SIZES = (1, 2, 3, 5, 10, 20)
CONTROL = 0.9
DEMIXABLE = 60
SPECTRUM_EDITS, SPECTRUM_AUC = 30, 0.75
RESIDUAL_AUC = 0.5
BY_LENGTH: tuple[AttackName, ...] = ("spectrum", "residuals")
RESIDUAL_DEFENCES: tuple[Defence, ...] = ("basis", "basis+lengths", "basis+decoys")
SLOW = 100
"""Edits from which the attacks that grow fastest have a quarter of the draws."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How much is done: the default, or `--quick`."""

    pool: int
    targets: int
    draws: int
    spectrum_draws: int
    edits: tuple[int, ...]
    steps: int


DEFAULT = Setting(pool=1000, targets=60, draws=8, spectrum_draws=8, edits=EDITS, steps=600)
QUICK = Setting(pool=200, targets=20, draws=4, spectrum_draws=2, edits=(30, 60), steps=150)


def make_attack(
    name: AttackName, *, source: Source, covers: int, seed: int, steps: int
) -> Attack[AggregatorView]:
    """Return an attack on sums or uploads."""
    match name:
        case "span":
            return SumSpan() if source == "sum" else UploadSpan()
        case "leverage":
            return Leverage(source=source)
        case "kster":
            return MergedSpan(source=source)
        case "ica":
            return Demixing(source=source, seed=seed)
        case "spectrum":
            return SpectrumMatch(source=source, covers=covers, seed=seed, steps=steps)
        case "residuals":
            return ResidualLengths(source=source)


def measure(
    world: World,
    names: Sequence[AttackName],
    *,
    defence: Defence,
    prior: PriorName,
    parties: int,
    edits: int,
    covers: int,
    draws: int,
    steps: int,
    targets: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Run attacks over the same draws.

    Args:
        world: candidates.
        names: of the attacks.
        defence: how the sums are closed.
        prior: what the adversary knows.
        parties: how many.
        edits: of all together.
        covers: of each party, with `basis+covers`.
        draws: how many sessions.
        steps: of annealing.
        targets: draw from the candidates that have targets.
        seed: of the draws.
    """
    known = world.priors[prior]
    pool = known.mapped_keys[world.layer].shape[1]
    tallies = {name: Tally.empty() for name in names}
    source: Source = "uploads" if defence == "uploads" else "sum"
    for number in range(draws):
        rng = np.random.default_rng([seed, number, parties, edits])
        chosen = rng.permutation(world.residuals.shape[1] if targets else pool)[:edits]
        shares = deal(rng.permutation(chosen), parties)
        # A basis of its own for each defence, so that rows do not err together.
        place = get_args(Defence).index(defence)
        secret = np.random.default_rng([seed, number, parties, edits, place])
        view = view_of(world, shares, defence=defence, covers=covers, rng=secret)
        added = covers * parties if defence in COVERED else 0
        for name in names:
            attack = make_attack(name, source=source, covers=added, seed=number, steps=steps)
            for about, scores in zip(*_rows(attack, view, world, prior), strict=True):
                own = chosen if about is None else shares[about - 1]
                if own.size:  # a party may have none
                    tallies[name].add(scores, np.isin(np.arange(pool), own))
    return [
        Row(
            name,
            defence,
            prior,
            parties,
            edits,
            covers if defence in COVERED else 0,
            draws,
            *tallies[name].figures(),
        )
        for name in names
    ]


def _rows(
    attack: Attack[AggregatorView], view: AggregatorView, world: World, prior: PriorName
) -> tuple[tuple[int | None, ...], Matrix]:
    finding = attack.run(view, world.priors[prior])
    return finding.about, finding.scores


def main_rows(world: World, setting: Setting) -> Iterator[Row]:
    """Run every attack on every defence, from exact keys."""
    for parties in PARTIES:
        for edits in setting.edits:
            for defence in DEFENCES:
                yield from _cell(world, setting, parties=parties, edits=edits, defence=defence)
        # KSTER reads T, so it needs the targets of whatever is edited.
        for defence in DEFENCES:
            yield from measure(
                world,
                ("kster",),
                defence=defence,
                prior="exact",
                parties=parties,
                edits=setting.targets // 2,
                covers=1,
                draws=setting.draws,
                steps=setting.steps,
                targets=True,
            )


def _cell(
    world: World, setting: Setting, *, parties: int, edits: int, defence: Defence
) -> Iterator[Row]:
    plain: list[AttackName] = ["span", "leverage"]
    slow: list[AttackName] = ["ica"]
    # With directions in the open nobody needs eigenvalues; on sums they are the same as closed.
    if defence.startswith("basis"):
        (slow if edits <= LARGEST else plain).append("spectrum")
    few = -(-setting.draws // 4)
    for names, count in ((plain, setting.draws), (slow, few if edits >= SLOW else setting.draws)):
        yield from measure(
            world,
            names,
            defence=defence,
            prior="exact",
            parties=parties,
            edits=edits,
            covers=1,
            draws=count,
            steps=setting.steps,
        )


def spectrum_rows(world: World, setting: Setting) -> Iterator[Row]:
    """Match spectra of sessions of three parties, or of one edit each if there are fewer edits."""
    variants: tuple[tuple[Defence, PriorName, int], ...] = (
        ("basis", "exact", 0),
        ("basis+covers", "exact", 1),
        ("basis+covers", "exact", 3),
        ("basis", "generic", 0),
        ("basis+lengths", "exact", 0),
        ("basis+decoys", "exact", 3),
    )
    for defence, prior, covers in variants:
        for edits in (*SPECTRUM_SIZES, *setting.edits):
            yield from measure(
                world,
                ("spectrum",),
                defence=defence,
                prior=prior,
                parties=3,
                edits=edits,
                covers=covers,
                draws=setting.spectrum_draws,
                steps=setting.steps,
                seed=1,
            )
    for defence in RESIDUAL_DEFENCES:
        yield from measure(
            world,
            ("residuals",),
            defence=defence,
            prior="exact",
            parties=3,
            edits=setting.targets // 2,
            covers=3,
            draws=setting.draws,
            steps=setting.steps,
            targets=True,
            seed=1,
        )


def is_gated(row: Row) -> bool:
    """Whether a row may not exceed chance: directions in a basis, and all behind decoys."""
    return row.closed and (row.attack not in BY_LENGTH or row.defence == "basis+decoys")


def failures(rows: Sequence[Row]) -> list[str]:
    """Say which rows are not as the document claims."""
    gated = [row for row in rows if is_gated(row)]
    limit = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / max(len(gated), 1))
    found = [f"{label(row)}: above chance" for row in gated if row.above > limit]
    found += [
        f"{label(row)}: AUC above {SPECTRUM_AUC}"
        for row in rows
        if row.attack == "spectrum" and row.edits >= SPECTRUM_EDITS and row.auc.low > SPECTRUM_AUC
    ]
    leaking = [row for row in rows if (row.attack, row.defence) == ("residuals", "basis+lengths")]
    found += [
        f"{label(row)}: the control does not leak" for row in leaking if row.auc.low < RESIDUAL_AUC
    ]
    found += [
        f"{label(row)}: the control does not leak"
        for row in rows
        if not row.closed
        and not (row.attack == "ica" and row.edits > DEMIXABLE)
        and row.auc.low < CONTROL
    ]
    return found


def read_world(options: argparse.Namespace, setting: Setting) -> World:
    """Load the edits that were asked for, and what they make of the model."""
    paths: list[Path] = options.data
    if paths:
        edits = [edit for path in paths for edit in load_edits(path)]
        name = ", ".join(path.name for path in paths)
    else:
        with as_file(files("collabedit.data").joinpath("facts.json")) as path:
            edits, name = list(load_edits(path)), "the project's own facts"
    chosen = one_of_each_subject(edits, count=setting.pool, seed=options.seed)
    return load_world(
        chosen,
        name=name,
        cache=options.cache,
        targets=min(setting.targets, len(chosen) // 2),
        priors=("exact", "generic"),
        report=wide_console(stderr=True).print,
    )


def fitted(setting: Setting, pool: int) -> Setting:
    """Leave out what a pool is too small for: at most half of the candidates are edited."""
    edits = tuple(count for count in setting.edits if 2 * count <= pool)
    return Setting(
        pool,
        min(setting.targets, pool // 2),
        setting.draws,
        setting.spectrum_draws,
        edits,
        setting.steps,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables, write the record, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="files of edits")
    parser.add_argument("--cache", type=Path, default=Path(".cache/collabedit"))
    parser.add_argument("--out", type=Path, default=Path("out/closed-sums-table.json"))
    parser.add_argument("--seed", type=int, default=1, help="of who is a candidate")
    parser.add_argument("--quick", action="store_true", help="fewer candidates and draws")
    options = parser.parse_args(arguments)
    began = time.process_time()
    world = read_world(options, QUICK if options.quick else DEFAULT)
    setting = fitted(QUICK if options.quick else DEFAULT, world.keys.shape[1])
    console = wide_console()
    console.print(f"{world.name}: {setting.pool} candidates, layer {world.layer}\n")
    tables = [list(main_rows(world, setting)), list(spectrum_rows(world, setting))]
    for rows in tables:
        console.print(markdown(rows), end="\n\n", markup=False, soft_wrap=True)
    missed = failures([row for rows in tables for row in rows])
    record = {
        "data": world.name,
        "setting": asdict(setting),
        "attacks": [asdict(row) for row in tables[0]],
        "spectrum": [asdict(row) for row in tables[1]],
    }
    return conclude(record, missed, out=options.out, began=began, console=console)


if __name__ == "__main__":
    sys.exit(main())
