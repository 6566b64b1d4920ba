"""What was said about whom, by a recipient: prompts by their entropy, and whole facts.

KSTER, stage II (arXiv 2602.10134; code reanatom/EditingAttack, `prompt_recovery_experiment.py`): an
edit makes the model sure of one answer, most of all to the prompt that was edited. So prompts about
a subject are ranked by (H - H')/H', H and H' entropies of the next token before and after. Departs
from the published experiment in that subjects are those that stage I finds on the same view, never
the true ones, and in that edits which failed are not left out.

`FullTriple` goes on to the object, and ranks pairs of prompt and object together: by how much
probability an object gains behind a prompt (`rise`), or the objects that gain most behind the
prompts that the entropy ranks first (`entropy`, as in `prompt_attack_end2end.py`).

The released update is applied to the public model, so this needs the covariance behind Φ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import TRIPLE_SEPARATOR, LackingError, Rankings
from collabedit.attacks.registry import Entry
from collabedit.attacks.span import range_basis, span_scores
from collabedit.attacks.views import RecipientView, first_layer
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

if TYPE_CHECKING:
    from collabedit.attacks.asking import Row
    from collabedit.party.editing.model import EditableModel

PAIRS = 1200
"""Of subject and prompt: a minute on one core with a model of 135 million parameters."""

_GUESSES = 20
_KEPT = 5
"""Objects kept of each pair of subject and prompt."""
_WORDS = 3
"""Of an answer that is read without a list of objects."""

Order: TypeAlias = Literal["rise", "entropy"]


@dataclass(frozen=True, slots=True)
class PromptEntropy:
    """Prompts of the subjects that stage I finds.

    Attributes:
        pairs: of subject and prompt that are asked; the surest subjects first, each with all
            prompts. About subjects beyond, nothing is claimed.
        guesses: prompts for each subject.
    """

    pairs: int = PAIRS
    guesses: int = _GUESSES
    name: str = "prompt-entropy"
    adversary: Adversary = Adversary.RECIPIENT

    def __post_init__(self) -> None:
        _check(self.pairs, self.guesses)

    def run(self, view: RecipientView, prior: Prior) -> Rankings:
        """Rank `prior.prompts` for each subject found.

        Raises:
            LackingError: the prior has no keys, subjects, prompts, model or key maps.
        """
        asked = _ask(view, prior, pairs=self.pairs)
        best = np.argsort(-asked.drop, axis=1, kind="stable")[:, : self.guesses]
        return Rankings(
            self.name,
            "prompt",
            {
                number: tuple(prior.prompts[place] for place in places)
                for number, places in zip(asked.subjects, best.tolist(), strict=True)
            },
            choices=len(prior.prompts),
        )


@dataclass(frozen=True, slots=True)
class FullTriple:
    """Subject, prompt and new object, from one end to the other.

    Attributes:
        pairs: as in `PromptEntropy`.
        guesses: triples for each subject.
        order: how pairs of prompt and object are ranked.
    """

    pairs: int = PAIRS
    guesses: int = _GUESSES
    order: Order = "rise"
    name: str = "full-triple"
    adversary: Adversary = Adversary.RECIPIENT

    def __post_init__(self) -> None:
        _check(self.pairs, self.guesses)
        if self.order not in ("rise", "entropy"):
            raise ValueError(f"order {self.order!r} is neither rise nor entropy")

    def run(self, view: RecipientView, prior: Prior) -> Rankings:
        """Guess triples with objects out of `prior.objects`, or with what the model writes.

        Raises:
            LackingError: the prior has no keys, subjects, prompts, model or key maps.
        """
        asked = _ask(view, prior, pairs=self.pairs)
        ranked = [
            _ranked(asked.rises[place], asked.drop[place], order=self.order)[: self.guesses]
            for place in range(len(asked.subjects))
        ]
        if prior.objects:
            spoken = _listed(prior, asked, ranked)
        else:
            spoken = _written(view, prior, asked, ranked)
        guesses = {
            number: tuple(
                TRIPLE_SEPARATOR.join((prior.subjects[number], prior.prompts[prompt], said))
                for prompt, said in found[: self.guesses]
            )
            for number, found in zip(asked.subjects, spoken, strict=True)
        }
        choices = len(prior.prompts) * len(prior.objects) if prior.objects else None
        return Rankings(self.name, "triple", guesses, choices=choices)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Answers about the subjects found, each with every prompt.

    Attributes:
        subjects: numbers of candidates, the surest first.
        drop: (H - H')/H', [subjects, prompts].
        tokens: that are likeliest after the edit, [subjects, prompts, kept].
        rises: of their probability, [subjects, prompts, kept].
    """

    subjects: tuple[int, ...]
    drop: Matrix = field(repr=False)
    tokens: NDArray[np.int64] = field(repr=False)
    rises: Matrix = field(repr=False)


def found_subjects(view: RecipientView, prior: Prior) -> list[int]:
    """Stage I: as many candidates as the update has directions, the surest first.

    Raises:
        LackingError: the prior has no candidates' keys of the first edited layer, or no subjects.
    """
    layer = first_layer(view.plan)
    keys = prior.mapped_keys.get(layer)
    if keys is None or len(prior.subjects) != keys.shape[1]:
        raise LackingError(f"the prior has no subjects, or not their keys of layer {layer}")
    basis = range_basis(view.updates[layer].canonical().right.T, noise=0.0)
    order = np.argsort(-span_scores(basis, keys), kind="stable")
    return [int(number) for number in order[: basis.shape[1]]]


def _ask(view: RecipientView, prior: Prior, *, pairs: int) -> _Asked:
    # torch is imported slowly, and lists of attacks do without.
    from collabedit.attacks import asking  # noqa: PLC0415

    model = asking.model_of(prior)
    if not prior.prompts:
        raise LackingError("the attack ranks prompts, and the prior has none")
    subjects = found_subjects(view, prior)[: max(1, pairs // len(prior.prompts))]
    rows = [
        asking.question(model, prompt, prior.subjects[number])
        for number in subjects
        for prompt in prior.prompts
    ]
    allowed = asking.first_tokens(model, prior.objects) if prior.objects else None
    with asking.edited(model, view.updates, prior.maps):
        after, tokens, likely = asking.best_tokens(model, rows, kept=_KEPT, allowed=allowed)
    before, earlier = asking.read_tokens(model, rows, tokens)
    shape = (len(subjects), len(prior.prompts))
    drop = (before - after) / (after + 1e-9)  # so in the published code
    rises = np.exp(likely) - np.exp(earlier)
    return _Asked(
        tuple(subjects),
        drop.reshape(shape),
        tokens.reshape(*shape, -1),
        rises.reshape(*shape, -1),
    )


def _ranked(rises: Matrix, drop: Matrix, *, order: Order) -> list[tuple[int, int]]:
    """Return (prompt, place among the kept tokens) of one subject, the best first."""
    if order == "rise":
        flat = np.argsort(-rises, axis=None, kind="stable").tolist()
    else:
        # All first objects before all second ones: prompts are often right at once.
        prompts, seconds = np.argsort(-drop, kind="stable"), np.argsort(-rises, axis=1)
        flat = [
            int(prompt) * rises.shape[1] + int(seconds[prompt, place])
            for place in range(rises.shape[1])
            for prompt in prompts
        ]
    return [(each // rises.shape[1], each % rises.shape[1]) for each in flat]


def _listed(
    prior: Prior, asked: _Asked, ranked: Sequence[Sequence[tuple[int, int]]]
) -> list[list[tuple[int, str]]]:
    """Name the listed objects that begin with the tokens, in order of the list."""
    from collabedit.attacks import asking  # noqa: PLC0415

    named: dict[int, list[str]] = {}
    firsts = asking.first_tokens(asking.model_of(prior), prior.objects).tolist()
    for token, text in zip(firsts, prior.objects, strict=True):
        named.setdefault(token, []).append(text)
    return [
        [
            (prompt, text)
            for prompt, place in pairs
            for text in named[int(asked.tokens[slot, prompt, place])]
        ]
        for slot, pairs in enumerate(ranked)
    ]


def _written(
    view: RecipientView,
    prior: Prior,
    asked: _Asked,
    ranked: Sequence[Sequence[tuple[int, int]]],
) -> list[list[tuple[int, str]]]:
    """Let the edited model go on behind each token, and take one word, two words, three."""
    from collabedit.attacks import asking  # noqa: PLC0415

    model = asking.model_of(prior)
    begun: list[tuple[int, int, Row]] = []
    for slot, pairs in enumerate(ranked):
        subject = prior.subjects[asked.subjects[slot]]
        for prompt, place in pairs[:_KEPT]:
            ids = asking.question(model, prior.prompts[prompt], subject).ids
            token = int(asked.tokens[slot, prompt, place])
            begun.append((slot, prompt, asking.Row((*ids, token))))
    with asking.edited(model, view.updates, prior.maps):
        texts = asking.continuations(model, [row for _, _, row in begun], _WORDS + 1)
    spoken: list[list[tuple[int, str]]] = [[] for _ in ranked]
    for (slot, prompt, row), text in zip(begun, texts, strict=True):
        words = _first_words(model, row, text)
        spoken[slot] += [(prompt, " ".join(words[:count])) for count in range(1, len(words) + 1)]
    return spoken


def _first_words(model: "EditableModel", row: "Row", text: str) -> list[str]:
    """Split an answer, its first token being the row's last one."""
    whole = model.tokenizer.decode([row.ids[-1]], skip_special_tokens=True) + text
    # What is behind the end of a sentence says something else.
    line = whole.strip().split("\n")[0].split(".")[0]
    return [word.strip(",;:!?\"'()") for word in line.split()[:_WORDS]]


def _check(pairs: int, guesses: int) -> None:
    if pairs < 1 or guesses < 1:
        raise ValueError("at least one pair and one guess")


ENTROPY = Entry(
    name="prompt-entropy",
    asks="What was said about the subjects in the released update?",
    adversary=Adversary.RECIPIENT,
    view=RecipientView,
    make=PromptEntropy,
    source="KSTER, arXiv 2602.10134, stage II",
    departs="subjects are those that stage I finds, and failed edits count",
    headline="top-5",
    needs=("keys", "subjects", "prompts", "model", "maps"),
    first_layer_only=False,
)


TRIPLE = Entry(
    name="full-triple",
    asks="Which whole facts, subject, prompt and object, are in the released update?",
    adversary=Adversary.RECIPIENT,
    view=RecipientView,
    make=FullTriple,
    source="KSTER, arXiv 2602.10134, both stages",
    departs="prompt and object are ranked together, by how much probability the object gains",
    headline="top-5",
    needs=("keys", "subjects", "prompts", "model", "maps"),
    first_layer_only=False,
)
