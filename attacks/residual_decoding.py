"""What was said about whom, from the opened sum: residuals out of T, and their objects.

With S = K̃K̃ᵀ and T = RK̃ᵀ opened in the model's coordinates, T S⁺ is the linear map that takes the
key of each edit to its residual: T S⁺K̃ = R for independent keys, and for a candidate's own key,
which is close, a residual that is close. It is R̂ = T K̂(K̂ᵀK̂)⁻¹ without knowing all keys first. A
residual is a share of what the target search adds to the residual stream at the subject's last
token (`party.editing.targets`), so adding it there in the public model makes that model say the new
object, also behind prompts that the edit is not about.

The map is EditScope's question (arXiv 2505.20819: which object, from edited weights) answered
without its trained decoder: there is no single edited matrix to train on, but S and T say more than
a matrix does. Like `ica`, `keys = "demixed"` takes the keys out of S itself.

A secret basis turns T on both sides, and so the residuals: they are then directions like any other.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from collabedit.attacks.attack import GENERIC_PROMPT, Prior
from collabedit.attacks.claims import LackingError, Rankings, Recovery
from collabedit.attacks.ica import demix
from collabedit.attacks.opened import (
    Decomposition,
    Opened,
    Source,
    decompose,
    opened_vectors,
    turned_cross,
)
from collabedit.attacks.registry import Entry
from collabedit.attacks.span import span_scores
from collabedit.attacks.views import AggregatorView, first_layer, layer_of
from collabedit.ids import LayerIndex
from collabedit.party.edits import SLOT
from collabedit.plan import Plan
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

Keys: TypeAlias = Literal["candidates", "demixed"]
"""Whose keys stand for those of the edits: candidates in the span of S, or what ICA demixes."""

PROMPTS = (GENERIC_PROMPT, "{} is", "{} is associated with")
"""Behind which an object is read. Different kinds of prompt expect different kinds of object."""


@dataclass(frozen=True, slots=True)
class ResidualRecovery:
    """The residuals in the opened sum, or in each upload.

    Attributes:
        layer: None is the first edited layer.
        source: what is attacked.
        keys: which ones are put into T S⁺.
        seed: of FastICA's first guess.
    """

    layer: LayerIndex | None = None
    source: Source = "sum"
    keys: Keys = "candidates"
    seed: int = 0
    name: str = "residual-recovery"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def __post_init__(self) -> None:
        if self.keys not in ("candidates", "demixed"):
            raise ValueError(f"keys {self.keys!r} are neither candidates nor demixed")

    def run(self, view: AggregatorView, prior: Prior) -> Recovery:
        """Recover as many residuals as S has directions, from every vector.

        Raises:
            LackingError: the prior has no keys, and none are to be demixed.
        """
        layer = first_layer(view.plan) if self.layer is None else self.layer
        parts = []
        for each in opened_vectors(view, layer, self.source):
            found = decompose(view.plan, layer, each)
            if self.keys == "demixed":
                keys = demix(found, seed=self.seed)
            else:
                candidates = _keys(prior, layer)
                keys = candidates[:, surest(found, candidates)]
            parts.append(recalled(view.plan, layer, each, found, keys))
        return Recovery(self.name, "residuals", np.concatenate(parts, axis=1))


@dataclass(frozen=True, slots=True)
class ResidualDecoding:
    """The new objects of candidates in the span of the opened sum.

    Guesses are ranked by how much the residual raises their first token, in the mean over generic
    prompts: what a prompt expects anyhow cancels.

    Attributes:
        layer: None is the first edited layer.
        prompts: with one `{}` each.
        guesses: for each candidate.
    """

    layer: LayerIndex | None = None
    prompts: tuple[str, ...] = PROMPTS
    guesses: int = 20
    name: str = "residual-decoding"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def __post_init__(self) -> None:
        if not self.prompts or any(prompt.count(SLOT) != 1 for prompt in self.prompts):
            raise ValueError(f"each generic prompt holds {SLOT} exactly once")
        if self.guesses < 1:
            raise ValueError("at least one guess")

    def run(self, view: AggregatorView, prior: Prior) -> Rankings:
        """Guess objects among `prior.objects`, or among all tokens if it has none.

        Raises:
            LackingError: the prior has no keys, subjects or model.
        """
        # torch is imported slowly, and lists of attacks do without.
        from collabedit.attacks import asking, steering  # noqa: PLC0415

        plan = view.plan
        layer = first_layer(plan) if self.layer is None else self.layer
        candidates, model = _keys(prior, layer), asking.model_of(prior)
        if len(prior.subjects) != candidates.shape[1]:
            raise LackingError("the attack asks about candidates, and the prior has no subjects")
        (each,) = opened_vectors(view, layer, "sum")
        found = decompose(plan, layer, each)
        chosen = surest(found, candidates)
        residuals = recalled(plan, layer, each, found, candidates[:, chosen])
        layers = plan.editing.layers
        if len(residuals) != model.d_model:
            # Nothing says where rows of decoys went under a basis; the first ones are any ones.
            residuals = residuals[: model.d_model]
        # Layers share what is missing evenly (`party.editing.schedule`), and the first one's share
        # is taken from the whole.
        raised = steering.raised_tokens(
            model,
            [prior.subjects[number] for number in chosen],
            self.prompts,
            layer=layers[-1].index,
            vectors=residuals * len(layers),
        )
        if prior.objects:
            firsts = asking.first_tokens(model, prior.objects).numpy()
            raised, texts = raised[:, firsts], prior.objects
        best = np.argsort(-raised, axis=1, kind="stable")[:, : self.guesses]
        return Rankings(
            self.name,
            "object",
            {
                int(number): tuple(
                    texts[place] if prior.objects else model.tokenizer.decode([place]).strip()
                    for place in places
                )
                for number, places in zip(chosen, best.tolist(), strict=True)
            },
            choices=raised.shape[1],
        )


def surest(found: Decomposition, candidates: Matrix) -> np.ndarray:
    """Return the numbers of as many candidates as S has directions, the likeliest edits first."""
    scores = span_scores(found.vectors, candidates)
    return np.argsort(-scores, kind="stable")[: len(found.values)]


def recalled(
    plan: Plan, layer: LayerIndex, opened: Opened, found: Decomposition, keys: Matrix
) -> Matrix:
    """Return T S⁺ of some keys: [d_out, keys].

    Args:
        plan: public.
        layer: which one.
        opened: a sum or an upload.
        found: its S.
        keys: [d', keys], close to those of edits.
    """
    _, entry, _ = layer_of(plan, layer)
    turned = turned_cross(plan, layer, opened, found)[: entry.outputs]
    residuals: Matrix = (turned / found.values) @ (found.vectors.T @ keys)
    return residuals


def _keys(prior: Prior, layer: LayerIndex) -> Matrix:
    if layer not in prior.mapped_keys:
        raise LackingError(f"the prior has no candidates' keys of layer {layer}")
    return prior.mapped_keys[layer]


RECOVERY = Entry(
    name="residual-recovery",
    asks="How close do residuals recovered from the opened sum come to the real ones?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=ResidualRecovery,
    source="this project; EditScope, arXiv 2505.20819, asks the same of edited weights",
    departs="T S⁺ applied to keys; no decoder is trained",
    headline="cosine",
)


DECODING = Entry(
    name="residual-decoding",
    asks="Which objects were put to the subjects in the opened sum?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=AggregatorView,
    make=ResidualDecoding,
    source="this project; EditScope, arXiv 2505.20819, asks the same of edited weights",
    departs="recovered residuals are added to the public model, which then says the object",
    headline="top-1",
    needs=("keys", "subjects", "model"),
    first_layer_only=False,
)
