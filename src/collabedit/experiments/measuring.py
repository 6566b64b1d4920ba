"""The figures of a cell: one flat list of measurements, each with its interval over edits.

Names and definitions are those of `docs/metrics.md`; those that only experiments have are in
`docs/experiments.md`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from collabedit.experiments.deal import Conflict
from collabedit.experiments.schema import Measures
from collabedit.intervals import clopper_pearson
from collabedit.party.editing.assessment import general_text
from collabedit.party.editing.evaluate import evaluate
from collabedit.party.editing.fluency import fluency
from collabedit.party.editing.generation import sampled_texts
from collabedit.party.editing.likelihood import Completion, completion_nlls, perplexity
from collabedit.party.editing.measures import EditOutcome, bootstrap_mean, figures
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids, target_ids
from collabedit.party.edits import Edit

EDIT_METRICS = ("efficacy", "paraphrase", "neighborhood", "score", "generation_accuracy")
"""Of `docs/metrics.md`, measured on every part of the edits."""

WHOLE = "all"
"""Part of a measurement: all edits so far."""

_PERPLEXITY_WINDOW = 512


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number.

    Attributes:
        metric: its name.
        part: of which edits: `all`, `round-2`, `contested`, `uncontested`.
        after_round: how many rounds the model had behind it.
        value: None where nothing measures it.
        low, high: 95 % interval over the edits; None without one.
    """

    metric: str
    part: str
    after_round: int
    value: float | None
    low: float | None = None
    high: float | None = None


def edit_measurements(
    outcomes: Sequence[EditOutcome], *, part: str, after_round: int
) -> list[Measurement]:
    """Average outcomes into `EDIT_METRICS`."""
    found = figures(outcomes)
    return [
        Measurement(name, part, after_round, found[name].value, *(found[name].interval or ()))
        for name in EDIT_METRICS
    ]


def outcomes_of(model: EditableModel, edits: Sequence[Edit]) -> tuple[EditOutcome, ...]:
    """Measure a model on edits; none for no edits."""
    return evaluate(model, edits).outcomes if edits else ()


def general_measurements(
    model: EditableModel, edits: Sequence[Edit], measures: Measures, *, after_round: int
) -> list[Measurement]:
    """Measure what is not about single edits: perplexity and fluency."""
    found = []
    if measures.perplexity:
        value = perplexity(model, general_text(), window=_PERPLEXITY_WINDOW)
        found.append(Measurement("perplexity", WHOLE, after_round, value))
    prompts = [edit.generation_prompts[0] for edit in edits if edit.generation_prompts]
    prompts = prompts[: measures.fluency_texts]
    if prompts:
        bits = np.array([100 * fluency(text) for text in sampled_texts(model, prompts)])
        low, high = bootstrap_mean(bits) if len(bits) > 1 else (None, None)
        found.append(Measurement("fluency", WHOLE, after_round, float(bits.mean()), low, high))
    return found


def conflict_measurements(
    model: EditableModel, conflicts: Sequence[Conflict], *, after_round: int
) -> list[Measurement]:
    """Measure which side of each contested fact the model takes, as the paper's Table 5.

    `conflict_gap` is the mean of P(conflict) - P(target), P the exponential of the mean log
    likelihood per token on the edit's prompt, and `conflict_wins` the share of facts where it is
    above 0, in percent (LINs-lab/CollabEdit, `experiments/summarize_augmentation.py`). Lower is
    better: the target is the majority's object.
    """
    if not conflicts:
        return []
    completions = [
        Completion(prompt_ids(model, edit.question), target_ids(model, edit.target_new))
        for conflict in conflicts
        for edit in (conflict.other, conflict.target)
    ]
    likely = torch.exp(-completion_nlls(model, completions)).view(-1, 2)
    gaps = (likely[:, 0] - likely[:, 1]).numpy()
    low, high = bootstrap_mean(gaps) if len(gaps) > 1 else (None, None)
    wins = int((gaps > 0).sum())
    ends = clopper_pearson(wins, len(gaps))
    return [
        Measurement("conflict_gap", "contested", after_round, float(gaps.mean()), low, high),
        Measurement(
            "conflict_wins",
            "contested",
            after_round,
            100.0 * wins / len(gaps),
            100.0 * ends[0],
            100.0 * ends[1],
        ),
    ]


def cost_measurements(
    errors: Sequence[float], uploaded: float | None, seconds: float, *, after_round: int
) -> list[Measurement]:
    """State parity with the centralised update, bytes per party and seconds of one round."""
    found = [Measurement("seconds", WHOLE, after_round, seconds)]
    if uploaded is not None:
        found.append(Measurement("bytes_uploaded", WHOLE, after_round, uploaded))
    if errors:
        found += [
            Measurement("error_first_layer", WHOLE, after_round, errors[0]),
            Measurement("error_worst_layer", WHOLE, after_round, max(errors)),
        ]
    return found
