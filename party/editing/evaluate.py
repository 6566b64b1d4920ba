"""How well a model holds its edits: CounterFact's measures, free generation, perplexity.

With NLL(o | p) the mean negative log-likelihood per token of object o after prompt p
(kmeng01/memit, `experiments/py/eval_utils_counterfact.py`, `experiments/summarize.py`):

* efficacy ES: share of edits with NLL(new) < NLL(true) on the edit's prompt;
* paraphrase PS: the same on its paraphrases; neighborhood NS: NLL(true) < NLL(new) on prompts that
  should not change; both averaged per edit, then over edits;
* score: harmonic mean of those that are there.

Comparing two likelihoods flatters weak edits, so generation accuracy stands beside it: the share of
edits whose target the model writes itself, greedily, at once ("The Mirage of Model Editing", arXiv
2502.11177).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean
from typing import TypeAlias

import torch

from collabedit.party.editing.generation import generated_targets
from collabedit.party.editing.likelihood import Completion, completion_nlls, perplexity
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids, target_ids
from collabedit.party.edits import Edit

Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Averages over edits, in percent, None where no edit has what the row needs.

    Attributes:
        efficacy, paraphrase, neighborhood, score, generation_accuracy: 0 to 100.
        perplexity: of the text given, at least 1; None without one.
        efficacy_magnitude: mean of P(new) - P(true) on edit prompts, P = exp(-NLL); -1 to 1.
    """

    efficacy: float | None
    paraphrase: float | None
    neighborhood: float | None
    score: float | None
    generation_accuracy: float | None
    perplexity: float | None
    efficacy_magnitude: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """The row of a report."""
        return {
            "efficacy": self.efficacy,
            "paraphrase": self.paraphrase,
            "neighborhood": self.neighborhood,
            "score": self.score,
            "generation_accuracy": self.generation_accuracy,
            "perplexity": self.perplexity,
        }


@dataclass(frozen=True, slots=True)
class EditOutcome:
    """What became of one edit. Holds no text.

    Attributes:
        case_id: of the edit.
        efficacy: None without a true object to compare with.
        paraphrase: one per paraphrase.
        neighborhood: one per neighbourhood prompt.
        generated: the model writes the target.
    """

    case_id: str
    efficacy: bool | None
    paraphrase: tuple[bool, ...]
    neighborhood: tuple[bool, ...]
    generated: bool


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Averages, and what they are averages of."""

    metrics: Metrics
    outcomes: tuple[EditOutcome, ...]


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Indices of two completions of one prompt; the first should be the likelier."""

    wanted: int
    other: int


def evaluate(
    model: EditableModel,
    edits: Sequence[Edit],
    *,
    text: str | None = None,
    window: int = 512,
    max_tokens: int | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model, edited or not, on edits.

    Args:
        model: as it is now.
        edits: what to measure.
        text: general text for the perplexity; None leaves it out.
        window: tokens per window of it.
        max_tokens: of it.
        batch_size: prompts per forward pass.
        progress: called with rows done and rows in all, over prompts.
    """
    completions: list[Completion] = []

    def compare(prompt: str, wanted: str, other: str) -> _Comparison:
        ids = prompt_ids(model, prompt)
        completions.append(Completion(ids, target_ids(model, wanted)))
        completions.append(Completion(ids, target_ids(model, other)))
        return _Comparison(len(completions) - 2, len(completions) - 1)

    rewrites: list[_Comparison | None] = []
    paraphrases: list[list[_Comparison]] = []
    neighborhoods: list[list[_Comparison]] = []
    for edit in edits:
        new, true = edit.target_new, edit.target_true
        rewrites.append(compare(edit.question, new, true) if true else None)
        paraphrases.append(
            [compare(prompt, new, true) for prompt in edit.paraphrase_prompts] if true else []
        )
        neighborhoods.append([compare(prompt, answer, new) for prompt, answer in edit.neighborhood])
    nlls = completion_nlls(model, completions, batch_size=batch_size, progress=progress)
    generated = generated_targets(
        model, [(edit.question, edit.target_new) for edit in edits], batch_size=batch_size
    )

    def holds(comparison: _Comparison) -> bool:
        return bool(nlls[comparison.wanted] < nlls[comparison.other])

    outcomes = tuple(
        EditOutcome(
            case_id=edit.case_id,
            efficacy=None if rewrite is None else holds(rewrite),
            paraphrase=tuple(map(holds, paraphrase)),
            neighborhood=tuple(map(holds, neighborhood)),
            generated=written,
        )
        for edit, rewrite, paraphrase, neighborhood, written in zip(
            edits, rewrites, paraphrases, neighborhoods, generated, strict=True
        )
    )
    magnitudes = [
        float(torch.exp(-nlls[pair.wanted]) - torch.exp(-nlls[pair.other]))
        for pair in rewrites
        if pair is not None
    ]
    return Evaluation(
        metrics=summarise(
            outcomes,
            perplexity=None
            if text is None
            else perplexity(
                model, text, window=window, max_tokens=max_tokens, batch_size=batch_size
            ),
            efficacy_magnitude=fmean(magnitudes) if magnitudes else None,
        ),
        outcomes=outcomes,
    )


def summarise(
    outcomes: Sequence[EditOutcome],
    *,
    perplexity: float | None = None,
    efficacy_magnitude: float | None = None,
) -> Metrics:
    """Average outcomes, of one party or of several together."""
    efficacy = _percent([o.efficacy for o in outcomes if o.efficacy is not None])
    paraphrase = _percent([fmean(o.paraphrase) for o in outcomes if o.paraphrase])
    neighborhood = _percent([fmean(o.neighborhood) for o in outcomes if o.neighborhood])
    there = [row for row in (efficacy, paraphrase, neighborhood) if row is not None]
    return Metrics(
        efficacy=efficacy,
        paraphrase=paraphrase,
        neighborhood=neighborhood,
        score=float(harmonic_mean(there)) if there else None,
        generation_accuracy=_percent([o.generated for o in outcomes]),
        perplexity=perplexity,
        efficacy_magnitude=efficacy_magnitude,
    )


def _percent(shares: Sequence[float]) -> float | None:
    return 100.0 * fmean(shares) if shares else None
