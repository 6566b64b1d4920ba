"""Subjects without a list of candidates: a search over tokens for keys in the span.

DAGER (arXiv 2405.15586) finds token sequences by whether their embeddings lie in the span of a
gradient, and extends them one by one; LAMP (arXiv 2202.08827) adds a language model's own opinion
of them. Here the vector in the span is the key of a subject's last token, so the search runs the
other way. Every token of the vocabulary is first tried as the last one, behind a generic prompt's
beginning; the best of them, each by itself, since there are as many true ones as edits, are then
extended to the front by those tokens that raise the score most. The key depends on the tokens
before it, but less than on itself, so the signal fades towards the front of a name. Departs from
DAGER accordingly in direction and in that scores are compared and not tested against a threshold:
a generic prompt's key is close to an edit's, never equal. No continuous search (TIGER, arXiv
2606.18312) is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from collabedit.attacks.attack import GENERIC_PROMPT, Prior
from collabedit.attacks.claims import LackingError, Names
from collabedit.attacks.opened import decompose, opened_vectors
from collabedit.attacks.registry import Entry
from collabedit.attacks.span import range_basis, span_scores
from collabedit.attacks.views import AggregatorView, RecipientView, first_layer
from collabedit.ids import LayerIndex
from collabedit.party.edits import SLOT
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

if TYPE_CHECKING:
    from collabedit.party.editing.key_map import KeyMap
    from collabedit.party.editing.model import EditableModel

Tokens: TypeAlias = tuple[int, ...]

_JUDGED = 8
"""Beginnings whose likelihood is asked for, for each that is kept."""


@dataclass(frozen=True, slots=True)
class Search:
    """How much is tried.

    Attributes:
        prompt: with one `{}`; only what is before it matters.
        beam: last tokens that are followed up.
        width: beginnings that are kept of each.
        steps: tokens put in front, at most.
        vocabulary: of the model's tokens, by number, how many are tried as the last one. In
            vocabularies made by merging, low numbers are frequent.
        fronts: how many of these, the likeliest behind the prompt's beginning, are tried in front.
        naturalness: weight of the model's mean log-probability of a name's tokens, in nats,
            beside the score of its key, which is at most 1.
    """

    prompt: str = GENERIC_PROMPT
    beam: int = 16
    width: int = 2
    steps: int = 2
    vocabulary: int = 16_384
    fronts: int = 500
    naturalness: float = 0.03

    def __post_init__(self) -> None:
        if self.prompt.count(SLOT) != 1:
            raise ValueError(f"the prompt holds {SLOT} exactly once")
        if min(self.beam, self.width, self.vocabulary, self.fronts) < 1 or self.steps < 0:
            raise ValueError("a search has at least one of everything")


@dataclass(frozen=True, slots=True)
class OpenVocabulary:
    """Names whose keys lie in the row space of the released update; settings as `Search`."""

    prompt: str = GENERIC_PROMPT
    beam: int = 16
    width: int = 2
    steps: int = 2
    vocabulary: int = 16_384
    fronts: int = 500
    naturalness: float = 0.03
    name: str = "open-vocabulary"
    adversary: Adversary = Adversary.RECIPIENT

    def __post_init__(self) -> None:
        _search_of(self)

    def run(self, view: RecipientView, prior: Prior) -> Names:
        """Search for as many names as the update has directions.

        Raises:
            LackingError: the prior has no model or no key map of the first edited layer.
        """
        layer = first_layer(view.plan)
        basis = range_basis(view.updates[layer].canonical().right.T, noise=0.0)
        return Names(self.name, search(_search_of(self), basis, layer, prior))


@dataclass(frozen=True, slots=True)
class OpenVocabularySum:
    """Names whose keys lie in the range of the opened sum; settings as `Search`."""

    prompt: str = GENERIC_PROMPT
    beam: int = 16
    width: int = 2
    steps: int = 2
    vocabulary: int = 16_384
    fronts: int = 500
    naturalness: float = 0.03
    name: str = "open-vocabulary-sum"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def __post_init__(self) -> None:
        _search_of(self)

    def run(self, view: AggregatorView, prior: Prior) -> Names:
        """Search for as many names as the sum has directions.

        Raises:
            LackingError: the prior has no model or no key map of the first edited layer.
        """
        layer = first_layer(view.plan)
        (opened,) = opened_vectors(view, layer, "sum")
        basis = decompose(view.plan, layer, opened).vectors
        return Names(self.name, search(_search_of(self), basis, layer, prior))


def _search_of(attack: OpenVocabulary | OpenVocabularySum) -> Search:
    return Search(
        prompt=attack.prompt,
        beam=attack.beam,
        width=attack.width,
        steps=attack.steps,
        vocabulary=attack.vocabulary,
        fronts=attack.fronts,
        naturalness=attack.naturalness,
    )


@dataclass(slots=True)
class _Scorer:
    """Scores of token sequences, behind the prompt's beginning, by the key of their last token."""

    model: "EditableModel"
    map: "KeyMap"
    layer: LayerIndex
    basis: Matrix = field(repr=False)
    beginning: Tokens

    def scores(self, tails: Sequence[Tokens]) -> Matrix:
        from collabedit.attacks import asking  # noqa: PLC0415

        keys = asking.keys_behind(self.model, self.beginning, tails, layer=int(self.layer))
        return span_scores(self.basis, self.map.map_keys(keys))


def search(settings: Search, basis: Matrix, layer: LayerIndex, prior: Prior) -> tuple[str, ...]:
    """Return as many names as the basis has columns, the best first.

    Args:
        settings: how much is tried.
        basis: of the span, [d', rank].
        layer: whose keys these are.
        prior: with model and Φ.

    Raises:
        LackingError: the prior has no model or no key map of the layer.
    """
    # torch is imported slowly, and lists of attacks do without.
    from collabedit.attacks import asking  # noqa: PLC0415

    model = asking.model_of(prior)
    if layer not in prior.maps:
        raise LackingError(f"the prior has no key map of layer {layer}")
    before, _ = settings.prompt.split(SLOT)
    beginning = asking.plain(model, before).ids if before.strip() else model.prefix_ids
    scorer = _Scorer(model, prior.maps[layer], layer, basis, beginning)
    words = asking.word_tokens(model, settings.vocabulary)
    alone = [(token,) for token in words]
    scores = scorer.scores(alone)
    kept = [alone[place] for place in np.argsort(-scores, kind="stable")[: settings.beam]]
    fronts = asking.likely_tokens(model, beginning, words, settings.fronts)
    groups = {tail: [tail] for tail in kept}
    total: dict[Tokens, float] = {}

    def judge(tails: Sequence[Tokens], their: Sequence[float]) -> None:
        likely = asking.mean_log_probabilities(model, beginning, tails)
        for tail, score, value in zip(tails, their, likely.tolist(), strict=True):
            total[tail] = score + settings.naturalness * value

    judge(kept, [float(score) for score in np.sort(scores)[::-1][: settings.beam]])
    for _ in range(settings.steps):
        for last, group in groups.items():
            tails = [(front, *tail) for tail in group for front in fronts]
            fresh = scorer.scores(tails)
            best = np.argsort(-fresh, kind="stable")[: _JUDGED * settings.width]
            judge([tails[place] for place in best], fresh[best].tolist())
            ordered = sorted((tails[place] for place in best), key=lambda tail: -total[tail])
            groups[last] = ordered[: settings.width]
    named = sorted((t for t in total if words[t[0]]), key=lambda tail: -total[tail])
    texts = [model.tokenizer.decode(list(tail)).strip() for tail in named]
    # One name for each last token: there are as many subjects as directions, mostly apart.
    first: dict[int, str] = {}
    for tail, text in zip(named, texts, strict=True):
        first.setdefault(tail[-1], text)
    ranked = dict.fromkeys([*first.values(), *texts])
    return tuple(ranked)[: basis.shape[1]]


RECIPIENTS = Entry(
    name="open-vocabulary",
    asks="Which subjects are in the released update, without a list of candidates?",
    adversary=Adversary.RECIPIENT,
    view=RecipientView,
    make=OpenVocabulary,
    source="DAGER, arXiv 2405.15586, and LAMP, arXiv 2202.08827, on KSTER's span",
    departs="the search runs from a name's last token to the front, over scores without threshold",
    headline="found",
    needs=("model", "maps"),
)


AGGREGATORS = Entry(
    name="open-vocabulary-sum",
    asks="Which subjects are in the opened sum, without a list of candidates?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=OpenVocabularySum,
    source="DAGER, arXiv 2405.15586, and LAMP, arXiv 2202.08827",
    departs="the search runs from a name's last token to the front, over scores without threshold",
    headline="found",
    needs=("model", "maps"),
)
