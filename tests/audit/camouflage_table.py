"""`make camouflage-table`: what camouflage of a published update buys, and what it costs.

Run as `python -m tests.audit.camouflage_table`. Real edits on the demo's model are camouflaged with
several strengths α and numbers q of decoys per direction, and attacked by a recipient that knows
both: the span test of KSTER, and the two adaptive attacks of `collabedit.attacks.camouflage`. With
`decoys` "inside" they are among the adversary's candidates, with "outside" none of them is. The
second table is the model that is published: the edits, perplexity, what became of the decoys' own
facts, and what an adversary reads from the model's answers alone, by the divergence of its next
token.

It writes a JSON record, prints Markdown, and exits 1 if the document's claims do not hold:

* without camouflage (α = 0) the span test finds nearly all edits from exact keys (`CONTROL`);
* with decoys inside, one of the attacks has nearly all edits among r(1 + q) candidates;
* at α = 1 with decoys inside, the span test by itself names at most `NAMED` of the edits;
* at α = 1 efficacy is not more than `COST` points lower than without.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from collabedit.attacks.attack import Attack, Prior
from collabedit.attacks.camouflage import DictionaryRegression, PairCollinearity
from collabedit.attacks.metrics import auc, recall_at
from collabedit.attacks.span import UpdateSpan
from collabedit.attacks.views import RecipientView
from collabedit.party.editing.apply import applied
from collabedit.party.editing.assessment import general_text
from collabedit.party.editing.camouflage import Camouflage, camouflage_layers, camouflaged
from collabedit.party.edits import load_edits
from tests.audit.camouflage_world import (
    World,
    divergence,
    kept_facts,
    length,
    load_world,
    measured,
    next_tokens,
)
from tests.audit.closed_world import PriorName, one_of_each_subject
from tests.audit.consoles import conclude, wide_console
from tests.support.randomness import InsecureTestRandomness

AttackName: TypeAlias = Literal["span", "pairs", "dictionary"]
Numbers: TypeAlias = NDArray[np.intp]

STRENGTHS = (0.0, 1.0, 3.0, 5.0)
PER_DIRECTION = (1, 3)
CONTROL, NAMED, COST = 0.9, 0.6, 5.0
OTHERS = 150
"""Candidates that are neither edits nor decoys, whose answers are compared."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How much is done.

    Attributes:
        edits: numbers of edits, ascending; the model is measured with the last one.
        pool: candidates of an adversary.
        source: decoys to choose from, inside the pool, and as many outside.
        draws: choices of decoys and candidates.
        measured: edits whose prompts are asked.
    """

    edits: tuple[int, ...]
    pool: int
    source: int
    draws: int
    measured: int


DEFAULT = Setting(edits=(30, 60), pool=1000, source=400, draws=2, measured=30)
SMALL = Setting(edits=(6,), pool=36, source=24, draws=3, measured=6)
"""For the project's own 60 facts."""


@dataclass(frozen=True, slots=True)
class AttackRow:
    """One attack on one camouflage, means over draws.

    Attributes:
        recall: of edits among the r best candidates, r being their number.
        wide: among the r(1 + q) best.
        precision: of edits among those of the r best that are edits or decoys; None if there are
            none of either.
        auc: of edits against all other candidates.
    """

    edits: int
    strength: float
    per_direction: int
    decoys: Literal["none", "inside", "outside"]
    prior: PriorName
    attack: AttackName
    recall: float
    wide: float
    precision: float | None
    auc: float


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One published model.

    Attributes:
        ratio: ‖ΔW_def‖/‖ΔW‖ over all layers.
        kept: share of the decoys' own facts that the model still prefers, percent; None without.
        seen: AUC of edits against candidates that are neither, by the divergence of answers.
        told_apart: AUC of edits against decoys, by the same.
    """

    edits: int
    strength: float
    per_direction: int
    ratio: float
    efficacy: float | None
    paraphrase: float | None
    neighborhood: float | None
    perplexity: float | None
    kept: float | None
    seen: float
    told_apart: float | None


def make_attack(name: AttackName, *, decoys: int, strength: float) -> Attack[RecipientView]:
    """Return an attack that knows how the update was camouflaged."""
    match name:
        case "span":
            return UpdateSpan()
        case "pairs":
            return PairCollinearity(decoys=decoys, strength=strength)
        case "dictionary":
            return DictionaryRegression(decoys=decoys, strength=strength)


def attack_rows(world: World, setting: Setting, *, edits: int) -> list[AttackRow]:
    """Attack every camouflage of the update of so many edits."""
    rows = []
    for strength, per_direction in variants():
        for inside in (True, False):
            if strength == 0 and not inside:
                continue
            for prior in ("exact", "generic"):
                rows += _attacked(
                    world,
                    setting,
                    Camouflage(strength, per_direction),
                    edits=edits,
                    inside=inside,
                    prior=prior,
                )
    return rows


def variants() -> list[tuple[float, int]]:
    """Return strengths with numbers of decoys; without camouflage there is one row."""
    return [
        (strength, per_direction)
        for strength in STRENGTHS
        for per_direction in (PER_DIRECTION if strength else (1,))
    ]


def _attacked(
    world: World,
    setting: Setting,
    camouflage: Camouflage,
    *,
    edits: int,
    inside: bool,
    prior: PriorName,
) -> list[AttackRow]:
    names: tuple[AttackName, ...] = ("span", "pairs", "dictionary")
    figures: dict[AttackName, list[tuple[float, float, float, float]]] = {n: [] for n in names}
    update, keys = world.mapped_update(edits), world.priors["exact"].mapped_keys[world.layer]
    known = world.priors[prior].mapped_keys[world.layer]
    for draw in range(setting.draws):
        rng = np.random.default_rng([draw, edits])
        chosen, pool = _deal(world, setting, edits=edits, inside=inside, rng=rng)
        taken = edits * camouflage.per_direction
        hidden = camouflaged(
            update, keys[:, chosen], camouflage, InsecureTestRandomness(int(rng.integers(1 << 30)))
        )
        view = RecipientView(world.plan, {world.layer: hidden})
        guessed = Prior({world.layer: known[:, pool]})
        members = pool < edits
        # `camouflaged` takes decoys in order, and passes over none that is not an edit.
        mixed = members | np.isin(pool, chosen[:taken] if camouflage.strength else [])
        for name in names:
            attack = make_attack(
                name, decoys=camouflage.per_direction, strength=camouflage.strength
            )
            scores = attack.run(view, guessed).scores[0]
            best = np.argsort(-scores, kind="stable")[:edits]
            found = int(mixed[best].sum())
            figures[name].append(
                (
                    recall_at(scores, members, edits).value,
                    recall_at(scores, members, min(edits + taken, len(pool))).value,
                    float(members[best].sum() / found) if found else float("nan"),
                    auc(scores, members).value,
                )
            )
    place: Literal["none", "inside", "outside"] = "inside" if inside else "outside"
    return [
        AttackRow(
            edits,
            camouflage.strength,
            camouflage.per_direction,
            place if camouflage.strength else "none",
            prior,
            name,
            *_means(figures[name]),
        )
        for name in names
    ]


def _means(draws: Sequence[tuple[float, ...]]) -> tuple[float, float, float | None, float]:
    recall, wide, precision, area = (np.array(column) for column in zip(*draws, strict=True))
    known = precision[~np.isnan(precision)]
    share = float(known.mean()) if known.size else None
    return float(recall.mean()), float(wide.mean()), share, float(area.mean())


def _deal(
    world: World, setting: Setting, *, edits: int, inside: bool, rng: np.random.Generator
) -> tuple[Numbers, Numbers]:
    """Draw decoys to choose from, and the adversary's candidates in order."""
    others = edits + rng.permutation(len(world.edits) - edits)
    chosen, rest = others[: setting.source], others[setting.source :]
    crowd = np.concatenate([chosen, rest]) if inside else rest
    pool = np.concatenate([np.arange(edits), crowd[: setting.pool - edits]])
    return chosen, np.sort(pool)


def model_rows(world: World, setting: Setting) -> list[ModelRow]:
    """Measure every published model with the largest number of edits."""
    edits = setting.edits[-1]
    updates = world.updates[edits]
    others = edits + np.random.default_rng(edits).permutation(len(world.edits) - edits)
    chosen = [world.edits[number] for number in others[: setting.source]]
    crowd = [world.edits[number] for number in others[setting.source :][:OTHERS]]
    members, text = list(world.edits[: setting.measured]), general_text()
    asked = chosen[: setting.measured]  # decoys of every variant
    probes = [*members, *asked, *crowd]
    before = next_tokens(world.model, probes)
    rows = []
    for strength, per_direction in variants():
        shown = chosen[: edits * per_direction]  # all of them are mixed in
        hidden = camouflage_layers(
            world.model,
            updates,
            shown,
            maps=world.maps,
            templates=world.plan.editing.context_templates,
            camouflage=Camouflage(strength, per_direction),
            randomness=InsecureTestRandomness(1),
        )
        with applied(world.model, {int(layer): each for layer, each in hidden.items()}):
            metrics = measured(world.model, members, text)
            kept = kept_facts(world.model, asked)
            moved = divergence(before, next_tokens(world.model, probes))
        ours, theirs, rest = np.split(moved, [len(members), len(members) + len(asked)])
        rows.append(
            ModelRow(
                edits,
                strength,
                per_direction,
                length(hidden) / length(updates),
                metrics.efficacy,
                metrics.paraphrase,
                metrics.neighborhood,
                metrics.perplexity,
                kept,
                _area(ours, rest),
                _area(ours, theirs) if strength else None,
            )
        )
    return rows


def _area(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    members = np.arange(len(inside) + len(outside)) < len(inside)
    return auc(np.concatenate([inside, outside]), members).value


def failures(attacks: Sequence[AttackRow], models: Sequence[ModelRow]) -> list[str]:
    """Say which claims of docs/camouflage.md do not hold."""
    found = []
    for edits in sorted({row.edits for row in attacks}):
        for strength, per_direction in variants():
            cell = [
                row
                for row in attacks
                if (row.edits, row.strength, row.per_direction) == (edits, strength, per_direction)
                and row.prior == "exact"
                and row.decoys != "outside"
            ]
            what = f"{edits} edits, α = {strength:g}, q = {per_direction}"
            named, wide = max(row.recall for row in cell), max(row.wide for row in cell)
            if strength == 0 and named < CONTROL:
                found.append(f"{what}: the control does not leak, recall {named:.2f}")
            if wide < CONTROL:
                found.append(f"{what}: edits are not among r(1 + q) candidates, {wide:.2f}")
            span = max(row.recall for row in cell if row.attack == "span")
            if strength == 1 and span > NAMED:
                found.append(f"{what}: the span test names {span:.2f} of the edits")
    plain = next(row for row in models if row.strength == 0)
    found += [
        f"α = 1, q = {row.per_direction}: efficacy {row.efficacy:.1f}, {plain.efficacy:.1f} without"
        for row in models
        if row.strength == 1
        and plain.efficacy is not None
        and row.efficacy is not None
        and row.efficacy < plain.efficacy - COST
    ]
    return found


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as a table; None is a dash."""

    def cell(value: object) -> str:
        if value is None:
            return "-"
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


_ATTACK_HEAD = ("edits", "α", "q", "decoys", "prior", "attack", "recall@r", "recall@r(1+q)")
_MODEL_HEAD = ("edits", "α", "q", "length", "ES", "PS", "NS", "perplexity", "decoys kept")


def read_world(options: argparse.Namespace, setting: Setting) -> World:
    """Load the edits that were asked for; those with neighbourhood prompts come first."""
    paths: list[Path] = options.data
    if paths:
        edits = [edit for path in paths for edit in load_edits(path)]
        name = ", ".join(path.name for path in paths)
    else:
        with as_file(files("collabedit.data").joinpath("facts.json")) as path:
            edits, name = list(load_edits(path)), "the project's own facts"
    wanted = setting.pool + setting.source
    shuffled = one_of_each_subject(edits, count=len(edits), seed=options.seed)
    shuffled.sort(key=lambda edit: -min(len(edit.neighborhood), 2))
    return load_world(
        shuffled[:wanted],
        name=name,
        cache=options.cache,
        counts=setting.edits,
        report=wide_console(stderr=True).print,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables, write the record, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="files of edits")
    parser.add_argument("--cache", type=Path, default=Path(".cache/collabedit"))
    parser.add_argument("--out", type=Path, default=Path("out/camouflage-table.json"))
    parser.add_argument("--seed", type=int, default=1, help="of who is a candidate")
    options = parser.parse_args(arguments)
    began = time.process_time()
    setting = DEFAULT if options.data else SMALL
    world = read_world(options, setting)
    console = wide_console()
    console.print(f"{world.name}: {len(world.edits)} records, layer {world.layer} attacked\n")
    began_attacks = time.process_time()
    attacks = [row for edits in setting.edits for row in attack_rows(world, setting, edits=edits)]
    began_models = time.process_time()
    models = model_rows(world, setting)
    tables = (
        markdown((*_ATTACK_HEAD, "precision", "AUC"), [tuple(asdict(r).values()) for r in attacks]),
        markdown(
            (*_MODEL_HEAD, "seen in answers", "edits/decoys"),
            [tuple(asdict(row).values()) for row in models],
        ),
    )
    for table in tables:
        console.print(table, end="\n\n", markup=False, soft_wrap=True)
    missed = failures(attacks, models)
    record = {
        "data": world.name,
        "setting": asdict(setting),
        "attacks": [asdict(row) for row in attacks],
        "models": [asdict(row) for row in models],
        "cpu_seconds_of_attacks": round(began_models - began_attacks, 1),
    }
    return conclude(record, missed, out=options.out, began=began, console=console)


if __name__ == "__main__":
    sys.exit(main())
