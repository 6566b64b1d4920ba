"""`make reassertion-table`: what re-assertions hide on real edits, and what they cost.

Run as `python -m tests.audit.reassertion_table --data FILE --facts FILE`. Three parties edit
records of the first file on the demo's model, beside 0, 1 and 3 times as many re-assertions from
the second, both drawn from it and rescaled as `collabedit party` does. The sums are those of the
deployed encoding over all layers, one after the other; `tests/security` is about masks and bases.

Three adversaries look for the *edits*, among all candidates and among edits and re-assertions:

* a recipient of the update, by row space (KSTER, `UpdateSpan`), by how much the update does to a
  candidate's key, and by what the edited model answers to a candidate's prompt;
* the aggregator of closed sums, by the spectrum of S, with and without the re-assertions among its
  candidates.

It writes a JSON record and prints Markdown. It exits 1 if the row space alone tells edits from
re-assertions, or if without re-assertions it does not find the edits, which it is known to.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from collabedit.attacks.attack import Prior
from collabedit.attacks.metrics import Figure, Members, auc, recall_at
from collabedit.attacks.span import UpdateSpan, rounding
from collabedit.attacks.spectrum import SpectrumMatch
from collabedit.attacks.views import RecipientView
from collabedit.crypto.ring import RingArray, add_into
from collabedit.exchange import contribution_vector, merge_vector, plan_encoding
from collabedit.experiments.cache import Cache
from collabedit.ids import LayerIndex, TaskIndex
from collabedit.party.editing.assessment import general_text
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.editor import ModelEditor, edited_layers, key_maps, target_settings
from collabedit.party.editing.evaluate import Metrics, evaluate
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.likelihood import Completion, score_completions
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.reassertion import (
    LEAST_UPDATES,
    Reassertions,
    Wish,
    draw_facts,
    rescale,
    residual_lengths,
)
from collabedit.party.editing.targets import Targets
from collabedit.party.editing.tokens import pad_rows, prompt_ids, target_ids
from collabedit.party.edits import Edit, edits_digest, load_edits, load_true_facts
from collabedit.party.items import normalise
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate, Matrix
from tests.audit.closed_rows import Tally
from tests.audit.closed_world import (
    Numbers,
    World,
    deal,
    demo_plan,
    load_demo,
    one_of_each_subject,
    view_of,
)
from tests.audit.consoles import conclude, wide_console
from tests.support.randomness import InsecureTestRandomness

PARTIES = 3
MULTIPLES = (0, 1, 3)
TEXT_TOKENS = 8192
SPECTRUM_DRAWS, SPECTRUM_STEPS = 8, 300
CONTROL = 0.9


@dataclass(frozen=True, slots=True)
class Candidates:
    """What an adversary has on its list, in this order: edits, re-assertions, bystanders.

    Attributes:
        edits: n records that are edited.
        facts: true facts, the most that are re-asserted; of each multiple the first ones.
        others: true facts about other subjects that nobody edits in.
    """

    edits: tuple[Edit, ...] = field(repr=False)
    facts: tuple[Edit, ...] = field(repr=False)
    others: tuple[Edit, ...] = field(repr=False)

    @property
    def everything(self) -> tuple[Edit, ...]:
        """All of them."""
        return (*self.edits, *self.facts, *self.others)

    def members(self) -> Members:
        """Which are edits: [candidates]."""
        return np.arange(len(self.everything)) < len(self.edits)

    def places(self, reasserted: int, *, others: bool) -> Numbers:
        """Return edits, so many re-assertions, and with `others` the bystanders."""
        first = len(self.edits)
        behind = np.arange(first + len(self.facts), len(self.everything))
        return np.concatenate([np.arange(first + reasserted), behind if others else behind[:0]])


@dataclass(frozen=True, slots=True)
class Row:
    """How well an attack finds the edits. `among`: on which list."""

    attack: str
    multiple: int
    among: str
    auc: Figure
    recall: Figure


@dataclass(frozen=True, slots=True)
class Session:
    """What a session with a multiple of re-assertions left.

    Attributes:
        multiple: re-assertions for each edit.
        metrics: of the edits, on the edited model.
        changed: share of prompts to which the likeliest next token is another one now: of edits,
            re-assertions, bystanders.
        reasserted_hold: share of re-assertions that the edited model still says.
    """

    multiple: int
    metrics: Metrics
    changed: tuple[float, float | None, float]
    reasserted_hold: float | None


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says to candidates' prompts.

    Attributes:
        first: the likeliest next token, [candidates].
        nlls: of the true completion, [candidates].
        right: whether the model says it token by token, [candidates].
    """

    first: Numbers
    nlls: Matrix
    right: Matrix


def ask(model: EditableModel, candidates: Candidates) -> Answers:
    """Ask every candidate's question; of an edit for what was true before."""
    known = len(candidates.edits)
    true = [edit.target_true or "" for edit in candidates.edits]
    true += [fact.target_new for fact in candidates.everything[known:]]
    rows = [prompt_ids(model, edit.question) for edit in candidates.everything]
    scores = score_completions(
        model,
        [
            Completion(row, target_ids(model, answer))
            for row, answer in zip(rows, true, strict=True)
        ],
    )
    first = []
    with torch.inference_mode():
        for start in range(0, len(rows), 64):
            batch = rows[start : start + 64]
            final = model.forward(pad_rows(model, batch))
            ends = [len(row) - 1 for row in batch]
            first.append(model.logits(final[range(len(batch)), ends]).argmax(dim=-1))
    return Answers(torch.cat(first).numpy(), scores.nlls.numpy(), scores.tokens_right.numpy() == 1)


@dataclass(frozen=True, slots=True)
class Bench:
    """The model and what is needed to edit it."""

    model: EditableModel
    covariance: Covariance
    pieces: Cache
    plan: Plan
    maps: dict[int, KeyMap] = field(repr=False)

    @classmethod
    def of(cls, model: EditableModel, covariance: Covariance, pieces: Cache) -> "Bench":
        """Make Φ once; plans differ in their room only."""
        plan = demo_plan(model, covariance, max_edits=1)
        return cls(model, covariance, pieces, plan, key_maps(plan, covariance))

    def targets(self, edits: Sequence[Edit], *, least_updates: int) -> Targets:
        """Search z*, or read what an earlier run found."""
        return self.pieces.targets(
            self.model,
            edits,
            layer=edited_layers(self.plan.editing)[-1],
            templates=self.plan.editing.context_templates,
            settings=target_settings(self.plan.editing),
            least_updates=least_updates,
        )

    def mapped_keys(self, candidates: Candidates) -> Matrix:
        """Return what the adversaries know: exact keys at the first edited layer."""
        layer = edited_layers(self.plan.editing)[0]
        templates = self.plan.editing.context_templates
        keys = compute_keys(self.model, candidates.everything, layer, templates)
        return self.maps[layer].map_keys(keys.numpy())

    def editors(
        self, candidates: Candidates, targets: Targets, found: Targets, multiple: int
    ) -> list[ModelEditor]:
        """Hand edits and re-assertions out; each party rescales by its own edits."""
        size = len(candidates.edits)
        plan = demo_plan(
            self.model, self.covariance, max_edits=-(-size // PARTIES) * (1 + multiple)
        ).model_copy(update={"closed": None})
        layer = edited_layers(plan.editing)[-1]
        made = []
        for party, share in enumerate(deal(np.arange(size), PARTIES)):
            own = _columns(candidates.edits, targets, share)
            facts, theirs = _columns(
                candidates.facts, found, deal(np.arange(multiple * size), PARTIES)[party]
            )
            added = None
            if facts:
                lengths = residual_lengths(self.model, *own, layer)
                rescaled = rescale(
                    self.model,
                    facts,
                    theirs,
                    layer=layer,
                    lengths=lengths,
                    randomness=InsecureTestRandomness(party),
                )
                added = Reassertions(facts, rescaled)
            made.append(ModelEditor(plan, self.model, *own, self.maps, reassertions=added))
        return made


def _columns(
    edits: Sequence[Edit], targets: Targets, places: Numbers
) -> tuple[tuple[Edit, ...], Targets]:
    chosen = tuple(edits[place] for place in places)
    values = targets.values[:, places]
    return chosen, Targets(values, edits_digest(chosen), targets.settings_digest)


def edit_together(editors: Sequence[ModelEditor]) -> dict[LayerIndex, LowRankUpdate]:
    """Sum, merge and apply layer by layer; return the updates in mapped coordinates.

    The plan's sums are open ones: closed ones hold the same statistics, turned. All editors have
    one model in memory, so the first one's application is everybody's.
    """
    plan = editors[0].plan
    encoding = plan_encoding(plan)
    released: dict[LayerIndex, LowRankUpdate] = {}
    for task, layers in enumerate(plan.tasks):
        index = TaskIndex(task)
        total: RingArray = np.zeros(plan.task_length(index), dtype=encoding.ring.dtype)
        for editor in editors:
            statistics = editor.statistics(layers)
            add_into(total, encoding.encode(contribution_vector(plan, index, statistics)))
        merged = merge_vector(
            plan,
            index,
            encoding.decode(total),
            survivors=plan.party_ids,
            noise=rounding(plan, len(editors)),
        )
        editors[0].apply(merged)
        released |= merged
    return released


def recipient_rows(
    plan: Plan,
    released: dict[LayerIndex, LowRankUpdate],
    keys: Matrix,
    answers: tuple[Answers, Answers],
    candidates: Candidates,
    *,
    multiple: int,
) -> list[Row]:
    """Let a recipient look for the edits in three ways.

    Args:
        plan: of the session.
        released: the updates.
        keys: of the candidates at the first edited layer, [d', candidates].
        answers: before and after.
        candidates: who is what.
        multiple: of re-assertions.
    """
    layer = LayerIndex(plan.editing.layers[0].index)
    span = UpdateSpan().run(RecipientView(plan, released), Prior({layer: keys})).scores[0]
    update = released[layer]
    size = np.linalg.norm(update.left @ (update.right @ keys), axis=0)
    before, after = answers
    scores = {
        # What rounding leaves of a difference from 1 is no finding.
        "row space (KSTER)": np.round(span, 6),
        "change at its key": size / np.linalg.norm(keys, axis=0),
        "likeliest answer changes": (before.first != after.first).astype(np.float64),
        "true answer loses likelihood": after.nlls - before.nlls,
    }
    return [
        row for name, found in scores.items() for row in _rows(name, found, candidates, multiple)
    ]


def _rows(name: str, scores: Matrix, candidates: Candidates, multiple: int) -> list[Row]:
    size = len(candidates.edits)
    lists = {"all candidates": candidates.places(multiple * size, others=True)}
    if multiple:
        lists["edits and re-assertions"] = candidates.places(multiple * size, others=False)
    members = candidates.members()
    return [
        Row(
            name,
            multiple,
            among,
            auc(scores[places], members[places]),
            recall_at(scores[places], members[places], size),
        )
        for among, places in lists.items()
    ]


def aggregator_rows(
    plan: Plan, keys: Matrix, candidates: Candidates, multiple: int, *, steps: int
) -> list[Row]:
    """Match the spectrum of S in a secret basis, over several draws of who edits what.

    Unknown re-assertions are columns like random keys to the adversary, and it is told how many
    there are; known ones are candidates like all others, which it cannot tell from edits.
    """
    size, facts = len(candidates.edits), len(candidates.facts)
    first = plan.editing.layers[0]
    layer = LayerIndex(first.index)
    only = plan.editing.model_copy(update={"layers": (first,)})
    world = World(
        plan.model_copy(update={"editing": only}),
        {"exact": Prior({layer: keys})},
        np.zeros((first.outputs, 0)),
        "edits and re-assertions",
    )
    editable = np.concatenate([np.arange(size), np.arange(size + facts, keys.shape[1])])
    tallies = {"unknown": Tally.empty(), "known": Tally.empty(), "both": Tally.empty()}
    for number in range(SPECTRUM_DRAWS):
        rng = np.random.default_rng([number, multiple])
        chosen = rng.permutation(editable)[:size]
        beside = size + rng.permutation(facts)[: multiple * size]
        shares = [
            np.concatenate(parts)
            for parts in zip(deal(chosen, PARTIES), deal(beside, PARTIES), strict=True)
        ]
        view = view_of(world, shares, defence="basis", covers=0, rng=rng)
        for name, places, covers in (
            ("unknown", editable, len(beside)),
            ("known", np.concatenate([editable, beside]), 0),
        ):
            attack = SpectrumMatch(covers=covers, seed=number, steps=steps)
            scores = attack.run(view, Prior({layer: keys[:, places]})).scores[0]
            tallies[name].add(scores, np.isin(places, chosen))
            if name == "known" and multiple:
                inside = np.isin(places, np.concatenate([chosen, beside]))
                tallies["both"].add(scores[inside], np.isin(places[inside], chosen))
    lists = {"all candidates, re-assertions not among them": "unknown"}
    if multiple:
        lists |= {"all candidates": "known", "edits and re-assertions": "both"}
    return [
        Row("spectrum, by the aggregator", multiple, among, *tallies[name].figures()[:2])
        for among, name in lists.items()
    ]


def run_session(
    bench: Bench,
    candidates: Candidates,
    keys: Matrix,
    before: Answers,
    targets: tuple[Targets, Targets],
    *,
    multiple: int,
) -> tuple[Session, list[Row]]:
    """Edit, measure, attack, take back."""
    editors = bench.editors(candidates, *targets, multiple)
    released = edit_together(editors)
    after = ask(bench.model, candidates)
    metrics = measured(bench.model, candidates.edits)
    editors[0].rollback()
    size, facts = len(candidates.edits), len(candidates.facts)
    changed = before.first != after.first
    mine = slice(size, size + multiple * size)
    session = Session(
        multiple,
        metrics,
        (
            float(changed[:size].mean()),
            float(changed[mine].mean()) if multiple else None,
            float(changed[size + facts :].mean()),
        ),
        float(after.right[mine].mean()) if multiple else None,
    )
    rows = recipient_rows(
        editors[0].plan, released, keys, (before, after), candidates, multiple=multiple
    )
    return session, rows


def measured(model: EditableModel, edits: Sequence[Edit]) -> Metrics:
    """Measure the edits, and the perplexity of the project's own text."""
    return evaluate(model, edits, text=general_text(), max_tokens=TEXT_TOKENS).metrics


def find_candidates(
    model: EditableModel, data: Sequence[Path], facts: Path, *, edits: int, others: int, seed: int
) -> Candidates:
    """Draw what is edited, what may be re-asserted, and what stands by, all of other subjects."""
    records = [edit for path in data for edit in load_edits(path)]
    chosen = tuple(
        edit
        for edit in one_of_each_subject(records, count=len(records), seed=seed)
        if edit.target_true
    )[:edits]
    pool = load_true_facts(facts)
    wish = Wish(facts, pool, max(MULTIPLES) * len(chosen), chosen)
    places = draw_facts(model, wish, InsecureTestRandomness(seed))
    known = tuple(pool[place] for place in places)
    taken = {normalise(edit.subject) for edit in (*chosen, *known)}
    rest = [fact for fact in pool if normalise(fact.subject) not in taken]
    return Candidates(chosen, known, tuple(one_of_each_subject(rest, count=others, seed=seed)))


def markdown(base: Metrics, sessions: Sequence[Session], rows: Sequence[Row]) -> str:
    """Return both tables."""
    head = (
        *("re-assertions for each edit", "ES", "PS", "NS", "perplexity"),
        *("likeliest answer changes: edits", "re-assertions", "others", "re-assertions hold"),
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| model before | {_metrics(base)} | | | | |"]
    for session in sessions:
        shares = " | ".join(_share(share) for share in (*session.changed, session.reasserted_hold))
        lines.append(f"| {session.multiple} | {_metrics(session.metrics)} | {shares} |")
    lines += ["", "| attack | re-assertions for each edit | edits among | AUC | recall@n |"]
    lines.append("|---" * 5 + "|")
    for row in rows:
        figures = " | ".join(_figure(figure) for figure in (row.auc, row.recall))
        lines.append(f"| {row.attack} | {row.multiple} | {row.among} | {figures} |")
    return "\n".join(lines)


def _metrics(metrics: Metrics) -> str:
    values = (metrics.efficacy, metrics.paraphrase, metrics.neighborhood, metrics.perplexity)
    return " | ".join("" if value is None else f"{value:.1f}" for value in values)


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2f}"


def _figure(figure: Figure) -> str:
    return f"{figure.value:.2f} ({figure.low:.2f}-{figure.high:.2f}; chance {figure.chance:.2f})"


def failures(rows: Sequence[Row]) -> list[str]:
    """Say which rows are not as the document claims."""
    found = []
    for row in rows:
        if row.attack != "row space (KSTER)":
            continue
        if not row.multiple and row.auc.value < CONTROL:
            found.append("the row space of an update without re-assertions does not leak")
        if row.among == "edits and re-assertions" and row.auc.low > 0.5:
            found.append(f"the row space tells edits from {row.multiple} re-assertions for each")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables, write the record, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="files of edits")
    parser.add_argument("--facts", type=Path, required=True, help="file of true facts")
    parser.add_argument("--edits", type=int, default=18, help="how many are edited")
    parser.add_argument("--others", type=int, default=250, help="candidates that nobody edits")
    parser.add_argument("--cache", type=Path, default=Path(".cache/collabedit"))
    parser.add_argument("--out", type=Path, default=Path("out/reassertion-table.json"))
    parser.add_argument("--seed", type=int, default=1, help="of who is a candidate")
    options = parser.parse_args(arguments)
    began = time.process_time()
    console, progress = wide_console(), wide_console(stderr=True).print
    bench = Bench.of(*load_demo(options.cache, progress))
    progress("facts that the model knows")
    candidates = find_candidates(
        bench.model,
        options.data,
        options.facts,
        edits=options.edits,
        others=options.others,
        seed=options.seed,
    )
    progress(f"keys of {len(candidates.everything)} candidates")
    keys = bench.mapped_keys(candidates)
    progress(f"targets of {len(candidates.edits)} edits, {len(candidates.facts)} facts")
    targets = (
        bench.targets(candidates.edits, least_updates=0),
        bench.targets(candidates.facts, least_updates=LEAST_UPDATES),
    )
    before, base = ask(bench.model, candidates), measured(bench.model, candidates.edits)
    sessions, rows = [], []
    for multiple in MULTIPLES:
        progress(f"{multiple} re-assertions for each edit")
        session, found = run_session(bench, candidates, keys, before, targets, multiple=multiple)
        sessions.append(session)
        rows += found
        rows += aggregator_rows(bench.plan, keys, candidates, multiple, steps=SPECTRUM_STEPS)
    missed = failures(rows)
    console.print(markdown(base, sessions, rows), markup=False, soft_wrap=True)
    record = {
        "data": [path.name for path in options.data],
        "facts": options.facts.name,
        "edits": len(candidates.edits),
        "candidates": len(candidates.everything),
        "before": asdict(base),
        "sessions": [asdict(session) for session in sessions],
        "attacks": [asdict(row) for row in rows],
    }
    return conclude(record, missed, out=options.out, began=began, console=console)


if __name__ == "__main__":
    sys.exit(main())
