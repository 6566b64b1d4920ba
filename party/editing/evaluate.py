"""How well a model holds its edits: one pass over all prompts, one outcome per edit.

With NLL(o | p) the mean negative log-likelihood per token of object o after prompt p
(kmeng01/memit, `experiments/py/eval_utils_counterfact.py`, `experiments/summarize.py`):

* efficacy ES: share of edits with NLL(new) < NLL(true) on the edit's prompt;
* paraphrase PS: the same on its paraphrases; neighborhood NS: NLL(true) < NLL(new) on prompts that
  should not change; both averaged per edit, then over edits;
* score: harmonic mean of those that are there.

Comparing two likelihoods flatters weak edits, so generation accuracy stands beside it: the share of
edits whose target the model writes itself, greedily, at once ("The Mirage of Model Editing", arXiv
2502.11177). `measures` has the other figures and the intervals, docs/metrics.md all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TypeAlias, TypeVar

import torch

from collabedit.party.editing.fluency import fluency
from collabedit.party.editing.generation import generated_targets, sampled_texts
from collabedit.party.editing.likelihood import (
    Completion,
    CompletionScores,
    perplexity,
    score_completions,
)
from collabedit.party.editing.measures import EditOutcome, averages
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids, target_ids
from collabedit.party.edits import Edit

Progress: TypeAlias = Callable[[int, int], None]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Metrics:
    """Averages over edits, in percent, None where no edit has what the row needs.

    Attributes:
        efficacy, paraphrase, neighborhood, score, generation_accuracy: 0 to 100.
        perplexity: of the text given, at least 1; None without one.
    """

    efficacy: float | None
    paraphrase: float | None
    neighborhood: float | None
    score: float | None
    generation_accuracy: float | None
    perplexity: float | None

    def to_dict(self) -> dict[str, float | None]:
        """The row of a report."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Averages, and what they are averages of."""

    metrics: Metrics
    outcomes: tuple[EditOutcome, ...]


@dataclass(frozen=True, slots=True)
class _Question:
    """What one prompt is asked.

    Attributes:
        wanted: index of the completion that should be likely.
        other: of the one that it is compared with, None if there is none.
    """

    wanted: int
    other: int | None


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the model says to questions."""

    scores: CompletionScores

    def holds(self, questions: Sequence[_Question]) -> tuple[bool, ...]:
        nlls = self.scores.nlls
        return tuple(
            bool(nlls[question.wanted] < nlls[question.other])
            for question in questions
            if question.other is not None
        )

    def magnitudes(self, questions: Sequence[_Question]) -> tuple[float, ...]:
        probability = torch.exp(-self.scores.nlls)
        return tuple(
            float(probability[question.wanted] - probability[question.other])
            for question in questions
            if question.other is not None
        )

    def tokens_right(self, questions: Sequence[_Question]) -> tuple[float, ...]:
        return tuple(float(self.scores.tokens_right[question.wanted]) for question in questions)


def evaluate(
    model: EditableModel,
    edits: Sequence[Edit],
    *,
    text: str | None = None,
    window: int = 512,
    max_tokens: int | None = None,
    with_fluency: bool = False,
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
        with_fluency: let the model write 100 tokens from each of the edits' generation prompts;
            by far the longest part where there are many.
        batch_size: prompts per forward pass.
        progress: called with rows done and rows in all, over prompts.
    """
    completions: list[Completion] = []

    def ask(prompt: str, wanted: str, other: str | None) -> _Question:
        ids = prompt_ids(model, prompt)
        completions.append(Completion(ids, target_ids(model, wanted)))
        first = len(completions) - 1
        if other is None:
            return _Question(first, None)
        completions.append(Completion(ids, target_ids(model, other)))
        return _Question(first, first + 1)

    rewrites: list[_Question] = []
    paraphrases: list[list[_Question]] = []
    neighborhoods: list[list[_Question]] = []
    for edit in edits:
        new, true = edit.target_new, edit.target_true or None
        rewrites.append(ask(edit.question, new, true))
        paraphrases.append([ask(prompt, new, true) for prompt in edit.paraphrase_prompts])
        neighborhoods.append([ask(prompt, answer, new) for prompt, answer in edit.neighborhood])
    answers = _Answers(
        score_completions(model, completions, batch_size=batch_size, progress=progress)
    )
    generated = generated_targets(
        model, [(edit.question, edit.target_new) for edit in edits], batch_size=batch_size
    )
    entropies = (
        _entropies(model, edits, batch_size=batch_size) if with_fluency else (None,) * len(edits)
    )
    outcomes = tuple(
        EditOutcome(
            case_id=edit.case_id,
            efficacy=_only(answers.holds([rewrite])),
            paraphrase=answers.holds(paraphrase),
            neighborhood=answers.holds(neighborhood),
            generated=written,
            magnitude=_only(answers.magnitudes([rewrite])),
            paraphrase_magnitudes=answers.magnitudes(paraphrase),
            neighborhood_magnitudes=answers.magnitudes(neighborhood),
            tokens_right=_only(answers.tokens_right([rewrite])),
            paraphrase_tokens_right=answers.tokens_right(paraphrase),
            neighborhood_tokens_right=answers.tokens_right(neighborhood),
            entropy=entropy,
        )
        for edit, rewrite, paraphrase, neighborhood, written, entropy in zip(
            edits, rewrites, paraphrases, neighborhoods, generated, entropies, strict=True
        )
    )
    measured = (
        None
        if text is None
        else perplexity(model, text, window=window, max_tokens=max_tokens, batch_size=batch_size)
    )
    return Evaluation(metrics=summarise(outcomes, perplexity=measured), outcomes=outcomes)


def _only(values: Sequence[_T]) -> _T | None:
    return values[0] if values else None


def _entropies(
    model: EditableModel, edits: Sequence[Edit], *, batch_size: int
) -> tuple[float | None, ...]:
    """Let the model write, and return each edit's mean fluency."""
    prompts = [prompt for edit in edits for prompt in edit.generation_prompts]
    bits = iter([fluency(text) for text in sampled_texts(model, prompts, batch_size=batch_size)])
    return tuple(
        fmean([next(bits) for _ in edit.generation_prompts]) if edit.generation_prompts else None
        for edit in edits
    )


def summarise(outcomes: Sequence[EditOutcome], *, perplexity: float | None = None) -> Metrics:
    """Average outcomes, of one party or of several together."""
    found = averages(outcomes)
    return Metrics(
        efficacy=found["efficacy"],
        paraphrase=found["paraphrase"],
        neighborhood=found["neighborhood"],
        score=found["score"],
        generation_accuracy=found["generation_accuracy"],
        perplexity=perplexity,
    )
