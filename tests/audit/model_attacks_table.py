"""What attacks that run the model find of a session on the demo's model.

Run as `python -m tests.audit.model_attacks_table`, with `--data FILE` on other records than the
project's own facts. Prints Markdown: each attack on each view, its figures beside chance, and CPU
seconds; then what becomes of edited answers when singular vectors are taken off.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from collabedit.attacks import asking
from collabedit.attacks.attack import GENERIC_PROMPT, Prior
from collabedit.attacks.claims import Claimant
from collabedit.attacks.grey_box import GreyBox
from collabedit.attacks.ica import DemixedKeys
from collabedit.attacks.kster import MergedSpan
from collabedit.attacks.open_vocabulary import OpenVocabulary, OpenVocabularySum
from collabedit.attacks.prior import estimated_maps, model_prior, reexpressed
from collabedit.attacks.prompt_recovery import FullTriple, PromptEntropy
from collabedit.attacks.residual_decoding import ResidualDecoding, ResidualRecovery
from collabedit.attacks.scoring import Score, score
from collabedit.attacks.span import UpdateSpan, range_basis, span_scores
from collabedit.attacks.top_singular import TopSingular, without_top
from collabedit.attacks.views import first_layer
from collabedit.party.editing.corpus import PYTHON_DOCS, read_source
from collabedit.party.editing.tokens import target_ids
from collabedit.party.edits import load_edits
from collabedit.sketch import Matrix
from tests.audit.closed_world import one_of_each_subject
from tests.audit.model_world import Scene, load_scene

SHOWN = ("auc", "recall@n", "top-1", "top-5", "top-20", "found", "cosine", "precision")
SAMPLES = (1_280, 12_800)
"""Tokens of an adversary's own text: fewer than a key has numbers, and 100 windows of 128."""

DROPPED = (1, 5, 15, 60)
"""Singular components of the weights, for reversal."""

Case: TypeAlias = tuple[str, str, Claimant[Any], object, Prior]
"""Its name, its view's name, the attack, view and prior."""


@dataclass(frozen=True, slots=True)
class Row:
    """One attack on one view."""

    attack: str
    view: str
    scores: Mapping[str, Score]
    seconds: float


def cases(scene: Scene) -> Iterator[Case]:
    """Name every attack with what it is handed."""
    prior, sums = scene.prior, scene.aggregators
    recipients: dict[str, Claimant[Any]] = {
        "update-span": UpdateSpan(),
        "prompt-entropy": PromptEntropy(),
        "full-triple, by rise": FullTriple(),
        "full-triple, by entropy": FullTriple(order="entropy"),
        "top-singular, weights": TopSingular(),
        "top-singular, update": TopSingular(of="update"),
        "open-vocabulary": OpenVocabulary(),
    }
    for name, attack in recipients.items():
        yield name, "update", attack, scene.recipient, prior
    yield "full-triple, no objects", "update", FullTriple(), scene.recipient, unlisted(prior)
    yield "grey-box", "answers", GreyBox(), scene.grey_box, prior
    two = GreyBox(prompts=(GENERIC_PROMPT, "{} is"))
    yield "grey-box, two prompts", "answers", two, scene.grey_box, prior
    aggregators: dict[str, Claimant[Any]] = {
        "ica-keys": DemixedKeys(),
        "residual-recovery": ResidualRecovery(),
        "residual-recovery, demixed keys": ResidualRecovery(keys="demixed"),
        "residual-decoding": ResidualDecoding(),
    }
    for name, attack in aggregators.items():
        yield name, "sum", attack, sums["sum"], prior
        yield name, "sum in a secret basis", attack, sums["basis"], prior
    decoding, own = "residual-decoding, all tokens", unlisted(prior)
    yield decoding, "sum", ResidualDecoding(), sums["sum"], own
    yield decoding, "sum in a secret basis", ResidualDecoding(), sums["basis"], own
    yield "open-vocabulary-sum", "sum", OpenVocabularySum(), sums["sum"], prior
    uploads = ResidualRecovery(source="uploads")
    yield "residual-recovery", "uploads in clear", uploads, sums["uploads"], prior
    for tokens in SAMPLES:
        yield from estimated(scene, tokens)


def estimated(scene: Scene, tokens: int) -> Iterator[Case]:
    """KSTER with a covariance of the adversary's own, from as many tokens."""
    editing, prior = scene.recipient.plan.editing, scene.prior
    first = editing.layers[0].index
    own = estimated_maps(
        asking.model_of(prior),
        (first,),
        text=read_source(PYTHON_DOCS)[0],
        weight=editing.covariance_weight or 1.0,
        tokens=tokens,
    )
    other = model_prior(
        asking.model_of(prior), prior.subjects, templates=editing.context_templates, maps=own
    )
    view = reexpressed(scene.recipient, maps=prior.maps, own=own)
    name = f"covariance of {tokens} other tokens"
    yield f"update-span, {name}", "update", UpdateSpan(), view, other
    yield f"kster, {name}", "sum", MergedSpan(), scene.aggregators["sum"], other


def unlisted(prior: Prior) -> Prior:
    """Return what an adversary without a list of objects has."""
    return replace(prior, objects=())


def measure(scene: Scene, case: Case) -> Row:
    """Run one attack and hold its claim against the truth."""
    name, seen, attack, view, prior = case
    started = time.process_time()
    claim = attack.run(view, prior)
    seconds = time.process_time() - started
    return Row(name, seen, {each.name: each for each in score(claim, scene.truth)}, seconds)


def reversal(scene: Scene, drop: int) -> tuple[float, float, float]:
    """Return shares of edited prompts, before and after components of the weights are taken off.

    Returns:
        How many have the new object's first token before, how many after, and how many have the
        answer of the unedited model again.
    """
    prior, facts = scene.prior, list(scene.truth.facts.values())
    model = asking.model_of(prior)
    rows = [asking.question(model, fact.prompt, fact.subject) for fact in facts]
    wanted = asking.first_tokens(model, [fact.object for fact in facts])

    def said() -> torch.Tensor:
        return asking.all_answers(model, rows).argmax(dim=1)

    unedited = said()
    with asking.edited(model, scene.recipient.updates, prior.maps):
        edited = said()
        with without_top(model, scene.recipient, prior, of="weights", drop=drop):
            reversed_ = said()
    pairs = ((edited, wanted), (reversed_, wanted), (reversed_, unedited))
    first, second, third = (float((one == other).float().mean()) for one, other in pairs)
    return first, second, third


def name_ends(scene: Scene) -> tuple[Matrix, Matrix]:
    """Return the shares in the update's span of edited names, whole and their last tokens alone."""
    prior = scene.prior
    model, layer = asking.model_of(prior), first_layer(scene.recipient.plan)
    basis = range_basis(scene.recipient.updates[layer].canonical().right.T, noise=0.0)
    beginning = asking.plain(model, GENERIC_PROMPT.split("{}")[0]).ids
    names = [target_ids(model, fact.subject) for fact in scene.truth.facts.values()]

    def shares(tails: list[tuple[int, ...]]) -> Matrix:
        keys = asking.keys_behind(model, beginning, tails, layer=layer)
        return span_scores(basis, prior.maps[layer].map_keys(keys))

    return shares(names), shares([name[-1:] for name in names])


def line(row: Row) -> str:
    """Write one row of Markdown."""
    figures = [
        f"{name} {each.value:.2f}" + ("" if each.chance is None else f" ({each.chance:.2f})")
        for name, each in row.scores.items()
        if name in SHOWN
    ]
    return f"| {row.attack} | {row.view} | {', '.join(figures)} | {row.seconds:.0f} |"


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="records; the project's own facts without")
    parser.add_argument("--cache", type=Path, default=Path(".cache/collabedit"))
    parser.add_argument("--pool", type=int, default=200)
    parser.add_argument("--edits", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument(
        "--only", default="", help="attacks whose names begin so, with commas between"
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, show: Callable[[str], None]) -> list[Row]:
    """Measure everything once, and show each row as it comes."""
    torch.set_num_threads(1)
    if options.data:
        records = load_edits(options.data)
    else:
        with as_file(files("collabedit.data").joinpath("facts.json")) as path:
            records = load_edits(path)
    edits = one_of_each_subject(records, count=options.pool, seed=1)
    scene = load_scene(
        edits,
        edited=min(options.edits, len(edits) // 2),
        templates=options.prompts,
        cache=options.cache,
        report=lambda said: print(said, file=sys.stderr),  # noqa: T201
    )
    show(
        f"{len(scene.truth.facts)} edits, {len(edits)} candidates, {len(scene.prior.prompts)} "
        f"prompts, {len(scene.prior.objects)} objects\n"
    )
    show("| attack | view | figures (chance) | CPU seconds |\n|---|---|---|---|")
    rows = []
    for case in cases(scene):
        if case[0].startswith(tuple(options.only.split(","))):
            rows.append(measure(scene, case))
            show(line(rows[-1]))
    for drop in () if options.only else DROPPED:
        before, after, again = reversal(scene, drop)
        show(
            f"{drop} components off the weights: new object {before:.2f} -> {after:.2f}, "
            f"as unedited {again:.2f}"
        )
    if not options.only:
        for what, found in zip(("names", "last tokens alone"), name_ends(scene), strict=True):
            low, middle, high = np.quantile(found, [0.0, 0.5, 1.0])
            show(
                f"shares in the span of edited {what}: {low:.2f} to {high:.2f}, median {middle:.2f}"
            )
    return rows


if __name__ == "__main__":
    run(options_of(None), lambda said: print(said, flush=True))  # noqa: T201
