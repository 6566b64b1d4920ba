"""What a party holds its vote on an update against: its edits, their neighbourhood, general text.

The same likelihoods as `evaluate`, less what a vote does not need (nothing is generated), so that a
party can take them twice within a round.
"""

import math
from collections.abc import Sequence
from importlib.resources import files

from collabedit.acceptance import Measures
from collabedit.party.editing.likelihood import Completion, perplexity, score_completions
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids, target_ids
from collabedit.party.edits import Edit

WINDOW = 512
MAXIMUM_TOKENS = 16_384
"""Of the text: more would hold up a round for digits that no vote depends on."""


def general_text() -> str:
    """Return the project's own text, for parties that bring none."""
    return files("collabedit.data").joinpath("heldout.txt").read_text(encoding="utf-8")


def measure(
    model: EditableModel,
    edits: Sequence[Edit],
    text: str,
    *,
    around: Sequence[Edit] | None = None,
    batch_size: int = 32,
) -> Measures:
    """Measure a model as it is now.

    An edit holds if its new object is likelier than the true one, per token; without a true object,
    if each of its tokens is the likeliest where it stands. A neighbourhood prompt answers as it
    should if its answer is likelier than the edit's new object.

    Args:
        model: edited or not.
        edits: a party's own, those that weigh something.
        text: general text; up to `MAXIMUM_TOKENS` of it are read.
        around: whose neighbourhood prompts are asked, by default those of `edits`.
        batch_size: prompts per forward pass.

    Raises:
        ModelError: a prompt and its completion exceed the model's context.
        InputError: the text has no tokens.
    """
    completions: list[Completion] = []

    def ask(prompt: str, answer: str) -> int:
        completions.append(Completion(prompt_ids(model, prompt), target_ids(model, answer)))
        return len(completions) - 1

    own = [
        (
            ask(edit.question, edit.target_new),
            ask(edit.question, edit.target_true) if edit.target_true else None,
        )
        for edit in edits
    ]
    neighbours = [
        (ask(prompt, answer), ask(prompt, edit.target_new))
        for edit in (edits if around is None else around)
        for prompt, answer in edit.neighborhood
    ]
    scores = score_completions(model, completions, batch_size=batch_size)
    nlls, right = scores.nlls, scores.tokens_right
    held = [
        bool(right[new] == 1) if true is None else bool(nlls[new] < nlls[true]) for new, true in own
    ]
    kept = [bool(nlls[answer] < nlls[new]) for answer, new in neighbours]
    return Measures(_share(held), _share(kept), _perplexity(model, text, batch_size=batch_size))


def _share(outcomes: Sequence[bool]) -> float | None:
    return sum(outcomes) / len(outcomes) if outcomes else None


def _perplexity(model: EditableModel, text: str, *, batch_size: int) -> float:
    try:
        return perplexity(
            model, text, window=WINDOW, max_tokens=MAXIMUM_TOKENS, batch_size=batch_size
        )
    except OverflowError:
        return math.inf  # a wrecked model: more than e^709
